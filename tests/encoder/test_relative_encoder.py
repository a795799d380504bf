"""DeBERTa's and MPNet's packed rows, against the stock models: every flag of a configuration, forward and gradient."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from layouts import PARTS, TEXTS, WHOLE, gradient_of, logits_of
from leantune.batches.batch import make_batch
from leantune.encoder import attention, encoder_layer, relative_encoder
from leantune.encoder.encoder_layer import PackedLayer
from leantune.encoder.layer_parts import encoder_layers
from leantune.encoder.relative import Distances
from leantune.encoder.relative_encoder import _distances_of
from leantune.training.precision import Precision
from small_runs import CPU, FP32, load_tiny, make_rows

BF16 = Precision(name="bf16", device=CPU)
BOTH = ["c2p", "p2c"]

DEBERTAS: dict[str, dict[str, Any]] = {
    "as v3": {},
    "no terms": {"pos_att_type": []},
    "c2p": {"pos_att_type": ["c2p"]},
    "p2c": {"pos_att_type": ["p2c"]},
    "no terms, own projections": {"pos_att_type": [], "share_att_key": False},
    "c2p, own projections": {"pos_att_type": ["c2p"], "share_att_key": False},
    "p2c, own projections": {"pos_att_type": ["p2c"], "share_att_key": False},
    "both, own projections": {"pos_att_type": BOTH, "share_att_key": False},
    "as a string": {"pos_att_type": "p2c|c2p"},
    "no buckets": {"position_buckets": -1},
    "few distances": {"position_buckets": -1, "max_relative_positions": 8},
    "few buckets": {"position_buckets": 8, "max_relative_positions": 32},
    "no norm": {"norm_rel_ebd": "none"},
    "no relative positions": {"relative_attention": False},
    "no relative positions, no terms": {"relative_attention": False, "pos_att_type": []},
    "absolute positions, too": {"position_biased_input": True},
    "two types of tokens": {"type_vocab_size": 2},
    "convolution": {"conv_kernel_size": 3, "conv_act": "gelu"},
    "wide convolution in groups": {"conv_kernel_size": 7, "conv_groups": 4},
    "narrow embedding": {"embedding_size": 16},
    "another activation": {"hidden_act": "relu"},
    "legacy": {"legacy": True},
    "as v2-xlarge": {
        "conv_kernel_size": 3,
        "share_att_key": True,
        "attention_head_size": 8,
        "norm_rel_ebd": "layer_norm",
    },
}


STOCK_LAYERS = {"another activation", *(f"{terms}, own projections" for terms in ("c2p", "p2c", "both"))}
"""Those that a CPU, too, computes by PyTorch's own attention."""


