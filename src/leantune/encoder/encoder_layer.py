"""An encoder layer of BERT's kind for packed rows, forward and backward, as one autograd function.

    x [1, T, h]  ->  attention, dropout, + x, norm  ->  feed forward, dropout, + , norm  ->  [1, T, h]

Of the last layer only the states of the texts' first tokens are read, so only these are computed: its keys and values
are those of all tokens, everything else has B rows instead of T.

Its attention is our own in groups of like lengths on a CPU, and one of packed_kernels.py on a GPU, where relative
positions have no kernel: DeBERTa's and MPNet's layers are the stock ones there (relative_encoder.py).

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
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.albert.modeling_albert import AlbertTransformer

from leantune.batches.packing import Packing
from leantune.encoder.attention import attend, attend_backward, attend_first, attend_first_backward, restore
from leantune.encoder.dropout import draw_kept, drop, kept_scale
from leantune.encoder.layer_parts import LayerParts, encoder_layers, layer_parts
from leantune.encoder.packed_kernels import Computed, Kernel, compute, compute_backward, kernel_of
from leantune.encoder.relative import Distances, Positions, count_terms
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


class _Relative(NamedTuple):
    """What a layer's scores know of relative positions; all is None or empty where they know nothing."""

    embedding: Tensor | None = None
    """[R, h]: the rows of distances in reach. They go through the products of queries and keys with the tokens."""
    bias: Tensor | None = None
    row_of: Tensor | None = None
    """Both as in `Distances`."""
    terms: tuple[str, ...] = ()
    """`c2p` where queries meet keys of distances, `p2c` where keys meet their queries."""

    @property
    def rows(self) -> int:
        """R, 0 where there is no embedding."""
        return 0 if self.embedding is None else len(self.embedding)

    def positions(self, query: Tensor, key: Tensor) -> Positions | None:
        """Return the terms, given what the products made of the embedding, [R, H, D] each; None where there are none.

        They are copies, so that the products of all tokens are not kept for the backward pass with them.
        """
        keys = key.clone() if self.rows and "c2p" in self.terms else None
        queries = query.clone() if self.rows and "p2c" in self.terms else None
        bias = None if self.bias is None else self.bias.to(query.dtype)
        return None if keys is queries is bias is None else Positions(self.row_of, keys, queries, bias)


