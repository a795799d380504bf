"""The head computes in float32, whatever the precision of the encoder below it.

Sixteen bits hold two to three decimal digits: of outputs near 1950 bf16 knows 1944 and 1952 and nothing between, and
fp16 ends at 65,504. What the head multiplies is one state a text, so that 32 bits cost next to nothing.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn


def compute_head_in_float32(model: Any) -> None:
    """Let everything that follows the encoder's last states compute in float32, also under autocast and with TF32.

    That is the pooler inside the encoder, and each module of `model`, a transformers model for sequence classification,
    that is not the encoder.
    """
    encoder = model.base_model
    heads = [module for module in model.children() if module is not encoder]
    heads += [module for name, module in encoder.named_children() if name == "pooler"]
    for module in heads:
        float32 = _Float32()
        module.register_forward_pre_hook(float32.enter, with_kwargs=True)
        module.register_forward_hook(float32.leave, always_call=True)


class _Float32:
    """The two hooks around a module's forward pass."""

    def __init__(self) -> None:
        self._inside: list[ExitStack] = []

    def enter(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Cast what comes in, and switch off what would compute in fewer bits."""
        stack = ExitStack()
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        matmul = torch.backends.cuda.matmul
        stack.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
        matmul.fp32_precision = "ieee"
        self._inside.append(stack)
        return tuple(map(_cast, arguments)), {name: _cast(value) for name, value in named.items()}

    def leave(self, *_: Any) -> None:
        """Go back to the precision around it, also where the module has failed."""
        self._inside.pop().close()


def _cast(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
