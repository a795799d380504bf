"""BERT's encoder layer for packed rows on a CPU, forward and backward, as one autograd function.

    x [1, T, h]  ->  attention, dropout, + x, norm  ->  feed forward, dropout, + , norm  ->  [1, T, h]

Of the last layer only the states of the texts' first tokens are read, so only these are computed: its keys and values
are those of all tokens, everything else has B rows instead of T.

Layer by layer a CPU spends half a step on what is not a matrix product: casts between 16 and 32 bits, copies,
autograd's own work on hundreds of small operations. Here the matrix products are those of autocast, the residual stream
and the norms stay in float32, and everything in between is done once (docs/design/0005-the-step-on-a-cpu.md).
"""

import weakref
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.activations import GELUActivation

from leantune.batches.packing import Packing
from leantune.encoder.attention import attend, attend_backward, attend_first, attend_first_backward, restore
from leantune.encoder.dropout import draw_kept, drop, kept_scale
from leantune.encoder.packed_kernels import Computed, Kernel, compute, compute_backward, kernel_of
from leantune.system.device import compute_capability, kernels_of

NormGradients = tuple[Tensor, Tensor, Tensor]


class _Weights(NamedTuple):
    """Matrices and biases in the type that is computed in; the query's come with the scale of the scores."""

    qkv: Tensor
    """[3h, h]"""
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    """[4h, h], or whatever the intermediate size is."""
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class PackedLayer:
    """Computes one layer of a model in place of the layer's own forward pass, wherever a packed row comes."""

    def __init__(self, layer: Any, *, only_first: bool) -> None:
        self.only_first = only_first
        """Whether nothing but the states of first tokens is read; the others are then not returned."""
        attention, output = layer.attention.self, layer.attention.output
        self.heads: int = attention.num_attention_heads
        self.width: int = attention.attention_head_size
        self.scale: float = attention.scaling
        """Of the scores. On a CPU the query's weights are multiplied by it, so that the scores need not be."""
        self.norms: tuple[nn.LayerNorm, nn.LayerNorm] = (output.LayerNorm, layer.output.LayerNorm)
        # Weak, since the layer holds this object: in a cycle, a fold's weights would stay while the next fold trains.
        self._layer: Callable[[], Any] = weakref.ref(layer)
        self._linears: tuple[nn.Linear, ...] = (
            *(attention.query, attention.key, attention.value),
            *(output.dense, layer.intermediate.dense, layer.output.dense),
        )
        self._dropouts: tuple[nn.Dropout, ...] = (attention.dropout, output.dropout, layer.output.dropout)
        self._parameters = [p for module in (*self._linears, *self.norms) for p in (module.weight, module.bias)]
        self._cast: _Weights | None = None
        self._cast_of: tuple[object, ...] = ()

    def __call__(self, hidden_states: Tensor, *arguments: Any, packing: Packing | None = None, **others: Any) -> Any:
        """Return the layer's states of a packed row: [1, T, h], or [1, B, h] with `only_first`."""
        layer = self._layer()
        if packing is not None:
            dropouts = [dropout.p if layer.training else 0.0 for dropout in self._dropouts]
            dtype, device = _matrix_dtype(hidden_states.device), hidden_states.device
            kernel = kernel_of(device, dtype, self.width, dropout=dropouts[0])
            if kernel != "groups" or kernels_of(device) == "cpu":
                fixed = (self, packing, self._weights(dtype), dropouts, kernel)
                computed: Tensor = _Layer.apply(hidden_states[0].float(), *fixed, *self._parameters)  # type: ignore[no-untyped-call]
                return computed[None]
            others["packing"] = packing
        return type(layer).forward(layer, hidden_states, *arguments, **others)

    def _weights(self, dtype: torch.dtype) -> _Weights:
        """Return the weights in the type that is computed in, cast anew only after they have changed."""
        of = (dtype, *((p.data_ptr(), p._version) for p in self._parameters))
        if self._cast is None or of != self._cast_of:
            query, key, value, *rest = self._linears
            with torch.no_grad():
                self._cast = (
                    _cast_at_once(self._linears, dtype)
                    if kernels_of(query.weight.device) != "cpu"
                    else _Weights(
                        torch.cat((query.weight * self.scale, key.weight, value.weight)).to(dtype),
                        torch.cat((query.bias * self.scale, key.bias, value.bias)).to(dtype),
                        *(p.to(dtype) for linear in rest for p in (linear.weight, linear.bias)),
                    )
                )
            self._cast_of = of
        return self._cast