class PackedLayer:
    """Computes one layer of a model in place of the layer's own forward pass, wherever a packed row comes."""

    def __init__(self, layer: Any, parts: LayerParts, *, only_first: bool) -> None:
        self.only_first = only_first
        """Whether nothing but the states of first tokens is read; those of all others are then 0."""
        self.heads = parts.heads
        self.scale = parts.scale
        """Of the scores. On a CPU the query's weights are multiplied by it, so that the scores need not be."""
        self.width = parts.query.out_features // parts.heads
        self.norms = parts.norms
        self.gelu = parts.gelu
        # Weak, since the layer holds this object: in a cycle, a fold's weights would stay while the next fold trains.
        self._layer: Callable[[], Any] = weakref.ref(layer)
        self._attention: Callable[[], Any] = weakref.ref(parts.attention)
        self._linears = parts.linears
        self._dropouts = parts.dropouts
        self._parameters: list[Any] = [
            p for module in (*self._linears, *self.norms) for p in (module.weight, module.bias)
        ]
        self._cast: _Weights | None = None
        self._cast_of: tuple[object, ...] = ()

    def __call__(
        self,
        hidden_states: Tensor,
        *arguments: Any,
        packing: Packing | None = None,
        distances: Distances | None = None,
        only_first: bool | None = None,
        **others: Any,
    ) -> Any:
        """Return the layer's states, [1, T, h] for a packed row; `only_first` is the layer's own where it is None."""
        layer = self._layer()
        if packing is None:
            return type(layer).forward(layer, hidden_states, *arguments, **others)
        device = hidden_states.device
        kernel = kernel_of(device, _matrix_dtype(device), self.width, dropout=self._drawn()[0])
        if kernel == "groups" and kernels_of(device) != "cpu":
            return type(layer).forward(layer, hidden_states, *arguments, packing=packing, **others)
        what = (packing, kernel, distances, self.only_first if only_first is None else only_first)
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            return layer._gradient_checkpointing_func(self._compute, hidden_states, *what)
        return self._compute(hidden_states, *what)

    def _compute(
        self, hidden_states: Tensor, packing: Packing, kernel: Kernel, distances: Distances | None, only_first: bool
    ) -> Tensor:
        relative = _Relative() if distances is None else self._relative(distances)
        weights = self._weights(_matrix_dtype(hidden_states.device))
        fixed = (self, packing, kernel, weights, self._drawn(), only_first)
        computed: Tensor = _Layer.apply(hidden_states[0].float(), *fixed, *relative, *self._parameters)  # type: ignore[no-untyped-call]
        return computed[None]

    def _relative(self, distances: Distances) -> _Relative:
        attention, embedding = self._attention(), None
        terms = tuple(getattr(attention, "pos_att_type", ()))
        if distances.embedding is not None and terms:
            embedding = attention.pos_dropout(distances.embedding)
        return _Relative(embedding, distances.bias, distances.row_of, terms)

    def _drawn(self) -> list[float]:
        """Return the shares that are dropped now, in the order of the layer's dropouts."""
        training: bool = self._layer().training
        return [dropout.p if training and dropout is not None else 0.0 for dropout in self._dropouts]

    def _weights(self, dtype: torch.dtype) -> _Weights:
        """Return the weights in the type that is computed in, cast anew only after they have changed."""
        of = (dtype, *((p.data_ptr(), p._version) for p in self._parameters))
        if self._cast is None or of != self._cast_of:
            on_cpu = kernels_of(self._parameters[0].device) == "cpu"
            with torch.no_grad():
                self._cast = _cast_scaled(self._linears, dtype, self.scale) if on_cpu else _cast(self._linears, dtype)
            self._cast_of = of
        return self._cast


def _matrix_dtype(device: torch.device) -> torch.dtype:
    """Return the type that autocast computes in, float32 without it."""
    kind = kernels_of(device)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def _cast_scaled(linears: tuple[nn.Linear, ...], dtype: torch.dtype, scale: float) -> _Weights:
    """Cast the weights of a layer, those of the query multiplied by the scale of the scores before."""
    query, key, value, *rest = linears
    return _Weights(
        torch.cat((query.weight * scale, key.weight, value.weight)).to(dtype),
        torch.cat((query.bias * scale, key.bias, value.bias)).to(dtype),
        *(p.to(dtype) for linear in rest for p in (linear.weight, linear.bias)),
    )


def _cast(linears: tuple[nn.Linear, ...], dtype: torch.dtype) -> _Weights:
    """Cast all weights of a layer in one operation: on a GPU, starting one costs more than these casts."""
    query, _, _, *rest = linears
    h = query.out_features
    qkv = query.weight.new_empty(3 * h, query.in_features, dtype=dtype)
    qkv_bias = query.bias.new_empty(3 * h, dtype=dtype)
    others = [torch.empty_like(p, dtype=dtype) for linear in rest for p in (linear.weight, linear.bias)]
    sources = [linear.weight for linear in linears[:3]] + [linear.bias for linear in linears[:3]]
    sources += [p for linear in rest for p in (linear.weight, linear.bias)]
    torch._foreach_copy_([*qkv.chunk(3), *qkv_bias.chunk(3), *others], sources)
    return _Weights(qkv, qkv_bias, *others)


