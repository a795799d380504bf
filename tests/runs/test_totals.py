"""What a run did, added up from its events."""

import dataclasses
import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.runs.record import Recorded
from leantune.runs.totals import Totals
from leantune.training.events import Event, TrainStep

steps = st.builds(
    TrainStep,
    fold=st.integers(0, 4),
    step=st.integers(1, 1000),
    epoch=st.floats(0, 3),
    loss=st.none() | st.floats(0, 10),
    learning_rate=st.floats(0, 1),
    gradient_norm=st.none() | st.floats(0, 10),
    skipped=st.booleans(),
    rows=st.integers(1, 64),
    tokens=st.integers(1, 10**6),
    computed_tokens=st.integers(10**6, 10**7),
    useful_flops=st.integers(1, 10**12).map(float),  # whole, so that sums do not depend on the order
    tokens_per_second=st.floats(0, 1e9),
    memory=st.integers(0, 2**40),
    train_seconds=st.floats(0, 1e6),
)


def tally_of(events):
    tally = Totals()
    for event in events:
        tally.add(event)
    return tally


@given(st.lists(steps))
def test_a_tally_is_the_sum_over_its_steps(events):
    assert tally_of(events) == Totals(
        optimizer_steps=len(events),
        skipped_steps=sum(event.skipped for event in events),
        rows=sum(event.rows for event in events),
        tokens=sum(event.tokens for event in events),
        computed_tokens=sum(event.computed_tokens for event in events),
        useful_flops=sum(event.useful_flops for event in events),
    )


@given(st.lists(steps), st.lists(steps))
def test_tallies_of_two_parts_add_up_to_the_tally_of_the_whole(one, other):
    tally = same = tally_of(one)
    added = tally_of(other)
    tally += added
    assert tally is same
    assert tally == tally_of([*one, *other])
    assert added == tally_of(other)


@given(st.lists(steps, min_size=1), st.floats(1e-3, 1e6), st.floats(1, 1e15))
def test_a_summary_tells_the_counts_and_what_they_were_a_second(events, train_seconds, matrix_rate):
    tally = tally_of(events)
    found = tally.summary(train_seconds=train_seconds, matrix_rate=matrix_rate)
    padding = sum(event.computed_tokens - event.tokens for event in events)
    expected = {
        "optimizer_steps": len(events),
        "skipped_steps": tally.skipped_steps,
        "rows": tally.rows,
        "tokens": tally.tokens,
        "padding_fraction": pytest.approx(padding / tally.computed_tokens),
        "tokens_per_second": pytest.approx(tally.tokens / train_seconds),
        "model_flops_utilization": pytest.approx(tally.useful_flops / (train_seconds * matrix_rate)),
        "train_seconds": train_seconds,
    }
    assert found == expected
    assert list(found) == list(expected)
    json.dumps(found, allow_nan=False)


def test_a_summary_of_steps_without_padding_says_none():
    tally = Totals(optimizer_steps=1, rows=1, tokens=100, computed_tokens=100, useful_flops=1e9)
    assert tally.summary(train_seconds=1.0, matrix_rate=1e9)["padding_fraction"] == 0


def test_events_cannot_be_changed():
    for kind in get_args(Event):
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen


def test_events_that_are_recorded_are_events_with_a_name_of_their_own():
    assert set(get_args(Recorded)) < set(get_args(Event))
    names = [kind.__dataclass_fields__["event"].default for kind in get_args(Recorded)]
    assert len(set(names)) == len(names)
