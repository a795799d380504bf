"""ModernBERT's last layer for packed rows, where the head reads first tokens: it computes these and no others.

The keys and values are those of all tokens; everything else has one row a text instead of one a token. Attention is a
GPU's kernel for packed rows, or PyTorch's own, which for one query a text keeps next to nothing.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer, apply_rotary_pos_emb

from leantune.batches.packing import Packing
from leantune.encoder.attention import attend_first_packed


def use_first_tokens(model: Any) -> None:
    """Let a model's last layer compute first tokens only, where it is ModernBERT's and the head reads no others."""
    layer = _last_layer(model)
    if layer is not None and getattr(model.config, "classifier_pooling", "mean") == "cls":
        layer.forward = _FirstTokens(layer)


def use_all_tokens(model: Any) -> None:
    """Undo `use_first_tokens`."""
    layer = _last_layer(model)
    if layer is not None:
        vars(layer).pop("forward", None)


def _last_layer(model: Any) -> Any:
    layers = getattr(model.base_model, "layers", None)
    return layers[-1] if layers and type(layers[-1]) is ModernBertEncoderLayer else None


class _FirstTokens:
    """Computes a layer in place of its own forward pass, wherever a packed row comes."""

    def __init__(self, layer: Any) -> None:
        self._layer: Callable[[], Any] = weakref.ref(layer)  # weak as in `PackedLayer`

    def __call__(self, hidden_states: Tensor, *arguments: Any, packing: Packing | None = None, **named: Any) -> Any:
        """Return the layer's states, [1, T, h]; for a packed row 0 but for the texts' first tokens."""
        layer = self._layer()
        if packing is None:
            return type(layer).forward(layer, hidden_states, *arguments, **named)
        cos, sin = next(x for x in (*arguments, *named.values()) if isinstance(x, tuple))
        compute = (self._compute, hidden_states, packing, cos, sin)
        if layer.training and layer.gradient_checkpointing:
            return layer._gradient_checkpointing_func(*compute)
        return self._compute(*compute[1:])

    def _compute(self, hidden_states: Tensor, packing: Packing, cos: Tensor, sin: Tensor) -> Tensor:
        layer, starts = self._layer(), packing.starts
        attention = layer.attn
        x, first = layer.attn_norm(hidden_states)[0], hidden_states[0].index_select(0, starts)
        weight, bias, h = attention.Wqkv.weight, attention.Wqkv.bias, len(attention.Wo.weight)
        heads = h // attention.head_dim
        query = F.linear(x.index_select(0, starts), weight[:h], None if bias is None else bias[:h])
        key_value = F.linear(x, weight[h:], None if bias is None else bias[h:])
        key, value = key_value.view(len(x), 2, heads, -1).unbind(1)
        query = query.view(len(starts), heads, -1)
        # Both arguments of the stock rotation are rotated by the same angles, so each goes in twice.
        query, _ = apply_rotary_pos_emb(query, query, cos[0, starts], sin[0, starts], unsqueeze_dim=1)
        key, _ = apply_rotary_pos_emb(key, key, cos[0], sin[0], unsqueeze_dim=1)
        attended = attend_first_packed(
            query,
            torch.stack([key, value], dim=1),
            packing,
            scale=attention.head_dim**-0.5,
            dropout=attention.attention_dropout if layer.training else 0.0,
            window=attention.sliding_window,
        )
        first = first + attention.out_drop(attention.Wo(attended.flatten(1)))
        first = first + layer.mlp(layer.mlp_norm(first))
        return torch.zeros_like(hidden_states).index_copy(1, starts, first[None].to(hidden_states.dtype))
