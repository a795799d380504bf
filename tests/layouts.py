"""What the tests of layouts share: texts in groups, and their logits and gradients."""

from typing import Any

import numpy as np
import torch

from leantune.batches.batch import make_batch, make_training_batch
from leantune.training.step import accumulate_gradients
from small_runs import CPU, FP32, make_task_of
from tiny_encoders import make_texts

TEXTS = ["", "ba", *make_texts(10), " ".join(make_texts(4, most_words=60, seed=2))]

WHOLE = [list(range(len(TEXTS)))]
PARTS = [[0], [1, 2, 3], list(range(4, len(TEXTS)))]


def logits_of(encoder: Any, rows: Any, groups: Any, padding: Any) -> torch.Tensor:
    """[N, outputs] of all rows, computed in `groups`, in the rows' order."""
    out = torch.empty(len(rows.weights), encoder.model.config.num_labels)
    with torch.inference_mode():
        for group in groups:
            batch = make_batch(rows.sequences, np.array(group), pad_id=encoder.pad_id, padding=padding, device=CPU)
            out[group] = encoder.logits(batch)
    return out


def gradient_of(encoder: Any, rows: Any, groups: Any, padding: Any, precision: Any = FP32) -> torch.Tensor:
    """The gradient of one step of all rows, computed in `groups`."""
    encoder.model.zero_grad()
    accumulate_gradients(
        encoder,
        (make_training_batch(rows, np.array(g), pad_id=encoder.pad_id, padding=padding, device=CPU) for g in groups),
        total_weight=rows.weights.sum(),
        task=make_task_of("regression"),
        precision=precision,
    )
    gradients = [p.grad.flatten() for p in encoder.model.parameters() if p.grad is not None]
    return torch.cat(gradients)
