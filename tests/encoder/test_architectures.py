"""Every type of model that transformers classifies sequences with trains exactly, or is refused in one message."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from architectures import TYPES, outcome

OUTCOMES = ("packed rows", "dynamic padding", "equal length", "refused: ", "not tried: ")

FEW = {
    "bert": "packed rows",
    "deberta": "dynamic padding",
    "rembert": "dynamic padding",
    "roformer": "dynamic padding",
    "gemma3_text": "dynamic padding",
    "fnet": "equal length",
    "bart": "refused: ",
    "canine": "refused: ",
    "ibert": "refused: ",
    "gptj": "refused: ",
    "tapas": "refused: ",
    "funnel": "refused: ",
}
"""One of each kind; all of them are tried by the slow tests."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FEW)
def test_a_type_of_model_trains_and_its_saved_form_repeats_it_or_it_is_refused(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    found = outcome(kind, AutoTokenizer.from_pretrained(tiny_encoder_dir("bert")), tmp_path)
    assert found.startswith(FEW[kind])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_model_trains_and_its_saved_form_repeats_it_or_it_is_refused(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    found = outcome(kind, AutoTokenizer.from_pretrained(tiny_encoder_dir("bert")), tmp_path)
    assert found.startswith(OUTCOMES)
