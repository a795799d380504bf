"""The least memory that training takes: a run that cannot fit is refused before it starts.

A lower bound, not an estimate: what is counted must be there at once, whatever the micro-batches. A run that is allowed
may still need more (activations that are not counted, gradients of activations, the libraries' own buffers).
"""

from typing import Any

import torch

from leantune.encoder.loading import ATTENTION_DROPOUT_NAMES
from leantune.encoder.model import Encoder

OWN_ATTENTION_TYPES = {"deberta", "deberta-v2", "mpnet"}
"""Architectures whose attention has code of its own, which keeps the weights of all pairs of tokens."""


def least_training_bytes(encoder: Encoder, *, tokens: int, packed: bool, dtype: torch.dtype) -> int:
    """Return the bytes that training takes at least on a CPU, beyond those of the weights.

    A gradient and two moments for every weight that is trained, and the activations that the backward pass needs of a
    single row of `tokens` tokens. `packed`: its layout; `dtype`: the type of the matrices that are multiplied.
    """
    trained: int = sum(3 * p.numel() * p.element_size() for p in encoder.model.parameters() if p.requires_grad)
    return trained + _least_activation_values(encoder.model, tokens, packed=packed) * dtype.itemsize


def _least_activation_values(model: Any, tokens: int, *, packed: bool) -> int:
    """Count what the layers keep of a row: query, key, value and what attention makes of them, what goes into the two
    norms and comes out of them, the feed-forward's values before and after their activation, and the weights of
    attention where these are kept.

    Of the last layer nothing is counted, for a packed row needs little of it (`use_packed_layers`). A layer that is
    computed again in the backward pass keeps its input only, but one of them is whole at that time.
    """
    config = model.config
    layers, hidden = _size(config, "num_hidden_layers"), _size(config, "hidden_size")
    intermediate = _size(config, "intermediate_size", "hidden_dim")  # the second name is DistilBERT's
    layer = tokens * (8 * hidden + 2 * intermediate)
    if not packed and _keeps_attention_weights(config):
        layer += _size(config, "num_attention_heads") * tokens**2
    whole = max(layers - 1, 0)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return whole * tokens * hidden + min(whole, 1) * layer
    return whole * layer


def _size(config: Any, *names: str) -> int:
    """Return the first of a configuration's entries that it has; 0 where it has none."""
    return next((int(value) for name in names if (value := getattr(config, name, None)) is not None), 0)


def _keeps_attention_weights(config: Any) -> bool:
    """Tell whether attention to padded rows keeps all weights: PyTorch's own does so on a CPU if it drops some."""
    dropout = max(getattr(config, name, 0.0) for name in ATTENTION_DROPOUT_NAMES)
    return config.model_type in OWN_ATTENTION_TYPES or (config._attn_implementation == "sdpa" and dropout > 0)
