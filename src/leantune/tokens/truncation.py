"""Tokens to sequences: what the model reads of each row, special tokens included, at most `max_length` long.

1. `discover_template`: which special tokens and token types the tokenizer puts around a row's texts
2. `truncate`: how many tokens each text keeps, or in how many windows it is read, for all rows at once
3. `Sequences`: one row's ids and token types, put together when they are asked for
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from leantune.system.errors import ModelError, SettingsError
from leantune.system.settings import Section
from leantune.tokens.tokens import Int32Array, TokenizedTexts


class TokenSettings(Section):
    """How much of long texts the model reads."""

    max_length: Literal["auto"] | int = "auto"
    """Most tokens of a row, special tokens included. auto is the model's limit, so that nothing is cut that the model
    can read. With packed rows, which have no padding, a high limit costs no time on short texts."""

    truncation: Literal["head", "tail", "head_tail", "windows"] = "head_tail"
    """What is read of a row that is too long: its first tokens (`head`), its last tokens (`tail`), both (`head_tail`),
    or all of it in several overlapping windows (`windows`), each as long as `max_length`. With windows a row still has
    one prediction, which is made from those of its windows."""

    head_fraction: float = Field(default=0.5, ge=0, le=1)
    """With head_tail: the share of the kept tokens that come from the start of the text, rounded half up to whole
    tokens. The default is half, since neither end is known to matter more. 1 is head, 0 is tail."""

    stride: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """With windows: the number of tokens from the start of a window to the start of the next. The last window ends
    where the text ends, so it may start earlier. auto is half of the text tokens that fit into a window. Of a pair, the
    longer text is read in windows, and each window also has the whole shorter text; where both texts are longer than
    half of what fits, both are read in windows, side by side."""

    window_pooling: Literal["mean", "max"] = "mean"
    """With windows: whether a row's prediction is the mean or the maximum of the values or probabilities of its
    windows. The maxima of classes add up to more than 1, and are divided by their sum."""

    training_windows: Literal["one", "all"] = "one"
    """With windows: what an epoch reads of a long row. `one` reads one window, another in each epoch, which costs no
    more than cutting the text; after as many epochs as a row has windows, each was read once. `all` reads all windows,
    and the row's loss is the mean of their losses. Evaluation and prediction always read all windows."""

    unknown: Literal["refuse", "allow"] = "refuse"
    """What to do if more than 90 percent of all tokens are unknown to the tokenizer, for example since it does not have
    the script of the texts: refuse to train, or allow it with a warning."""

    used_only_with: ClassVar = {
        "head_fraction": ("truncation", frozenset({"head_tail"})),
        **dict.fromkeys(("stride", "window_pooling", "training_windows"), ("truncation", frozenset({"windows"}))),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """The special tokens around a row's texts: prefix, text, suffix, or prefix, text, middle, text, suffix.

    Ids and token types are int32.
    """

    specials: tuple[Int32Array, ...]
    """Ids of prefix[, middle], suffix: one more than a row has texts; each may be empty."""
    token_types: Int32Array | None
    """One for each token of the prefix, one for the whole text, one for each of the middle, and so on to the suffix;
    None where the tokenizer gives no token types."""

    @property
    def texts(self) -> int:
        """Texts of a row: 1, or 2 for pairs."""
        return len(self.specials) - 1

    @property
    def special_count(self) -> int:
        """Special tokens of a row."""
        return sum(map(len, self.specials))

    def row_ids(self, texts: Sequence[Int32Array]) -> Int32Array:
        """Token ids [L] of a row whose texts have the ids `texts`."""
        parts = [self.specials[0]]
        for ids, special in zip(texts, self.specials[1:], strict=True):
            parts += (ids, special)
        return np.concatenate(parts)

    def row_token_types(self, counts: Iterable[int]) -> Int32Array | None:
        """Token types [L] of a row whose texts have `counts` tokens; None where the tokenizer gives none."""
        if self.token_types is None:
            return None
        repeats = np.ones(len(self.token_types), np.intp)
        place = 0
        for count, special in zip(counts, self.specials[:-1], strict=True):
            place += len(special)
            repeats[place] = count
            place += 1
        return np.repeat(self.token_types, repeats)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """What the model reads of each of N rows: lengths in memory, ids put together on demand from the mapped tokens.

    A row is read in one window, or, where it is too long and `stride` is set, in several of the same length.
    """

    tokenized: TokenizedTexts
    template: Template
    kept: tuple[Int32Array, ...]
    """[N] tokens that a window has of each row's text; one entry a text."""
    head_fraction: Fraction
    """Share of a cut text's remaining tokens that are its first; the rest are its last."""
    stride: int | None
    """Tokens from the start of a window to the start of the next; None where what is too long is cut."""
    pooling: Literal["mean", "max"]
    """What a row's prediction is of those of its windows."""
    windows: Int32Array
    """[N] windows of each row; 1 where it is read whole or cut."""
    max_length: int
    """Most tokens of a row, special tokens included; auto is resolved."""
    lengths: Int32Array
    """[N] tokens of each window of a row, special tokens included."""
    full_lengths: Int32Array
    """[N] tokens of each row, had it been read whole."""

    def ids(self, row: int, window: int = 0) -> Int32Array:
        """Token ids [L] of a window of a row, special tokens included; costs about 5 microseconds."""
        return self.template.row_ids(
            [self._cut(self.tokenized.ids(row, text), int(kept[row]), window) for text, kept in enumerate(self.kept)]
        )

    def token_types(self, row: int) -> Int32Array | None:
        """Token types [L] of each window of a row, or None where the tokenizer gives none."""
        return self.template.row_token_types(kept[row] for kept in self.kept)

    def _cut(self, ids: Int32Array, kept: int, window: int) -> Int32Array:
        if kept == len(ids):
            return ids
        if self.stride is not None:
            start = min(window * self.stride, len(ids) - kept)
            return ids[start : start + kept]
        head = _round_half_up(kept, self.head_fraction)
        return np.concatenate((ids[:head], ids[len(ids) - (kept - head) :]))

    def used_ids(self, vocabulary_size: int) -> npt.NDArray[np.int64]:
        """Token ids, ascending, that any of the texts has, cut or not, or that stand around them."""
        used = np.zeros(vocabulary_size, dtype=bool)
        for part in (*self.template.specials, *chain.from_iterable(self.tokenized.values)):
            used[part] = True
        return np.flatnonzero(used)

    @property
    def truncated_rows(self) -> int:
        """How many rows lost tokens."""
        return 0 if self.stride is not None else int(np.count_nonzero(self.lengths < self.full_lengths))

    @property
    def windowed_rows(self) -> int:
        """How many rows are read in more than one window."""
        return int(np.count_nonzero(self.windows > 1))

    @property
    def cut_share(self) -> float:
        """Share of all texts' tokens that was cut, special tokens left out; 0 where there are none."""
        if self.stride is not None:
            return 0.0
        texts = sum(int(count.sum(dtype=np.int64)) for count in self.tokenized.counts)
        cut = int((self.full_lengths - self.lengths).sum(dtype=np.int64))
        return cut / texts if texts else 0.0


def discover_template(tokenizer: PreTrainedTokenizerBase, pair: bool) -> Template:
    """Find which special tokens and token types a tokenizer puts around one text, or around the two of a pair.

    Encodes a probe with and without them and looks for the one in the other; then proves on other rows, empty texts
    among them, that the parts put together are what the tokenizer gives. Raises ModelError where that is not so.
    """
    probe, *proofs = [("One text.", "Another")[: 1 + pair], ("A", "b c d")[: 1 + pair], ("", "")[: 1 + pair]]
    ids, types = _encode(tokenizer, probe)
    specials, part_types, end = [], [], 0
    for text in probe:
        bare, _ = _encode(tokenizer, (text,), special_tokens=False)
        start = _find(bare, ids, end)
        if start is None:
            raise _misfit(tokenizer, probe)
        specials.append(ids[end:start])
        part_types += types[end : start + 1]
        end = start + len(bare)
    template = Template(
        specials=tuple(np.array(part, np.int32) for part in [*specials, ids[end:]]),
        token_types=np.array([*part_types, *types[end:]], np.int32) if types else None,
    )
    for texts in (probe, *proofs):
        if not _fits(template, tokenizer, texts):
            raise _misfit(tokenizer, texts)
    return template


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...], special_tokens: bool = True
) -> tuple[list[int], list[int]]:
    """Ids and token types (empty where there are none) of one row."""
    # As a batch of one: a lone row whose second text is empty is taken for a single text by fast tokenizers.
    columns = [[text] for text in texts]
    row = tokenizer(*columns, add_special_tokens=special_tokens, padding=False, truncation=False, verbose=False)
    return row["input_ids"][0], row["token_type_ids"][0] if "token_type_ids" in row else []


