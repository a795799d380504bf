"""Laws 1 and 2: a step's gradient is that of one big batch, however its rows are cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leantune.batches.batch import Rows, make_training_batch
from leantune.batches.plan import RowsPerMicroBatch, TokensPerMicroBatch, plan_epoch
from leantune.encoder.model import Encoder
from leantune.training.optim import make_optimizer
from leantune.training.precision import Precision
from leantune.training.step import accumulate_gradients, optimizer_step
from small_runs import CPU, FP32, load_tiny, make_rows, make_task_of, optimizer_settings
from tiny_encoders import make_texts

TEXTS = make_texts(45)  # a whole step of 32 rows, and an incomplete one of 13
CUTS = [RowsPerMicroBatch(rows=n) for n in (32, 16, 8, 5)] + [TokensPerMicroBatch(tokens=n) for n in (40, 200, 900)]
KINDS = ("regression", "binary", "multiclass", "multilabel", "soft")


def reference_gradient(encoder: Encoder, rows: Rows, numbers: Any, kind: str) -> torch.Tensor:
    """One big batch through plain torch: the weighted mean of the usual losses."""
    batch = make_training_batch(rows, numbers, pad_id=encoder.pad_id, padding="longest", device=CPU)
    inputs = {
        "input_ids": batch.inputs.input_ids,
        "attention_mask": batch.inputs.attention_mask,
        "token_type_ids": batch.inputs.token_types,
    }
    logits = encoder.model(**inputs).logits
    if kind == "regression":
        losses = F.mse_loss(logits, batch.targets, reduction="none").mean(dim=1)
    elif kind == "multilabel":
        losses = F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="none").mean(dim=1)
    elif kind == "soft":
        losses = -(batch.targets * logits.log_softmax(dim=1)).sum(dim=1)
    else:
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
    encoder.model.zero_grad()
    ((losses * batch.weights).sum() / batch.weights.sum()).backward()
    return take_gradient(encoder)


def take_gradient(encoder: Encoder) -> torch.Tensor:
    gradient = torch.cat([p.grad.flatten().double() for p in encoder.model.parameters() if p.grad is not None])
    encoder.model.zero_grad()
    return gradient


def batches(encoder: Encoder, rows: Rows, micro_batches: Any, padding: Any = "longest") -> Any:
    for micro in micro_batches:
        yield make_training_batch(rows, micro, pad_id=encoder.pad_id, padding=padding, device=CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("padding", ["longest", 96, "none"], ids=["dynamic", "fixed", "packed"])
def test_the_gradient_is_that_of_one_big_batch_also_in_the_incomplete_step(
    tiny_encoder_dir: Callable[[str], Path], kind: Any, cut: Any, padding: Any
) -> None:
    folder = tiny_encoder_dir("bert")
    padded, rows, task = load_tiny(folder, kind), make_rows(folder, kind, texts=TEXTS), make_task_of(kind)
    encoder = load_tiny(folder, kind, packed=True) if padding == "none" else padded
    for each in (padded, encoder):
        each.model.train()
    plan = plan_epoch(
        rows.sequences.lengths,
        batch_size=32,
        micro_batch=cut,
        order="random",
        padding=padding,
        seed=0,
        epoch=0,
    )
    assert [len(step.rows) for step in map(plan.step, range(len(plan)))] == [32, 13]
    for step in map(plan.step, range(len(plan))):
        expected = reference_gradient(padded, rows, step.rows, kind)
        loss = accumulate_gradients(
            encoder,
            batches(encoder, rows, step.micro_batches, padding),
            total_weight=rows.weights[step.rows].sum(),
            task=task,
            precision=FP32,
        )
        gradient = take_gradient(encoder)
        assert torch.linalg.norm(gradient - expected) <= 1e-6 * torch.linalg.norm(expected)
        assert loss.ndim == 1


def test_the_gradient_is_that_of_one_big_batch_where_labels_were_not_scored(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    folder = tiny_encoder_dir("bert")
    encoder, rows = load_tiny(folder, "multilabel"), make_rows(folder, "multilabel", texts=TEXTS[:13])
    targets = rows.targets.copy()
    targets[np.random.default_rng(2).uniform(size=targets.shape) < 0.4] = np.nan
    targets[4] = np.nan  # a row of weight 1, of which nothing is known
    rows = Rows(sequences=rows.sequences, targets=targets, weights=rows.weights)
    whole = make_training_batch(rows, np.arange(13), pad_id=encoder.pad_id, padding="longest", device=CPU)
    logits = encoder.model(input_ids=whole.inputs.input_ids, attention_mask=whole.inputs.attention_mask).logits
    known = ~torch.isnan(whole.targets)
    losses = torch.zeros_like(logits)
    losses[known] = F.binary_cross_entropy_with_logits(logits[known], whole.targets[known], reduction="none")
    ((losses.mean(dim=1) * whole.weights).sum() / whole.weights.sum()).backward()
    expected = take_gradient(encoder)

    accumulate_gradients(
        encoder,
        batches(encoder, rows, [np.arange(5), np.arange(5, 12), np.array([12])]),
        total_weight=rows.weights.sum(),
        task=make_task_of("multilabel"),
        precision=FP32,
    )

    gradient = take_gradient(encoder)
    assert torch.linalg.norm(gradient - expected) <= 1e-6 * torch.linalg.norm(expected)


def test_a_row_of_weight_two_counts_as_the_row_twice(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("bert")
    encoder, task = load_tiny(folder), make_task_of("regression")
    rows = make_rows(folder, texts=TEXTS[:4])
    once = Rows(sequences=rows.sequences, targets=rows.targets, weights=np.ones(4))
    heavier = Rows(sequences=rows.sequences, targets=rows.targets, weights=np.array([2.0, 1.0, 1.0, 1.0]))
    gradients = []
    for table, numbers, total in ((once, [0, 0, 1, 2, 3], 5.0), (heavier, [0, 1, 2, 3], 5.0)):
        parts = batches(encoder, table, [np.array(numbers)])
        accumulate_gradients(encoder, parts, total_weight=total, task=task, precision=FP32)
        gradients.append(take_gradient(encoder))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def step_with(encoder: Encoder, precision: Precision, rows: Rows, clip_norm: float | None = 1.0) -> Any:
    optimizer = make_optimizer(encoder.model, optimizer_settings())
    return optimizer_step(
        encoder,
        optimizer,
        batches(encoder, rows, [np.arange(4), np.arange(4, 8)]),
        total_weight=8.0,
        task=make_task_of("regression"),
        precision=precision,
        learning_rate=1e-3,
        clip_norm=clip_norm,
    )


def weights_of(encoder: Encoder) -> list[torch.Tensor]:
    return [p.detach().clone() for p in encoder.model.parameters()]


def test_an_fp16_overflow_leaves_the_weights_untouched_and_the_next_scale_learns(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    folder = tiny_encoder_dir("bert")
    encoder, rows = load_tiny(folder), make_rows(folder, texts=TEXTS[:8])
    too_large = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-90)
    precision = Precision(name="fp16", device=CPU, scaler=too_large)
    before = weights_of(encoder)
    assert step_with(encoder, precision, rows).skipped
    assert all(map(torch.equal, before, weights_of(encoder)))
    assert all(p.grad is None for p in encoder.model.parameters())
    assert not step_with(encoder, precision, rows).skipped
    assert not all(map(torch.equal, before, weights_of(encoder)))


def test_the_gradient_norm_is_that_before_clipping(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("bert")
    rows = make_rows(folder, texts=TEXTS[:8])
    free = step_with(load_tiny(folder), FP32, rows, clip_norm=None)
    clipped = step_with(load_tiny(folder), FP32, rows, clip_norm=float(free.gradient_norm) / 10)
    assert torch.equal(free.gradient_norm, clipped.gradient_norm)


def test_clipping_scales_what_the_optimizer_sees(tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = tiny_encoder_dir("bert")
    encoder, rows = load_tiny(folder), make_rows(folder, texts=TEXTS[:8])
    seen = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(
                torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"] if p.grad is not None])
            )
            return super().step(closure)

    optimizer_step(
        encoder,
        Watching(encoder.model.parameters(), lr=0.1),
        batches(encoder, rows, [np.arange(8)]),
        total_weight=8.0,
        task=make_task_of("regression"),
        precision=FP32,
        learning_rate=1e-3,
        clip_norm=0.01,
    )
    assert float(torch.linalg.norm(seen[0])) == pytest.approx(0.01, rel=1e-3)
