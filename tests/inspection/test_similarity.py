"""Pairs of texts that are alike are those that a comparison of all with all finds."""

from itertools import combinations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.inspection.similarity import RUN, alike_pairs

WORDS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "猫が", "座る"]), min_size=0, max_size=12)


def runs_of(text: str) -> set[str]:
    plain = " ".join(text.lower().split())
    return {plain[place : place + RUN] for place in range(len(plain) - RUN + 1)}


def jaccard(one: str, other: str) -> float:
    if " ".join(one.lower().split()) == " ".join(other.lower().split()):
        return 1.0
    first, second = runs_of(one), runs_of(other)
    return len(first & second) / len(first | second) if first and second else 0.0


def column(texts: list[str]) -> tuple[pa.Array, ...]:
    return (pa.array(texts, pa.large_string()),)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=12, unique_by=lambda text: " ".join(text.lower().split())))
def test_all_pairs_of_different_texts_that_are_alike_are_found_and_no_others(texts: list[str]) -> None:
    pairs, similarity = alike_pairs(column(texts))
    found = {tuple(pair): worth for pair, worth in zip(pairs.tolist(), similarity.tolist(), strict=True)}
    expected = {
        (i, j): jaccard(texts[i], texts[j])
        for i, j in combinations(range(len(texts)), 2)
        if jaccard(texts[i], texts[j]) >= 0.8
    }
    assert found == pytest.approx(expected)


def test_long_texts_of_which_a_word_was_changed_are_alike() -> None:
    words = [f"word{number}" for number in range(200)]
    changed = [*words[:100], "another", *words[101:]]
    different = [f"other{number}" for number in range(200)]
    pairs, similarity = alike_pairs(column([" ".join(words), " ".join(different), " ".join(changed)]))
    assert pairs.tolist() == [[0, 2]]
    assert similarity[0] == pytest.approx(jaccard(" ".join(words), " ".join(changed)))


def test_copies_are_told_with_the_first_of_them_whatever_their_case_and_blanks() -> None:
    pairs, similarity = alike_pairs(column(["Thank you", "something else", "thank  YOU", "thank you "]))
    assert pairs.tolist() == [[0, 2], [0, 3]]
    assert similarity.tolist() == [1, 1]


def test_of_pairs_of_texts_both_must_be_alike() -> None:
    one = column(["the same first text", "the same first text"])
    other = column(["the same second text", "nothing at all in common"])
    assert len(alike_pairs(one)[0]) == 1
    assert len(alike_pairs((*one, *other))[0]) == 0


@pytest.mark.parametrize("texts", [[""], ["", ""], ["a", "b"], ["abcd", "abce"]])
def test_texts_that_are_too_short_are_like_none_but_their_copies(texts: list[str]) -> None:
    assert len(alike_pairs(column(texts))[0]) == (len(texts) == 2 and texts[0] == texts[1])