def _find(part: list[int], whole: list[int], start: int) -> int | None:
    """Return the first place from `start` on where `part`, which must have tokens, stands in `whole`."""
    places = range(start, len(whole) - len(part) + 1)
    return next((place for place in places if part and whole[place : place + len(part)] == part), None)


def _fits(template: Template, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]) -> bool:
    bare = [np.array(_encode(tokenizer, (text,), special_tokens=False)[0], np.int32) for text in texts]
    ids, types = _encode(tokenizer, texts)
    own_types = template.row_token_types(map(len, bare))
    return template.row_ids(bare).tolist() == ids and (own_types is None or own_types.tolist() == types)


def _misfit(tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]) -> ModelError:
    ids, _ = _encode(tokenizer, texts)
    return ModelError(
        f"model.name {tokenizer.name_or_path!r}: its tokenizer does not put the same special tokens around every text "
        f"(found with {texts}, which gives {tokenizer.convert_ids_to_tokens(ids)}). Choose another model."
    )


def truncate(tokenized: TokenizedTexts, template: Template, settings: TokenSettings, limit: int) -> Sequences:
    """Decide how many tokens each text keeps: rows that are too long become exactly `max_length` long, or so many
    windows of that length as cover them.

    `limit` is the most tokens that the model takes, special tokens included. The texts of a pair share what remains
    beside the special tokens, longest first: the longer is cut down to the other's length, then both evenly, an odd
    token going to the first. Each window has so many tokens of both texts; the window `w` of a text begins `w` strides
    after its start, or where its last tokens fit. Vectorised: 10 million pairs take a second.

    Raises SettingsError where `max_length` is beyond the limit, or too short for one token of each text, and where the
    stride is so long that tokens between two windows would not be read.
    """
    max_length = limit if settings.max_length == "auto" else settings.max_length
    smallest = template.special_count + template.texts
    if max_length > limit:
        raise SettingsError(
            f"tokens.max_length is {max_length}, but the model takes at most {limit} tokens: "
            f"set it to {limit} or less, or to auto"
        )
    if max_length < smallest:
        raise SettingsError(
            f"tokens.max_length is {max_length}, but {template.special_count} special tokens and one token of each "
            f"text need {smallest}: set it to {smallest} or more, or to auto"
        )
    budget = max_length - template.special_count
    kept = _kept_counts(tokenized.counts, budget)
    stride = _stride(settings, budget, template) if settings.truncation == "windows" else None
    return Sequences(
        tokenized=tokenized,
        template=template,
        kept=kept,
        head_fraction=share_of_head(settings),
        stride=stride,
        pooling=settings.window_pooling,
        windows=_window_counts(tokenized.counts, kept, stride),
        max_length=max_length,
        lengths=_row_lengths(kept, template),
        full_lengths=_row_lengths(tokenized.counts, template),
    )


