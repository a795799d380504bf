"""What a model does with padding, packing and its embedding is found out when it is loaded, never trusted."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from architectures import tiny_model
from layouts import logits_of
from leantune.encoder import proof
from leantune.encoder.embedding import RowsInUse
from leantune.encoder.loading import load_encoder, train_rows_in_use
from leantune.encoder.model import Encoder, ModelSettings
from leantune.encoder.proof import make_packing_possible
from leantune.encoder.saving import read_saved
from leantune.runs import fold_run
from leantune.runs.run import run
from leantune.system.errors import ModelError, SettingsError, TrainingError
from leantune.training.events import Note
from small_runs import CPU, load_tiny, make_rows, run_all, tiny_config, write_table


@pytest.fixture
def tiny(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Make a tiny model of a type, with BERT's tokenizer."""

    def make(kind: str) -> Path:
        tiny_model(kind, AutoTokenizer.from_pretrained(tiny_encoder_dir("bert")), tmp_path / kind)
        return tmp_path / kind

    return make


def load(folder: Path, **options: Any) -> Encoder:
    settings = ModelSettings(name=str(folder))
    return load_encoder(settings, labels=("score",), problem_type="regression", device=CPU, seed=0, **options)


@pytest.mark.parametrize("kind", ["fnet", "convbert", "mobilebert"])
def test_a_model_that_padding_changes_is_trained_with_rows_of_equal_length(
    tiny: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    folder = tiny(kind)
    if (
        kind == "mobilebert"
    ):  # which puts the next token's embedding beside each token's: a trained padding row is not 0
        weights = load_file(folder / "model.safetensors")
        weights["mobilebert.embeddings.word_embeddings.weight"][0] = 1.0
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert not load(folder).takes_padding
    table = write_table(tmp_path / "table.csv", rows=30)
    events = run_all(tiny_config(table, folder, optimizer__epochs=1), tmp_path / "run")
    assert events[-1].metrics["overall"]["padding_fraction"] == 0
    assert any("rows of equal length" in event.text for event in events if isinstance(event, Note))
    with pytest.raises(SettingsError, match="padding changes what it computes"):
        run_all(tiny_config(table, folder, batching__layout="fixed"), tmp_path / "other")


def test_attention_whose_kind_changes_with_the_texts_before_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="block-sparse"):
        load(tiny("big_bird"))


def test_an_output_that_changes_from_call_to_call_is_refused(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: real(self, x) + 0.1 * torch.randn(1))
    with pytest.raises(ModelError, match="changes from call to call"):
        load(tiny_encoder_dir("bert"))


