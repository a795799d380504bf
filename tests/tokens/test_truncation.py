import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import BertJapaneseTokenizer

from leantune.system.errors import ModelError, SettingsError
from leantune.tokens.tokens import TokenizedTexts, load_tokenizer, tokenize
from leantune.tokens.truncation import Sequences, Template, TokenSettings, discover_template, truncate
from small_runs import finish
from tiny_encoders import MAX_LENGTH, NAMES, OTHER_SCRIPTS, make_texts

FIRST = ["", "Bako", *OTHER_SCRIPTS, *make_texts(2, most_words=12), *make_texts(4, most_words=200, seed=1)]
SECOND = [*make_texts(3, most_words=100, seed=2), "", "Lemi rako.", *make_texts(5, most_words=80, seed=3), "Nuba"]
STRATEGIES = [
    TokenSettings(truncation="head"),
    TokenSettings(truncation="tail"),
    TokenSettings(truncation="head_tail"),
    TokenSettings(truncation="head_tail", head_fraction=0.29),
    TokenSettings(truncation="head_tail", head_fraction=1.0),
    TokenSettings(truncation="head_tail", head_fraction=0.0),
]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows as an architecture's own tokenizer gives them, and as leantune tokenizes them."""

    tokenizer: Any
    columns: tuple[list[str], ...]
    own: Any
    tokenized: TokenizedTexts
    template: Template

    @property
    def budgets(self) -> range:
        return range(self.template.special_count + len(self.columns), MAX_LENGTH + 1)

    def truncate(self, settings: TokenSettings, max_length: int) -> Sequences:
        settings = settings.model_copy(update={"max_length": max_length})
        return truncate(self.tokenized, self.template, settings, MAX_LENGTH)


