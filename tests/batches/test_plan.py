from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from leantune.batches.plan import (
    PACKED_MULTIPLE,
    STEPS_A_POOL,
    BatchingSettings,
    EpochPlan,
    RowsPerMicroBatch,
    Step,
    TokensPerMicroBatch,
    draw_windows,
    padded_tokens,
    plan_epoch,
    plan_evaluation,
)

LONGEST = 60

tables = arrays(np.int64, st.integers(0, 300), elements=st.integers(1, LONGEST))
limits = st.builds(RowsPerMicroBatch, rows=st.integers(1, 40)) | st.builds(
    TokensPerMicroBatch, tokens=st.integers(1, 12 * LONGEST)
)
paddings = st.sampled_from(["longest", "equal", "none"]) | st.integers(LONGEST, 2 * LONGEST)
words = st.integers(0, 2**32 - 1)
what_is_learned = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 40),
        "order": st.sampled_from(["random", "uniform_length"]),
        "seed": words,
        "epoch": words,
    }
)
what_it_costs = st.fixed_dictionaries({"micro_batch": limits, "padding": paddings})
plain = {"micro_batch": RowsPerMicroBatch(rows=8), "padding": "longest"}


def steps_of(plan: EpochPlan) -> list[Step]:
    return [plan.step(index) for index in range(len(plan))]


def rows_by_step(plan: EpochPlan) -> list[list[int]]:
    return [sorted(step.rows.tolist()) for step in steps_of(plan)]


def computed_tokens(micro_batches, lengths, padding):
    """Count the positions that all micro-batches compute."""
    return sum(padded_tokens(lengths[rows], padding) for rows in micro_batches)


def positions(lengths, padding):
    """What a micro-batch of rows of these lengths computes."""
    if padding == "none":
        return sum(lengths)
    return len(lengths) * (padding if isinstance(padding, int) else max(lengths))


def cut(rows, lengths, limit, padding):
    """Cut rows, longest first, into micro-batches one row at a time: slow and plain."""
    micro_batches = []
    for row in rows:
        current = micro_batches[-1] if micro_batches else []
        fits = (
            len(current) < limit.rows
            if isinstance(limit, RowsPerMicroBatch)
            else positions([lengths[r] for r in [*current, row]], padding) <= limit.tokens
        )
        if padding == "equal" and current and lengths[row] != lengths[current[0]]:
            fits = False
        if current and fits:
            current.append(row)
        else:
            micro_batches.append([row])
    return micro_batches


