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


@pytest.mark.parametrize("stride", ["auto", 3])
def test_each_window_is_the_tokenizers_own_output_without_what_lies_outside(rows: Rows, stride: Any) -> None:
    windows = TokenSettings(truncation="windows", stride=stride)
    for budget in (rows.budgets[0], 13, 40) if stride == "auto" else (13, MAX_LENGTH):
        sequences = rows.truncate(windows, budget)
        step = max((budget - rows.template.special_count) // 2, 1) if stride == "auto" else stride
        for row in range(len(FIRST)):
            owners = rows.own.sequence_ids(row)
            special = [place for place, owner in enumerate(owners) if owner is None]
            texts = [
                [place for place, owner in enumerate(owners) if owner == text] for text in range(len(rows.columns))
            ]
            kept = shared_longest_first(tuple(map(len, texts)), budget - len(special))
            needed = max(-(-(len(places) - count) // step) for places, count in zip(texts, kept, strict=True)) + 1
            assert sequences.windows[row] == needed
            for window in range(needed) if needed < 20 else (0, 1, needed // 2, needed - 1):
                starts = [min(window * step, len(p) - count) for p, count in zip(texts, kept, strict=True)]
                stay = [p[start : start + count] for p, start, count in zip(texts, starts, kept, strict=True)]
                places = sorted(sum(stay, special))
                assert sequences.lengths[row] == len(places)
                ids = sequences.ids(row, window)
                assert ids.tolist() == [rows.own["input_ids"][row][place] for place in places]
                types = sequences.token_types(row)
                if types is not None:
                    assert types.tolist() == [rows.own["token_type_ids"][row][place] for place in places]


@pytest.mark.parametrize("rows", [(name, 1) for name in NAMES], indirect=True, ids=NAMES)
def test_windows_are_those_of_the_tokenizer_but_for_the_last_which_is_as_long_as_the_others(rows: Rows) -> None:
    if not rows.tokenizer.is_fast:
        pytest.skip("this tokenizer gives no windows")
    budget, stride = 20, 5
    sequences = rows.truncate(TokenSettings(truncation="windows", stride=stride), budget)
    for row, text in enumerate(FIRST):
        overlap = budget - rows.template.special_count - stride  # what tokenizers call the stride
        own = rows.tokenizer(text, truncation=True, max_length=budget, stride=overlap, return_overflowing_tokens=True)[
            "input_ids"
        ]
        found = [sequences.ids(row, window).tolist() for window in range(sequences.windows[row])]
        assert found[:-1] == own[:-1]
        assert len(found[-1]) == min(budget, sequences.full_lengths[row])
        assert found[-1][-len(own[-1]) + len(rows.template.specials[0]) :] == own[-1][len(rows.template.specials[0]) :]


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


@given(count=st.integers(0, 400), budget=st.integers(1, 60), data=st.data())
def test_windows_cover_a_text_from_its_first_token_to_its_last(count: int, budget: int, data: st.DataObject) -> None:
    stride = data.draw(st.just("auto") | st.integers(1, budget))
    settings = TokenSettings(max_length=budget + 2, truncation="windows", stride=stride)
    sequences = truncate(made_up_tokens([count]), made_up_template(1), settings, limit=300)
    windows = [sequences.ids(0, window)[1:-1].tolist() for window in range(sequences.windows[0])]
    assert sequences.lengths[0] == min(count, budget) + 2
    assert all(window == list(range(window[0], window[0] + budget)) for window in windows if count > budget)
    assert [window[0] for window in windows[:-1]] == [sequences.stride * place for place in range(len(windows) - 1)]
    assert set().union(*windows) == set(range(count))
    assert (windows[0][:1], windows[-1][-1:]) == ([0][:count], [count - 1][:count])
    assert len(windows) == 1 or windows[-2][-1] < count - 1  # none is there for nothing


@given(counts=st.tuples(st.integers(0, 150), st.integers(0, 150)), budget=st.integers(2, 60), data=st.data())
def test_windows_of_a_pair_cover_both_texts_and_a_short_one_is_whole_in_each(
    counts: tuple[int, int], budget: int, data: st.DataObject
) -> None:
    stride = data.draw(st.just("auto") | st.integers(1, budget // 2))
    settings = TokenSettings(max_length=budget + 3, truncation="windows", stride=stride)
    sequences = truncate(made_up_tokens([counts[0]], [counts[1]]), made_up_template(2), settings, limit=300)
    read: tuple[list[list[int]], list[list[int]]] = ([], [])
    for window in range(sequences.windows[0]):
        ids = sequences.ids(0, window).tolist()
        assert len(ids) == sequences.lengths[0] == min(sum(counts), budget) + 3
        middle = ids.index(-1, 1)
        read[0].append(ids[1:middle])
        read[1].append(ids[middle + 1 : -1])
    for parts, count in zip(read, counts, strict=True):
        assert set().union(*parts) == set(range(count))
        if sum(counts) <= budget or count <= budget // 2:
            assert parts == [list(range(count))] * len(parts)


def test_windows_cut_nothing_and_say_how_many_rows_have_several() -> None:
    settings = TokenSettings(max_length=12, truncation="windows")
    sequences = truncate(made_up_tokens([5, 10, 11, 30, 0]), made_up_template(1), settings, limit=512)
    assert sequences.windows.tolist() == [1, 1, 2, 5, 1]
    assert (sequences.windowed_rows, sequences.truncated_rows, sequences.cut_share) == (2, 0, 0.0)


@pytest.mark.parametrize(("texts", "longest"), [(1, 10), (2, 5)])
def test_a_stride_that_would_leave_tokens_unread_is_refused_with_the_longest(texts: int, longest: int) -> None:
    tokenized, template = made_up_tokens(*[[40]] * texts), made_up_template(texts)
    limit = 10 + template.special_count
    with pytest.raises(SettingsError, match=rf"tokens\.stride is {longest + 1}, .* set it to {longest} or less"):
        truncate(tokenized, template, TokenSettings(truncation="windows", stride=longest + 1), limit)
    truncate(tokenized, template, TokenSettings(truncation="windows", stride=longest), limit)


@pytest.mark.parametrize(("name", "value"), [("stride", 9), ("window_pooling", "max"), ("training_windows", "all")])
def test_settings_of_windows_that_nothing_reads_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name} is used only where truncation is windows"):
        TokenSettings(**{name: value})


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
