"""Where a model places tokens: how many positions it has, and which one a text's first token takes."""

from typing import Any

from torch import Tensor, nn

from leantune.batches.packing import Packing


def position_limit(model: Any) -> int | None:
    """Return the longest sequence, in tokens, that the model can place; None where there is no limit.

    RoBERTa's descendants begin to count after the padding index, so their tables hold a few positions fewer than rows.
    """
    table = position_table(model)
    if table is not None:
        return table.num_embeddings - first_position(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None  # XLNet, which has no limit, says -1


def position_table(model: Any) -> nn.Embedding | None:
    """Return the embedding of absolute positions; None for a model that has none."""
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    return next((module for name, module in named if name.endswith("position_embeddings")), None)


def first_position(model: Any) -> int:
    """Return the position of a text's first token."""
    table = position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def positions_without_padding(input_ids: Tensor, pad_id: int, packing: Packing) -> Tensor:
    """Return the positions [1, T] of a packed row, as RoBERTa and its descendants count them.

    `input_ids`: [1, T]. A text's tokens are counted from `pad_id` + 1 on, but padding tokens are not counted and take
    the position `pad_id`: also those that stand in the text, where somebody wrote "<pad>".
    """
    counted = input_ids[0] != pad_id
    count = counted.cumsum(0)
    before = (count - counted.long())[packing.starts]  # [B]: what was counted in the texts before
    positions = input_ids.new_full((input_ids.shape[1],), pad_id)
    own = count[: packing.tokens] - before[packing.text]
    positions[: packing.tokens] += own * counted[: packing.tokens]
    return positions[None]