@pytest.fixture(
    scope="module", params=[(name, texts) for name in NAMES for texts in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def rows(request: pytest.FixtureRequest, tiny_encoder_dir: Callable[[str], Path], tmp_path_factory: Any) -> Rows:
    name, texts = request.param
    tokenizer = load_tokenizer(str(tiny_encoder_dir(name)))
    columns = (FIRST, SECOND)[:texts]
    arrays = tuple(map(pa.array, columns))
    return Rows(
        tokenizer=tokenizer,
        columns=columns,
        own=tokenizer(*columns, verbose=False),
        tokenized=finish(tokenize(arrays, tokenizer, cache_dir=tmp_path_factory.mktemp("tokens"))),
        template=discover_template(tokenizer, pair=texts == 2),
    )


def shared_longest_first(counts: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Take tokens away one at a time, each from the longest text, or from the last one where they are even."""
    kept = list(counts)
    while sum(kept) > budget:
        longest = max(range(len(kept)), key=lambda text: (kept[text], text))
        kept[longest] -= 1
    return tuple(kept)


def kept_places(places: list[int], kept: int, settings: TokenSettings) -> list[int]:
    """Which of a text's places in its row stay."""
    if settings.truncation == "head":
        return places[:kept]
    if settings.truncation == "tail":
        return places[len(places) - kept :]
    share = Decimal(kept) * Decimal(str(settings.head_fraction))
    head = int(share.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    return places[:head] + places[len(places) - (kept - head) :]


def expected_places(rows: Rows, settings: TokenSettings) -> Iterator[tuple[int, int, list[int]]]:
    """Each row at each budget: which places of the tokenizer's own output stay."""
    for row in range(len(FIRST)):
        owners = rows.own.sequence_ids(row)
        special = [place for place, owner in enumerate(owners) if owner is None]
        texts = [[place for place, owner in enumerate(owners) if owner == text] for text in range(len(rows.columns))]
        kept = tuple(map(len, texts))
        for budget in reversed(rows.budgets):
            kept = shared_longest_first(kept, budget - len(special))
            stay = [kept_places(places, count, settings) for places, count in zip(texts, kept, strict=True)]
            yield budget, row, sorted(sum(stay, special))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{s.truncation}-{s.head_fraction}")
def test_each_row_is_the_tokenizers_own_output_without_what_is_cut(rows: Rows, strategy: TokenSettings) -> None:
    by_budget = {budget: rows.truncate(strategy, budget) for budget in rows.budgets}
    for budget, row, places in expected_places(rows, strategy):
        sequences = by_budget[budget]
        assert sequences.lengths[row] == len(places), (budget, row)
        assert sequences.ids(row).tolist() == [rows.own["input_ids"][row][place] for place in places], (budget, row)
        types = sequences.token_types(row)
        if "token_type_ids" in rows.own:
            assert types is not None
            assert types.tolist() == [rows.own["token_type_ids"][row][place] for place in places], (budget, row)
        else:
            assert types is None


def test_rows_that_are_cut_are_exactly_as_long_as_allowed(rows: Rows) -> None:
    for budget in rows.budgets:
        sequences = rows.truncate(TokenSettings(), budget)
        assert sequences.max_length == budget
        np.testing.assert_array_equal(sequences.lengths, np.minimum(sequences.full_lengths, budget))


def test_rows_that_fit_are_exactly_the_tokenizers_own_output(rows: Rows) -> None:
    sequences = truncate(rows.tokenized, rows.template, TokenSettings(), limit=10_000)
    assert sequences.lengths.tolist() == sequences.full_lengths.tolist() == list(map(len, rows.own["input_ids"]))
    assert [sequences.ids(row).tolist() for row in range(len(FIRST))] == rows.own["input_ids"]
    if "token_type_ids" in rows.own:
        assert [sequences.token_types(row).tolist() for row in range(len(FIRST))] == rows.own["token_type_ids"]


@pytest.mark.parametrize("rows", [(name, 1) for name in NAMES], indirect=True, ids=NAMES)
def test_head_truncation_of_single_texts_is_the_tokenizers_own_truncation(rows: Rows) -> None:
    for budget in rows.budgets:
        sequences = rows.truncate(TokenSettings(truncation="head"), budget)
        own = rows.tokenizer(FIRST, truncation=True, max_length=budget)["input_ids"]
        assert [sequences.ids(row).tolist() for row in range(len(FIRST))] == own, budget


def made_up_tokens(*counts: list[int]) -> TokenizedTexts:
    """Rows in one chunk whose texts have so many tokens, numbered from 0 in each text."""
    return TokenizedTexts(
        counts=tuple(np.array(text, np.int32) for text in counts),
        offsets=tuple((np.cumsum([0, *text], dtype=np.int64),) for text in counts),
        values=tuple((np.concatenate([np.arange(count, dtype=np.int32) for count in text]),) for text in counts),
        rows_per_chunk=len(counts[0]),
    )


def made_up_template(texts: int) -> Template:
    return Template(specials=tuple(np.array([-1], np.int32) for _ in range(texts + 1)), token_types=None)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=20),
    budget=st.integers(2, 130),
)
@hypothesis_settings(deadline=None)
def test_pairs_share_what_there_is_longest_first(pairs: list[tuple[int, int]], budget: int) -> None:
    tokenized = made_up_tokens(*map(list, zip(*pairs, strict=True)))
    sequences = truncate(tokenized, made_up_template(2), TokenSettings(max_length=budget + 3), limit=512)
    expected = [shared_longest_first(pair, budget) for pair in pairs]
    assert list(zip(*(kept.tolist() for kept in sequences.kept), strict=True)) == expected


@given(count=st.integers(0, 300), max_length=st.integers(3, 300), hundredths=st.integers(0, 100))
@hypothesis_settings(deadline=None)
def test_head_and_tail_together_are_all_that_may_stay(count: int, max_length: int, hundredths: int) -> None:
    settings = TokenSettings(max_length=max_length, head_fraction=hundredths / 100)
    ids = truncate(made_up_tokens([count]), made_up_template(1), settings, limit=300).ids(0)
    kept = min(count, max_length - 2)
    assert ids[1:-1].tolist() == kept_places(list(range(count)), kept, settings)


def test_the_head_rounds_as_on_paper() -> None:
    settings = TokenSettings(max_length=52, head_fraction=0.29)  # of 50 tokens 14.5, in floating point a little less
    ids = truncate(made_up_tokens([100]), made_up_template(1), settings, limit=300).ids(0)
    assert ids[1:-1].tolist() == [*range(15), *range(65, 100)]


def test_max_length_auto_is_the_models_limit() -> None:
    assert truncate(made_up_tokens([100]), made_up_template(1), TokenSettings(), limit=40).max_length == 40


def test_a_model_without_a_limit_cuts_nothing() -> None:
    sequences = truncate(made_up_tokens([100], [90]), made_up_template(2), TokenSettings(), limit=sys.maxsize)
    assert (sequences.lengths.tolist(), sequences.truncated_rows, sequences.cut_share) == ([193], 0, 0.0)


def test_max_length_beyond_the_models_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(SettingsError, match=r"tokens\.max_length is 513, but the model takes at most 512"):
        truncate(made_up_tokens([9]), made_up_template(1), TokenSettings(max_length=513), limit=512)
    truncate(made_up_tokens([9]), made_up_template(1), TokenSettings(max_length=512), limit=512)


def test_max_length_without_room_for_a_token_of_each_text_is_refused_with_the_smallest() -> None:
    with pytest.raises(SettingsError, match=r"tokens\.max_length is 4, .* need 5: set it to 5 or more"):
        truncate(made_up_tokens([9], [9]), made_up_template(2), TokenSettings(max_length=4), limit=512)
    truncate(made_up_tokens([9], [9]), made_up_template(2), TokenSettings(max_length=5), limit=512)


def test_the_summary_counts_cut_rows_and_the_share_of_their_texts_tokens() -> None:
    sequences = truncate(made_up_tokens([5, 20, 30, 0]), made_up_template(1), TokenSettings(max_length=12), limit=512)
    assert sequences.truncated_rows == 2
    assert sequences.cut_share == pytest.approx((10 + 20) / 55)


def test_the_summary_of_empty_texts_has_nothing_to_share() -> None:
    assert truncate(made_up_tokens([0, 0]), made_up_template(1), TokenSettings(), limit=512).cut_share == 0.0


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_a_head_fraction_that_nothing_reads_is_refused(truncation: Any) -> None:
    with pytest.raises(ValidationError, match="head_fraction is used only where truncation is head_tail"):
        TokenSettings(truncation=truncation, head_fraction=0.3)


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_head_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValidationError, match="head_fraction"):
        TokenSettings(head_fraction=fraction)


@pytest.mark.parametrize("texts", [1, 2])
def test_tokenizers_written_in_python_have_templates_too(tmp_path: Path, texts: int) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"東京は雨"]), encoding="utf-8")
    tokenizer = BertJapaneseTokenizer(str(vocabulary), subword_tokenizer_type="character")
    columns = (["東京", "", "雨は東京"], ["雨", "は", ""])[:texts]
    tokenized = finish(tokenize(tuple(map(pa.array, columns)), tokenizer))
    sequences = truncate(tokenized, discover_template(tokenizer, pair=texts == 2), TokenSettings(), limit=512)
    assert [sequences.ids(row).tolist() for row in range(3)] == tokenizer(*columns)["input_ids"]


class OddTokenizer:
    """A character is a token; the text's length decides what stands around it."""

    name_or_path = "odd"

    def __call__(self, texts: list[str], *, add_special_tokens: bool, **_: Any) -> dict[str, list[list[int]]]:
        special = [-len(texts[0])] if add_special_tokens else []
        return {"input_ids": [[*special, *map(ord, texts[0])]]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(map(str, ids))


def test_a_tokenizer_without_a_fixed_template_is_refused() -> None:
    with pytest.raises(ModelError, match="does not put the same special tokens around every text"):
        discover_template(OddTokenizer(), pair=False)


class EatingTokenizer(OddTokenizer):
    """Gives special tokens, and no others."""

    def __call__(self, texts: list[str], *, add_special_tokens: bool, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 2] if add_special_tokens else []]}


def test_a_tokenizer_that_gives_no_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="special tokens"):
        discover_template(EatingTokenizer(), pair=False)
