"""The head, which makes outputs of the encoder's last states: in float32, and in the units of the table's targets.

Sixteen bits hold two to three decimal digits: of outputs near 1950 bf16 knows 1944 and 1952 and nothing between, and
fp16 ends at 65,504. What the head multiplies is one state a text, so that 32 bits cost next to nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leantune.tables.scale import Scale


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


@contextmanager
def answers_in_units(layer: nn.Linear | None, scale: Scale | None) -> Iterator[None]:
    """Let a model that has learned standardised targets answer in the table's units during a block (law 8).

    Mean and deviation are folded into `layer`, the last one: what it computes then is what plain transformers computes
    with the weights that are saved in such a block. Afterwards the layer is, to the bit, as it was. Without a scale
    nothing is changed.
    """
    if scale is None:
        yield
        return
    assert layer is not None
    with put_back(layer):
        _change(layer, factor=scale.deviation, shift=scale.mean)
        yield


@contextmanager
def put_back(layer: nn.Linear) -> Iterator[None]:
    """Let a block change a layer, and give it its parameters back afterwards."""
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(layer.parameters(), before, strict=True):
                parameter.copy_(values)


def answer_in_deviations(layer: nn.Linear, scale: Scale) -> None:
    """Change a layer that answers in the table's units to one that gives the same answers standardised."""
    _change(layer, factor=1 / scale.deviation, shift=-scale.mean / scale.deviation)


def begin_at(layer: nn.Linear, answer: NDArray[np.float64]) -> None:
    """Set the bias of a new last layer to the answer [K] that is best without reading a text."""
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(answer).to(layer.bias))


def renew(layer: nn.Linear, *, deviation: float, seed: int) -> None:
    """Draw a layer's weights anew, as transformers does."""
    own = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.normal(0.0, deviation, layer.weight.shape, generator=own))
        if layer.bias is not None:
            layer.bias.zero_()


def reorder(layer: nn.Linear, order: list[int]) -> None:
    """Let output i of a layer be its former output `order[i]`."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[order].clone())


def _change(layer: nn.Linear, *, factor: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
    """Multiply the outputs [K] of a layer by `factor` and add `shift`, in float64 and rounded once."""
    with torch.no_grad():
        for parameter, summand in ((layer.weight, 0.0), (layer.bias, shift)):
            values = parameter.detach().cpu().double().numpy().T  # [..., K]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray((values * factor + summand).T)).to(parameter))
