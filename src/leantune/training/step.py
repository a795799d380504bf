"""One optimizer step whose gradient does not depend on how its rows were cut into micro-batches (laws 1 and 2)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from leantune.batches.batch import TrainingBatch
from leantune.encoder.model import Encoder
from leantune.system.device import is_out_of_memory
from leantune.training.precision import Precision
from leantune.training.task import Task


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did; the tensors are still on the device, since reading them would wait for it."""

    losses: Tensor
    """Weighted means over the step's rows, [K]: `Task.losses`, of which the mean is minimised."""
    gradient_norm: Tensor
    """Before clipping, a scalar."""
    skipped: Tensor | None
    """True, a scalar, where fp16 overflowed: the weights are untouched. None in every other format."""
    learning_rate: float


class DoesNotFitError(Exception):
    """A device had no memory for a micro-batch; its gradients so far are of no use."""

    def __init__(self, micro_batch: int) -> None:
        super().__init__(micro_batch)
        self.micro_batch = micro_batch
        """Which of the step's, from 0."""


def accumulate_gradients(
    encoder: Encoder, batches: Iterable[TrainingBatch], *, total_weight: float, task: Task, precision: Precision
) -> Tensor:
    """Add the gradient of a whole step to the parameters' `grad`; return its losses [K], detached.

    `total_weight` is the weight of all rows of the step, known before the first forward pass. Each micro-batch adds its
    *sum* of losses divided by it, so that the total is the gradient of one big batch, however uneven the cut. (Dividing
    each micro-batch's mean by their number, as is usual, is wrong as soon as they differ in size.) Raises
    `DoesNotFitError`.
    """
    losses: Tensor | float = 0.0
    done = 0
    try:
        with precision.compute():
            for batch in batches:
                total, by_output = task.loss_sums(encoder.logits(batch.inputs), batch.targets, batch.weights)
                part = total / total_weight
                (part if precision.scaler is None else precision.scaler.scale(part)).backward()  # type: ignore[no-untyped-call]
                losses = losses + by_output / total_weight
                done += 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(done) from None
    for parameter in encoder.model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:  # rows of the embedding, on a CPU
            parameter.grad = parameter.grad.to_dense()
    assert isinstance(losses, Tensor), "a step has rows"
    return losses


def apply_gradients(
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    learning_rate: float,
    clip_norm: float | None,
    precision: Precision,
) -> tuple[Tensor, Tensor | None]:
    """Clip the accumulated gradients, step the optimizer and clear them; return the norm before clipping, and whether
    the step was skipped because fp16 overflowed (None in every other format).

    Never waits for the device: under fp16 the fused step itself looks at the overflow there.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaler = precision.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    # The scaler skips a step where a gradient is not finite, and then the norm is not either.
    return norm, None if scaler is None else ~norm.isfinite()


def optimizer_step(
    encoder: Encoder,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[TrainingBatch],
    *,
    total_weight: float,
    task: Task,
    precision: Precision,
    learning_rate: float | Callable[[], float],
    clip_norm: float | None,
) -> StepResult:
    """Learn from one step's rows. Raises `DoesNotFitError`; then nothing was learned, and `grad` is to be cleared.

    A `learning_rate` that is a function is asked once the device has all the work of the backward passes: it may then
    wait for the step before, while the device goes on.
    """
    losses = accumulate_gradients(encoder, batches, total_weight=total_weight, task=task, precision=precision)
    rate = learning_rate() if callable(learning_rate) else learning_rate
    norm, skipped = apply_gradients(
        list(encoder.model.parameters()),
        optimizer,
        learning_rate=rate,
        clip_norm=clip_norm,
        precision=precision,
    )
    return StepResult(losses=losses, gradient_norm=norm, skipped=skipped, learning_rate=rate)
