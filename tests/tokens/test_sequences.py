"""The way of texts to sequences: what is told of them on it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from leantune.tokens.sequences import count_unknown
from leantune.tokens.tokens import load_tokenizer, tokenize
from small_runs import finish
from tiny_encoders import NAMES

BYTES = ("roberta", "modernbert")
"""Their tokenizers go by bytes, and know everything."""


@pytest.mark.parametrize("name", NAMES)
def test_of_texts_in_another_script_every_token_is_unknown(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Also of the tokenizers that find a word's beginning in it, and fuse what follows into one unknown token."""
    tokenizer = load_tokenizer(str(tiny_encoder_dir(name)))
    columns = pa.array(["한국어 문장", "bakole bakole 한국어", "", "bakole"]), pa.array(["문장", "", "", "문장"])
    unknown, tokens = count_unknown(tokenizer, finish(tokenize(columns, tokenizer, tmp_path)))
    if name in BYTES:
        assert unknown.tolist() == [0, 0, 0, 0]
        assert tokens[0] > 6
    else:
        assert unknown.tolist() == [3, 1, 0, 1]
        assert tokens[[0, 2]].tolist() == [3, 0]
        assert tokens[1] >= 3


def test_a_tokenizer_without_an_unknown_token_knows_everything(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_encoder_dir("modernbert")))
    tokenizer.unk_token = None
    unknown, tokens = count_unknown(tokenizer, finish(tokenize((pa.array(["한국어"]),), tokenizer, tmp_path)))
    assert unknown.tolist() == [0]
    assert tokens.tolist() == [9]
