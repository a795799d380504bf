"""The way of a table's texts to what the model reads: tokenized once, then put together within a limit.

Training, prediction and inspection go it alike, so that all of them read the same.
"""

import sys
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.system.errors import TableError
from leantune.tokens.tokens import (
    Texts,
    TokenizedTexts,
    TokenizingProgress,
    check_tokenizer,
    tokenize,
    tokenize_in_memory,
)
from leantune.tokens.truncation import Sequences, TokenSettings, discover_template, truncate

WORD_MARK = "▁"


def make_sequences(
    texts: Texts,
    tokenizer: Any,
    settings: TokenSettings,
    *,
    vocabulary_size: int,
    position_limit: int | None,
    describe_place: Callable[[int], str],
    cached: bool = True,
) -> Generator[TokenizingProgress, None, Sequences]:
    """Return the sequences of N rows, yielding progress while they are tokenized.

    `texts` has a column [N] for each text of a row. `position_limit` is the longest sequence that the model takes; None
    is the tokenizer's own limit. `describe_place` names the file and row of a row's index, for messages. Without
    `cached`, the tokens stay in memory and no file is written. Raises `ModelError` for a tokenizer that is not this
    model's, and `TableError` for a text without a single token.
    """
    check_tokenizer(tokenizer, vocabulary_size)
    tokenized = (yield from tokenize(texts, tokenizer)) if cached else tokenize_in_memory(texts, tokenizer)
    template = discover_template(tokenizer, pair=len(texts) == 2)
    limit = position_limit or min(tokenizer.model_max_length, sys.maxsize)
    sequences = truncate(tokenized, template, settings, limit)
    if not sequences.lengths.all():
        raise TableError(
            f"{describe_place(int(sequences.lengths.argmin()))}: found an empty text, expected at least one token, "
            "since this model's tokenizer adds no special tokens; remove the row"
        )
    return sequences


def count_unknown(tokenizer: Any, tokenized: TokenizedTexts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many tokens of each row are unknown to the tokenizer, and how many tokens the row has; both [N].

    Not counted is SentencePiece's bare mark of a word's beginning: all that it knows of a text in another script. A
    tokenizer without an unknown token, such as one that goes by bytes, knows everything.
    """
    tokens = np.asarray(np.sum(tokenized.counts, axis=0, dtype=np.int64))
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return np.zeros_like(tokens), tokens
    mark = tokenizer.convert_tokens_to_ids(WORD_MARK)
    if mark is not None and mark != unknown:
        tokens = tokens - tokenized.occurrences(mark)
    return tokenized.occurrences(unknown), tokens


def cut_alike(tokenizer: Any, sequences: Sequences, settings: TokenSettings) -> None:
    """Let a tokenizer, which is saved with the model, cut where `sequences` were cut, as far as a tokenizer can."""
    tokenizer.model_max_length = sequences.max_length
    tokenizer.truncation_side = "left" if settings.truncation == "tail" else "right"
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side  # or else `save_pretrained` forgets it
