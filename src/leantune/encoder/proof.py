"""Proof before trust (law 10): what a model does with packed and padded batches is held against single texts.

Architectures with an attention of their own ignore what they are told, without a word; others pad inside, mix tokens
without a mask, or draw random numbers. So a few random texts are computed each by itself, and then as training would
compute them: outputs and gradients must agree, with dropout off.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from leantune.batches.batch import Batch
from leantune.batches.packing import make_packing
from leantune.encoder.attention import NAME as PACKED_ATTENTION
from leantune.encoder.encoder_layer import use_packed_layers, use_stock_layers
from leantune.encoder.first_tokens import use_all_tokens, use_first_tokens
from leantune.encoder.head import put_back
from leantune.encoder.pooling import TextPooling
from leantune.encoder.positions import position_limit
from leantune.encoder.relative_encoder import use_relative_encoder, use_stock_encoder
from leantune.system.device import is_out_of_memory
from leantune.system.errors import ModelError

PACKED_LENGTHS = (150, 70, 9, 1)
PADDED_LENGTHS = (40, 23, 9, 2, 1)
MORE_PADDING = 7
"""Tokens by which the longest text is padded, too."""


def make_packing_possible(model: Any) -> TextPooling | None:
    """Give the model attention for packed rows; None, and the model as it was, where that would not do the same."""
    before = model.config._attn_implementation
    texts = _random_texts(model, PACKED_LENGTHS)
    lengths = [text.shape[1] for text in texts]
    pooling: TextPooling | None = None

    def together() -> Tensor:
        nonlocal pooling
        pooling = let_packed_rows_through(model)
        places = torch.cat([torch.arange(length) for length in lengths])[None].to(model.device)
        batch = Batch(
            input_ids=torch.cat(texts, dim=1),
            attention_mask=None,
            token_types=None,
            packing=make_packing(lengths, model.device),
            places=places,
        )
        with pooling.of(batch.packing):
            logits: Tensor = model(
                input_ids=batch.input_ids, position_ids=pooling.positions(batch), packing=batch.packing
            ).logits
        return logits

    with _quiet(), _sparse_embedding(model):
        if _agrees(model, texts, together):
            return pooling
        if pooling is not None:
            pooling.remove()
        use_stock_layers(model)
        use_stock_encoder(model)
        use_all_tokens(model)
        model.set_attn_implementation(before)
    return None


def let_packed_rows_through(model: Any) -> TextPooling:
    """Give the model all that computes packed rows; what it then computes is not proven here."""
    model.set_attn_implementation(PACKED_ATTENTION)
    use_relative_encoder(model)
    use_packed_layers(model)
    use_first_tokens(model)
    return TextPooling(model)


def takes_padding(model: Any) -> bool:
    """Tell whether padding a batch changes nothing of what a model computes for a text.

    False where only texts of equal length may share a batch. Raises `ModelError` where not even these do: a model whose
    output for a text changes from call to call, or with the other texts of its batch, or that fails on a plain text.
    """
    texts = _random_texts(model, PADDED_LENGTHS)
    width = min(texts[0].shape[1] + MORE_PADDING, position_limit(model) or 2**31)
    kind = model.config.model_type

    def padded() -> Tensor:
        ids = torch.full((len(texts), width), model.config.pad_token_id, device=model.device)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : text.shape[1]] = text[0]
            mask[row, : text.shape[1]] = 1
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits

    with _quiet(), _sparse_embedding(model):
        if _agrees(model, texts, padded):
            return True
        same = [texts[1], *_random_texts(model, (texts[1].shape[1],), seed=1)]
        try:
            with torch.no_grad():
                _alone(model, texts)
                first, second, batch = (_alone(model, same), _alone(model, same[::-1]).flip(0), _plain(model, same))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"model.name: {kind} cannot be trained: it fails on a plain text ({type(error).__name__}: {reason}); "
                "choose another model"
            ) from None
        if first.ndim != 2:
            raise ModelError(
                f"model.name: {kind} gives {first.ndim - 1} numbers a text and output; choose another model"
            )
        for other, what in ((second, "from call to call"), (batch, "with the texts that share its batch")):
            if not _are_close(other, first):
                raise ModelError(
                    f"model.name: {kind} cannot be trained exactly: what it computes for a text changes {what}; choose "
                    "another model"
                )
    return False


def output_layer(model: Any) -> nn.Linear | None:
    """Return the layer whose outputs are the logits, one for each label, proven on a few texts.

    None where there is none, or where the model fails on them, but for a lack of memory.
    """
    inside = set(model.base_model.modules())
    found = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and module not in inside and module.out_features == model.config.num_labels
    ]
    if not found:
        return None
    layer, texts = found[-1], _random_texts(model, PADDED_LENGTHS[:2])
    model.eval()
    try:
        with put_back(layer), _quiet(), torch.no_grad():
            before = _alone(model, texts)
            for parameter in layer.parameters():
                parameter.mul_(2)
            after = _alone(model, texts)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None
    return layer if _are_close(after, 2 * before) else None


def _random_texts(model: Any, lengths: tuple[int, ...], *, seed: int = 0) -> list[Tensor]:
    """Draw texts [1, n] without padding tokens, which some models leave out by themselves."""
    limit = position_limit(model) or max(lengths)
    own = torch.Generator().manual_seed(seed)  # the global one draws the dropout
    vocabulary, pad_id = model.get_input_embeddings().num_embeddings, model.config.pad_token_id
    drawn = [torch.randint(1, vocabulary, (1, n), generator=own) for n in lengths if n <= limit]
    return [((text + pad_id) % vocabulary).to(model.device) for text in drawn]


def _plain(model: Any, texts: list[Tensor]) -> Tensor:
    """Compute texts of equal length in one batch."""
    ids = torch.cat(texts)
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def _alone(model: Any, texts: list[Tensor]) -> Tensor:
    """Compute each text by itself: [texts, outputs]."""
    return torch.cat([_plain(model, [text]) for text in texts])


def _agrees(model: Any, texts: list[Tensor], compute: Callable[[], Tensor]) -> bool:
    """Tell whether `compute` gives the logits [texts, outputs] and gradients of the texts each by itself.

    Whatever fails does not agree, but for a lack of memory.
    """
    model.eval()
    model.zero_grad(set_to_none=True)
    try:
        alone = _alone(model, texts)
        probe = torch.linspace(1, 2, alone.numel(), device=alone.device).view_as(alone)
        (alone * probe).sum().backward()  # type: ignore[no-untyped-call]
        norms = _gradient_norms(model)
        together = compute()
        if not _are_close(together, alone):
            return False
        # What is left of the gradients once those of the batch are taken from them.
        (together * -probe).sum().backward()  # type: ignore[no-untyped-call]
        left = _gradient_norms(model)
        return bool((left <= 1e-2 * norms + 1e-5 * norms.norm()).all())
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)


def _gradient_norms(model: Any) -> Tensor:
    """Return the norm of each parameter's gradient, [parameters]; 0 where it has none."""
    zero = torch.zeros((), device=model.device)
    gradients = [zero if p.grad is None else p.grad for p in model.parameters()]
    return torch.stack([(g.coalesce().values() if g.is_sparse else g).norm() for g in gradients])


def _are_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@contextmanager
def _sparse_embedding(model: Any) -> Iterator[None]:
    """Let the gradient of the token embedding have the rows of the texts alone during a block.

    A gradient of all rows is filled with zeros, and added up, for each text: a second for a vocabulary of 250,000.
    On a GPU that is fast, and adding sparse gradients waits for the device.
    """
    embedding = model.get_input_embeddings()
    before = embedding.sparse
    embedding.sparse = before or model.device.type == "cpu"
    try:
        yield
    finally:
        embedding.sparse = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from warning of what is being found out."""
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
