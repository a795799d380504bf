"""From row numbers to the tensors of one micro-batch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leantune.batches.packing import Packing, make_packing
from leantune.batches.plan import Padding, padded_tokens
from leantune.system.device import send
from leantune.tokens.truncation import Sequences


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B sequences on the device: padded on the right to a common length L, or packed into one row of T tokens."""

    input_ids: Tensor
    """[B, L] or [1, T] int64."""
    attention_mask: Tensor | None
    """[B, L] int64, 1 where there is a token; None where nothing is padded."""
    token_types: Tensor | None
    """[B, L] or [1, T] int64; None where the tokenizer gives none."""
    packing: Packing | None = None
    """Where the sequences of a packed row stand; None where they are padded."""
    places: Tensor | None = None
    """[1, T] int64: each token's place in its own sequence, from 0; None where they are padded."""


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """A batch with what is to be learned from it."""

    inputs: Batch
    targets: Tensor
    """[B] int64 class, or [B, K] float32."""
    weights: Tensor
    """[B] float32."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Everything that training reads of a table's N rows."""

    sequences: Sequences
    targets: NDArray[np.float64] | NDArray[np.int64]
    """[N, K] float64, or [N] int64 classes."""
    weights: NDArray[np.float64]
    """[N]."""


def make_training_batch(
    rows: Rows,
    numbers: NDArray[np.int64],
    *,
    windows: NDArray[np.int64] | None = None,
    pad_id: int,
    padding: Padding,
    device: torch.device,
) -> TrainingBatch:
    """Gather the rows `numbers` [B] of a table with their targets and weights; see `make_batch`."""
    targets = rows.targets[numbers]
    return TrainingBatch(
        inputs=make_batch(rows.sequences, numbers, windows=windows, pad_id=pad_id, padding=padding, device=device),
        targets=_tensor(targets if targets.ndim == 1 else targets.astype(np.float32), device),
        weights=_tensor(rows.weights[numbers].astype(np.float32), device),
    )


def make_batch(
    sequences: Sequences,
    numbers: NDArray[np.int64],
    *,
    windows: NDArray[np.int64] | None = None,
    pad_id: int,
    padding: Padding,
    device: torch.device,
) -> Batch:
    """Gather the sequences of the rows `numbers` [B], the longest first where they are packed, into one batch.

    `windows` [B] says which window of each row; None is the first, which most rows have alone.
    """
    lengths = sequences.lengths[numbers]
    which = np.zeros_like(numbers) if windows is None else windows
    row_ids = [sequences.ids(row, window) for row, window in zip(numbers.tolist(), which.tolist(), strict=True)]
    if padding == "none":
        rest = np.zeros(padded_tokens(lengths, padding) - int(lengths.sum()), dtype=np.int64)
        ids = np.concatenate([*row_ids, rest + pad_id])
        found = [sequences.token_types(int(number)) for number in numbers]
        types = None if found[0] is None else np.concatenate([*(part for part in found if part is not None), rest])
        places = np.concatenate([*(np.arange(length) for length in lengths), rest])
        return Batch(
            input_ids=_tensor(ids[np.newaxis].astype(np.int64), device),
            attention_mask=None,
            token_types=None if types is None else _tensor(types[np.newaxis].astype(np.int64), device),
            packing=make_packing(lengths.tolist(), device, row=len(ids)),
            places=_tensor(places[np.newaxis], device),
        )
    width = padding if isinstance(padding, int) else int(lengths.max())
    padded_ids = np.full((len(numbers), width), pad_id, dtype=np.int64)
    padded_types: NDArray[np.int64] | None = None
    for i, number in enumerate(numbers):
        padded_ids[i, : lengths[i]] = row_ids[i]
        row_types = sequences.token_types(int(number))
        if row_types is not None:
            padded_types = np.zeros_like(padded_ids) if padded_types is None else padded_types
            padded_types[i, : lengths[i]] = row_types
    there = np.arange(width) < lengths[:, None]
    # Some models leave padding tokens out by themselves where there is no mask, also one that somebody wrote in a text.
    needs_mask = not there.all() or (padded_ids == pad_id).any()
    return Batch(
        input_ids=_tensor(padded_ids, device),
        attention_mask=_tensor(there.astype(np.int64), device) if needs_mask else None,
        token_types=None if padded_types is None else _tensor(padded_types, device),
    )


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return send(torch.from_numpy(array), device)
