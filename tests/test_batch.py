"""Law 3: however rows are padded and grouped, each gives the same logits and gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leantune.batch import make_batch
from leantune.step import accumulate_gradients
from small_runs import CPU, FP32, load_tiny, make_rows, make_task_of
from tiny_encoders import NAMES, make_texts

TEXTS = ["", "ba", *make_texts(10), " ".join(make_texts(4, most_words=60, seed=2))]


def logits_of(encoder: Any, rows: Any, groups: Any, fixed_length: int | None) -> torch.Tensor:
    """[N, outputs] of all rows, computed in `groups`, in the rows' order."""
    out = torch.empty(len(rows.weights), encoder.model.config.num_labels)
    with torch.inference_mode():
        for group in groups:
            batch = make_batch(rows, np.array(group), pad_id=encoder.pad_id, fixed_length=fixed_length, device=CPU)
            out[group] = encoder.logits(batch)
    return out


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("name", NAMES)
def test_fixed_and_dynamic_padding_and_rows_alone_give_the_same_logits(
    tiny_encoder_dir: Callable[[str], Path], name: str, pair: bool
) -> None:
    folder = tiny_encoder_dir(name)
    encoder, rows = load_tiny(folder, "multiclass"), make_rows(folder, "multiclass", texts=TEXTS, pair=pair)
    encoder.model.eval()
    numbers = list(range(len(TEXTS)))
    alone = logits_of(encoder, rows, [[n] for n in numbers], None)
    assert alone[:, 0].std() > 1e-3  # or else nothing is compared
    for groups, fixed in (([numbers], None), ([numbers], 96), ([numbers[::2], numbers[1::2]], None), ([numbers], 128)):
        torch.testing.assert_close(logits_of(encoder, rows, groups, fixed), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_and_dynamic_padding_give_the_same_gradients(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    encoder, rows = load_tiny(folder), make_rows(folder, texts=TEXTS)
    encoder.model.train()
    gradients = []
    for groups, fixed in (([list(range(len(TEXTS)))], 96), ([[0], [1, 2, 3], list(range(4, len(TEXTS)))], None)):
        encoder.model.zero_grad()
        accumulate_gradients(
            encoder,
            (make_batch(rows, np.array(g), pad_id=encoder.pad_id, fixed_length=fixed, device=CPU) for g in groups),
            total_weight=rows.weights.sum(),
            task=make_task_of("regression"),
            precision=FP32,
        )
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_changing_one_row_does_not_move_another_rows_output(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    folder = tiny_encoder_dir(name)
    encoder = load_tiny(folder)
    encoder.model.eval()
    numbers = [list(range(len(TEXTS)))]
    before = logits_of(encoder, make_rows(folder, texts=TEXTS), numbers, None)
    changed = make_rows(folder, texts=[*TEXTS[:5], make_texts(1, seed=9)[0], *TEXTS[6:]])
    after = logits_of(encoder, changed, numbers, None)
    others = [n for n in numbers[0] if n != 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert abs(float(after[5] - before[5])) > 1e-6


def test_a_batch_without_padding_needs_no_mask(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("bert")
    rows = make_rows(folder, texts=["ba ko", "ba ko", "ba ko le mi"])
    options: dict[str, Any] = {"pad_id": 0, "device": CPU}
    assert make_batch(rows, np.array([0, 1]), fixed_length=None, **options).attention_mask is None
    assert make_batch(rows, np.array([0, 2]), fixed_length=None, **options).attention_mask is not None
    assert make_batch(rows, np.array([0, 1]), fixed_length=50, **options).input_ids.shape == (2, 50)
