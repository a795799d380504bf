"""ModernBERT's last layer, which computes what the head reads: against the stock layer on the same packed rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layouts import PARTS, TEXTS, WHOLE, gradient_of, logits_of
from leantune.batches.batch import make_batch
from leantune.training.precision import Precision
from small_runs import CPU, FP32, load_tiny, make_rows

BF16 = Precision(name="bf16", device=CPU)


def load(folder: Path, changes: dict[str, Any], target: Path, *, packed: bool = True) -> Any:
    shutil.copytree(folder, target, dirs_exist_ok=True)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return load_tiny(target, packed=packed)


@pytest.mark.parametrize("precision", [FP32, BF16])
@pytest.mark.parametrize("every", [2, 1], ids=["last layer local", "last layer global"])
def test_first_tokens_have_the_stock_layers_logits_and_gradients(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, every: int, precision: Precision
) -> None:
    layers = ["full_attention", "sliding_attention" if every == 2 else "full_attention"]
    changes = {"global_attn_every_n_layers": every, "layer_types": layers}
    source = tiny_encoder_dir("modernbert")
    rows = make_rows(source, texts=TEXTS)
    packed = load(source, changes, tmp_path / "model")
    assert "forward" in vars(packed.model.base_model.layers[-1])
    stock = load(source, changes, tmp_path / "model", packed=False)
    for encoder in (stock, packed):
        encoder.model.eval()
    expected = logits_of(stock, rows, WHOLE, "longest")
    torch.testing.assert_close(logits_of(packed, rows, PARTS, "none"), expected, rtol=0, atol=1e-5)
    exact = gradient_of(stock, rows, WHOLE, "longest")
    rounded = gradient_of(stock, rows, WHOLE, "longest", precision)
    found = gradient_of(packed, rows, PARTS, "none", precision)
    assert (found - exact).norm() < max(1.5 * (rounded - exact).norm(), 1e-6 * exact.norm())


def test_a_head_that_reads_the_mean_gets_all_tokens(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = load(tiny_encoder_dir("modernbert"), {"classifier_pooling": "mean"}, tmp_path / "model")
    assert encoder.pooling is not None
    assert "forward" not in vars(encoder.model.base_model.layers[-1])


def test_it_computes_less(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("modernbert")
    rows, encoder = make_rows(folder, texts=TEXTS), load_tiny(folder, packed=True)
    batch = make_batch(rows.sequences, np.arange(4), pad_id=encoder.pad_id, padding="none", device=CPU)
    layer, flops = encoder.model.base_model.layers[-1], []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder.logits(batch)
        flops.append(counter.get_total_flops())
        vars(layer).pop("forward", None)
    assert flops[0] < 0.75 * flops[1]
