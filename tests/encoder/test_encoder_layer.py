"""BERT's layer as one function, against the layers of transformers on the same packed rows."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layouts import PARTS, TEXTS, WHOLE, gradient_of
from leantune.batches.batch import make_batch
from leantune.encoder import attention
from leantune.encoder.encoder_layer import PackedLayer, count_unread_flops
from leantune.encoder.layer_parts import encoder_layers
from leantune.encoder.packed_kernels import Computed
from leantune.training.optim import make_optimizer
from leantune.training.precision import Precision
from small_runs import CPU, FP32, load_tiny, make_rows, optimizer_settings

BERTS = ["bert", "roberta", "xlm-roberta", "electra"]
OTHERS = ["distilbert", "deberta-v2", "mpnet", "albert"]
BF16 = Precision(name="bf16", device=CPU)


def load_both(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Any]:
    """The same packed encoder with this layer, and with the stock one."""
    fused = load_tiny(folder, packed=True, **options)
    with monkeypatch.context() as patch:
        patch.setattr("leantune.encoder.proof.use_packed_layers", lambda _: False)
        return [fused, load_tiny(folder, packed=True, **options)]


@pytest.mark.parametrize(
    ("name", "dropout"),
    # The stock layers of DeBERTa and MPNet draw other random numbers, and ALBERT's one layer is its last one, too.
    [*((name, 0.0) for name in [*BERTS, *OTHERS]), *((name, 0.2) for name in [*BERTS, "distilbert"])],
)
def test_gradients_are_those_of_the_stock_layers_and_the_same_values_are_dropped(
    tiny_encoder_dir: Callable[[str], Path], name: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder_dir(name)
    rows, gradients = make_rows(folder, texts=TEXTS), []
    for encoder in load_both(folder, monkeypatch, dropout=dropout):
        if dropout and (layers := encoder_layers(encoder.model)) and "forward" in vars(layers[-1]):
            layers[-1].forward.only_first = False  # it would draw fewer numbers than the stock layer
        encoder.model.train()
        for precision in (FP32, BF16):
            torch.manual_seed(0)
            gradients.append(gradient_of(encoder, rows, PARTS, "none", precision))
    fused, fused_bf16, stock, stock_bf16 = gradients
    if dropout == 0:  # with dropout the stock attention in float32 is PyTorch's own, but for its dropped weights
        assert (fused - stock).norm() < 1e-6 * stock.norm()
    torch.testing.assert_close(fused, stock, rtol=0, atol=1e-5 * float(stock.abs().max()))
    # 16 bits cost no more than they do under autocast.
    assert (fused_bf16 - stock).norm() < max(1.5 * (stock_bf16 - stock).norm(), 0.01 * stock.norm())
    assert (fused_bf16 - stock).norm() > 1e-4 * stock.norm()


@pytest.mark.parametrize("precision", [FP32, BF16])
@pytest.mark.parametrize("name", [*BERTS, "distilbert", "mpnet"])
def test_the_last_layer_computes_what_is_read_and_nothing_else(
    tiny_encoder_dir: Callable[[str], Path], name: str, precision: Precision
) -> None:
    """The head reads first tokens: the others' keys and values are all that counts of them."""
    folder = tiny_encoder_dir(name)
    encoder = load_tiny(folder, packed=True)
    rows = make_rows(folder, texts=TEXTS)
    last = encoder_layers(encoder.model)[-1].forward
    numbers = np.argsort(-rows.sequences.lengths)[:1]  # alone, so that no group is padded
    batch = make_batch(rows.sequences, numbers, pad_id=encoder.pad_id, padding="none", device=CPU)
    found = []
    for only_first in (True, False):
        last.only_first = only_first
        with FlopCounterMode(display=False) as counter, torch.no_grad(), precision.compute():
            logits = encoder.logits(batch)
        width = batch.packing.groups[0].width
        found.append((logits, gradient_of(encoder, rows, PARTS, "none", precision), counter.get_total_flops()))
    (logits, gradient, flops), (all_logits, all_gradient, all_flops) = found
    bound = 1e-6 if precision is FP32 else 0.02
    assert (logits - all_logits).abs().max() < bound * all_logits.abs().max()
    assert (gradient - all_gradient).norm() < bound * all_gradient.norm()
    length = batch.input_ids.numel()
    assert length == width  # filled up like its attention
    assert all_flops - flops == count_unread_flops(encoder.model, np.array([float(length)]))[0]
    assert all_flops > flops > 0.5 * all_flops


