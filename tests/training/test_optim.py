"""AdamW: what decays, and how the learning rate goes."""

import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from leantune.training.optim import learning_rate_at, make_optimizer
from small_runs import optimizer_settings
from tiny_encoders import NAMES

TRANSFORMERS_SCHEDULES = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, _: get_constant_schedule_with_warmup(optimizer, warmup),
}

schedules = st.sampled_from(["linear", "cosine", "constant"])
fractions = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


def load(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)


def decay_by_name(model, **settings):
    """Name of each parameter -> its decay."""
    groups = make_optimizer(model, optimizer_settings(**settings)).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    return {name: decays[id(parameter)] for name, parameter in model.named_parameters()}


def rates(total_steps, **settings):
    return [learning_rate_at(step, total_steps, optimizer_settings(**settings)) for step in range(total_steps)]


# What decays


@pytest.mark.parametrize("name", NAMES)
def test_all_but_biases_norms_and_embeddings_decays(tiny_encoder_dir, name):
    decays = decay_by_name(load(tiny_encoder_dir(name)), weight_decay=0.25)
    kept = {parameter for parameter in decays if re.search(r"bias|norm|embeddings\.weight$", parameter, re.IGNORECASE)}
    assert len(kept) > 5
    assert decays == {parameter: 0 if parameter in kept else 0.25 for parameter in decays}


def test_the_head_decays_like_any_layer(tiny_encoder_dir):
    decays = decay_by_name(load(tiny_encoder_dir("bert")))
    assert decays["classifier.weight"] == optimizer_settings().weight_decay
    assert decays["classifier.bias"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_optimized_once(tiny_encoder_dir, name):
    model = load(tiny_encoder_dir(name))
    groups = make_optimizer(model, optimizer_settings()).param_groups
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(optimized) == sorted(map(id, model.parameters()))


def test_a_frozen_parameter_is_not_optimized():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = make_optimizer(model, optimizer_settings()).param_groups
    assert {id(p) for group in groups for p in group["params"]} == set(map(id, model[1].parameters()))


def test_a_matrix_shrinks_by_its_decay_and_an_embedding_stays():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, optimizer_settings(learning_rate=0.5, weight_decay=0.25))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["1.weight"], before["1.weight"] * (1 - 0.5 * 0.25))
    for name in ("0.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


# The learning rate


@given(st.integers(1, 200), schedules, fractions)
def test_every_step_learns_and_none_faster_than_the_learning_rate(total_steps, schedule, warmup_fraction):
    found = rates(total_steps, schedule=schedule, warmup_fraction=warmup_fraction)
    assert min(found) > 0
    assert max(found) == optimizer_settings().learning_rate


@given(st.integers(1, 200), schedules, fractions)
def test_the_learning_rate_rises_to_its_peak_then_never_rises_again(total_steps, schedule, warmup_fraction):
    found = rates(total_steps, schedule=schedule, warmup_fraction=warmup_fraction)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert peak == max(round(warmup_fraction * total_steps), 1) - 1


@given(st.integers(1, 60), schedules, fractions)
def test_the_schedule_is_that_of_transformers_but_for_its_first_step_without_learning(
    total_steps, schedule, warmup_fraction
):
    warmup_steps = round(warmup_fraction * total_steps)
    assume(warmup_steps < total_steps)  # where all steps warm up, theirs ends at 0
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    (rate_at,) = TRANSFORMERS_SCHEDULES[schedule](optimizer, warmup_steps, total_steps).lr_lambdas
    found = rates(total_steps, learning_rate=0.5, schedule=schedule, warmup_fraction=warmup_fraction)
    # Theirs begins at a rate of 0; in the warm-up ours is one step ahead, after it they are the same.
    expected = [0.5 * rate_at(step + 1) for step in range(warmup_steps)]
    expected += [0.5 * rate_at(step) for step in range(warmup_steps, total_steps)]
    assert found == pytest.approx(expected)


def test_a_line_falls_by_the_same_amount_each_step_and_ends_one_step_above_zero():
    assert rates(4, learning_rate=1.0, warmup_fraction=0) == [1.0, 0.75, 0.5, 0.25]


def test_a_cosine_is_at_half_of_the_rate_in_the_middle():
    found = rates(10, learning_rate=1.0, warmup_fraction=0, schedule="cosine")
    assert found[5] == pytest.approx(0.5)


def test_a_constant_rate_stays_after_the_warm_up():
    assert rates(4, learning_rate=1.0, warmup_fraction=0.5, schedule="constant") == [0.5, 1, 1, 1]


def test_a_warm_up_of_all_steps_ends_at_the_learning_rate():
    assert rates(4, learning_rate=1.0, warmup_fraction=1) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_only_step_of_a_run_has_the_learning_rate(schedule):
    assert rates(1, learning_rate=1.0, schedule=schedule) == [1.0]