@given(tables, what_is_learned, what_it_costs)
def test_a_step_is_batch_size_rows_and_every_row_is_in_one_step(lengths, learned, costs):
    steps = rows_by_step(plan := plan_epoch(lengths, **learned, **costs))
    assert sorted(chain(*steps)) == list(range(len(lengths)))
    assert all(len(rows) == learned["batch_size"] for rows in steps[:-1])
    assert len(steps) == len(plan) == -(-len(lengths) // learned["batch_size"])


@given(tables, what_is_learned, what_it_costs, what_it_costs)
def test_what_a_step_is_made_of_does_not_depend_on_micro_batches_or_layout(lengths, learned, one, other):
    assert rows_by_step(plan_epoch(lengths, **learned, **one)) == rows_by_step(plan_epoch(lengths, **learned, **other))


@given(tables, what_is_learned, what_it_costs)
def test_a_step_sorts_its_rows_and_cuts_them_where_the_plain_loop_does(lengths, learned, costs):
    for step in steps_of(plan_epoch(lengths, **learned, **costs)):
        micro_batches = [micro_batch.tolist() for micro_batch in step.micro_batches]
        rows = list(chain(*micro_batches))
        assert sorted(rows) == sorted(step.rows)
        assert np.all(np.diff(lengths[rows]) <= 0)
        assert micro_batches == cut(rows, lengths, costs["micro_batch"], costs["padding"])


@given(tables, what_is_learned, limits)
def test_rows_of_a_micro_batch_that_must_not_be_padded_are_of_equal_length(lengths, learned, limit):
    plan = plan_epoch(lengths, **learned, micro_batch=limit, padding="equal")
    assert all(np.ptp(lengths[rows]) == 0 for rows in plan.micro_batches)
    assert computed_tokens(plan.micro_batches, lengths, "equal") == lengths.sum()


@given(tables, what_is_learned, what_it_costs)
def test_no_micro_batch_is_empty_or_above_its_limit(lengths, learned, costs):
    for rows in plan_epoch(lengths, **learned, **costs).micro_batches:
        assert len(rows) >= 1
        match costs["micro_batch"]:
            case RowsPerMicroBatch(rows=most):
                assert len(rows) <= most
            case TokensPerMicroBatch(tokens=most):
                assert len(rows) == 1 or positions(lengths[rows], costs["padding"]) <= most


@given(tables, what_is_learned, what_it_costs)
def test_the_same_plan_comes_out_twice(lengths, learned, costs):
    one, other = (plan_epoch(lengths, **learned, **costs) for _ in range(2))
    assert [rows.tolist() for rows in one.micro_batches] == [rows.tolist() for rows in other.micro_batches]
    assert one.step_offsets.tolist() == other.step_offsets.tolist()


@given(tables, what_is_learned, what_it_costs)
def test_computed_tokens_are_rows_times_padded_length_or_the_texts_own(lengths, learned, costs):
    micro_batches = plan_epoch(lengths, **learned, **costs).micro_batches
    padding = costs["padding"]
    expected = [positions(lengths[rows].tolist(), padding) for rows in micro_batches]
    if padding == "none":
        expected = [-(-count // PACKED_MULTIPLE) * PACKED_MULTIPLE for count in expected]
    assert [padded_tokens(lengths[rows], padding) for rows in micro_batches] == expected


@given(tables, limits, paddings)
def test_an_evaluation_takes_every_row_once_the_longest_first_and_cuts_like_a_step(lengths, limit, padding):
    plan = plan_evaluation(lengths, micro_batch=limit, padding=padding)
    assert plan.rows.tolist() == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    assert [rows.tolist() for rows in plan] == cut(plan.rows.tolist(), lengths, limit, padding)
    result = np.full(len(lengths), -1)
    result[plan.rows] = np.concatenate([[], *(lengths[rows] for rows in plan)])
    assert result.tolist() == lengths.tolist()


@given(tables, tables, words, words, st.integers(1, 40))
def test_the_random_order_does_not_look_at_the_lengths(lengths, others, seed, epoch, batch_size):
    size = min(len(lengths), len(others))
    same = {"batch_size": batch_size, "order": "random", "seed": seed, "epoch": epoch}
    one, other = (plan_epoch(table[:size], **same, **plain) for table in (lengths, others))
    assert rows_by_step(one) == rows_by_step(other)


@given(arrays(np.int64, st.integers(0, 700), elements=st.integers(1, LONGEST)), words, st.integers(1, 6))
def test_uniform_length_shuffles_steps_cut_from_sorted_pools_of_fifty(lengths, seed, batch_size):
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, 3))))
    drawn = random.permutation(len(lengths)).tolist()
    complete = len(drawn) // batch_size * batch_size
    steps = []
    for first in range(0, complete, STEPS_A_POOL * batch_size):
        pool = drawn[:complete][first : first + STEPS_A_POOL * batch_size]
        pool.sort(key=lambda row: -lengths[row])
        steps += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    expected = [sorted(steps[i]) for i in random.permutation(len(steps))]
    expected += [sorted(drawn[complete:])] if complete < len(drawn) else []
    plan = plan_epoch(lengths, batch_size=batch_size, order="uniform_length", seed=seed, epoch=3, **plain)
    assert rows_by_step(plan) == expected


def test_the_incomplete_step_of_uniform_length_is_no_longer_or_shorter_than_the_others():
    lengths = np.arange(1, 41)
    last = [
        lengths[steps_of(plan_epoch(lengths, batch_size=32, order="uniform_length", seed=0, epoch=e, **plain))[-1].rows]
        for e in range(300)
    ]
    assert np.mean(last) == pytest.approx(lengths.mean(), abs=1.0)


