"""An `Encoder`: a pretrained model with its head, batch in, logits out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from transformers import masking_utils

from leantune.batches.batch import Batch
from leantune.encoder.pooling import TextPooling
from leantune.system.settings import Section

FlopCount = Callable[[NDArray[np.int32]], float]
"""Sequence lengths [N] -> floating-point operations of training on them once, without padding."""

Padding = Literal["any", "none"]


class ModelSettings(Section):
    """Which encoder, and how it is changed before training."""

    name: str
    """A folder, a name on the Hugging Face hub, or `demo`: the small encoder of the extra `demo`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null is its main branch."""
    head: Literal["auto", "keep", "new"] = "auto"
    """Whether training begins with the classification head of the model's checkpoint or with a new, random one. auto
    keeps a head that was made for the same kind of task and for labels of the same names, in any order. keep requires a
    head with the right number of outputs; if the names of its labels differ, they are taken in their order."""
    dropout: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None = "auto"
    """Dropout of hidden values, also before the head: a probability. auto is 0, and null is the model's own value."""
    attention_dropout: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None = "auto"
    """Dropout of attention weights: a probability. auto is 0, and null is the model's own value."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A model ready to train, with what the batches must know of it."""

    model: Any
    """`transformers.PreTrainedModel` (which has no types) for sequence classification, float32, on its device."""
    position_limit: int | None
    """Longest sequence in tokens that the position embeddings allow; None where there is no limit."""
    vocabulary_size: int
    pad_id: int
    training_flops: FlopCount | None
    """None where the operations of this architecture could not be counted."""
    takes_token_types: bool
    """False also for a model with a single token type, which it supplies itself."""
    takes_ready_mask: bool
    """True where a mask [B, 1, 1, L] is used as it is given."""
    new_weights: tuple[str, ...]
    """Parameters that are not the checkpoint's, but drawn at random: a new head's."""
    output_layer: nn.Linear | None
    """The last layer, whose outputs are the logits, with a bias; None where none was proven to be it."""
    head_is_new: bool
    head_reason: str
    """One sentence for the user: whether the checkpoint's own head is trained on, and why."""
    pooling: TextPooling | None
    """What makes one state a text of a packed row's tokens; None where the encoder takes padded batches only."""
    takes_padding: bool
    """False where padding changes what the model computes, so that only rows of equal length may share a batch."""

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, outputs] for a batch, float32 in any precision."""
        if batch.packing is not None:
            return self._packed_logits(batch)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.attention_mask is not None and self.takes_ready_mask:
            inputs["attention_mask"] = batch.attention_mask[:, None, None, :].bool()
        if batch.token_types is not None and self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        with _known_mask(batch.attention_mask):
            logits: Tensor = self.model(**inputs).logits
        return logits

    def _packed_logits(self, batch: Batch) -> Tensor:
        assert self.pooling is not None
        assert batch.packing is not None
        inputs = {"input_ids": batch.input_ids, "position_ids": self.pooling.positions(batch)}
        if batch.token_types is not None and self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        with self.pooling.of(batch.packing):
            logits: Tensor = self.model(**inputs, packing=batch.packing).logits
        return logits


@contextmanager
def _known_mask(mask: Tensor | None) -> Iterator[None]:
    """Keep transformers during a block from asking whether a mask on an accelerator is all ones: it would wait for the
    device in every micro-batch. It is not, or `make_batch` would have given none."""
    if mask is None or mask.device.type == "cpu" or not hasattr(masking_utils, "is_tracing"):
        yield
        return
    asked = masking_utils.is_tracing
    masking_utils.is_tracing = lambda *_: True  # then it does not ask
    try:
        yield
    finally:
        masking_utils.is_tracing = asked
