"""From row numbers to the tensors of one micro-batch."""

from dataclasses import dataclass
from functools import partial

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


def make_batch(rows: Rows, numbers: NDArray[np.int64], *, pad_id: int, padding: Padding, device: torch.device) -> Batch:
    """Gather the rows `numbers` [B] of a table, the longest first where they are packed, into one batch."""
    lengths = rows.sequences.lengths[numbers]
    targets = rows.targets[numbers]

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return send(torch.from_numpy(array), device)

    of_rows = partial(
        Batch,
        targets=tensor(targets if targets.ndim == 1 else targets.astype(np.float32)),
        weights=tensor(rows.weights[numbers].astype(np.float32)),
    )
    if padding == "none":
        rest = np.zeros(padded_tokens(lengths, padding) - int(lengths.sum()), dtype=np.int64)
        ids = np.concatenate([*(rows.sequences.ids(int(number)) for number in numbers), rest + pad_id])
        found = [rows.sequences.token_types(int(number)) for number in numbers]
        types = None if found[0] is None else np.concatenate([*(part for part in found if part is not None), rest])
        places = np.concatenate([*(np.arange(length) for length in lengths), rest])
        return of_rows(
            input_ids=tensor(ids[np.newaxis].astype(np.int64)),
            attention_mask=None,
            token_types=None if types is None else tensor(types[np.newaxis].astype(np.int64)),
            packing=make_packing(lengths.tolist(), device),
            places=tensor(places[np.newaxis]),
        )
    width = int(lengths.max()) if padding == "longest" else padding
    padded_ids = np.full((len(numbers), width), pad_id, dtype=np.int64)
    padded_types: NDArray[np.int64] | None = None
    for i, number in enumerate(numbers):
        padded_ids[i, : lengths[i]] = rows.sequences.ids(int(number))
        row_types = rows.sequences.token_types(int(number))
        if row_types is not None:
            padded_types = np.zeros_like(padded_ids) if padded_types is None else padded_types
            padded_types[i, : lengths[i]] = row_types
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64) if (lengths < width).any() else None
    return of_rows(
        input_ids=tensor(padded_ids),
        attention_mask=None if mask is None else tensor(mask),
        token_types=None if padded_types is None else tensor(padded_types),
    )
