"""Packed rows: sequences stand one after the other in a single row, grouped by like lengths for attention."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leantune.system.device import send

MOST_PADDED = {"cpu": 8192}
"""Scores, a head, that a group may compute for nothing: another group costs about as much time as these, most of it in
starting operations. A GPU computes many more in that time; there it is a guess."""

WIDTHS = 16
"""Groups are as wide as a multiple of this: the first product of a shape costs more than the next one, on a CPU a
millisecond, in which its kernel is made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Consecutive texts of a packed row that are computed at once."""

    first: int
    """Where they begin in the packed row."""
    lengths: tuple[int, ...]
    """Tokens of each text, N of them."""
    width: int
    """Tokens of the longest text, or a few more: L."""
    gather: Tensor | None
    """[N x L]: which token of the packed row stands where, a text's first token where it is padded; None where all
    have L tokens, so that the packed row itself is [N, L]."""
    scatter: Tensor | None
    """[tokens]: where each of the group's tokens stands in [N x L]; None as above."""
    padded: Tensor | None
    """[N, 1, 1, L] bool, true where there is no token; None as above."""

    @property
    def tokens(self) -> int:
        """Tokens of all its texts."""
        return sum(self.lengths)


class Bounds(NamedTuple):
    """Where texts begin and end among queries and among keys, int32 [B + 1] on the device, and the longest of each."""

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Where the texts of a packed row stand."""

    starts: Tensor
    """[B]: the place of each text's first token, on the device."""
    lengths: Tensor
    """[B]: tokens of each text, on the device."""
    text: Tensor
    """[T]: the number of the text that each token belongs to, on the device."""
    bounds: Tensor
    """[B + 1] int32, on the device: where the texts begin, and where the last one ends. What follows them in the row is
    one text more, so that no kernel leaves its places as they were."""
    longest: int
    """Tokens of the longest of them."""
    each: tuple[int, ...]
    """B numbers: tokens of each text."""

    @property
    def tokens(self) -> int:
        """Tokens of all texts; what follows them in the row belongs to none."""
        return sum(self.each)

    def to_all(self) -> Bounds:
        """Return the bounds where all tokens attend."""
        return Bounds(self.bounds, self.bounds, self.longest, self.longest)

    def to_firsts(self) -> Bounds:
        """Return the bounds where only the first token of each text attends."""
        texts = len(self.each)
        firsts = torch.arange(texts + 1, dtype=torch.int32, device=self.bounds.device)
        return Bounds(firsts, self.bounds[: texts + 1], 1, max(self.each))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The texts in groups of like lengths, made when they are asked for: a GPU's kernels take the row as it is."""
        device = self.bounds.device
        most = MOST_PADDED.get(device.type, 2**18)
        groups, first, begin, padded = [], 0, 0, 0
        for end in range(1, len(self.each) + 1):
            if end < len(self.each):
                padded += abs(self.each[begin] ** 2 - self.each[end] ** 2)
                if padded <= most:
                    continue
            groups.append(_make_group(first, self.each[begin:end], device))
            first += groups[-1].tokens
            begin, padded = end, 0
        return tuple(groups)


def make_packing(lengths: list[int], device: torch.device, *, row: int | None = None) -> Packing:
    """Plan the attention of texts that stand one after the other; `lengths` has B numbers, best the longest first.

    `row`: tokens of the whole row, T, with those that belong to no text; None where there are none.
    """
    count = np.array(lengths)
    ends = count.cumsum()
    rest = 0 if row is None else row - int(ends[-1])
    bounds = np.array([0, *ends, *([row] if rest else [])], dtype=np.int32)

    def sent(numbers: NDArray[np.integer[Any]]) -> Tensor:
        return send(torch.from_numpy(numbers), device)

    return Packing(
        starts=sent(ends - count),
        lengths=sent(count),
        text=sent(np.repeat(np.arange(len(lengths)), count)),
        bounds=sent(bounds),
        longest=max(*lengths, rest),
        each=tuple(lengths),
    )


def _make_group(first: int, lengths: tuple[int, ...], device: torch.device) -> Group:
    width = -(-max(lengths) // WIDTHS) * WIDTHS
    if min(lengths) == width:
        return Group(first=first, lengths=lengths, width=width, gather=None, scatter=None, padded=None)
    count, column = np.array(lengths), np.arange(width)
    there = column < count[:, None]  # [N, L]
    begin = first + count.cumsum() - count
    gather = begin[:, None] + np.where(there, column, 0)
    return Group(
        first=first,
        lengths=lengths,
        width=width,
        gather=send(torch.from_numpy(gather.ravel()), device),
        scatter=send(torch.from_numpy(np.flatnonzero(there)), device),
        padded=send(torch.from_numpy(~there[:, None, None, :]), device),
    )
