"""Law 3: however rows are padded and grouped, each gives the same logits and gradients."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from layouts import PARTS, TEXTS, WHOLE, gradient_of, logits_of
from leantune.batches.batch import make_batch
from leantune.batches.packing import Packing, make_packing
from leantune.encoder.attention import NAME as PACKED_ATTENTION
from leantune.encoder.attention import attend
from leantune.training.precision import Precision
from small_runs import CPU, load_tiny, make_rows
from tiny_encoders import NAMES, make_texts


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("name", NAMES)
def test_fixed_and_dynamic_padding_and_rows_alone_give_the_same_logits(
    tiny_encoder_dir: Callable[[str], Path], name: str, pair: bool
) -> None:
    folder = tiny_encoder_dir(name)
    encoder, rows = load_tiny(folder, "multiclass"), make_rows(folder, "multiclass", texts=TEXTS, pair=pair)
    encoder.model.eval()
    numbers = list(range(len(TEXTS)))
    alone = logits_of(encoder, rows, [[n] for n in numbers], "longest")
    assert alone[:, 0].std() > 1e-3  # or else nothing is compared
    halves = [numbers[::2], numbers[1::2]]
    for groups, padding in (([numbers], "longest"), ([numbers], 96), (halves, "longest"), ([numbers], 128)):
        torch.testing.assert_close(logits_of(encoder, rows, groups, padding), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_and_dynamic_padding_give_the_same_gradients(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    encoder, rows = load_tiny(folder), make_rows(folder, texts=TEXTS)
    encoder.model.train()
    gradients = []
    for groups, padding in ((WHOLE, 96), (PARTS, "longest")):
        gradients.append(gradient_of(encoder, rows, groups, padding))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_changing_one_row_does_not_move_another_rows_output(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    encoder = load_tiny(folder)
    encoder.model.eval()
    numbers = [list(range(len(TEXTS)))]
    before = logits_of(encoder, make_rows(folder, texts=TEXTS), numbers, "longest")
    changed = make_rows(folder, texts=[*TEXTS[:5], make_texts(1, seed=9)[0], *TEXTS[6:]])
    after = logits_of(encoder, changed, numbers, "longest")
    others = [n for n in numbers[0] if n != 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert abs(float(after[5] - before[5])) > 1e-6


def test_a_batch_without_padding_needs_no_mask(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("bert")
    rows = make_rows(folder, texts=["ba ko", "ba ko", "ba ko le mi"])
    options: dict[str, Any] = {"pad_id": 0, "device": CPU}
    assert make_batch(rows.sequences, np.array([0, 1]), padding="longest", **options).attention_mask is None
    assert make_batch(rows.sequences, np.array([0, 2]), padding="longest", **options).attention_mask is not None
    assert make_batch(rows.sequences, np.array([0, 1]), padding=50, **options).input_ids.shape == (2, 50)


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_give_the_logits_of_padded_ones(
    tiny_encoder_dir: Callable[[str], Path], name: str, pair: bool
) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, "multiclass", texts=TEXTS, pair=pair)
    padded, packed = (load_tiny(folder, "multiclass", packed=packed) for packed in (False, True))
    padded.model.eval()
    packed.model.eval()
    expected = logits_of(padded, rows, WHOLE, "longest")
    longest_first = np.argsort(-rows.sequences.lengths, kind="stable").tolist()
    for groups in (WHOLE, PARTS, [longest_first], [[n] for n in WHOLE[0]]):
        torch.testing.assert_close(logits_of(packed, rows, groups, "none"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_give_the_gradients_of_padded_ones(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS)
    padded, packed = (load_tiny(folder, packed=packed) for packed in (False, True))
    expected = gradient_of(padded, rows, WHOLE, "longest")
    for groups in (WHOLE, PARTS):
        torch.testing.assert_close(gradient_of(packed, rows, groups, "none"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_in_bf16_give_the_gradient_of_float32_as_nearly_as_padded_ones(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS)
    padded, packed = (load_tiny(folder, packed=packed) for packed in (False, True))
    exact = gradient_of(padded, rows, WHOLE, "longest")
    bf16 = Precision(name="bf16", device=CPU)
    error_of = [
        float((gradient_of(encoder, rows, WHOLE, padding, bf16) - exact).norm() / exact.norm())
        for encoder, padding in ((padded, "longest"), (packed, "none"))
    ]
    assert error_of[1] < max(2 * error_of[0], 0.02)


@pytest.mark.parametrize("name", NAMES)
def test_changing_one_packed_row_does_not_move_another_rows_output(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    folder = tiny_encoder_dir(name)
    encoder = load_tiny(folder, packed=True)
    encoder.model.eval()
    before = logits_of(encoder, make_rows(folder, texts=TEXTS), WHOLE, "none")
    changed = make_rows(folder, texts=[*TEXTS[:5], make_texts(1, seed=9)[0], *TEXTS[6:]])
    after = logits_of(encoder, changed, WHOLE, "none")
    others = [n for n in WHOLE[0] if n != 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert abs(float(after[5] - before[5])) > 1e-6


def leak_over_a_boundary(lengths: list[int], device: torch.device) -> Any:
    """Two texts taken for one, in the attention only."""
    right = make_packing(lengths, device)
    wrong = make_packing([lengths[0] + lengths[1], *lengths[2:]], device)
    return dataclasses.replace(right, groups=wrong.groups)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bug", ["leak", "position"])
def test_a_planted_bug_is_seen(
    tiny_encoder_dir: Callable[[str], Path], name: str, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, "multiclass", texts=TEXTS)
    padded, packed = (load_tiny(folder, "multiclass", packed=packed) for packed in (False, True))
    padded.model.eval()
    packed.model.eval()
    expected = logits_of(padded, rows, WHOLE, "longest")
    if bug == "leak":
        monkeypatch.setattr("leantune.batches.batch.make_packing", leak_over_a_boundary)
    else:
        assert packed.pooling is not None
        right = packed.pooling.positions
        monkeypatch.setattr(packed.pooling, "positions", lambda batch: right(batch) + 1)
        if name in ("modernbert", "deberta-v2"):
            pytest.skip("its positions are relative: all of them one higher change nothing")
    with pytest.raises((AssertionError, RuntimeError)):
        torch.testing.assert_close(logits_of(packed, rows, WHOLE, "none"), expected, rtol=0, atol=1e-5)


def test_an_encoder_that_would_mix_texts_is_found_out(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2), None

    def careless_layer(qkv: Tensor, packing: Packing, **options: Any) -> Any:
        return attend(qkv, make_packing([packing.tokens], CPU), **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, PACKED_ATTENTION, careless)
    assert load_tiny(tiny_encoder_dir("modernbert"), packed=True).pooling is None
    assert load_tiny(tiny_encoder_dir("bert"), packed=True).pooling is not None
    monkeypatch.setattr("leantune.encoder.encoder_layer.attend", careless_layer)
    assert load_tiny(tiny_encoder_dir("bert"), packed=True).pooling is None


def test_packed_rows_give_the_same_gradient_with_activations_computed_again(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    folder = tiny_encoder_dir("bert")
    rows, gradients = make_rows(folder, texts=TEXTS), []
    for again in (False, True):
        encoder = load_tiny(folder, dropout=0.2, packed=True)
        if again:
            model = encoder.model
            (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
        encoder.model.train()
        torch.manual_seed(0)
        gradients.append(gradient_of(encoder, rows, PARTS, "none"))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