def make_folder(source: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A copy of a tiny encoder with another configuration, and random weights, biases among them."""
    shutil.copytree(source, folder)
    config = AutoConfig.from_pretrained(folder, **changes)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # as they come, all are 0 or 1, and a bias that is left out would not be missed
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "rel" in name:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


def assert_the_same(folder: Path, *, pair: bool = False, own_layers: bool) -> None:
    rows = make_rows(folder, texts=TEXTS, pair=pair)
    stock, packed = load_tiny(folder), load_tiny(folder, packed=True)
    assert packed.pooling is not None
    layers = packed.model.base_model.encoder.layer
    assert all(isinstance(vars(layer).get("forward"), PackedLayer) == own_layers for layer in layers)
    for encoder in (stock, packed):
        encoder.model.eval()
    expected, found = logits_of(stock, rows, WHOLE, "longest"), logits_of(packed, rows, PARTS, "none")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(float(expected.abs().max()), 1.0))
    gradient, found = gradient_of(stock, rows, WHOLE, "longest"), gradient_of(packed, rows, PARTS, "none")
    assert (found - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("own_layers", [True, False])
@pytest.mark.parametrize("name", DEBERTAS)
def test_every_deberta_gives_the_stock_models_logits_and_gradients(
    tiny_encoder_dir: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    own_layers: bool,
) -> None:
    """Both ways: the layer of a CPU, and PyTorch's own attention, which other devices take."""
    if not own_layers:
        monkeypatch.setattr("leantune.encoder.proof.use_packed_layers", lambda _: None)
    folder = make_folder(tiny_encoder_dir("deberta-v2"), tmp_path / "model", DEBERTAS[name])
    assert_the_same(folder, own_layers=own_layers and name not in STOCK_LAYERS)


@pytest.mark.parametrize("own_layers", [True, False])
@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_pairs_give_the_stock_models_logits_and_gradients(
    tiny_encoder_dir: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    own_layers: bool,
) -> None:
    if not own_layers:
        monkeypatch.setattr("leantune.encoder.proof.use_packed_layers", lambda _: None)
    changes = {"type_vocab_size": 2} if name == "deberta-v2" else {}
    assert_the_same(make_folder(tiny_encoder_dir(name), tmp_path / "model", changes), pair=True, own_layers=own_layers)


@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_long_texts_in_blocks_give_the_stock_models_logits_and_gradients(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(attention, "LONG_WITH_TERMS", 16)
    monkeypatch.setattr(attention, "SCORES", 2000)  # one head of 32 tokens, or of more
    assert_the_same(make_folder(tiny_encoder_dir(name), tmp_path / "model", {}), own_layers=True)


@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_distances_that_are_off_by_one_are_found_out_at_load(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def shifted(encoder: Any, width: int) -> Distances:
        found = _distances_of(encoder, width)
        row_of, bias = (None if x is None else x.roll(1, 0) for x in (found.row_of, found.bias))
        return Distances(row_of=row_of, embedding=found.embedding, bias=bias)

    folder = make_folder(tiny_encoder_dir(name), tmp_path / "model", {})
    rows, stock = make_rows(folder, texts=TEXTS), load_tiny(folder)
    monkeypatch.setattr(relative_encoder, "_distances_of", shifted)
    asked = load_tiny(folder, packed=True)
    assert asked.pooling is None
    for encoder in (stock, asked):
        encoder.model.eval()
    outs = [logits_of(encoder, rows, WHOLE, "longest") for encoder in (stock, asked)]
    assert torch.equal(*outs)


@pytest.mark.parametrize("buckets", [-1, 8, 32, 256])
@pytest.mark.parametrize("most", [8, 100, 512])
def test_distances_have_the_rows_that_the_stock_model_gives_them_at_every_length(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, buckets: int, most: int
) -> None:
    changes = {"position_buckets": buckets, "max_relative_positions": most, "norm_rel_ebd": "none"}
    config = AutoConfig.from_pretrained(tiny_encoder_dir("deberta-v2"), **changes)
    encoder = AutoModel.from_config(config).encoder
    span = buckets if buckets > 0 else most
    table = encoder.rel_embeddings.weight
    for width in (1, 2, 7, 31, 128, 129, 300, 512):
        place = torch.zeros(1, width, 1)
        expected = (build_relative_position(place, place, buckets, most)[0] + span).clamp(0, 2 * span - 1)
        distances = _distances_of(encoder, width)
        assert distances.row_of is not None
        assert distances.embedding is not None
        token = torch.arange(width)
        found = distances.embedding[distances.row_of[token[:, None] - token + width]]
        assert torch.equal(found, table[expected])
        in_reach = 2 * (span if most - 1 <= buckets // 2 else min(width + 2, span))
        assert len(distances.embedding) < in_reach + 16


@pytest.mark.parametrize("precision", [FP32, BF16])
@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_bf16_costs_no_more_than_it_does_in_the_stock_model(
    tiny_encoder_dir: Callable[[str], Path], name: str, precision: Precision
) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS)
    stock, packed = load_tiny(folder), load_tiny(folder, packed=True)
    exact = gradient_of(stock, rows, WHOLE, "longest")
    rounded = gradient_of(stock, rows, WHOLE, "longest", precision)
    found = gradient_of(packed, rows, PARTS, "none", precision)
    assert (found - exact).norm() < max(1.5 * (rounded - exact).norm(), 1e-6 * exact.norm())


@pytest.mark.parametrize("own_layers", [True, False])
@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_with_dropout_outputs_have_the_stock_models_mean_and_deviation(
    tiny_encoder_dir: Callable[[str], Path], name: str, own_layers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_layers:
        monkeypatch.setattr("leantune.encoder.proof.use_packed_layers", lambda _: None)
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS[2:4])
    samples = []
    for encoder, padding in (
        (load_tiny(folder, dropout=0.2), "longest"),
        (load_tiny(folder, dropout=0.2, packed=True), "none"),
    ):
        encoder.model.train()
        torch.manual_seed(0)
        batch = make_batch(rows.sequences, np.repeat([0, 1], 20), pad_id=encoder.pad_id, padding=padding, device=CPU)
        with torch.no_grad():
            samples.append(torch.cat([encoder.logits(batch).view(2, -1) for _ in range(30)], dim=1))
    stock, packed = samples
    count = stock.shape[1]
    error = stock.std(1) * (2 / count) ** 0.5
    assert (stock.mean(1) - packed.mean(1)).abs().lt(5 * error).all()
    assert (stock.std(1) / packed.std(1) - 1).abs().lt(5 * count**-0.5).all()


@pytest.mark.parametrize("name", ["deberta-v2", "bert", "distilbert"])
def test_activations_that_are_computed_again_are_not_kept_and_give_the_same_gradient(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    folder = tiny_encoder_dir(name)
    rows, found = make_rows(folder, texts=TEXTS), []
    for again in (False, True):
        encoder = load_tiny(folder, dropout=0.2, packed=True)
        if again:
            model = encoder.model
            (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
        encoder.model.train()
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = make_batch(rows.sequences, np.arange(len(TEXTS)), pad_id=encoder.pad_id, padding="none", device=CPU)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder.logits(batch)
        torch.manual_seed(0)
        found.append((gradient_of(encoder, rows, WHOLE, "none"), sum(kept.values())))
    (plain, kept_plain), (again, kept_again) = found
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))
    assert kept_again < 0.5 * kept_plain


@pytest.mark.parametrize("name", ["deberta-v2", "mpnet"])
def test_changing_one_text_moves_no_other(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    encoder.model.eval()
    batch = make_batch(rows.sequences, np.array([12, 5, 6, 1]), pad_id=encoder.pad_id, padding="none", device=CPU)
    with torch.no_grad():
        before = encoder.logits(batch).clone()
        batch.input_ids[0, int(batch.packing.starts[1]) + 3] += 1
        after = encoder.logits(batch)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.equal(before[1], after[1])


def test_the_projections_of_distances_are_made_once_a_layer_and_of_rows_in_reach(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder_dir("deberta-v2")
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    batch = make_batch(rows.sequences, np.array([1, 0]), pad_id=encoder.pad_id, padding="none", device=CPU)
    width = max(group.width for group in batch.packing.groups)
    seen = []
    own = encoder_layer._Relative.positions
    monkeypatch.setattr(encoder_layer._Relative, "positions", lambda *given: seen.append(own(*given)) or seen[-1])
    encoder.logits(batch)
    assert len(seen) == len(encoder_layers(encoder.model))
    assert len(batch.packing.groups) == 1
    assert all(len(positions.keys) < 2 * width + 3 + 16 < 64 for positions in seen)


def test_operations_are_counted_without_distances_that_a_text_does_not_have(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """With a larger table of distances a short text needs no more operations."""
    counts = []
    for buckets in (32, 128):
        folder = make_folder(tiny_encoder_dir("deberta-v2"), tmp_path / str(buckets), {"position_buckets": buckets})
        flops = load_tiny(folder).training_flops
        assert flops is not None
        counts.append([flops(np.array([length], dtype=np.int32)) for length in (1, 8, 64)])
    np.testing.assert_allclose(counts[0], counts[1], rtol=1e-3)
    assert counts[0][0] < counts[0][1] / 4
