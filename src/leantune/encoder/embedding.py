"""The rows of the token embedding that the texts use: all others keep their values, so they need not be trained.

A row that no text uses has no gradient, and rows of an embedding are not decayed: AdamW leaves it as it is, at the
price of its gradient, two moments and an update, over and over. A multilingual vocabulary has 250,000 rows, of which a
table of texts uses a few.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class RowsInUse(nn.Embedding):
    """An embedding that holds the rows in use of a larger one, and is asked for them by the larger one's numbers."""

    row_of: Tensor
    """[vocabulary] int64: where each token's row stands here; the number of rows, which is out of range, for tokens not
    in use, so that asking for one is an error."""

    def __init__(self, whole: nn.Embedding, used: NDArray[np.int64]) -> None:
        """Take over the rows `used`, ascending, of `whole`."""
        table = whole.weight.detach()
        rows = torch.from_numpy(used).to(table.device)
        # The gradient of a micro-batch is then its tokens' rows, not a table full of zeros. On a GPU, adding sparse
        # gradients waits for the device.
        sparse = table.device.type == "cpu"
        super().__init__(len(used), table.shape[1], _weight=table[rows], sparse=sparse)
        row_of = torch.full((len(table),), len(used), device=table.device)
        row_of[rows] = torch.arange(len(used), device=table.device)
        self.register_buffer("row_of", row_of, persistent=False)
        if whole.padding_idx is not None:
            self.padding_idx = int(row_of[whole.padding_idx])
        self.used = rows
        self._whole = [whole.cpu()]  # in a list: not a part of the model, which would train and save it

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Embedding has it
        """Tokens [...] -> their rows [..., width]."""
        return F.embedding(self.row_of[input], self.weight, self.padding_idx, sparse=self.sparse)

    def whole(self) -> nn.Embedding:
        """Return the larger embedding, with these rows as they are now."""
        (whole,) = self._whole
        with torch.no_grad():
            whole.weight[self.used.cpu()] = self.weight.cpu()
        return whole

    def take_over(self) -> None:
        """Take the rows in use from the larger embedding, as it is now."""
        (whole,) = self._whole
        with torch.no_grad():
            self.weight.copy_(whole.weight[self.used.cpu()])


def keep_rows(model: Any, used: NDArray[np.int64]) -> bool:
    """Replace the token embedding of a transformers model by its rows `used`, ascending token ids, in place.

    Tells whether it did: the embedding stays whole where it is a class of its own, which may do more than look rows up
    (Gemma's scales them), or has options beyond a padding row.
    """
    whole = model.get_input_embeddings()
    if type(whole) is not nn.Embedding or whole.max_norm is not None or whole.scale_grad_by_freq or whole.sparse:
        return False
    if whole.padding_idx is not None:  # which need not be the configuration's padding token
        used = np.union1d(used, [whole.padding_idx])
    model.set_input_embeddings(RowsInUse(whole, used))
    return True


def keep_all_rows(model: Any) -> None:
    """Undo `keep_rows`."""
    table = model.get_input_embeddings()
    if isinstance(table, RowsInUse):
        model.set_input_embeddings(table.whole().to(table.weight.device))


def rows_digest(model: Any) -> str | None:
    """SHA-256 (hexadecimal) of the numbers of the rows in use; None for a model that has them all."""
    table = model.get_input_embeddings()
    if not isinstance(table, RowsInUse):
        return None
    return hashlib.sha256(table.used.cpu().numpy().tobytes()).hexdigest()


@contextmanager
def whole_embedding(model: Any) -> Iterator[None]:
    """Give the model its whole token embedding back during a block, which may read it or load another."""
    table = model.get_input_embeddings()
    if not isinstance(table, RowsInUse):
        yield
        return
    model.set_input_embeddings(table.whole())
    try:
        yield
    finally:
        table.take_over()
        model.set_input_embeddings(table)
