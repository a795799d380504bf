"""How many tokens of a model a GPU trains at once: `micro_batch: auto`, from its free memory and two measured passes.

    longest row -> a pass over some copies of it, one over twice as many -> bytes a token -> tokens that fit

Whatever comes out, nothing that is learned changes (law 1), and what does not fit in the end is computed in smaller
pieces (`memory.halve`). So that two equal commands come to the same, the answer is all that is of use, or, where that
does not fit, a power of two: a little more or less of free memory seldom makes a difference.
"""

from dataclasses import dataclass

import numpy as np

from leantune.batches.batch import Rows, make_training_batch
from leantune.batches.plan import Padding, TokensPerMicroBatch, padded_tokens
from leantune.encoder.model import Encoder
from leantune.system.device import (
    device_bytes,
    forget_peak,
    free_device_bytes,
    give_back_memory,
    peak_device_bytes,
)
from leantune.training.layout import AUTO_TOKENS
from leantune.training.precision import Precision
from leantune.training.state import random_states, set_random_states
from leantune.training.step import DoesNotFitError, accumulate_gradients
from leantune.training.task import Task

PROBED_TOKENS = 2048
"""Of the smaller pass: few enough for a large model on a small GPU, and enough to stand out beside its gradients."""

SHARE = 0.9
"""Of a device's room for tensors that is counted with: the rest is for gaps between them and for libraries."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass forward and backward over a micro-batch, once the gradients are there."""

    tokens: int
    peak_bytes: int
    """Of all tensors on the device, the weights among them."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLimit:
    """What `micro_batch: auto` came to."""

    micro_batch: TokensPerMicroBatch
    reason: str


def tokens_that_fit(one: Pass, other: Pass, *, room_bytes: int, moment_bytes: int, longest: int, most: int) -> int:
    """Return how many tokens fit into a micro-batch: `most`, or a power of two, but not less than the `longest` row.

    The memory of a pass is a line through two that were measured. `room_bytes`: what the device has for tensors;
    `moment_bytes`: what the optimizer will hold beside a pass.
    """
    per_token = bytes_per_token(one, other)
    beside = max(0.0, one.peak_bytes - one.tokens * per_token)
    fitting = int((SHARE * room_bytes - moment_bytes - beside) / per_token)
    if fitting >= most:
        return most
    return max(longest, 1 << fitting.bit_length() - 1) if fitting > 0 else longest


def bytes_per_token(one: Pass, other: Pass) -> float:
    """Return what one token more takes, from two passes over different numbers of tokens."""
    return max(1.0, (other.peak_bytes - one.peak_bytes) / (other.tokens - one.tokens))


def measure_pass(
    encoder: Encoder, rows: Rows, copies: int, padding: Padding, *, task: Task, precision: Precision
) -> Pass:
    """Add the gradient of so many copies of the longest row, and return what that took; raises `DoesNotFitError`."""
    device = precision.device
    numbers = np.full(copies, rows.sequences.lengths.argmax())
    forget_peak(device)
    batch = make_training_batch(rows, numbers, pad_id=encoder.pad_id, padding=padding, device=device)
    accumulate_gradients(encoder, [batch], total_weight=1.0, task=task, precision=precision)
    return Pass(
        tokens=padded_tokens(rows.sequences.lengths[numbers], padding), peak_bytes=peak_device_bytes(device) or 0
    )


def measure_micro_batch(
    encoder: Encoder, rows: Rows, *, batch_size: int, padding: Padding, task: Task, precision: Precision
) -> MeasuredLimit:
    """Measure how many tokens fit into a micro-batch on a device that counts its memory.

    The passes are over copies of the longest row, since attention may take more memory the longer a row is. Weights and
    random numbers are afterwards what they were.
    """
    device, longest = precision.device, int(rows.sequences.lengths.max())
    random, was_training = random_states(device), encoder.model.training
    passes: list[Pass] = []
    encoder.model.train()
    try:
        count = max(1, PROBED_TOKENS // longest)
        for copies in (count, count, 2 * count):  # the first makes the gradients, and all that is made only once
            passes.append(measure_pass(encoder, rows, copies, padding, task=task, precision=precision))
    except DoesNotFitError:
        fitted = passes[-1].tokens if passes else longest
        text = f"measured: {copies} rows of {longest:,} tokens do not fit into the memory of {device}"
        return MeasuredLimit(micro_batch=TokensPerMicroBatch(tokens=fitted), reason=text)
    finally:
        encoder.model.zero_grad(set_to_none=True)
        encoder.model.train(was_training)
        set_random_states(random, device)
        give_back_memory(device)
    free = free_device_bytes(device)
    # More than a step has is of no use; where rows are padded, more at once are padded more.
    most = AUTO_TOKENS["packed" if padding == "none" else "padded"]["cuda"]
    if padding == "none":
        most = max(most, padded_tokens(np.full(batch_size, longest), padding))
    tokens = tokens_that_fit(
        passes[1],
        passes[2],
        room_bytes=free + (device_bytes(device) or 0),
        moment_bytes=sum(2 * p.numel() * p.element_size() for p in encoder.model.parameters() if p.requires_grad),
        longest=longest,
        most=most,
    )
    each = bytes_per_token(passes[1], passes[2])
    return MeasuredLimit(
        micro_batch=TokensPerMicroBatch(tokens=tokens),
        reason=f"measured: a token takes {each / 2**20:.2f} MiB, and {free / 2**30:.1f} GiB of {device} are free",
    )
