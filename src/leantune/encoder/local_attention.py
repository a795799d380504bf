"""Attention within a local window where no kernel has one: older GPUs, float32, AMD, MPS.

    query, key, value [T, H, D]  ->  blocks of queries, each with the keys within its reach  ->  [T, H, D]

The packed row is cut into blocks of queries without regard to its texts (Longformer; Beltagy et al. 2020, arXiv
2004.05150). All keys that a block's queries may see stand in one piece of the row, which overlaps with those of the
blocks beside it. So the scores, and the mask that says which of them count, grow with the tokens T and not with the
square of a text's length. `B` blocks of `Q` queries and `K` keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.batches.packing import Packing
from leantune.encoder.packed_kernels import without_cudnn

QUERIES = 128
"""Queries of a block. ModernBERT's reach 64 places to both sides: 256 keys, of which each query sees half."""

ALIGNED = 16
"""Keys of a block are a multiple of this: with another number PyTorch copies the mask to one that is."""


def attend_locally(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, window: int, scale: float, dropout: float
) -> Tensor:
    """Attend to the tokens of the same text that are fewer than `window` places away; differentiable.

    [T, H, D] three times -> [T, H, D].
    """
    tokens, reach = query.shape[0], window - 1
    blocks = -(-tokens // QUERIES)
    keys = -(-(QUERIES + 2 * reach) // ALIGNED) * ALIGNED
    row = (blocks - 1) * QUERIES + keys  # the keys of all blocks, from `reach` places before the first query

    def overlapping(x: Tensor) -> Tensor:
        """[T, H, D] -> [B, H, K, D], a view that holds most keys several times."""
        padded = F.pad(x, (0, 0, 0, 0, reach, row - reach - tokens))
        return padded.unfold(0, keys, QUERIES).transpose(2, 3)

    padded_query = F.pad(query, (0, 0, 0, 0, 0, blocks * QUERIES - tokens))
    with without_cudnn(query.device):
        attended = F.scaled_dot_product_attention(
            padded_query.reshape(blocks, QUERIES, *query.shape[1:]).transpose(1, 2),
            overlapping(key),
            overlapping(value),
            attn_mask=_seen(packing.text, reach=reach, row=row, keys=keys)[:, None],
            dropout_p=dropout,
            scale=scale,
        )
    return attended.transpose(1, 2).flatten(0, 1)[:tokens]


def _seen(text: Tensor, *, reach: int, row: int, keys: int) -> Tensor:
    """Return which keys each query sees, [B, Q, K] bool.

    `text`: the number of each token's text. Places outside of all texts see each other, so that no softmax is empty.
    """
    padded = F.pad(text, (reach, row - reach - len(text)), value=-1)
    of_keys = padded.unfold(0, keys, QUERIES)
    of_queries = of_keys[:, reach : reach + QUERIES]
    place = torch.arange(keys, device=text.device)
    is_near = (place - reach - place[:QUERIES, None]).abs() <= reach
    return (of_queries[:, :, None] == of_keys[:, None]) & is_near
