"""Packed rows: sequences stand one after the other in a single row, grouped by like lengths for attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leantune.system.device import send

MOST_PADDED = {"cpu": 8192}
"""Scores, a head, that a group may compute for nothing: another group costs about as much time as these, most of it in
starting operations. A GPU computes many more in that time; there it is a guess."""

WIDTHS = 16
"""On a CPU, groups are as wide as a multiple of this: the first product of a shape costs a millisecond more than the
next one, in which its kernel is made."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Where the texts of a packed row stand."""

    starts: Tensor
    """[B]: the place of each text's first token, on the device."""
    lengths: Tensor
    """[B]: tokens of each text, on the device."""
    text: Tensor
    """[T]: the number of the text that each token belongs to, on the device."""
    groups: tuple[Group, ...]
    tokens: int
    """Tokens of all texts; what follows them in the row belongs to none."""


def make_packing(lengths: list[int], device: torch.device) -> Packing:
    """Plan the attention of texts that stand one after the other; `lengths` has B numbers, best the longest first."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    most = MOST_PADDED.get(device.type, 2**18)
    groups, begin, padded = [], 0, 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths):
            padded += abs(lengths[begin] ** 2 - lengths[end] ** 2)
            if padded <= most:
                continue
        groups.append(_make_group(starts[begin], tuple(lengths[begin:end]), device))
        begin, padded = end, 0
    return Packing(
        starts=send(torch.tensor(starts[:-1]), device),
        lengths=send(torch.tensor(lengths), device),
        text=send(torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)), device),
        groups=tuple(groups),
        tokens=starts[-1],
    )


def _make_group(first: int, lengths: tuple[int, ...], device: torch.device) -> Group:
    width = -(-max(lengths) // WIDTHS) * WIDTHS if device.type == "cpu" else max(lengths)
    if min(lengths) == width:
        return Group(first=first, lengths=lengths, width=width, gather=None, scatter=None, padded=None)
    count = torch.tensor(lengths)
    column = torch.arange(width)
    there = column < count[:, None]  # [N, L]
    begin = first + count.cumsum(0) - count
    gather = begin[:, None] + torch.where(there, column, 0)
    return Group(
        first=first,
        lengths=lengths,
        width=width,
        gather=send(gather.flatten(), device),
        scatter=send(there.flatten().nonzero().flatten(), device),
        padded=send(~there[:, None, None, :], device),
    )