def test_a_wrong_gradient_alone_means_not_packed(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tiny_encoder_dir("bert")).model
    assert make_packing_possible(model) is not None
    real = torch.ops.aten.gelu_backward
    fresh = load_tiny(tiny_encoder_dir("bert")).model

    def wrong(grad: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return real(grad, up) * 1.1

    monkeypatch.setattr(torch.ops.aten, "gelu_backward", wrong)
    before = [p.clone() for p in fresh.parameters()]
    assert make_packing_possible(fresh) is None
    assert all("forward" not in vars(layer) for layer in fresh.bert.encoder.layer)
    assert all(map(torch.equal, before, fresh.parameters()))
    assert all(parameter.grad is None for parameter in fresh.parameters())


def test_the_proof_makes_no_gradient_of_the_whole_vocabulary_and_leaves_the_embedding_as_it_was(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(tiny_encoder_dir("bert")).model
    embedding = model.get_input_embeddings()
    sparse = []

    def norms(model: Any) -> torch.Tensor:
        sparse.append(embedding.weight.grad.is_sparse)
        found = real(model)
        dense = embedding.weight.grad.to_dense().norm()
        assert found[0] == pytest.approx(dense.item())
        return found

    real = proof._gradient_norms
    monkeypatch.setattr(proof, "_gradient_norms", norms)
    assert make_packing_possible(model) is not None
    assert sparse == [True, True]
    assert not embedding.sparse
    assert embedding.weight.grad is None


def test_an_embedding_of_a_kind_of_its_own_stays_whole(tiny_encoder_dir: Callable[[str], Path]) -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 3

    encoder = load_tiny(tiny_encoder_dir("roberta"), packed=True)
    whole = encoder.model.get_input_embeddings()
    scaled = Scaled(*whole.weight.shape, _weight=whole.weight.detach())
    encoder.model.set_input_embeddings(scaled)
    assert not train_rows_in_use(encoder, np.array([0, 1, 2, 30]))
    assert encoder.model.get_input_embeddings() is scaled


def test_an_embedding_that_computes_anything_else_with_its_rows_in_use_stays_whole(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_tiny(tiny_encoder_dir("bert"), packed=True)
    real = RowsInUse.forward
    monkeypatch.setattr(RowsInUse, "forward", lambda self, ids: real(self, ids) * 1.01)
    assert not train_rows_in_use(encoder, np.array([0, 2, 3, 40, 41]))
    assert type(encoder.model.get_input_embeddings()) is nn.Embedding


def test_a_padding_row_that_is_not_the_configurations_padding_token_is_kept(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    encoder = load_tiny(tiny_encoder_dir("mpnet"))
    encoder.model.get_input_embeddings().padding_idx = 7
    assert train_rows_in_use(encoder, np.array([0, 1, 2, 40]))
    assert encoder.model.get_input_embeddings().used.tolist() == [0, 1, 2, 7, 40]


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_a_padding_token_that_somebody_wrote_is_packed_as_the_stock_model_reads_it(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    folder = tiny_encoder_dir(name)
    texts = ["ba <pad> ko le", "<pad> ba", "ko <pad><pad> ra mi nu <pad>", "ba ko le mi"]
    rows = make_rows(folder, texts=texts)
    packed, padded = (load_tiny(folder, packed=packed) for packed in (True, False))
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    model.load_state_dict(padded.model.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert any((rows.sequences.ids(row)[1:-1] == tokenizer.pad_token_id).any() for row in range(3))
    with torch.no_grad():
        stock = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    for encoder, padding in ((packed, "none"), (padded, "longest")):
        encoder.model.eval()
        groups = [sorted(range(4), key=lambda row: -rows.sequences.lengths[row])]
        torch.testing.assert_close(logits_of(encoder, rows, groups, padding), stock, rtol=0, atol=1e-5)


def test_a_saved_model_that_would_answer_otherwise_ends_the_run_with_an_error(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(write_table(tmp_path / "table.csv"), tiny_encoder_dir("bert"), optimizer__epochs=1)

    def other(folder: Path, *arguments: Any) -> torch.Tensor:
        return read_saved(folder, *arguments) + 0.01

    monkeypatch.setattr(fold_run, "read_saved", other)
    with pytest.raises(TrainingError, match=r"plain transformers gives .* for row \d+ with the saved model"):
        list(run(config, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.setattr(fold_run, "read_saved", read_saved)
    assert run_all(config, tmp_path / "good")[-1].metrics["overall"]["best"]["rmse"] > 0


def test_a_trained_folds_encoder_leaves_memory_before_the_next_is_loaded(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []
    real = load_encoder

    def load_and_look(*arguments: Any, **options: Any) -> Encoder:
        alive.append(sum(model() is not None for model in models))
        encoder = real(*arguments, **options)
        models.append(weakref.ref(encoder.model))
        return encoder

    monkeypatch.setattr("leantune.runs.preparation.load_encoder", load_and_look)
    config = tiny_config(
        write_table(tmp_path / "table.csv"), tiny_encoder_dir("bert"), fold="all", folds__count=3, optimizer__epochs=1
    )
    gc.collect()
    gc.disable()  # what is in no circle leaves at once
    try:
        run_all(config, tmp_path / "run")
    finally:
        gc.enable()
    assert alive == [0, 0, 0]
