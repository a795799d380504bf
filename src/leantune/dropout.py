"""Dropout from cheap random bits, for CPUs, where PyTorch draws a random float for every value
(docs/design/0004-packed-rows.md has the times).
"""

from typing import Any

import torch
from torch import Tensor, nn

ALL = 2**16
"""Sixteen random bits decide over a value, four values a 64-bit draw."""


def draw_kept(shape: torch.Size, probability: float) -> tuple[Tensor, float]:
    """Draw which values are kept, bool of `shape`, and by what the kept are multiplied so that the mean stays.

    `probability` of dropping, above 0, to within 1 / 131072; the second number makes up for the rest. From torch's
    generator, as all dropout.
    """
    threshold = max(1, round(probability * ALL))
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    return bits >= threshold - ALL // 2, ALL / (ALL - threshold)


class BitDropout(nn.Dropout):
    """`nn.Dropout` on a CPU, from `draw_kept`; has no weights, so it can stand in a model that was saved without it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Dropout has it
        """Drop values in training; return the input as it is otherwise."""
        if not self.training or self.p == 0:
            return input
        dropped: Tensor = _Drop.apply(input, self.p)  # type: ignore[no-untyped-call]
        return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        kept, ctx.scale = draw_kept(x.shape, probability)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradients[0] * kept).mul_(ctx.scale), None


def use_bit_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model in place."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
