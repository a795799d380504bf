"""The head: whose outputs are kept, in which order, and in which units."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from leantune.encoder.head import answer_in_deviations, answers_in_units, begin_at
from leantune.encoder.loading import load_encoder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.encoder.saving import save_model
from leantune.system.errors import ModelError
from leantune.tables.scale import Scale
from leantune.tokens.tokens import load_tokenizer
from small_runs import CPU
from tiny_encoders import NAMES

IDS = torch.arange(5, 25).view(2, 10)
CLASSES = "single_label_classification"
SCALE = Scale(mean=np.array([50_000.0, -3.0]), deviation=np.array([1000.0, 0.01]))


def load(folder: Path, *labels: str, kind: str = CLASSES, head: Any = "auto", seed: int = 0) -> Encoder:
    settings = ModelSettings(name=str(folder), head=head, dropout=0.0, attention_dropout=0.0)
    return load_encoder(settings, labels=labels, problem_type=kind, device=CPU, seed=seed)


def answers(encoder: Encoder) -> Tensor:
    encoder.model.eval()
    with torch.no_grad():
        logits: Tensor = encoder.model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return logits


@pytest.fixture
def saved(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint with a head of three classes, far from the one that the seeds draw."""
    folder = tiny_encoder_dir("bert")
    encoder = load(folder, "Joy", "anger", "fear", seed=7)
    assert encoder.output_layer is not None
    begin_at(encoder.output_layer, np.array([3.0, -2.0, 0.5]))
    save_model(encoder, load_tokenizer(str(folder)), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_answers_in_the_tables_units_and_is_as_it_was_afterwards(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    encoder = load(tiny_encoder_dir(name), "a", "b", kind="regression")
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    standardized = answers(encoder).double().numpy()
    with answers_in_units(encoder.output_layer, SCALE):
        in_units = answers(encoder).double().numpy()
    # float32 holds 50,000 to 0.004
    assert in_units == pytest.approx(standardized * SCALE.deviation + SCALE.mean, rel=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in encoder.model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_two_saved_models_agree_to_the_byte_and_plain_transformers_answers_in_units(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = tiny_encoder_dir(name)
    encoder, tokenizer = load(folder, "a", "b", kind="regression"), load_tokenizer(str(folder))
    for number in (1, 2):
        with answers_in_units(encoder.output_layer, SCALE):
            save_model(encoder, tokenizer, tmp_path / f"{number}")
    first, second = (tmp_path / f"{number}" / "model.safetensors" for number in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "1").eval()
    with torch.no_grad():
        logits = plain(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.double().numpy()
    expected = answers(encoder).double().numpy() * SCALE.deviation + SCALE.mean
    assert logits == pytest.approx(expected, rel=1e-6)


def test_a_kept_head_gives_the_answers_that_it_gave_standardised(tiny_encoder_dir: Callable[[str], Path]) -> None:
    encoder = load(tiny_encoder_dir("roberta"), "a", "b", kind="regression")
    before = answers(encoder).double().numpy()
    assert encoder.output_layer is not None
    answer_in_deviations(encoder.output_layer, SCALE)
    assert answers(encoder).double().numpy() == pytest.approx(
        (before - SCALE.mean) / SCALE.deviation, rel=1e-5, abs=1e-4
    )
    with answers_in_units(encoder.output_layer, SCALE):
        assert answers(encoder).double().numpy() == pytest.approx(before, rel=1e-5, abs=1e-2)


def test_without_a_scale_nothing_changes(tiny_encoder_dir: Callable[[str], Path]) -> None:
    encoder = load(tiny_encoder_dir("bert"), "a", kind="regression")
    before = answers(encoder)
    with answers_in_units(encoder.output_layer, None):
        assert torch.equal(answers(encoder), before)


@pytest.mark.parametrize("labels", [("fear", "Joy", "anger"), (" FEAR", "joy", "Anger ")])
def test_a_head_of_the_same_labels_is_kept_in_the_tables_order(saved: Path, labels: tuple[str, ...]) -> None:
    own = answers(load(saved, "Joy", "anger", "fear"))
    encoder = load(saved, *labels, seed=1)
    assert not encoder.head_is_new
    assert torch.equal(answers(encoder), own[:, [2, 0, 1]])
    assert encoder.model.config.id2label == dict(enumerate(labels))


@pytest.mark.parametrize("kind", [CLASSES, "multi_label_classification", "regression"])
def test_a_head_of_other_labels_or_of_another_kind_is_begun_anew_and_both_are_named(saved: Path, kind: str) -> None:
    labels = ("Joy", "anger", "hope" if kind == CLASSES else "fear")
    encoder = load(saved, *labels, kind=kind)
    assert encoder.head_is_new
    assert {"classifier.weight", "classifier.bias"} <= set(encoder.new_weights)
    assert answers(encoder).abs().max() < 1  # not 3
    assert "Joy, anger, fear" in encoder.head_reason
    assert ", ".join(labels) in encoder.head_reason
    assert torch.equal(answers(load(saved, *labels, kind=kind)), answers(encoder))
    assert not torch.equal(answers(load(saved, *labels, kind=kind, seed=1)), answers(encoder))


def test_keep_takes_the_outputs_in_their_order_whatever_their_names(saved: Path) -> None:
    encoder = load(saved, "a", "b", "c", head="keep")
    assert torch.equal(answers(encoder), answers(load(saved, "Joy", "anger", "fear")))
    assert not encoder.head_is_new


def test_new_begins_anew_although_the_labels_are_the_same(saved: Path) -> None:
    encoder = load(saved, "Joy", "anger", "fear", head="new")
    assert encoder.head_is_new
    assert answers(encoder).abs().max() < 1


def test_keep_is_refused_where_there_is_no_such_head(saved: Path, tiny_encoder_dir: Callable[[str], Path]) -> None:
    for folder, labels in ((saved, ("a", "b")), (tiny_encoder_dir("bert"), ("a", "b", "c"))):
        with pytest.raises(ModelError, match=r"model.head: keep is not possible.*set it to auto or new"):
            load(folder, *labels, head="keep")