class _Attention(NamedTuple):
    """The layer's attention, forward and backward: in groups on a CPU, by a kernel for packed rows on a GPU.

    Only groups know relative positions. Going back, the gradient of these is added to `gradients`.
    """

    kernel: Kernel
    packing: Packing
    scale: float
    dropout: float
    positions: Positions | None
    gradients: Positions | None

    @property
    def is_scaled(self) -> bool:
        """Whether the query comes with the scale of the scores."""
        return self.kernel == "groups"

    @property
    def in_groups(self) -> dict[str, Any]:
        """What our own function takes beside its tensors."""
        return {"dropout": self.dropout, "positions": self.positions}

    @property
    def in_kernel(self) -> dict[str, Any]:
        """What a kernel takes beside its tensors."""
        return {"scale": self.scale, "dropout": self.dropout}

    def of_all(self, qkv: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """[T, 3, H, D] -> [T, H, D], and what goes back needs."""
        if self.kernel == "groups":
            context, saved = attend(qkv, self.packing, **self.in_groups)
            return context, [*chain.from_iterable(saved)]
        query, key, value = qkv.unbind(1)
        computed = compute(self.kernel, query, key, value, self.packing.to_all(), **self.in_kernel)
        return computed.out, [*computed]

    def of_all_backward(self, grad: Tensor, saved: Sequence[Any]) -> Tensor:
        """[T, H, D] -> [T, 3, H, D]."""
        if self.kernel == "groups":
            own = {**self.in_groups, "gradients": self.gradients}
            return attend_backward(grad, restore(saved), self.packing, **own)
        bounds = self.packing.to_all()
        return torch.stack(compute_backward(self.kernel, grad, Computed(*saved), bounds, **self.in_kernel), dim=1)

    def of_firsts(self, query: Tensor, key_value: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """[B, H, D], [T, 2, H, D] -> [B, H, D], and what goes back needs."""
        if self.kernel == "groups":
            context, saved = attend_first(query, key_value, self.packing, **self.in_groups)
            return context, [*chain.from_iterable(saved)]
        key, value = key_value.unbind(1)
        computed = compute(self.kernel, query, key, value, self.packing.to_firsts(), **self.in_kernel)
        return computed.out, [*computed]

    def of_firsts_backward(self, grad: Tensor, saved: Sequence[Any], tokens: int) -> tuple[Tensor, Tensor]:
        """[B, H, D] -> [B, H, D], [T, 2, H, D]."""
        if self.kernel == "groups":
            own = {**self.in_groups, "gradients": self.gradients}
            return attend_first_backward(grad, restore(saved), self.packing, tokens=tokens, **own)
        bounds = self.packing.to_firsts()
        d_query, *others = compute_backward(self.kernel, grad, Computed(*saved), bounds, **self.in_kernel)
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
        kernel: Kernel,
        w: _Weights,
        dropouts: list[float],
        only_first: bool,
        embedding: Tensor | None,
        bias: Tensor | None,
        row_of: Tensor | None,
        terms: tuple[str, ...],
        *parameters: Tensor,
    ) -> Tensor:
        dtype, tokens = w.qkv.dtype, len(x)
        relative = _Relative(embedding, bias, row_of, terms)
        x16 = (x if embedding is None else torch.cat((x, embedding.to(x.dtype)))).to(dtype)
        h = len(w.out)
        if only_first:
            x = x[packing.starts]
            asking = _joined(x.to(dtype), x16[tokens:])
            query = F.linear(asking, w.qkv[:h], w.qkv_bias[:h]).view(-1, layer.heads, h // layer.heads)
            key_value = F.linear(x16, w.qkv[h:], w.qkv_bias[h:]).view(len(x16), 2, layer.heads, -1)
            positions = relative.positions(query[len(x) :], key_value[tokens:, 0])
            attention = _Attention(kernel, packing, layer.scale, dropouts[0], positions, None)
            context, saved = attention.of_firsts(query[: len(x)], key_value[:tokens])
        else:
            qkv = F.linear(x16, w.qkv, w.qkv_bias).view(len(x16), 3, layer.heads, -1)
            positions = relative.positions(*qkv[tokens:, :2].unbind(1))
            attention = _Attention(kernel, packing, layer.scale, dropouts[0], positions, None)
            context, saved = attention.of_all(qkv[:tokens])
        context = context.flatten(1)
        first, kept_first = _add_dropped(x, F.linear(context, w.out, w.out_bias), dropouts[1])
        y, *moments_first = _norm(first, layer.norms[0])
        y16 = y.to(dtype)
        up = F.linear(y16, w.up, w.up_bias)
        activated = F.gelu(up, approximate=layer.gelu)
        second, kept_second = _add_dropped(y, F.linear(activated, w.down, w.down_bias), dropouts[2])
        result, *moments_second = _norm(second, layer.norms[1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(
                *(x16, context, first, kept_first, *moments_first),
                *(y16, up, activated, second, kept_second, *moments_second),
                *(positions or (None,) * len(Positions._fields)),
                *saved,
            )
            ctx.layer, ctx.packing, ctx.kernel, ctx.w = layer, packing, kernel, w
            ctx.dropouts, ctx.only_first = dropouts, only_first
            ctx.rows, ctx.has_positions = relative.rows, positions is not None
        return x.new_zeros(tokens, x.shape[1]).index_copy_(0, packing.starts, result) if only_first else result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors  # taken once: where activations are computed again, a second time would be refused
        x16, context, first, kept_first, mean_first, scale_first = tensors[:6]
        y16, up, activated, second, kept_second, mean_second, scale_second = tensors[6:13]
        layer, packing, w, dropouts, only_first = ctx.layer, ctx.packing, ctx.w, ctx.dropouts, ctx.only_first
        dtype = w.qkv.dtype
        positions = Positions(*tensors[13:17]) if ctx.has_positions else None
        d_positions = None if positions is None else positions.zero_gradients()
        tokens = len(x16) - ctx.rows
        attention = _Attention(ctx.kernel, packing, layer.scale, dropouts[0], positions, d_positions)
        if only_first:
            grad = grad[packing.starts]

        d_second, *d_norm_second = _norm_backward(grad, second, mean_second, scale_second, layer.norms[1])
        d_down = _dropped_backward(d_second.to(dtype), kept_second, dropouts[2])
        d_up = torch.ops.aten.gelu_backward(torch.mm(d_down, w.down), up, approximate=layer.gelu)
        d_y = d_second + torch.mm(d_up, w.up)

        d_first, *d_norm_first = _norm_backward(d_y, first, mean_first, scale_first, layer.norms[0])
        d_out = _dropped_backward(d_first.to(dtype), kept_first, dropouts[1])
        d_context = torch.mm(d_out, w.out).view(len(d_out), layer.heads, -1)
        if only_first:
            h = len(w.out)
            d_q, d_kv = attention.of_firsts_backward(d_context, tensors[17:], tokens)
            asked = len(d_q)
            d_q = _with_rows(d_q[:, None], d_positions, ctx.rows)
            d_kv = _with_rows(d_kv, d_positions, ctx.rows, first=1)
            d_in = torch.mm(d_kv, w.qkv[h:]).float()
            d_asking = torch.mm(d_q, w.qkv[:h])
            d_in.index_add_(0, packing.starts, d_first + d_asking[:asked])
            if ctx.rows:
                d_in[tokens:] += d_asking[asked:]
            d_query, d_query_bias = _linear_gradients(d_q, _joined(x16[packing.starts], x16[tokens:]))
            d_key, d_value, d_key_bias, d_value_bias = chain.from_iterable(
                gradient.chunk(2) for gradient in _linear_gradients(d_kv, x16)
            )
            d_x, d_embedding = d_in[:tokens], d_in[tokens:]
        else:
            d_qkv = _with_rows(attention.of_all_backward(d_context, tensors[17:]), d_positions, ctx.rows)
            d_in = torch.mm(d_qkv, w.qkv)
            d_x, d_embedding = d_first + d_in[:tokens], d_in[tokens:]
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
        d_relative = (d_embedding.float() if ctx.rows else None, None if d_positions is None else d_positions.bias)
        return (d_x, None, None, None, None, None, None, *d_relative, None, None, *gradients)


def _joined(tokens: Tensor, rows: Tensor) -> Tensor:
    """[T, h], [R, h] -> [T + R, h], without a copy where R is 0."""
    return torch.cat((tokens, rows)) if len(rows) else tokens


def _with_rows(d_tokens: Tensor, d_positions: Positions | None, rows: int, *, first: int = 0) -> Tensor:
    """[T, C, H, D] -> [T + R, C x H x D]: below the gradients of tokens those of the embedding's rows.

    C of query, key and value, from the `first` of them on. The embedding has no value, so its gradient is 0.
    """
    if d_positions is None or rows == 0:
        return d_tokens.flatten(1)
    d_rows = d_tokens.new_zeros(rows, *d_tokens.shape[1:])
    for place, own in enumerate((d_positions.queries, d_positions.keys)[first:]):
        if own is not None and place < d_rows.shape[1]:
            d_rows[:, place] = own
    return torch.cat((d_tokens, d_rows)).flatten(1)


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


class _PackedRepetitions:
    """Computes ALBERT's encoder, whose layers are used again and again, in place of its own forward pass: of the last
    repetition it asks for first tokens only.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder: Callable[[], Any] = weakref.ref(encoder)

    def __call__(self, hidden_states: Tensor, *arguments: Any, packing: Packing | None = None, **others: Any) -> Any:
        """Return the states of a row's tokens, [1, T, h] for a packed row."""
        encoder = self._encoder()
        if packing is None:
            return type(encoder).forward(encoder, hidden_states, *arguments, **others)
        states = encoder.embedding_hidden_mapping_in(hidden_states)
        count, groups = encoder.config.num_hidden_layers, encoder.albert_layer_groups
        used = [layer for i in range(count) for layer in groups[int(i / (count / len(groups)))].albert_layers]
        for number, layer in enumerate(used, start=1):
            states = layer(states, packing=packing, only_first=number == len(used))
        return BaseModelOutput(last_hidden_state=states)


def use_packed_layers(model: Any) -> None:
    """Let `PackedLayer` compute every encoder layer of a model whose layers are of BERT's kind, on a CPU or an NVIDIA
    GPU. There it takes no relative positions.

    Of the last one the states of first tokens are computed only: `TextPooling` hands no others on.
    """
    on_cpu = model.device.type == "cpu"
    if not on_cpu and compute_capability(model.device) is None:
        return
    layers = encoder_layers(model)
    encoder: Any = getattr(model.base_model, "encoder", None)
    repeats = isinstance(encoder, AlbertTransformer)
    for layer in layers:
        parts = layer_parts(layer)
        assert parts is not None
        if parts.is_relative and not on_cpu:
            return
        layer.forward = PackedLayer(layer, parts, only_first=layer is layers[-1] and not repeats)
    if repeats and layers:
        encoder.forward = _PackedRepetitions(encoder)


def use_stock_layers(model: Any) -> None:
    """Undo `use_packed_layers`."""
    for layer in encoder_layers(model):
        vars(layer).pop("forward", None)
    encoder: Any = getattr(model.base_model, "encoder", None)
    if isinstance(vars(encoder or nn.Module()).get("forward"), _PackedRepetitions):
        del encoder.forward


def count_unread_flops(model: Any, length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the floating-point operations of the last layer, forward, whose results nobody reads: all of the tokens
    after the first, but for their keys and values. 0 for models whose layers are not of BERT's kind. `length`: tokens
    of each text, [N].
    """
    layers = encoder_layers(model)
    parts = layer_parts(layers[-1]) if layers else None
    if parts is None:
        return np.zeros_like(length)
    weights = sum(linear.weight.numel() for linear in (parts.query, parts.out, parts.up, parts.down))
    products = 2 + count_terms(parts.attention)
    unread: NDArray[np.float64] = 2 * (length - 1) * (weights + products * parts.query.out_features * length)
    return unread
