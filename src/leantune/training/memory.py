"""What is done where a micro-batch does not fit into memory."""

import numpy as np
import torch
from numpy.typing import NDArray

from leantune.batches.plan import MicroBatch, Padding, RowsPerMicroBatch, TokensPerMicroBatch, padded_tokens
from leantune.system.device import give_back_memory
from leantune.system.errors import TrainingError
from leantune.tokens.truncation import Sequences
from leantune.training.events import Note


def halve(
    too_large: NDArray[np.int64],
    sequences: Sequences,
    micro_batch: MicroBatch,
    padding: Padding,
    device: torch.device,
) -> tuple[MicroBatch, Note]:
    """Return a limit under which the micro-batch of the rows `too_large` has half the size, and what to tell of it.

    Raises `TrainingError` where it has a single row.
    """
    lengths = sequences.lengths[too_large]
    if len(too_large) == 1:
        raise TrainingError(
            f"row {too_large[0] + 1}, with {lengths[0]} tokens, does not fit into the memory of {device} by itself. A "
            "smaller tokens.max_length, model.gradient_checkpointing: true, or a smaller model would help; a "
            "checkpoint that was saved before is still there."
        )
    give_back_memory(device)
    smaller: MicroBatch
    if isinstance(micro_batch, RowsPerMicroBatch):
        smaller = RowsPerMicroBatch(rows=len(too_large) // 2)
        told = f"{smaller.rows} rows"
    else:
        smaller = TokensPerMicroBatch(tokens=padded_tokens(lengths, padding) // 2)
        told = f"{smaller.tokens:,} tokens"
    return smaller, Note(
        event="warning",
        about="memory",
        text=f"{len(too_large)} rows at once, of up to {lengths.max()} tokens, did not fit into the memory of "
        f"{device}: begun again with micro-batches of up to {told}, which changes nothing that is learned",
    )


def set_limit(limit: MicroBatch, smaller: dict[str, int] | None) -> MicroBatch:
    """Return the limit of micro-batches: `limit`, or the `smaller` one that took its place."""
    match smaller:
        case {"rows": rows}:
            return RowsPerMicroBatch(rows=rows)
        case {"tokens": tokens}:
            return TokensPerMicroBatch(tokens=tokens)
        case _:
            return limit
