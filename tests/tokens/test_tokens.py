import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoConfig, BertConfig, BertJapaneseTokenizer

from leantune.system.errors import ModelError, SettingsError
from leantune.tokens import tokens
from leantune.tokens.cache import default_cache_dir
from leantune.tokens.tokens import (
    TokenizedTexts,
    TokenizingProgress,
    check_tokenizer,
    load_tokenizer,
    tokenize,
    tokenizer_fingerprint,
)
from tiny_encoders import NAMES, OTHER_SCRIPTS, make_texts

TEXTS = ["", *OTHER_SCRIPTS, *make_texts(20), ""]


@pytest.fixture
def tokenizer(tiny_encoder_dir: Callable[[str], Path]) -> Any:
    return load_tokenizer(str(tiny_encoder_dir("bert")))


@pytest.fixture
def calls(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of texts of each call of the tokenizer from here on."""
    made: list[int] = []
    original = type(tokenizer).__call__

    def counting(self: Any, texts: list[str], **options: Any) -> Any:
        made.append(len(texts))
        return original(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    return made


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were asked for, all in vain."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def run(*columns: Any, tokenizer: Any, **options: Any) -> tuple[TokenizedTexts, list[TokenizingProgress]]:
    """Tokenize to the end; the tokens, and the progress on the way."""
    generator = tokenize(
        tuple(c if isinstance(c, pa.ChunkedArray) else pa.array(c) for c in columns), tokenizer, **options
    )
    progress = []
    while True:
        try:
            progress.append(next(generator))
        except StopIteration as end:
            return end.value, progress


def all_ids(tokenized: TokenizedTexts, text: int = 0) -> list[list[int]]:
    return [tokenized.ids(row, text).tolist() for row in range(len(tokenized.counts[text]))]


def bare_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]


def cache_files() -> list[Path]:
    return sorted((default_cache_dir() / "tokens").iterdir())


# Loading


@pytest.mark.parametrize("name", NAMES)
def test_a_models_own_tokenizer_is_loaded_without_any_connection(
    name: str, tiny_encoder_dir: Callable[[str], Path], no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    folder = tiny_encoder_dir(name)
    check_tokenizer(load_tokenizer(str(folder)), AutoConfig.from_pretrained(folder).vocab_size)
    assert not no_network


def test_offline_a_name_from_the_hub_is_refused_without_any_connection(no_network: list[Any]) -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing'.*It is no folder.*HF_HUB_OFFLINE=1 is set"):
        load_tokenizer("nobody/nothing")
    assert not no_network


def test_a_model_that_is_nearly_called_demo_is_taken_for_a_slip() -> None:
    with pytest.raises(ModelError, match=r"'demmo'.*It is no folder; did you mean demo\?"):
        load_tokenizer("demmo")


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> None:
    folder = shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "broken")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match=r"cannot be loaded.*tokenizer\.json: save_pretrained writes them"):
        load_tokenizer(str(folder))


def test_a_tokenizer_that_comes_as_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"}')
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", null]}}')
    (tmp_path / "own.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(ModelError, match="code that comes with the model, which leantune never runs"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_tokenizer_files_is_refused(
    name: str, tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(tiny_encoder_dir(name) / file, tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        check_tokenizer(load_tokenizer(str(tmp_path)), 1000)


def test_an_embedding_padded_to_a_round_number_is_accepted(tokenizer: Any) -> None:
    check_tokenizer(tokenizer, len(tokenizer) + 24)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tokenizer: Any) -> None:
    rows = len(tokenizer)
    tokenizer.add_tokens(["leantune"])
    with pytest.raises(ModelError, match=f"token ids up to {rows}, but the model's embedding has only {rows} rows"):
        check_tokenizer(tokenizer, rows)


# Fingerprints


def test_the_fingerprint_does_not_depend_on_where_the_tokenizer_lies(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path))) == tokenizer_fingerprint(tokenizer)


def test_the_fingerprint_does_not_depend_on_earlier_calls(tokenizer: Any) -> None:
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(TEXTS, truncation=True, padding="max_length", max_length=8)
    assert tokenizer_fingerprint(tokenizer) == before


def test_the_fingerprint_changes_with_an_added_token(tokenizer: Any) -> None:
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.add_tokens(["leantune"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_the_fingerprints_of_different_tokenizers_differ(tiny_encoders: Path) -> None:
    different = {tokenizer_fingerprint(load_tokenizer(str(tiny_encoders / name))) for name in NAMES}
    assert len(different) == len(NAMES) - 1  # ELECTRA has BERT's own


@pytest.fixture
def written_in_python(tmp_path: Path) -> Callable[..., Any]:
    """Makes a tokenizer without a serialized pipeline, loaded from a folder of the given name."""

    def make(folder: str, characters: str = "東京は雨", **settings: Any) -> Any:
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]), encoding="utf-8")
        made = BertJapaneseTokenizer(str(vocabulary), subword_tokenizer_type="character", **settings)
        made.save_pretrained(tmp_path / folder)
        BertConfig(vocab_size=9).save_pretrained(tmp_path / folder)
        return load_tokenizer(str(tmp_path / folder))

    return make


def test_a_tokenizer_written_in_python_has_the_same_fingerprint_wherever_it_lies(
    written_in_python: Callable[..., Any], tmp_path: Path
) -> None:
    one, same = written_in_python("one"), written_in_python("same")
    in_memory = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), subword_tokenizer_type="character")
    assert not one.is_fast
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) == tokenizer_fingerprint(in_memory)


def test_the_fingerprint_of_a_tokenizer_written_in_python_tells_all_that_decides(
    written_in_python: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = {
        tokenizer_fingerprint(written_in_python("plain")),
        tokenizer_fingerprint(written_in_python("vocabulary", characters="東京は雪")),
        tokenizer_fingerprint(written_in_python("setting", do_lower_case=True)),
    }
    monkeypatch.setattr(tokens.metadata, "version", lambda package: f"another {package}")
    fingerprints.add(tokenizer_fingerprint(written_in_python("segmenter")))
    assert len(fingerprints) == 4


# Tokenizing


def test_texts_are_tokenized_without_special_tokens_and_uncut(tokenizer: Any) -> None:
    texts = [*TEXTS, *make_texts(2, most_words=500)]
    tokenized, _ = run(texts, tokenizer=tokenizer)
    assert all_ids(tokenized) == bare_ids(tokenizer, texts)
    assert tokenized.counts[0].tolist() == [len(ids) for ids in all_ids(tokenized)]
    assert tokenized.counts[0].max() > tokenizer.model_max_length


def test_pairs_are_tokenized_text_by_text(tokenizer: Any) -> None:
    second = TEXTS[::-1]
    tokenized, _ = run(TEXTS, second, tokenizer=tokenizer, rows_per_chunk=7)
    assert all_ids(tokenized, 0) == bare_ids(tokenizer, TEXTS)
    assert all_ids(tokenized, 1) == bare_ids(tokenizer, second)


def test_tokenizers_written_in_python_work_as_well(written_in_python: Callable[..., Any]) -> None:
    tokenizer = written_in_python("tokenizer")
    tokenized, _ = run(["東京は雨", "", "雨 雨"], tokenizer=tokenizer, rows_per_chunk=2)
    assert all_ids(tokenized) == [[5, 6, 7, 8], [], [8, 8]]


@pytest.mark.parametrize("rows_per_chunk", [1, 5, len(TEXTS), 100])
def test_chunks_change_nothing(tokenizer: Any, rows_per_chunk: int) -> None:
    tokenized, progress = run(TEXTS, tokenizer=tokenizer, rows_per_chunk=rows_per_chunk)
    assert all_ids(tokenized) == bare_ids(tokenizer, TEXTS)
    assert [step.rows_done for step in progress] == [*range(rows_per_chunk, len(TEXTS), rows_per_chunk), len(TEXTS)]
    assert {step.rows for step in progress} == {len(TEXTS)}


def test_empty_texts_and_a_table_without_rows_have_no_tokens(tokenizer: Any) -> None:
    assert all_ids(run(["", ""], tokenizer=tokenizer)[0]) == [[], []]
    assert all_ids(run(pa.chunked_array([], pa.string()), tokenizer=tokenizer)[0]) == []


def test_nulls_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="nulls"):
        run(["a", None], tokenizer=tokenizer)


def test_nothing_is_said_about_texts_beyond_the_models_limit(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers")  # does not hand on what it logs
    logger.addHandler(caplog.handler)
    run(make_texts(2, most_words=500), tokenizer=tokenizer)
    logger.removeHandler(caplog.handler)
    assert not caplog.records


# Cache


def test_ids_are_views_into_the_mapped_file(tokenizer: Any) -> None:
    run(TEXTS, tokenizer=tokenizer)
    allocated = pa.total_allocated_bytes()
    tokenized, _ = run(TEXTS, tokenizer=tokenizer)
    ids = tokenized.ids(3)
    assert pa.total_allocated_bytes() == allocated
    assert np.shares_memory(ids, tokenized.values[0][0])
    assert not ids.flags.writeable


def test_a_second_call_reads_the_cache(tokenizer: Any, calls: list[int]) -> None:
    first, _ = run(TEXTS, tokenizer=tokenizer, rows_per_chunk=10)
    assert calls == [10, 10, len(TEXTS) - 20]
    second, progress = run(TEXTS, tokenizer=tokenizer)
    assert len(calls) == 3
    assert progress == []
    assert all_ids(second) == all_ids(first)


def test_how_arrow_lays_out_the_texts_does_not_matter(tokenizer: Any, calls: list[int]) -> None:
    longer = ["other", *TEXTS, "other"]
    no_rows = pa.Array.from_buffers(pa.large_string(), 0, [None, None, pa.py_buffer(b"")])
    for column in (
        pa.chunked_array([TEXTS[:4], TEXTS[4:11], TEXTS[11:]], pa.string()),
        pa.chunked_array([pa.array(longer).slice(1, len(TEXTS))]),
        pa.chunked_array([pa.array(longer, pa.large_string()).slice(1, len(TEXTS)), no_rows]),
    ):
        tokenized, _ = run(column, tokenizer=tokenizer)
        assert all_ids(tokenized) == all_ids(run(TEXTS, tokenizer=tokenizer)[0])
    assert calls == [len(TEXTS)]


@pytest.mark.parametrize("others", [["a", "bc"], ["abc", ""], ["ab", "c", ""], ["ab", "C"], ["c", "ab"]])
def test_other_texts_are_tokenized_anew(tokenizer: Any, others: list[str]) -> None:
    run(["ab", "c"], tokenizer=tokenizer)
    tokenized, progress = run(others, tokenizer=tokenizer)
    assert progress
    assert all_ids(tokenized) == bare_ids(tokenizer, others)


def test_a_pair_is_not_taken_for_the_same_texts_in_a_row(tokenizer: Any) -> None:
    run(["a", "b"], tokenizer=tokenizer)
    tokenized, progress = run(["a"], ["b"], tokenizer=tokenizer)
    assert progress
    assert len(tokenized.counts) == 2


def test_another_tokenizer_tokenizes_anew(tokenizer: Any) -> None:
    before, _ = run(["leantune"], tokenizer=tokenizer)
    tokenizer.add_tokens(["leantune"])
    after, progress = run(["leantune"], tokenizer=tokenizer)
    assert progress
    assert all_ids(after) == [[len(tokenizer) - 1]] != all_ids(before)


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_another_version_of_a_library_tokenizes_anew(
    library: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TEXTS, tokenizer=tokenizer)
    version = tokens.metadata.version
    monkeypatch.setattr(tokens.metadata, "version", lambda name: "999" if name == library else version(name))
    assert run(TEXTS, tokenizer=tokenizer)[1]


def replace_content(path: Path, content: bytes) -> None:
    """A new file in the old one's place: what is mapped must not shrink under the reader."""
    path.unlink()
    path.write_bytes(content)


def test_a_cache_file_cut_anywhere_is_made_again(tokenizer: Any) -> None:
    run(TEXTS, tokenizer=tokenizer, rows_per_chunk=10)
    (path,) = cache_files()
    content = path.read_bytes()
    for length in (0, 1, 8, len(content) // 2, len(content) - 1):
        replace_content(path, content[:length])
        again, progress = run(TEXTS, tokenizer=tokenizer, rows_per_chunk=10)
        assert progress
        assert all_ids(again) == bare_ids(tokenizer, TEXTS)
        assert path.read_bytes() == content


def test_a_flipped_byte_anywhere_in_a_cache_file_never_changes_a_token(tokenizer: Any) -> None:
    texts = TEXTS[:6]
    expected = bare_ids(tokenizer, texts)
    run(texts, tokenizer=tokenizer, rows_per_chunk=4)
    (path,) = cache_files()
    content = path.read_bytes()
    remade = 0
    for place in range(0, len(content), 5):
        replace_content(path, content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        again, progress = run(texts, tokenizer=tokenizer, rows_per_chunk=4)
        assert all_ids(again) == expected, place
        remade += bool(progress)
    assert remade > 100


@pytest.mark.parametrize("others", [(TEXTS[:3],), (TEXTS, TEXTS)], ids=["fewer rows", "pairs"])
def test_a_file_that_cannot_be_of_these_texts_is_made_again(tokenizer: Any, others: tuple[list[str], ...]) -> None:
    run(TEXTS, tokenizer=tokenizer)
    (path,) = cache_files()
    run(*others, tokenizer=tokenizer)
    (other_path,) = set(cache_files()) - {path}
    replace_content(path, other_path.read_bytes())
    again, progress = run(TEXTS, tokenizer=tokenizer)
    assert progress
    assert all_ids(again) == bare_ids(tokenizer, TEXTS)


def test_two_processes_at_once_leave_one_good_file(tokenizer: Any, calls: list[int]) -> None:
    slow = tokenize((pa.array(TEXTS),), tokenizer, rows_per_chunk=10)
    next(slow)
    fast, _ = run(TEXTS, tokenizer=tokenizer, rows_per_chunk=10)
    for _ in slow:
        pass
    assert len(calls) == 6
    assert len(cache_files()) == 1
    again, progress = run(TEXTS, tokenizer=tokenizer)
    assert progress == []
    assert all_ids(again) == all_ids(fast)


def test_a_stop_on_the_way_leaves_nothing_behind(tokenizer: Any) -> None:
    generator = tokenize((pa.array(TEXTS),), tokenizer, rows_per_chunk=10)
    next(generator)
    generator.close()
    assert cache_files() == []


def test_a_cache_that_cannot_be_written_is_done_without(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    tokenized, progress = run(TEXTS, tokenizer=tokenizer, cache_dir=tmp_path / "file")
    assert progress
    assert all_ids(tokenized) == bare_ids(tokenizer, TEXTS)
    assert "not kept for the next run" in caplog.text


def test_the_cache_lies_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LEANTUNE_CACHE")
    assert default_cache_dir() == tmp_path / "xdg" / "leantune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "leantune"


# The limit of the cache


def test_beyond_the_limit_the_least_recently_used_tokens_go_and_those_in_use_stay(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [[f"{number} {text}" for text in TEXTS] for number in range(3)]
    paths = []
    for number, table in enumerate(tables):
        run(table, tokenizer=tokenizer)
        (path,) = set(cache_files()) - set(paths)
        paths.append(path)
        os.utime(path, (0, 1000 + number))
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", str(sum(path.stat().st_size for path in paths[:2])))
    _, progress = run(tables[0], tokenizer=tokenizer)  # now the most recently used one
    assert progress == []
    assert cache_files() == sorted([paths[0], paths[2]])
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", "0")
    tokenized, _ = run(tables[1], tokenizer=tokenizer)
    assert cache_files() == [paths[1]]
    assert all_ids(tokenized) == bare_ids(tokenizer, tables[1])


def test_tokens_that_another_process_removes_are_made_again(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run(TEXTS, tokenizer=tokenizer)
    is_sound = tokens._is_sound

    def removed(path: Path, texts: Any) -> bool:
        found = is_sound(path, texts)
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(tokens, "_is_sound", removed)
    tokenized, _ = run(TEXTS, tokenizer=tokenizer)
    assert all_ids(tokenized) == bare_ids(tokenizer, TEXTS)


def test_a_limit_that_is_no_number_is_refused_before_anything_is_tokenized(
    tokenizer: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", "1e9")
    with pytest.raises(SettingsError, match="LEANTUNE_CACHE_BYTES: found '1e9'"):
        run(TEXTS, tokenizer=tokenizer)
    assert calls == []


# Unknown tokens


def test_occurrences_of_a_token_are_counted_row_by_row_over_chunks_and_texts(tokenizer: Any, tmp_path: Path) -> None:
    texts = ["bakole", "", "bakole bakole", "mi", "bakole mi", ""]
    tokenized, _ = run(texts, texts[::-1], tokenizer=tokenizer, cache_dir=tmp_path, rows_per_chunk=4)
    token = tokenized.ids(0)[0]
    expected = [sum(int((tokenized.ids(row, text) == token).sum()) for text in (0, 1)) for row in range(6)]
    assert tokenized.occurrences(token).tolist() == expected
    assert sum(expected) > 4