def segments(bounds: Any, rows: int) -> Any:
    """Queries and keys of each text, as slices."""
    queries, keys = bounds.queries.tolist(), bounds.keys.tolist()
    assert queries[-1] <= rows
    assert bounds.most_queries == max(b - a for a, b in pairwise(queries))
    assert bounds.most_keys == max(b - a for a, b in pairwise(keys))
    yield from zip((slice(*p) for p in pairwise(queries)), (slice(*p) for p in pairwise(keys)), strict=True)


def compute_plainly(_: Any, query: Any, key: Any, value: Any, bounds: Any, *, scale: float, dropout: float) -> Computed:
    """What a GPU's kernel computes; what no bounds enclose stays as the memory was: NaN here."""
    assert dropout == 0
    out = torch.full_like(query, torch.nan)
    for own, seen in segments(bounds, len(query)):
        q, k, v = (x.transpose(0, 1) for x in (query[own], key[seen], value[seen]))
        out[own] = ((q @ k.mT * scale).softmax(-1) @ v).transpose(0, 1)
    return Computed(query, key, value, out, *(torch.empty(0) for _ in range(3)))


def compute_plainly_backward(_: Any, grad: Any, saved: Computed, bounds: Any, *, scale: float, dropout: float) -> Any:
    gradients = [torch.full_like(x, torch.nan) for x in saved[:3]]
    for own, seen in segments(bounds, len(grad)):
        with torch.enable_grad():
            parts = [x[part].detach().requires_grad_() for x, part in zip(saved, (own, seen, seen), strict=False)]
            q, k, v = (x.transpose(0, 1) for x in parts)
            out = ((q @ k.mT * scale).softmax(-1) @ v).transpose(0, 1)
        found = torch.autograd.grad(out, parts, grad[own])
        for result, part, values in zip(gradients, (own, seen, seen), found, strict=True):
            result[part] = values
    return tuple(gradients)