@given(tables, what_is_learned, what_it_costs, st.data())
def test_a_step_reads_all_windows_of_its_rows_or_one_of_each(lengths, learned, costs, data):
    windows = data.draw(arrays(np.int64, len(lengths), elements=st.integers(1, 5)))
    whole = plan_epoch(lengths, **learned, **costs)
    expected = draw_windows(windows, learned["seed"], learned["epoch"])
    for read in ("one", "all"):
        plan = plan_epoch(lengths, **learned, **costs, windows=windows, windows_read=read)
        assert rows_by_step(plan) == rows_by_step(whole)
        for step in steps_of(plan):
            found = sorted(zip(chain(*step.micro_batches), chain(*step.windows), strict=True))
            if read == "all":
                assert found == [(row, window) for row in sorted(step.rows) for window in range(windows[row])]
            else:
                assert found == [(row, expected[row]) for row in sorted(step.rows)]
            assert len(step.rows) == len(set(step.rows))
            for micro in step.micro_batches:
                assert len(micro) == 1 or computed(lengths[micro], costs) <= 1


def computed(lengths, costs):
    """How much of its limit a micro-batch takes."""
    limit = costs["micro_batch"]
    if isinstance(limit, RowsPerMicroBatch):
        return len(lengths) / limit.rows
    return positions(lengths.tolist(), costs["padding"]) / limit.tokens


@given(arrays(np.int64, st.integers(1, 50), elements=st.integers(1, 7)), words, st.integers(0, 1000))
def test_as_many_epochs_as_a_row_has_windows_read_each_once(windows, seed, epoch):
    drawn = [draw_windows(windows, seed, epoch + later) for later in range(7)]
    for row, count in enumerate(windows):
        assert sorted(epoch_windows[row] for epoch_windows in drawn[:count]) == list(range(count))


def test_each_window_is_about_as_often_the_first_and_another_seed_draws_others():
    windows = np.full(6000, 3)
    first, other = draw_windows(windows, 0, 0), draw_windows(windows, 1, 0)
    assert np.bincount(first) == pytest.approx(np.full(3, 2000), rel=0.05)
    assert (first == other).mean() == pytest.approx(1 / 3, abs=0.03)


def test_windows_leave_the_order_of_rows_of_every_seed_as_it_was():
    lengths = np.arange(1, 40)
    for read in ("one", "all"):
        settings = {"batch_size": 4, "order": "random", "seed": 3, "epoch": 2, **plain}
        plan = plan_epoch(lengths, **settings, windows=np.ones(39, np.int64), windows_read=read)
        whole = plan_epoch(lengths, **settings)
        assert [list(map(list, step.micro_batches)) for step in steps_of(plan)] == [
            list(map(list, step.micro_batches)) for step in steps_of(whole)
        ]


def test_a_row_without_a_window_is_refused():
    with pytest.raises(ValueError, match="a row of 0 windows"):
        plan_epoch(np.array([3, 4]), batch_size=2, order="random", seed=0, epoch=0, **plain, windows=np.array([1, 0]))


@pytest.mark.parametrize("padding", ["longest", 512])
def test_uniform_length_computes_less_padding_than_random(padding):
    lengths = np.random.RandomState(0).randint(1, 513, size=5000)
    random, uniform = (
        computed_tokens(
            plan_epoch(
                lengths,
                batch_size=32,
                micro_batch=RowsPerMicroBatch(rows=32),
                order=order,
                padding=padding,
                seed=0,
                epoch=0,
            ).micro_batches,
            lengths,
            padding=padding,
        )
        for order in ("random", "uniform_length")
    )
    if padding == "longest":
        assert lengths.sum() <= uniform < 1.05 * lengths.sum()
        assert random > 1.8 * lengths.sum()
    else:
        assert uniform == random == 5000 * 512


@pytest.mark.parametrize("order", ["random", "uniform_length"])
def test_every_epoch_and_every_seed_has_its_own_order(order):
    lengths = np.random.RandomState(0).randint(1, 513, size=1000)
    orders = {
        str(rows_by_step(plan_epoch(lengths, batch_size=32, order=order, seed=seed, epoch=epoch, **plain)))
        for seed in (0, 1, 2, 2**32 - 1)
        for epoch in (0, 1, 2, 2**32 - 1)
    }
    assert len(orders) == 16


