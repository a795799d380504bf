"""What an encoder layer of BERT's kind consists of, by whatever names its architecture calls the parts.

    x  ->  attention, dropout, + x, norm  ->  feed forward, dropout, + , norm

BERT, RoBERTa, ELECTRA, DeBERTa v2 and v3, MPNet, DistilBERT and ALBERT compute this in their layers, and differ in the
scores of their attention and in which dropouts they have.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation

GELUS: dict[type, str] = {GELUActivation: "none", NewGELUActivation: "tanh", GELUTanh: "tanh"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerParts:
    """The modules of a layer, and how it computes its attention."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    up: nn.Linear
    down: nn.Linear
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    """After attention and after the feed-forward part."""
    dropouts: tuple[nn.Dropout | None, nn.Dropout | None, nn.Dropout | None]
    """Of attention weights, of what attention adds, of what the feed-forward part adds."""
    heads: int
    scale: float
    """What the products of queries and keys are multiplied by."""
    attention: Any
    """The module that holds query, key and value."""
    activation: nn.Module
    is_relative: bool = False
    """Whether its scores may have terms by relative position."""

    @property
    def gelu(self) -> str:
        """What torch calls the form of GELU that the layer computes."""
        return GELUS[type(self.activation)]

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The six matrices, in the order in which they are used."""
        return (self.query, self.key, self.value, self.out, self.up, self.down)


def encoder_layers(model: Any) -> list[Any]:
    """Return the encoder layers of a model, where all of them are of BERT's kind; none where one is not."""
    base = model.base_model
    encoder = getattr(base, "encoder", None) or getattr(base, "transformer", None)
    layers = list(getattr(encoder, "layer", None) or [])
    layers += [layer for group in getattr(encoder, "albert_layer_groups", ()) for layer in group.albert_layers]
    return layers if all(layer_parts(layer) is not None for layer in layers) else []


def layer_parts(layer: Any) -> LayerParts | None:
    """Return the parts of a layer; None where it has others than BERT's, or any beside them.

    What they compute is proven by a comparison (`proof.py`), not here.
    """
    for find in (_berts, _debertas, _mpnets, _distilberts, _alberts):
        try:
            parts = find(layer)
        except AttributeError:
            continue
        if type(parts.activation) in GELUS and _is_all(layer, parts):
            return parts
    return None


def _berts(layer: Any) -> LayerParts:
    own, output = layer.attention.self, layer.attention.output
    return LayerParts(
        query=own.query,
        key=own.key,
        value=own.value,
        out=output.dense,
        up=layer.intermediate.dense,
        down=layer.output.dense,
        norms=(output.LayerNorm, layer.output.LayerNorm),
        dropouts=(own.dropout, output.dropout, layer.output.dropout),
        heads=own.num_attention_heads,
        scale=own.scaling,
        attention=own,
        activation=layer.intermediate.intermediate_act_fn,
    )


def _debertas(layer: Any) -> LayerParts:
    own, output = layer.attention.self, layer.attention.output
    terms = 1 + sum(name in own.pos_att_type for name in ("c2p", "p2c"))
    return LayerParts(
        query=own.query_proj,
        key=own.key_proj,
        value=own.value_proj,
        out=output.dense,
        up=layer.intermediate.dense,
        down=layer.output.dense,
        norms=(output.LayerNorm, layer.output.LayerNorm),
        dropouts=(own.dropout, output.dropout, layer.output.dropout),
        heads=own.num_attention_heads,
        scale=(own.attention_head_size * terms) ** -0.5,
        attention=own,
        activation=layer.intermediate.intermediate_act_fn,
        is_relative=True,
    )


def _mpnets(layer: Any) -> LayerParts:
    own = layer.attention.attn
    return LayerParts(
        query=own.q,
        key=own.k,
        value=own.v,
        out=own.o,
        up=layer.intermediate.dense,
        down=layer.output.dense,
        norms=(layer.attention.LayerNorm, layer.output.LayerNorm),
        dropouts=(own.dropout, layer.attention.dropout, layer.output.dropout),
        heads=own.num_attention_heads,
        scale=own.attention_head_size**-0.5,
        attention=own,
        activation=layer.intermediate.intermediate_act_fn,
        is_relative=True,
    )


def _distilberts(layer: Any) -> LayerParts:
    own, feed_forward = layer.attention, layer.ffn
    return LayerParts(
        query=own.q_lin,
        key=own.k_lin,
        value=own.v_lin,
        out=own.out_lin,
        up=feed_forward.lin1,
        down=feed_forward.lin2,
        norms=(layer.sa_layer_norm, layer.output_layer_norm),
        dropouts=(own.dropout, None, feed_forward.dropout),
        heads=own.n_heads,
        scale=own.scaling,
        attention=own,
        activation=feed_forward.activation,
    )


def _alberts(layer: Any) -> LayerParts:
    own = layer.attention
    return LayerParts(
        query=own.query,
        key=own.key,
        value=own.value,
        out=own.dense,
        up=layer.ffn,
        down=layer.ffn_output,
        norms=(own.LayerNorm, layer.full_layer_layer_norm),
        dropouts=(own.attention_dropout, own.output_dropout, None),
        heads=own.num_attention_heads,
        scale=own.scaling,
        attention=own,
        activation=layer.activation,
    )


def _is_all(layer: Any, parts: LayerParts) -> bool:
    """Tell whether a layer has no weights but those of its parts, such as DeBERTa's own projections of distances."""
    found = {id(p) for module in (*parts.linears, *parts.norms) for p in (module.weight, module.bias) if p is not None}
    types = all(type(module) is nn.Linear and module.bias is not None for module in parts.linears)
    return types and found == {id(p) for p in layer.parameters()}
