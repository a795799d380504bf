"""The floating-point operations that training on a text cannot do without."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from leantune.encoder.encoder_layer import count_unread_flops
from leantune.encoder.model import FlopCount
from leantune.encoder.positions import position_limit
from leantune.encoder.relative import count_terms

LONGEST = 64
"""Tokens of the longest text whose operations are counted."""


def count_training_flops(model: Any) -> FlopCount | None:
    """Return a function from sequence lengths [N] to the floating-point operations of training on them once.

    Counted in the model's own forward pass at three lengths: operations are a quadratic in the length for every
    encoder, also for those that share layers. The backward pass costs twice the forward pass. Padding is not counted,
    nor what the last layer computes for nothing, nor what DeBERTa computes anew for every text: these are the
    operations that cannot be avoided. (A local attention counts as a full one, as it is computed.) None for a model
    whose operations cannot be counted: a run without them lacks its utilization, and nothing else.
    """
    longest = min(LONGEST, position_limit(model) or LONGEST)
    lengths = np.unique([max(1, longest // 4), max(1, longest // 2), longest])
    attention = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")  # as matrix products: not every kernel is known to the counter
        model.eval()
        counts = [_forward_flops(model, int(length)) for length in lengths]
    except Exception:  # whatever an architecture answers to lengths or an attention that it does not have
        return None
    finally:
        model.set_attn_implementation(attention)
    polynomial = np.polyfit(lengths, counts, len(lengths) - 1)

    def count(n: NDArray[np.int32]) -> float:
        length = n.astype(np.float64)
        needless = count_unread_flops(model, length) + _count_distance_flops(model, length)
        return float(3 * (np.polyval(polynomial, length) - needless).sum())

    return count


def _forward_flops(model: Any, length: int) -> int:
    ids = torch.ones(1, length, dtype=torch.long, device=model.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return int(counter.get_total_flops())


def _count_distance_flops(model: Any, length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the operations of DeBERTa's stock forward pass for a text that nobody needs: the projections of its
    embedding of distances, which all texts may share, and products with distances that the text does not have."""
    needless = np.zeros_like(length)
    for layer in getattr(getattr(model.base_model, "encoder", None), "layer", ()):
        own = getattr(getattr(layer, "attention", None), "self", None)
        if not isinstance(own, DisentangledSelfAttention) or not own.relative_attention:
            continue
        rows, terms = 2 * own.pos_ebd_size, count_terms(own)
        projections = 2 if own.share_att_key else terms
        needless += 2 * rows * projections * own.query_proj.weight.numel()
        needless += 2 * length * terms * own.all_head_size * np.maximum(rows - length, 0)
    return needless