def _matrix_dtype(device: torch.device) -> torch.dtype:
    """Return the type that autocast computes in, float32 without it."""
    kind = kernels_of(device)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def _cast_at_once(linears: tuple[nn.Linear, ...], dtype: torch.dtype) -> _Weights:
    """Cast all weights of a layer in one operation: on a GPU, starting one costs more than these casts."""
    query, _, _, *rest = linears
    h = query.out_features
    qkv, qkv_bias = (
        query.weight.new_empty(3 * h, query.in_features, dtype=dtype),
        query.bias.new_empty(3 * h, dtype=dtype),
    )
    others = [torch.empty_like(p, dtype=dtype) for linear in rest for p in (linear.weight, linear.bias)]
    sources = [linear.weight for linear in linears[:3]] + [linear.bias for linear in linears[:3]]
    sources += [p for linear in rest for p in (linear.weight, linear.bias)]
    torch._foreach_copy_([*qkv.chunk(3), *qkv_bias.chunk(3), *others], sources)
    return _Weights(qkv, qkv_bias, *others)


class _Attention(NamedTuple):
    """The layer's attention, forward and backward: in groups on a CPU, by a kernel for packed rows on a GPU."""

    kernel: Kernel
    packing: Packing
    scale: float
    dropout: float

    @property
    def is_scaled(self) -> bool:
        """Whether the query comes with the scale of the scores."""
        return self.kernel == "groups"

    def of_all(self, qkv: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """[T, 3, H, D] -> [T, H, D], and what goes back needs."""
        if self.kernel == "groups":
            context, saved = attend(qkv, self.packing, dropout=self.dropout)
            return context, [*chain.from_iterable(saved)]
        query, key, value = qkv.unbind(1)
        bounds = self.packing.to_all()
        computed = compute(self.kernel, query, key, value, bounds, scale=self.scale, dropout=self.dropout)
        return computed.out, [*computed]

    def of_all_backward(self, grad: Tensor, saved: Sequence[Any]) -> Tensor:
        """[T, H, D] -> [T, 3, H, D]."""
        if self.kernel == "groups":
            return attend_backward(grad, restore(saved), self.packing, dropout=self.dropout)
        return torch.stack(
            compute_backward(
                self.kernel, grad, Computed(*saved), self.packing.to_all(), scale=self.scale, dropout=self.dropout
            ),
            dim=1,
        )

    def of_firsts(self, query: Tensor, key_value: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """[B, H, D], [T, 2, H, D] -> [B, H, D], and what goes back needs."""
        if self.kernel == "groups":
            context, saved = attend_first(query, key_value, self.packing, dropout=self.dropout)
            return context, [*chain.from_iterable(saved)]
        key, value = key_value.unbind(1)
        bounds = self.packing.to_firsts()
        computed = compute(self.kernel, query, key, value, bounds, scale=self.scale, dropout=self.dropout)
        return computed.out, [*computed]

    def of_firsts_backward(self, grad: Tensor, saved: Sequence[Any], tokens: int) -> tuple[Tensor, Tensor]:
        """[B, H, D] -> [B, H, D], [T, 2, H, D]."""
        if self.kernel == "groups":
            return attend_first_backward(grad, restore(saved), self.packing, tokens=tokens, dropout=self.dropout)
        d_query, *others = compute_backward(
            self.kernel, grad, Computed(*saved), self.packing.to_firsts(), scale=self.scale, dropout=self.dropout
        )
        d_key_value = torch.stack(others, dim=1)
        d_key_value[self.packing.tokens :] = 0  # what follows the texts in the row, which nobody reads
        return d_query, d_key_value


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd's functions take their arguments in order
        ctx: Any,
        x: Tensor,
        layer: PackedLayer,
        packing: Packing,
        w: _Weights,
        dropouts: list[float],
        kernel: Kernel,
        *parameters: Tensor,
    ) -> Tensor:
        dtype, tokens = w.qkv.dtype, len(x)
        attention = _Attention(kernel, packing, layer.scale, dropouts[0])
        x16 = x.to(dtype)
        if layer.only_first:
            h = len(w.out)
            x = x[packing.starts]
            query = F.linear(x.to(dtype), w.qkv[:h], w.qkv_bias[:h]).view(-1, layer.heads, h // layer.heads)
            key_value = F.linear(x16, w.qkv[h:], w.qkv_bias[h:]).view(tokens, 2, layer.heads, -1)
            context, saved = attention.of_firsts(query, key_value)
        else:
            qkv = F.linear(x16, w.qkv, w.qkv_bias).view(tokens, 3, layer.heads, -1)
            context, saved = attention.of_all(qkv)
        context = context.flatten(1)
        first, kept_first = _add_dropped(x, F.linear(context, w.out, w.out_bias), dropouts[1])
        y, *moments_first = _norm(first, layer.norms[0])
        y16 = y.to(dtype)
        up = F.linear(y16, w.up, w.up_bias)
        activated = F.gelu(up)
        second, kept_second = _add_dropped(y, F.linear(activated, w.down, w.down_bias), dropouts[2])
        result, *moments_second = _norm(second, layer.norms[1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(
                *(x16, context, first, kept_first, *moments_first),
                *(y16, up, activated, second, kept_second, *moments_second),
                *saved,
            )
            ctx.layer, ctx.attention, ctx.w, ctx.dropouts = layer, attention, w, dropouts
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors  # taken once: where activations are computed again, a second time would be refused
        x16, context, first, kept_first, mean_first, scale_first = tensors[:6]
        y16, up, activated, second, kept_second, mean_second, scale_second = tensors[6:13]
        layer, attention, w, dropouts = ctx.layer, ctx.attention, ctx.w, ctx.dropouts
        packing, dtype = attention.packing, w.qkv.dtype

        d_second, *d_norm_second = _norm_backward(grad, second, mean_second, scale_second, layer.norms[1])
        d_down = _dropped_backward(d_second.to(dtype), kept_second, dropouts[2])
        d_up = torch.ops.aten.gelu_backward(torch.mm(d_down, w.down), up)
        d_y = d_second + torch.mm(d_up, w.up)

        d_first, *d_norm_first = _norm_backward(d_y, first, mean_first, scale_first, layer.norms[0])
        d_out = _dropped_backward(d_first.to(dtype), kept_first, dropouts[1])
        d_context = torch.mm(d_out, w.out).view(len(d_out), layer.heads, -1)
        if layer.only_first:
            h = len(w.out)
            d_q, d_kv = attention.of_firsts_backward(d_context, tensors[13:], len(x16))
            d_q, d_kv = d_q.flatten(1), d_kv.flatten(1)
            d_x = torch.mm(d_kv, w.qkv[h:]).float()
            d_x.index_add_(0, packing.starts, d_first + torch.mm(d_q, w.qkv[:h]))
            d_query, d_query_bias = _linear_gradients(d_q, x16[packing.starts])
            d_key, d_value, d_key_bias, d_value_bias = chain.from_iterable(
                gradient.chunk(2) for gradient in _linear_gradients(d_kv, x16)
            )
        else:
            d_qkv = attention.of_all_backward(d_context, tensors[13:]).flatten(1)
            d_x = d_first + torch.mm(d_qkv, w.qkv)
            (d_query, d_key, d_value), (d_query_bias, d_key_bias, d_value_bias) = (
                gradient.chunk(3) for gradient in _linear_gradients(d_qkv, x16)
            )
        if attention.is_scaled:
            d_query, d_query_bias = d_query * layer.scale, d_query_bias * layer.scale
        gradients = (
            *(d_query, d_query_bias, d_key, d_key_bias, d_value, d_value_bias),
            *_linear_gradients(d_out, context),
            *_linear_gradients(d_up, y16),
            *_linear_gradients(d_down, activated),
            *d_norm_first,
            *d_norm_second,
        )
        return (d_x, None, None, None, None, None, *gradients)


def _add_dropped(x: Tensor, change: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """x + dropout(change), and which values were kept."""
    if dropout == 0:
        return x + change, None
    if kernels_of(x.device) != "cpu":
        dropped, kept = torch.native_dropout(change, dropout, True)
        return x + dropped, kept
    kept = draw_kept(change.shape, dropout)
    return torch.add(x, drop(change, kept, out=change), alpha=kept_scale(dropout)), kept


def _dropped_backward(grad: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    if kept is None:
        return grad
    if kernels_of(grad.device) != "cpu":
        dropped: Tensor = torch.ops.aten.native_dropout_backward(grad, kept, 1 / (1 - dropout))
        return dropped
    return drop(grad, kept).mul_(kept_scale(dropout))


def _linear_gradients(grad: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a matrix [out, in] and a bias [out], from [T, out] and [T, in]."""
    if kernels_of(grad.device) != "cpu":
        return torch.mm(grad.t(), inputs).float(), grad.sum(0, dtype=torch.float32)
    return torch.mm(grad.t(), inputs).float(), grad.sum(0).float()


def _norm(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _norm_backward(grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, norm: nn.LayerNorm) -> NormGradients:
    gradients: NormGradients = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), x, norm.normalized_shape, mean, scale, norm.weight, norm.bias, [True, True, True]
    )
    return gradients


def use_packed_layers(model: Any) -> None:
    """Let `PackedLayer` compute every encoder layer of a model whose layers are BERT's, on a CPU or an NVIDIA GPU.

    Of the last one the states of first tokens are computed only: `TextPooling` hands no others on.
    """
    if model.device.type == "cpu" or compute_capability(model.device) is not None:
        for layer in (layers := berts_layers(model)):
            layer.forward = PackedLayer(layer, only_first=layer is layers[-1])


def use_stock_layers(model: Any) -> None:
    """Undo `use_packed_layers`."""
    for layer in berts_layers(model):
        vars(layer).pop("forward", None)


def berts_layers(model: Any) -> list[Any]:
    """Return the encoder layers of a model, where they are BERT's; none where they are not."""
    layers = list(getattr(getattr(model.base_model, "encoder", None), "layer", None) or [])
    return layers if all(_is_berts(layer) for layer in layers) else []


def count_unread_flops(model: Any, length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the floating-point operations of BERT's last layer, forward, whose results nobody reads: all of the tokens
    after the first, but for their keys and values. 0 for other models. `length`: tokens of each text, [N].
    """
    layers = berts_layers(model)
    if not layers:
        return np.zeros_like(length)
    attention = layers[-1].attention.self
    matrices = (
        attention.query,
        layers[-1].attention.output.dense,
        layers[-1].intermediate.dense,
        layers[-1].output.dense,
    )
    weights = sum(linear.weight.numel() for linear in matrices)
    unread: NDArray[np.float64] = 2 * (length - 1) * (weights + 2 * attention.query.out_features * length)
    return unread


def _is_berts(layer: Any) -> bool:
    """Tell whether a layer has the parts of BERT's, and nothing else; what they compute is proven by a comparison."""
    children = {name for name, _ in layer.named_children()}
    if children != {"attention", "intermediate", "output"}:
        return False
    own = {name for name, _ in layer.named_parameters()}
    linears = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    expected = (*linears, "intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm")
    activation = getattr(layer.intermediate, "intermediate_act_fn", None)
    return own == {f"{name}.{part}" for name in expected for part in ("weight", "bias")} and isinstance(
        activation, GELUActivation
    )