def _kept_counts(counts: tuple[Int32Array, ...], budget: int) -> tuple[Int32Array, ...]:
    """[N] tokens that each text keeps, so that those of a row are at most `budget` together."""
    if len(counts) == 1:
        return (np.minimum(counts[0], np.int64(budget)).astype(np.int32),)
    # A text keeps its half of the budget, or what the other one leaves of it where that is more.
    first, second = (count.astype(np.int64) for count in counts)
    kept_first = np.minimum(first, np.maximum(budget - second, budget - budget // 2))
    kept_second = np.minimum(second, np.maximum(budget - first, budget // 2))
    return kept_first.astype(np.int32), kept_second.astype(np.int32)


def _stride(settings: TokenSettings, budget: int, template: Template) -> int:
    """Return the stride of windows that have `budget` tokens of a row's texts."""
    if settings.stride == "auto":
        return max(budget // 2, 1)
    longest = budget // template.texts  # of a pair, a text that does not fit keeps half of the budget or more
    if settings.stride > longest:
        of_what = "a text" if template.texts == 1 else "each text of a pair, where both are long,"
        raise SettingsError(
            f"tokens.stride is {settings.stride}, but a window has only {longest} tokens of {of_what} beside the "
            f"special tokens, and those between two windows would not be read: set it to {longest} or less, or to auto"
        )
    return settings.stride


def _window_counts(counts: tuple[Int32Array, ...], kept: tuple[Int32Array, ...], stride: int | None) -> Int32Array:
    """[N] windows of each row: as many as the text needs that needs most."""
    windows = np.ones(len(counts[0]), np.int32)
    if stride is not None:
        for count, part in zip(counts, kept, strict=True):
            np.maximum(windows, 1 - (part - count) // stride, out=windows)  # 1 + the rest / stride, rounded up
    return windows


def _row_lengths(counts: tuple[Int32Array, ...], template: Template) -> Int32Array:
    lengths = np.full(len(counts[0]), template.special_count, np.int32)
    for count in counts:
        lengths += count
    return lengths


def share_of_head(settings: TokenSettings) -> Fraction:
    """Return which share of the tokens that stay of a cut text are its first.

    As the user wrote it: 0.29 of 50 tokens is 14.5, but in floating point a little less.
    """
    match settings.truncation:
        case "head" | "windows":
            return Fraction(1)
        case "tail":
            return Fraction(0)
        case "head_tail":
            return Fraction(str(settings.head_fraction))


def _round_half_up(count: int, fraction: Fraction) -> int:
    numerator, denominator = fraction.as_integer_ratio()  # integers: arithmetic with Fraction takes 10 times as long
    return (2 * count * numerator + denominator) // (2 * denominator)
