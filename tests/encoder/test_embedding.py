"""Only the embedding's rows in use are trained: the same is learned, and all others come back unchanged."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from layouts import PARTS, TEXTS, WHOLE, gradient_of, logits_of
from leantune.encoder.embedding import RowsInUse, whole_embedding
from leantune.encoder.loading import train_rows_in_use
from leantune.encoder.saving import load_weights, save_model
from leantune.tokens.tokens import load_tokenizer
from leantune.training.optim import make_optimizer
from leantune.training.step import apply_gradients
from small_runs import FP32, load_tiny, make_rows, optimizer_settings
from tiny_encoders import NAMES


def used_of(encoder: object, rows: object) -> np.ndarray:
    return np.union1d(rows.sequences.used_ids(encoder.vocabulary_size), [encoder.pad_id])


@pytest.mark.parametrize("name", NAMES)
def test_training_the_rows_in_use_is_training_them_all(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS[:6])
    padding = "none"
    groups, tables, norms, outs = [[0, 1], [2, 3, 4, 5]], [], [], []
    for only_used in (False, True):
        encoder = load_tiny(folder, packed=True)
        before = encoder.model.get_input_embeddings().weight.detach().clone()
        used = used_of(encoder, rows)
        assert len(used) < 0.8 * len(before)
        if only_used:
            train_rows_in_use(encoder, used)
            assert len(encoder.model.get_input_embeddings().weight) == len(used)
        optimizer = make_optimizer(encoder.model, optimizer_settings(learning_rate=1e-3, weight_decay=0.1))
        encoder.model.train()
        for _ in range(4):
            gradient_of(encoder, rows, groups, padding)
            norm, _ = apply_gradients(
                list(encoder.model.parameters()), optimizer, learning_rate=1e-3, clip_norm=1.0, precision=FP32
            )
            norms.append(float(norm))
        encoder.model.eval()
        outs.append(logits_of(encoder, rows, [list(range(6))], padding))
        with whole_embedding(encoder.model):
            tables.append(encoder.model.get_input_embeddings().weight.detach().clone())
        unused = np.setdiff1d(np.arange(len(before)), used)
        assert torch.equal(tables[-1][unused], before[unused])
        assert not torch.equal(tables[-1][used], before[used])
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-5)
    assert norms[:4] == pytest.approx(norms[4:], rel=1e-5)


def test_the_optimizer_holds_only_the_rows_in_use(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("xlm-roberta")
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    used = used_of(encoder, rows)
    train_rows_in_use(encoder, used)
    optimizer = make_optimizer(encoder.model, optimizer_settings())
    gradient_of(encoder, rows, PARTS, "none")
    apply_gradients(list(encoder.model.parameters()), optimizer, learning_rate=1e-3, clip_norm=None, precision=FP32)
    table = encoder.model.get_input_embeddings().weight
    assert optimizer.state[table]["exp_avg"].shape == (len(used), table.shape[1])
    assert all(table is not p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"])


def test_a_saved_model_has_the_whole_table_and_its_weights_load_again(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_encoder_dir("bert")
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    encoder.model.eval()
    shape = encoder.model.get_input_embeddings().weight.shape
    train_rows_in_use(encoder, used_of(encoder, rows))
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight.add_(0.5)
    expected = logits_of(encoder, rows, WHOLE, "none")
    save_model(encoder, load_tokenizer(str(folder)), tmp_path / "model")
    (table,) = [t for n, t in load_file(tmp_path / "model" / "model.safetensors").items() if "word_emb" in n]
    assert table.shape == shape
    assert isinstance(encoder.model.get_input_embeddings(), RowsInUse)
    changed = copy.deepcopy(encoder)
    with torch.no_grad():
        changed.model.get_input_embeddings().weight.zero_()
    assert not torch.allclose(logits_of(changed, rows, WHOLE, "none"), expected)
    load_weights(changed, tmp_path / "model")
    assert torch.equal(logits_of(changed, rows, WHOLE, "none"), expected)


def test_a_token_that_is_not_in_use_is_an_error_and_never_another_tokens_row(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    encoder = load_tiny(tiny_encoder_dir("bert"))
    train_rows_in_use(encoder, np.array([0, 3, 4]))
    embedding = encoder.model.get_input_embeddings()
    assert embedding(torch.tensor([[3, 4]])).shape == (1, 2, embedding.weight.shape[1])
    with pytest.raises(IndexError):
        embedding(torch.tensor([[3, 5]]))
