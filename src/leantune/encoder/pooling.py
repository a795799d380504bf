"""One state a text from the states of a packed row's tokens, where the model's head expects one a token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from leantune.batches.batch import Batch
from leantune.batches.packing import Packing
from leantune.encoder.positions import first_position, position_table, positions_without_padding

# The module of the encoder whose output is the last state of every token, which the head reads the first one of.
LAST_STATES = ("encoder", "transformer", "final_norm")


class TextPooling:
    """Hands the head one state a text of a packed row, [B, 1, hidden], where it expects one a token.

    A forward hook on the module that computes the tokens' last states. Stock heads read the first state of a sequence
    or the mean of all, which of a sequence of one is that one.
    """

    def __init__(self, model: Any) -> None:
        base = model.base_model
        module = next(module for name in LAST_STATES if (module := getattr(base, name, None)) is not None)
        self._hook = module.register_forward_hook(self._pool)
        table = position_table(model)
        self._first_position = first_position(model)
        self._uncounted = None if table is None else table.padding_idx
        self._takes_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
        self._packing: Packing | None = None

    def positions(self, batch: Batch) -> Tensor:
        """Return the position of each token of a packed row in its own text, [1, T], as the model counts them."""
        assert batch.places is not None
        assert batch.packing is not None
        if self._uncounted is not None:
            return positions_without_padding(batch.input_ids, self._uncounted, batch.packing)
        return batch.places + self._first_position

    @contextmanager
    def of(self, packing: Packing | None) -> Iterator[None]:
        """Pool the texts of `packing` during a block."""
        self._packing = packing
        try:
            yield
        finally:
            self._packing = None

    def remove(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    def _pool(self, _: nn.Module, __: Any, output: Any) -> Any:
        if self._packing is None:
            return None
        if isinstance(output, Tensor):
            return self._states(output, self._packing)
        if isinstance(output, tuple):
            return (self._states(output[0], self._packing), *output[1:])
        output.last_hidden_state = self._states(output.last_hidden_state, self._packing)
        if output.hidden_states:  # DeBERTa reads the last of these
            output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
        return output

    def _states(self, hidden: Tensor, packing: Packing) -> Tensor:
        """[1, T, hidden] -> [B, 1, hidden]."""
        if not self._takes_mean:
            return hidden[0].index_select(0, packing.starts)[:, None]
        tokens = hidden[0, : packing.tokens]
        sums = tokens.new_zeros(len(packing.starts), tokens.shape[1]).index_add_(0, packing.text, tokens)
        return (sums / packing.lengths[:, None])[:, None]
