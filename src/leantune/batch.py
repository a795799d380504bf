"""From row numbers to the tensors of one micro-batch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leantune.truncation import Sequences


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B sequences padded on the right to a common length L, on the device."""

    input_ids: Tensor
    """[B, L] int64."""
    attention_mask: Tensor | None
    """[B, L] int64, 1 where there is a token; None where nothing is padded."""
    token_types: Tensor | None
    """[B, L] int64; None where the tokenizer gives none."""
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


def make_batch(
    rows: Rows, numbers: NDArray[np.int64], *, pad_id: int, fixed_length: int | None, device: torch.device
) -> Batch:
    """Gather the rows `numbers` [B] of a table into one batch.

    Padded to `fixed_length` tokens, or to the longest of these rows where that is None.
    """
    lengths = rows.sequences.lengths[numbers]
    width = fixed_length or int(lengths.max())
    ids = np.full((len(numbers), width), pad_id, dtype=np.int64)
    types: NDArray[np.int64] | None = None
    for i, number in enumerate(numbers):
        ids[i, : lengths[i]] = rows.sequences.ids(int(number))
        row_types = rows.sequences.token_types(int(number))
        if row_types is not None:
            types = np.zeros_like(ids) if types is None else types
            types[i, : lengths[i]] = row_types
    padded = bool((lengths < width).any())
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64) if padded else None
    targets = rows.targets[numbers]

    def tensor(array: NDArray[np.generic]) -> Tensor:
        host = torch.from_numpy(array)
        # Pinned memory lets the copy run beside the computation; without it every copy waits for the device.
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)

    return Batch(
        input_ids=tensor(ids),
        attention_mask=None if mask is None else tensor(mask),
        token_types=None if types is None else tensor(types),
        targets=tensor(targets if targets.ndim == 1 else targets.astype(np.float32)),
        weights=tensor(rows.weights[numbers].astype(np.float32)),
    )