@pytest.mark.parametrize("precision", [FP32, BF16])
@pytest.mark.parametrize("name", [*BERTS, "distilbert", "albert"])
def test_the_way_of_a_gpu_gives_the_gradients_of_the_stock_layers(
    tiny_encoder_dir: Callable[[str], Path], name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that surrounds a GPU's kernel, with the kernel's formula in its place."""
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS)
    gpus, stock = load_both(folder, monkeypatch)
    exact = gradient_of(stock, rows, PARTS, "none")
    expected = gradient_of(stock, rows, PARTS, "none", precision)
    layer = "leantune.encoder.encoder_layer."
    dtype = precision.matrix_dtype
    for fact, value in [
        ("kernels_of", lambda _: "cuda"),
        ("kernel_of", lambda *_, **__: "flash"),
        ("_matrix_dtype", lambda _: dtype),
        ("compute", compute_plainly),
        ("compute_backward", compute_plainly_backward),
    ]:
        monkeypatch.setattr(layer + fact, value)
    for packed_layer in encoder_layers(gpus.model):
        packed_layer.forward._cast = None  # made on the way of a CPU
    found = gradient_of(gpus, rows, PARTS, "none", precision)
    assert (found - exact).norm() < max(1.5 * (expected - exact).norm(), 1e-6 * exact.norm())


def test_the_stock_layer_is_gone_only_where_it_is_berts(tiny_encoder_dir: Callable[[str], Path]) -> None:
    for name, expected in [*((name, True) for name in [*BERTS, *OTHERS]), ("modernbert", False)]:
        model = load_tiny(tiny_encoder_dir(name), packed=True).model
        layers = encoder_layers(model)
        assert bool(layers) == expected
        assert all(isinstance(vars(layer).get("forward"), PackedLayer) for layer in layers)


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_an_optimizer_step_and_loaded_weights_are_seen_at_once(
    tiny_encoder_dir: Callable[[str], Path], precision: Precision
) -> None:
    folder = tiny_encoder_dir("bert")
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    encoder.model.eval()
    state = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    outs = []

    def look() -> None:
        batch = make_batch(rows.sequences, np.array(WHOLE[0]), pad_id=encoder.pad_id, padding="none", device=CPU)
        with precision.compute(), torch.inference_mode():
            outs.append(encoder.logits(batch))

    look()
    optimizer = make_optimizer(encoder.model, optimizer_settings(learning_rate=0.01))
    gradient_of(encoder, rows, PARTS, "none", precision)
    for name, parameter in encoder.model.named_parameters():
        if "encoder.layer" not in name:
            parameter.grad = None
    optimizer.step()
    look()
    encoder.model.load_state_dict(state)
    look()
    assert float((outs[0] - outs[1]).abs().max()) > 0.01
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert"])
def test_long_texts_give_the_gradients_of_the_stock_model(
    tiny_encoder_dir: Callable[[str], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of up to 96 tokens, where blocks begin at 17; ModernBERT's local window is 16 tokens either way."""
    folder = tiny_encoder_dir(name)
    if name == "modernbert":  # its last layer is local: of the first token alone the window's end would matter little
        folder = shutil.copytree(folder, tmp_path / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"classifier_pooling": "mean"}), encoding="utf-8")
    rows = make_rows(folder, texts=TEXTS)
    assert sorted(rows.sequences.lengths)[-1] == 96
    exact = gradient_of(load_tiny(folder), rows, PARTS, "longest")
    packed = load_tiny(folder, packed=True)
    assert packed.pooling is not None
    at_once = gradient_of(packed, rows, PARTS, "none", BF16)
    computed = []
    weigh = attention._weigh_in_blocks
    monkeypatch.setattr(attention, "_weigh_in_blocks", lambda *a, **named: computed.append(1) or weigh(*a, **named))
    for constant, value in (("LONG", 16), ("SCORES", 2000), ("FEWEST_QUERIES", 16)):
        monkeypatch.setattr(attention, constant, value)
    found = gradient_of(packed, rows, PARTS, "none")
    assert computed
    assert (found - exact).norm() < 1e-5 * exact.norm()
    found = gradient_of(packed, rows, PARTS, "none", BF16)
    assert computed
    # Another order of sums, so not the same to the bit, and no more rounding than without blocks.
    assert (found - exact).norm() < max(1.2 * (at_once - exact).norm(), 0.01 * exact.norm())


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_blocks_drop_the_same_values_in_the_stock_layers_attention(
    tiny_encoder_dir: Callable[[str], Path], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function of a whole layer and the stock layer with packed attention compute the same blocks."""
    for constant, value in (("LONG", 16), ("SCORES", 2000), ("FEWEST_QUERIES", 16)):
        monkeypatch.setattr(attention, constant, value)
    folder = tiny_encoder_dir("bert")
    rows, gradients = make_rows(folder, texts=TEXTS), []
    for encoder in load_both(folder, monkeypatch, dropout=0.2):
        if "forward" in vars(layers := encoder_layers(encoder.model)[-1]):
            layers.forward.only_first = False
        encoder.model.train()
        torch.manual_seed(0)
        gradients.append(gradient_of(encoder, rows, PARTS, "none", precision))
    bound = 1e-5 if precision is FP32 else 0.03
    assert (gradients[0] - gradients[1]).norm() < bound * gradients[1].norm()
