"""The function that every export ships cuts, joins and pads as training does."""

import ast
import json
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.batches.batch import make_batch
from leantune.inference import cut
from leantune.inference.cut_settings import CUT_FILE, make_cut_settings
from leantune.tokens.tokens import TokenizedTexts, load_tokenizer, tokenize_in_memory
from leantune.tokens.truncation import Template, TokenSettings, discover_template, share_of_head, truncate
from leantune.training.prediction import pool_windows
from small_runs import CPU, load_tiny
from tiny_encoders import NAMES, OTHER_SCRIPTS, make_texts

SPECIALS = {1: ([101], [102]), 2: ([101], [102, 102], [103])}
TYPES = {1: [0, 0, 0], 2: [0, 0, 0, 1, 1, 1]}


def as_tokenized(columns: list[list[list[int]]]) -> TokenizedTexts:
    offsets = [np.cumsum([0, *map(len, column)]) for column in columns]
    return TokenizedTexts(
        counts=tuple(np.diff(offset).astype(np.int32) for offset in offsets),
        offsets=tuple((offset,) for offset in offsets),
        values=tuple((np.array([*chain.from_iterable(column)], np.int32),) for column in columns),
        rows_per_chunk=1024,
    )


settings_of_tokens = st.one_of(
    st.builds(TokenSettings, truncation=st.sampled_from(["head", "tail"])),
    st.builds(
        TokenSettings,
        truncation=st.just("head_tail"),
        head_fraction=st.one_of(st.floats(0, 1), st.integers(0, 100).map(lambda percent: percent / 100)),
    ),
    st.builds(TokenSettings, truncation=st.just("windows"), stride=st.one_of(st.just("auto"), st.integers(1, 20))),
)


@given(
    texts=st.integers(1, 2),
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8),
    tokens=settings_of_tokens,
    room=st.integers(0, 40),
)
def test_what_is_kept_of_any_row_is_what_training_keeps(texts, lengths, tokens, room):
    columns = [[list(range(1000 * text, 1000 * text + row[text])) for row in lengths] for text in range(texts)]
    specials = SPECIALS[texts]
    template = Template(
        specials=tuple(np.array(part, np.int32) for part in specials), token_types=np.array(TYPES[texts], np.int32)
    )
    most = template.special_count + texts + room
    if tokens.stride != "auto":
        tokens = tokens.model_copy(update={"stride": min(tokens.stride, (texts + room) // texts)})
    own = truncate(as_tokenized(columns), template, tokens.model_copy(update={"max_length": most}), most)
    settings = {
        "truncation": tokens.truncation,
        "stride": own.stride,
        "max_length": most,
        "head": list(share_of_head(tokens).as_integer_ratio()),
        "special_ids": specials,
        "token_types": TYPES[texts],
        "pad_id": 0,
    }
    assert cut.windows(settings, *columns) == own.windows.tolist()
    for row in range(len(lengths)):
        for window in range(own.windows[row]):
            ids, types = cut.join(settings, cut.cut(settings, [column[row] for column in columns], window))
            assert ids == own.ids(row, window).tolist()
            assert types == own.token_types(row).tolist()


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("name", NAMES)
def test_texts_become_the_inputs_that_training_computes(
    name: str, pair: bool, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    folder = tiny_encoder_dir(name)
    columns = (["", *OTHER_SCRIPTS, *make_texts(4)], [*make_texts(6, seed=1), "", "Bako"])[: 1 + pair]
    tokenizer, encoder = load_tokenizer(str(folder)), load_tiny(folder)
    tokens = TokenSettings(truncation="head_tail", head_fraction=0.29, max_length=19)
    run = SimpleNamespace(
        config=SimpleNamespace(tokens=tokens, data=SimpleNamespace(text_count=1 + pair)), folder=folder
    )
    settings = json.loads(json.dumps(make_cut_settings(run, tokenizer, encoder)))
    inputs = cut.encode(tokenizer, settings, *columns)

    texts = tuple(map(pa.array, columns))
    own = truncate(tokenize_in_memory(texts, tokenizer), discover_template(tokenizer, pair), tokens, 128)
    batch = make_batch(own, np.arange(len(columns[0])), pad_id=encoder.pad_id, padding="longest", device=CPU)
    assert inputs["input_ids"] == batch.input_ids.tolist()
    assert inputs["attention_mask"] == batch.attention_mask.int().tolist()
    if encoder.takes_token_types and batch.token_types is not None:
        assert inputs["token_type_ids"] == batch.token_types.tolist()
    else:
        assert "token_type_ids" not in inputs


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification"])
def test_windows_are_pooled_as_in_prediction(pooling: str, problem: str) -> None:
    windows = np.array([1, 3, 1, 2])
    values = np.random.default_rng(0).random((windows.sum(), 3))
    settings = {"pooling": pooling, "one_class": problem == "single_label_classification"}
    own = pool_windows(values, windows, pooling, SimpleNamespace(problem_type=problem))
    np.testing.assert_allclose(cut.pool(settings, values, windows.tolist()), own, rtol=1e-12)


def test_a_batch_has_an_entry_for_each_window() -> None:
    settings = SINGLE | {"truncation": "windows", "stride": 2, "pad_id": 0}
    inputs = cut.batch(settings, [[7], [3, 4, 5, 6, 7, 8]])
    assert inputs["input_ids"] == [[1, 7, 2, 0, 0], [1, 3, 4, 5, 2], [1, 5, 6, 7, 2], [1, 6, 7, 8, 2]]


def test_the_shipped_file_needs_nothing_but_python() -> None:
    tree = ast.parse(CUT_FILE.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert names <= sys.stdlib_module_names


SINGLE = {"truncation": "head", "max_length": 5, "head": [1, 1], "special_ids": [[1], [2]], "token_types": None}


def test_rows_of_unequal_length_are_refused_where_padding_changes_the_model() -> None:
    settings = SINGLE | {"pad_id": None}
    assert cut.batch(settings, [[7], [8]])["input_ids"] == [[1, 7, 2], [1, 8, 2]]
    with pytest.raises(ValueError, match="rows of equal length"):
        cut.batch(settings, [[7], [8, 9]])


def test_a_pair_for_a_model_of_single_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2 texts a row, expected 1"):
        cut.batch(SINGLE | {"pad_id": 0}, [[7]], [[8]])


def test_settings_of_a_later_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(json.dumps(SINGLE | {"truncation": "spiral"}))
    with pytest.raises(ValueError, match="spiral"):
        cut.read_settings(tmp_path)