KNOWN_LENGTHS = np.array([9, 3, 7, 7, 1, 8, 2, 5, 6, 4, 9, 2, 3])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("random", [[[0], [3], [9, 12, 11]], [[10], [7, 1], [6, 4]], [[5], [2], [8]]]),
        ("uniform_length", [[[12, 1, 11, 6], [4]], [[0], [10], [3], [7, 9]], [[5], [2], [8]]]),
    ],
)
def test_a_plan_is_the_same_in_every_version(order, expected):
    plan = plan_epoch(
        KNOWN_LENGTHS,
        batch_size=5,
        micro_batch=TokensPerMicroBatch(tokens=12),
        order=order,
        padding="longest",
        seed=7,
        epoch=2,
    )
    found = [[rows.tolist() for rows in step.micro_batches] for step in steps_of(plan)]
    assert found == expected


@pytest.mark.parametrize("order", ["random", "uniform_length"])
def test_an_empty_table_has_no_steps(order):
    lengths = np.array([], dtype=np.int64)
    plan = plan_epoch(lengths, batch_size=4, order=order, seed=0, epoch=0, **plain)
    assert (len(plan), steps_of(plan)) == (0, [])
    assert list(plan_evaluation(lengths, **plain)) == []


@pytest.mark.parametrize("order", ["random", "uniform_length"])
def test_a_table_smaller_than_a_batch_is_one_step(order):
    (step,) = steps_of(plan_epoch(np.array([3]), batch_size=4, order=order, seed=0, epoch=0, **plain))
    assert (step.rows.tolist(), [rows.tolist() for rows in step.micro_batches]) == ([0], [[0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_lengths_may_come_in_any_integer_type(dtype):
    lengths = np.array([200, 3, 90, 255, 1, 17] if dtype is np.uint8 else [30000, 3, 90, 32767, 1, 17], dtype=dtype)
    same = {"micro_batch": TokensPerMicroBatch(tokens=10**6), "padding": "longest"}
    one, other = (plan_evaluation(table, **same) for table in (lengths, lengths.astype(np.int64)))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in other]
    assert computed_tokens(one, lengths, padding="longest") == 6 * int(lengths.max())


def test_planning_leaves_the_lengths_alone():
    lengths = np.array([3, 1, 2])
    lengths.setflags(write=False)
    plan_epoch(lengths, batch_size=2, order="uniform_length", seed=0, epoch=0, **plain)
    plan_evaluation(lengths, **plain)


def test_a_row_that_is_empty_or_longer_than_the_padding_is_refused():
    rows = RowsPerMicroBatch(rows=1)
    with pytest.raises(ValueError, match="a row of 0 tokens"):
        plan_evaluation(np.array([3, 0]), micro_batch=rows, padding="longest")
    with pytest.raises(ValueError, match="a row of 9 tokens cannot be padded to 8"):
        plan_evaluation(np.array([3, 9]), micro_batch=rows, padding=8)


@pytest.mark.parametrize(("seed", "epoch"), [(2**32, 0), (-1, 0), (0, 2**32), (0, -1)])
def test_a_seed_or_epoch_out_of_range_is_refused(seed, epoch):
    with pytest.raises(ValueError, match=r"both must be 0 to 4294967295"):
        plan_epoch(np.array([1]), batch_size=1, order="random", seed=seed, epoch=epoch, **plain)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_step_that_does_not_exist_is_an_index_error(index):
    plan = plan_epoch(np.arange(1, 7), batch_size=3, order="random", seed=0, epoch=0, **plain)
    with pytest.raises(IndexError, match="of 2"):
        plan.step(index)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_micro_batch_that_does_not_exist_is_an_index_error(index):
    plan = plan_evaluation(np.arange(1, 4), micro_batch=RowsPerMicroBatch(rows=1), padding="longest")
    with pytest.raises(IndexError, match="of 3"):
        plan[index]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", "auto"),
        ({"rows": 8}, RowsPerMicroBatch(rows=8)),
        ({"tokens": 4096}, TokensPerMicroBatch(tokens=4096)),
    ],
)
def test_a_micro_batch_is_auto_rows_or_tokens(given, expected):
    assert BatchingSettings(micro_batch=given).micro_batch == expected


@pytest.mark.parametrize(
    "values",
    [
        {"micro_batch": {"rows": 0}},
        {"micro_batch": {"tokens": 0}},
        {"micro_batch": {"rows": 8, "tokens": 4096}},
        {"micro_batch": "rows"},
        {"batch_size": 0},
        {"order": "sorted"},
        {"layout": "ragged"},
    ],
)
def test_other_batching_settings_are_refused(values):
    with pytest.raises(ValidationError):
        BatchingSettings(**values)
