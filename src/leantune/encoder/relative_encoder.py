"""DeBERTa's and MPNet's encoders for packed rows: what their layers share is made once, and each layer gets it.

Their stock encoders take no packed rows: they make a position for every pair of a row's tokens, also of two texts.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from leantune.batches.packing import WIDTHS, Packing
from leantune.encoder.attention import attend_with_bias
from leantune.encoder.encoder_layer import PackedLayer
from leantune.encoder.relative import Distances, positions_of


def use_relative_encoder(model: Any) -> None:
    """Let packed rows through the encoder of a model, where it is DeBERTa's or MPNet's."""
    encoder: Any = getattr(model.base_model, "encoder", None)
    if type(encoder) not in (DebertaV2Encoder, MPNetEncoder):
        return
    packed = _PackedEncoder(encoder)
    packed.hook = model.register_forward_pre_hook(packed.take_packing, with_kwargs=True)
    encoder.forward = packed
    for layer in encoder.layer:
        attention = _attention_of(layer)
        attention.forward = _PackedAttention(attention)


def use_stock_encoder(model: Any) -> None:
    """Undo `use_relative_encoder`."""
    encoder: Any = getattr(model.base_model, "encoder", None)
    packed = vars(encoder).pop("forward", None) if encoder is not None else None
    if isinstance(packed, _PackedEncoder):
        packed.hook.remove()
        for layer in encoder.layer:
            vars(_attention_of(layer)).pop("forward", None)


class _PackedEncoder:
    """Computes an encoder in place of its own forward pass, wherever a packed row comes."""

    hook: Any

    def __init__(self, encoder: Any) -> None:
        self._encoder: Callable[[], Any] = weakref.ref(encoder)  # weak as in `PackedLayer`
        self._packing: Packing | None = None

    def take_packing(self, _: Any, arguments: Any, named: dict[str, Any]) -> Any:
        """Note the packing of the row that comes, for these models hand it on to nobody."""
        self._packing = named.get("packing")
        if self._packing is None or not isinstance(self._encoder(), DebertaV2Encoder):
            return None
        # DeBERTa makes such a mask itself where it gets none, once it has looked for padding tokens and warned of them.
        return arguments, named | {"attention_mask": torch.ones_like(named["input_ids"])}

    def __call__(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        """Return the states of a row's tokens, [1, T, h] for a packed row."""
        encoder, packing = self._encoder(), self._packing
        if packing is None:
            return type(encoder).forward(encoder, hidden_states, *arguments, **named)
        distances = _distances_of(encoder, max(group.width for group in packing.groups))
        states = hidden_states
        for number, layer in enumerate(encoder.layer):
            if isinstance(vars(layer).get("forward"), PackedLayer):
                states = layer(states, packing=packing, distances=distances)
            elif isinstance(encoder, DebertaV2Encoder):
                states, *_ = layer(states, packing, relative_pos=distances)
            else:
                states, *_ = layer(states, packing, distances)
            if number == 0 and (conv := getattr(encoder, "conv", None)) is not None:
                states = _convolve(conv, hidden_states, states, packing)
        # DeBERTa reads the last of all states.
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,))


class _PackedAttention:
    """Computes attention by PyTorch's own, in place of a module's forward pass, wherever a packed row comes."""

    def __init__(self, module: Any) -> None:
        self._module: Callable[[], Any] = weakref.ref(module)

    def __call__(self, hidden_states: Tensor, attention_mask: Any = None, *arguments: Any, **named: Any) -> Any:
        """As the stock module, of which the layer hands the first three arguments on as they are; for a packed row the
        second is the packing, and the distances come where relative positions do."""
        module = self._module()
        if not isinstance(attention_mask, Packing):
            return type(module).forward(module, hidden_states, attention_mask, *arguments, **named)
        distances = next(x for x in (*arguments, *named.values()) if isinstance(x, Distances))
        is_deberta = hasattr(module, "query_proj")
        linears = (
            (module.query_proj, module.key_proj, module.value_proj) if is_deberta else (module.q, module.k, module.v)
        )
        heads, width = module.num_attention_heads, module.attention_head_size
        terms = 1 + sum(name in module.pos_att_type for name in ("c2p", "p2c")) if is_deberta else 1
        scale = (width * terms) ** -0.5
        query, key, value = (linear(hidden_states[0]).unflatten(1, (heads, width)) for linear in linears)
        attended = attend_with_bias(
            torch.stack([query * scale, key, value], dim=1),
            attention_mask,
            positions_of(module, distances, heads=heads, scale=scale),
            dropout=module.dropout.p if module.training else 0.0,
        )
        context = attended.flatten(1)[None]
        return (context, None) if is_deberta else (module.o(context),)


def _attention_of(layer: Any) -> Any:
    return getattr(layer.attention, "self", None) or layer.attention.attn


def _distances_of(encoder: Any, width: int) -> Distances:
    """Return what the layers share of a packed row whose widest group has `width` tokens."""
    device = encoder.layer[0].output.dense.weight.device
    distance = torch.arange(-width, width + 1, device=device)  # query less key
    if isinstance(encoder, MPNetEncoder):
        bucket = encoder.relative_position_bucket(-distance, num_buckets=32)  # as its own `compute_position_bias`
        return Distances(row_of=None, embedding=None, bias=encoder.relative_attention_bias(bucket))
    if not encoder.relative_attention:
        return Distances(row_of=None, embedding=None, bias=None)
    buckets, most = encoder.position_buckets, encoder.max_relative_positions
    if buckets > 0:
        distance = make_log_bucket_position(distance, buckets, most).long()
    span = encoder.rel_embeddings.num_embeddings // 2
    row_of = (distance + span).clamp(0, 2 * span - 1)
    first, last = _bounds(width, buckets, most, span)
    embedding = encoder.rel_embeddings.weight[first : last + 1]
    if "layer_norm" in encoder.norm_rel_ebd:
        embedding = encoder.LayerNorm(embedding)
    return Distances(row_of=row_of - first, embedding=embedding, bias=None)


def _bounds(width: int, buckets: int, most: int, span: int) -> tuple[int, int]:
    """Return the first and the last row in reach, without asking the device."""
    if buckets > 0 and most - 1 <= buckets // 2:  # there, the stock model's rows do not grow with the distance
        return 0, 2 * span - 1
    ends = torch.tensor([-width, width])
    if buckets > 0:
        ends = make_log_bucket_position(ends, buckets, most).long()
    # One more on either side, should this device round a logarithm in another way.
    first, last = (ends + span + torch.tensor([-1, 1])).clamp(0, 2 * span - 1).tolist()
    # As many as a multiple of WIDTHS, so that a product with them and a row's tokens has a usual shape.
    return first, min(first + -(-(last + 1 - first) // WIDTHS) * WIDTHS, 2 * span) - 1


def _convolve(conv: Any, hidden_states: Tensor, states: Tensor, packing: Packing) -> Tensor:
    """Compute the stock layer with texts that stand so far apart that it sees nothing but zeros around each."""
    gap = conv.conv.kernel_size[0]
    count = len(packing.starts)
    places = torch.arange(packing.tokens, device=states.device) + packing.text * gap
    spread = states.new_zeros(packing.tokens + count * gap, states.shape[2])
    mask = torch.zeros(1, len(spread), device=states.device).index_fill_(1, places, 1)
    computed = conv(
        spread.index_copy(0, places, hidden_states[0, : packing.tokens].to(spread.dtype))[None],
        spread.index_copy(0, places, states[0, : packing.tokens])[None],
        mask,
    )
    return F.pad(computed[0, places], (0, 0, 0, states.shape[1] - packing.tokens))[None]
