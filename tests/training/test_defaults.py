"""The rules by which `auto` learns."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from leantune.training.defaults import default_epochs, default_learning_rate, layer_parameters


def model_of(parameters: float, kind: str = "bert") -> Any:
    """A model with so many parameters, as far as anyone asks; its embedding is large, too."""
    model = nn.Module()
    model.embedding = nn.Embedding(10, 3)
    model.layer = nn.Linear(2, 3)
    model.config = SimpleNamespace(model_type=kind)
    model.layer.weight.numel = lambda: int(parameters) - 3
    return model


def test_parameters_of_embeddings_do_not_count() -> None:
    assert layer_parameters(nn.Sequential(nn.Embedding(10, 3), nn.Linear(2, 3))) == 9


@pytest.mark.parametrize(
    ("parameters", "rate"), [(10.6e6, 2e-4), (21e6, 1e-4), (85e6, 3e-5), (303e6, 1e-5), (650e6, 5e-6), (50_000, 5e-4)]
)
def test_a_smaller_encoder_learns_faster(parameters: float, rate: float) -> None:
    assert default_learning_rate(model_of(parameters)) == rate


def test_modernbert_takes_a_larger_rate() -> None:
    assert default_learning_rate(model_of(110e6, "modernbert")) == 5e-5
    assert default_learning_rate(model_of(110e6)) == 2e-5


@pytest.mark.parametrize(
    ("steps_per_epoch", "outputs", "epochs"),
    [(10, 1, 20), (25, 1, 8), (25, 2, 8), (25, 77, 17), (66, 1, 4), (67, 1, 3), (250, 77, 3), (5000, 2, 3), (1, 1, 20)],
)
def test_a_small_table_is_passed_over_more_often(steps_per_epoch: int, outputs: int, epochs: int) -> None:
    assert default_epochs(steps_per_epoch, outputs) == epochs
