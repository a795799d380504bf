"""Reading tables: every cell as written, and every mistake named by file, row and column."""

import csv
import gzip
import hashlib
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import leantune.tables.readers
from leantune.system.errors import SettingsError, TableError
from leantune.tables.table import DataSettings, Table, data_sha256, parse_numbers, read_table, reading_table

SHARED = Path(__file__).parents[3] / "shared" / "data"
LOOKS_LIKE_SOMETHING = ["NA", "null", "NaN", "None", "", "001", "1.0", "1e5", "True", "2020-01-01", " padded ", "-"]
SUFFIXES = ["", ".gz", ".zst"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [*LOOKS_LIKE_SOMETHING, '"', '""', 'a "quoted" word', "two\nlines", "two\r\nlines", "a,b", "\ufeff", "\x00", "日本"]
)


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, compressed as its name says."""
    data = data.encode() if isinstance(data, str) else data
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def csv_bytes(rows: list[list[str]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode()


def read(path: Path, **columns: object) -> Table:
    return read_table(DataSettings(path=path, **columns))


def problem(path: Path, data: bytes | str, **columns: object) -> str:
    """Write a wrong file and return what reading it says, without the folder's name."""
    with pytest.raises(TableError) as caught:
        read(write(path, data), **columns)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message) < 600
    return message.replace(str(path), path.name)


# What is read


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(cells=st.lists(texts, min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_texts_written_by_the_csv_module_come_back(suffix, cells, tmp_path_factory):
    rows = [["before", "text", "target"], *([str(row), cell, f"t{row}"] for row, cell in enumerate(cells))]
    path = write(tmp_path_factory.mktemp("csv") / f"rows.csv{suffix}", csv_bytes(rows))

    table = read(path, text="text", target="target")

    assert table.texts[0].to_pylist() == cells
    assert table.targets["target"].to_pylist() == [f"t{row}" for row in range(len(cells))]


@given(cells=st.lists(texts, min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_texts_in_an_only_column_come_back(cells, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("csv") / "rows.csv", csv_bytes([["text"], *([cell] for cell in cells)]))

    assert read(path, text="text").texts[0].to_pylist() == cells


@given(cells=st.lists(texts, min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_texts_in_the_last_column_of_a_tsv_come_back(cells, tmp_path_factory):
    rows = [["n", "text"], *([str(row), cell] for row, cell in enumerate(cells))]
    path = write(tmp_path_factory.mktemp("tsv") / "rows.tsv", csv_bytes(rows, "\t"))

    assert read(path, text="text").texts[0].to_pylist() == cells


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(cells=st.lists(texts, min_size=1), ascii_only=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_texts_written_as_json_lines_come_back(suffix, cells, ascii_only, tmp_path_factory):
    lines = (json.dumps({"text": cell, "other": [1, {"a": None}]}, ensure_ascii=ascii_only) for cell in cells)
    path = write(tmp_path_factory.mktemp("json") / f"rows.jsonl{suffix}", "\n".join(lines))

    assert read(path, text="text").texts[0].to_pylist() == cells


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(cells=st.lists(texts, min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_texts_written_as_parquet_come_back(suffix, cells, tmp_path_factory):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": cells, "other": [[1]] * len(cells)}), file)
    path = write(tmp_path_factory.mktemp("parquet") / f"rows.parquet{suffix}", file.getvalue())

    assert read(path, text="text").texts[0].to_pylist() == cells


def test_csv_reads_as_pandas_does_when_told_to_change_nothing(tmp_path):
    content = 'id,text,y\r\n007,"a, ""b""\r\nc",1.50\r\n\r\n008,NA,2\r\n009,it\'s 5" wide,3\r\n'
    path = write(tmp_path / "rows.csv", content)
    expected = pd.read_csv(path, dtype=str, keep_default_na=False)

    table = read(path, text="text", target="y", id="id")

    assert table.texts[0].to_pylist() == expected["text"].tolist()
    assert table.targets["y"].to_pylist() == expected["y"].tolist()
    assert table.ids.to_pylist() == expected["id"].tolist() == ["007", "008", "009"]


def test_rows_are_numbered_from_0_where_no_id_is_named(tmp_path):
    assert read(write(tmp_path / "rows.csv", "text\na\nb\nc\n"), text="text").ids.to_pylist() == ["0", "1", "2"]


def test_a_pair_of_texts_is_two_arrays(tmp_path):
    table = read(write(tmp_path / "rows.csv", "b,a\n1,2\n3,4\n"), text=["a", "b"])

    assert [column.to_pylist() for column in table.texts] == [["2", "4"], ["1", "3"]]


def test_groups_weights_and_folds_come_with_the_rows(tmp_path):
    path = write(tmp_path / "rows.csv", "text,author,w,f\na,x,0.5,1\nb,y,0, 0\nc,x,2,1.0\n")

    table = read(path, text="text", group="author", weight="w", fold="f")

    assert len(table) == 3
    assert table.groups.to_pylist() == ["x", "y", "x"]
    assert table.weights.tolist() == [0.5, 0.0, 2.0]
    assert table.folds.tolist() == [1, 0, 1]
    assert table.folds.dtype == np.int64


def test_what_is_not_named_is_not_there(tmp_path):
    table = read(write(tmp_path / "rows.csv", "text\na\n"), text="text")

    assert (table.targets, table.groups, table.weights, table.folds) == ({}, None, None, None)


def test_targets_can_be_read_without_texts(tmp_path):
    table = read(write(tmp_path / "rows.csv", "text,y\na,1\nb,2\n"), target="y")

    assert table.texts == ()
    assert len(table) == 2


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    assert read(write(tmp_path / "rows.csv", '\ufeff"text"\na\n'), text="text").texts[0].to_pylist() == ["a"]
    assert read(write(tmp_path / "rows.jsonl", '\ufeff{"text": "a"}\n'), text="text").texts[0].to_pylist() == ["a"]


@pytest.mark.parametrize("encoding", ["cp932", "utf-16", "euc_jp", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_other_encodings_are_read_when_named(encoding, suffix, tmp_path):
    content = "id,文\n1,表示ソ\n" if suffix == ".csv" else '{"文": "表示ソ"}\n'
    path = write(tmp_path / f"rows{suffix}", content.encode(encoding))

    assert read(path, text="文", encoding=encoding).texts[0].to_pylist() == ["表示ソ"]


def test_another_delimiter_is_read_when_named(tmp_path):
    path = write(tmp_path / "rows.csv", "text;y\na,b;1\n")

    assert read(path, text="text", delimiter=";").texts[0].to_pylist() == ["a,b"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_limit_keeps_the_first_rows(limit, suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a", "b", "c"]}), path)
    else:
        write(path, "text\na\nb\nc\n" if suffix == ".csv" else '{"text": "a"}\n{"text": "b"}\n\n{"text": "c"}\n')

    assert read(path, text="text", limit=limit).texts[0].to_pylist() == ["a", "b", "c"][:limit]


def test_a_table_of_many_chunks_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(leantune.tables.readers, "_CHUNK_ROWS", 100)
    cells = [f"row {row},\n{'x' * (row % 50)}" for row in range(2000)]
    path = write(tmp_path / "rows.csv", csv_bytes([["n", "text"], *([str(n), cell] for n, cell in enumerate(cells))]))

    assert read(path, text="text").texts[0].to_pylist() == cells
    assert read(path, text="text", limit=1234).texts[0].to_pylist() == cells[:1234]


def test_a_text_as_long_as_a_book_is_read(tmp_path):
    book = "word " * 100_000

    assert read(write(tmp_path / "rows.csv", csv_bytes([["text"], [book]])), text="text").texts[0].to_pylist() == [book]


def test_a_quote_inside_a_text_that_is_not_quoted_is_text(tmp_path):
    path = write(tmp_path / "rows.tsv", 'text\ty\n5" wide "x"\t1\n')

    assert read(path, text="text").texts[0].to_pylist() == ['5" wide "x"']


def test_gzip_and_zstandard_files_of_several_members_are_read_whole(tmp_path):
    parts = [b"text\na\n", b"b\n"]
    gz, zst = tmp_path / "rows.csv.gz", tmp_path / "rows.csv.zst"
    gz.write_bytes(b"".join(map(gzip.compress, parts)))
    zst.write_bytes(b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in parts))

    for path in (gz, zst):
        assert read(path, text="text").texts[0].to_pylist() == ["a", "b"]


def test_names_of_files_may_be_in_capitals(tmp_path):
    assert len(read(write(tmp_path / "ROWS.CSV", "text\na\n"), text="text")) == 1
    write(tmp_path / "rows.csv.gz", "text\na\n").rename(tmp_path / "ROWS.CSV.GZ")
    assert len(read(tmp_path / "ROWS.CSV.GZ", text="text")) == 1


def test_json_numbers_stay_as_written_and_booleans_are_words(tmp_path):
    values = ["1.0", "0", "-1E5", "123456789012345678901234567890", "0.10", "true", "false", '"true"']
    path = write(tmp_path / "rows.jsonl", "\n".join(f'{{"text": "a", "y": {value}}}' for value in values))

    assert read(path, target="y").targets["y"].to_pylist() == [*values[:-1], "true"]


def test_blank_lines_in_json_lines_are_no_rows(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\r\n\r\n{"text": "b"}\r\n\n  \n')

    assert read(path, text="text").texts[0].to_pylist() == ["a", "b"]


def test_parquet_scalars_of_any_type_become_text(tmp_path):
    frame = pd.DataFrame(
        {
            "id": [10**18 + 1, 2],
            "flag": [True, False],
            "label": pd.Categorical(["no", "yes"]),
            "score": [1.0, 0.1],
            "half": np.array([3.0, 0.1], np.float32),
            "day": pd.to_datetime(["2020-01-02", "2021-01-01"]).date,
        }
    )
    frame.to_parquet(tmp_path / "rows.parquet")

    table = read(tmp_path / "rows.parquet", target=["flag", "label", "score", "half", "day"], id="id")

    assert table.ids.to_pylist() == ["1000000000000000001", "2"]
    assert {name: cells.to_pylist() for name, cells in table.targets.items()} == {
        "flag": ["true", "false"],
        "label": ["no", "yes"],
        "score": ["1.0", "0.1"],
        "half": ["3.0", "0.1"],
        "day": ["2020-01-02", "2021-01-01"],
    }


@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
@settings(max_examples=40, deadline=None)
def test_parquet_floats_come_back_to_the_last_bit(numbers, tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    pq.write_table(pa.table({"y": pa.array(numbers, pa.float64())}), path)

    cells = read(path, target="y").targets["y"]

    assert parse_numbers(path, "y", cells).tolist() == numbers


# Which file


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"nowhere\.csv: found no readable file .*No such file.*data\.path"):
        read(tmp_path / "nowhere.csv", text="text")


def test_a_folder_without_parts_is_no_table(tmp_path):
    with pytest.raises(TableError, match=r"found a folder without Parquet files.*set data\.path"):
        read(tmp_path, text="text")


@pytest.mark.parametrize("name", ["rows.xls", "rows", "rows.gz", "rows.csv.bz2"])
def test_an_unknown_file_name_lists_the_known_ones(name, tmp_path):
    assert ".csv, .tsv, .jsonl, .ndjson, .json, .parquet" in problem(tmp_path / name, "text\na\n", text="text")


@pytest.mark.parametrize("content", ["", "\n\r\n", "\ufeff"])
def test_an_empty_csv_file_is_called_empty(content, tmp_path):
    assert "found an empty file" in problem(tmp_path / "rows.csv", content, text="text")


@pytest.mark.parametrize("content", ["text,y", "text,y\n", '"text",y\r\n\r\n'])
def test_a_header_without_rows_is_called_so(content, tmp_path):
    assert "found no rows" in problem(tmp_path / "rows.csv", content, text="text")


def test_json_lines_and_parquet_without_rows_are_called_so(tmp_path):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)

    assert "found no rows" in problem(tmp_path / "rows.jsonl", "\n\n", text="text")
    assert "found no rows" in problem(tmp_path / "rows.parquet", file.getvalue(), text="text")


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.zst", ".jsonl.gz", ".parquet.gz"])
@pytest.mark.parametrize("damage", ["cut off", "not compressed"])
def test_a_damaged_compressed_file_is_no_traceback(suffix, damage, tmp_path):
    content = b"text\n" + np.random.default_rng(0).bytes(5000).hex().encode()
    path = write(tmp_path / f"rows{suffix}", content)
    path.write_bytes(path.read_bytes()[:2000] if damage == "cut off" else content)

    with pytest.raises(TableError, match=r"rows\.\S+: found .*, expected .*a whole (gzip|zstd) file"):
        read(path, text="text")


def test_a_damaged_parquet_file_is_no_traceback(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["some text", "more"]}), path, compression="none")
    whole = path.read_bytes()

    for damaged in (b"", b"PAR1", whole[:-20], whole[:4] + b"\xff" * 20 + whole[24:]):
        assert "expected a whole Parquet file" in problem(path, damaged, text="text")


def test_no_named_column_is_a_mistake_in_the_settings(tmp_path):
    with pytest.raises(SettingsError, match=r"data\.text"):
        read(write(tmp_path / "rows.csv", "text\na\n"))


# Which column


@pytest.mark.parametrize(
    ("name", "content"), [("rows.csv", "id,excerpt,y\n1,a,2\n"), ("rows.jsonl", '{"id": 1, "excerpt": "a", "y": 2}')]
)
def test_a_missing_column_lists_the_columns_and_the_nearest(name, content, tmp_path):
    message = problem(tmp_path / name, content, text="EXERPT")

    assert "found no column 'EXERPT', expected one of 'id', 'excerpt', 'y'" in message
    assert "did you mean 'excerpt'?" in message


def test_a_missing_parquet_column_lists_the_columns(tmp_path):
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "rows.parquet")

    with pytest.raises(TableError, match="found no column 'text', expected one of 'a', 'b'"):
        read(tmp_path / "rows.parquet", text="text")


def test_a_header_in_one_piece_suggests_the_delimiter(tmp_path):
    assert "data.delimiter" in problem(tmp_path / "rows.csv", "text;y\na;1\n", text="text")


def test_a_header_in_another_encoding_suggests_the_encoding(tmp_path):
    for encoding in ("cp932", "utf-16"):
        assert "data.encoding" in problem(tmp_path / "rows.csv", "文,点\nあ,1\n".encode(encoding), text="文")
    assert "data.encoding" in problem(tmp_path / "rows.csv", "text,y\na,1\n".encode("utf-16-le"), text="text")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_needed_column_that_is_there_twice_is_refused(suffix, tmp_path):
    content = io.BytesIO(b"text,y,text\na,1,b\n")
    if suffix == ".parquet":
        content = io.BytesIO()
        pq.write_table(pa.table([["a"], ["1"], ["b"]], names=["text", "y", "text"]), content)

    assert "found 2 columns named 'text', expected one" in problem(
        tmp_path / f"rows{suffix}", content.getvalue(), text="text"
    )


def test_other_columns_may_be_there_twice(tmp_path):
    assert read(write(tmp_path / "rows.csv", "text,y,y\na,1,2\n"), text="text").texts[0].to_pylist() == ["a"]


def test_nested_parquet_columns_are_refused_when_needed(tmp_path):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), file)

    assert "column 'text': found the type list" in problem(tmp_path / "rows.parquet", file.getvalue(), text="text")


# Which row


@pytest.mark.parametrize(("row", "found"), [("3", "1 field ('3')"), ("3,4,5", "3 fields ('3', '4', '5')")])
def test_a_row_with_too_few_or_too_many_fields_is_named(row, found, tmp_path):
    message = problem(tmp_path / "rows.csv", f'text,y\n"a\nb",2\n\n{row}\n5,6\n', text="text")

    assert f"rows.csv, row 2: found {found}, expected 2 as in the header" in message


def test_a_wrong_row_far_into_the_file_has_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(leantune.tables.readers, "_CHUNK_ROWS", 100)
    before, after = "a,1\n" * 4999, "a,1\n" * 99

    assert "row 5000: found 1 field (" in problem(tmp_path / "rows.csv", f"text,y\n{before}a\n{after}", text="text")
    assert "row 5000, column 'text': found" in problem(
        tmp_path / "rows.csv", f"text,y\n{before}\xff,1\n{after}".encode("latin-1"), text="text"
    )


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nc,3\n", "\nc,3"])
def test_a_quote_that_is_never_closed_swallows_no_rows(end, tmp_path):
    message = problem(tmp_path / "rows.csv", f'text,y\na,1\nb,"2{end}', text="text")

    assert "row 2: found a quote that is never closed" in message


@pytest.mark.parametrize("rows", ['"Hello, he said.\t1\nb\t2\n"Bye\t3\n', 'a\t1\n"b" c\t2\n'])
def test_a_stray_quote_swallows_no_rows(rows, tmp_path):
    message = problem(tmp_path / "rows.tsv", f"text\ty\n{rows}", text="text")

    assert ": found a stray quote" in message
    assert "write that quote twice" in message


def test_an_unclosed_quote_in_the_header_is_named(tmp_path):
    message = problem(tmp_path / "rows.csv", 'text,"y\na,1\n', text="text")

    assert "rows.csv, header: found a quote that is never closed" in message


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "ascii"])
def test_bytes_of_another_encoding_are_named_by_row_and_column(encoding, tmp_path):
    content = b"y,text\n1,fine\n2,\x81\xff\n"

    message = problem(tmp_path / "rows.csv", content, text="text", encoding=encoding)

    assert "row 2, column 'text': found '\\udc81" in message
    assert f"expected text in {encoding}" in message
    assert "data.encoding" in message


def test_bytes_of_another_encoding_in_json_lines_are_named_by_row_and_column(tmp_path):
    content = '{"text": "a"}\n{"text": "文"}\n'.encode("cp932")

    assert "row 2, column 'text': found '\\udc95" in problem(tmp_path / "rows.jsonl", content, text="text")


def test_bytes_of_another_encoding_that_break_the_json_are_not_called_wrong_json(tmp_path):
    content = '{"text": "a"}\n{"text": "ソ"}\n'.encode("cp932")

    assert "row 2: found bytes, expected text in utf-8" in problem(tmp_path / "rows.jsonl", content, text="text")


def test_half_a_surrogate_pair_in_json_lines_is_no_text(tmp_path):
    assert r"row 1, column 'text': found '\ud83d'" in problem(
        tmp_path / "rows.jsonl", r'{"text": "\ud83d"}', text="text"
    )


def test_a_file_cut_off_inside_a_character_is_no_text(tmp_path):
    content = "text\na\n".encode("utf-16")[:-1]

    assert "expected text in utf-16" in problem(tmp_path / "rows.csv", content, text="text", encoding="utf-16")


def test_bytes_of_another_encoding_do_no_harm_in_other_columns(tmp_path):
    path = write(tmp_path / "rows.csv", b"text,\xff\na,\xff\n")

    assert read(path, text="text").texts[0].to_pylist() == ["a"]


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        '{"text": "b"',
        '{"text": "b"} {"text": "c"}',
        '["b"]',
        '"b"',
        "1",
        "null",
        '{"text": "b", "text": "c"}',
        '{"text": "b", "other": {"x": 1, "x": 2}}',
        '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_a_line_that_is_no_json_object_is_named(line, tmp_path):
    message = problem(tmp_path / "rows.jsonl", f'{{"text": "a"}}\n\n{line}\n', text="text")

    assert "rows.jsonl, row 2: found" in message
    assert "expected one JSON object on a line of its own" in message


def test_a_key_that_stands_twice_is_named(tmp_path):
    assert "the key 'y' stands twice" in problem(tmp_path / "rows.jsonl", '{"text": "a", "y": 1, "y": 1}', text="text")


@pytest.mark.parametrize("value", ["[1]", "{}", "null", "NaN"])
def test_json_cells_that_are_no_scalars_are_named(value, tmp_path):
    message = problem(tmp_path / "rows.jsonl", f'{{"text": "a"}}\n{{"text": {value}}}\n', text="text")

    assert "row 2, column 'text': found" in message


def test_a_key_missing_in_one_line_is_named(tmp_path):
    message = problem(tmp_path / "rows.jsonl", '{"text": "a", "y": 1}\n{"text": "b"}\n', text="text", target="y")

    assert "row 2, column 'y': found nothing, expected a value" in message


def test_parquet_nulls_are_named_by_row_and_column(tmp_path):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b", None], "y": [1.0, math.nan, None]}), file)

    assert "row 3, column 'text': found nothing" in problem(tmp_path / "a.parquet", file.getvalue(), text="text")
    assert "row 2, column 'y': found nothing" in problem(tmp_path / "b.parquet", file.getvalue(), target="y")


@pytest.mark.parametrize("role", ["target", "id", "group", "weight", "fold"])
@pytest.mark.parametrize("cell", ["", "  "])
def test_only_texts_may_be_empty(role, cell, tmp_path):
    message = problem(tmp_path / "rows.csv", f"text,other\n,1\nb,{cell}\n", text="text", **{role: "other"})

    assert f"row 2, column 'other': found {cell!r}, expected a value" in message


def test_an_id_that_two_rows_share_names_both(tmp_path):
    message = problem(tmp_path / "rows.csv", "text,id\na,x\nb,y\nc,x\n", text="text", id="id")

    assert "row 3, column 'id': found 'x', expected another id than that of row 1" in message


def test_ids_that_differ_only_as_text_are_not_the_same(tmp_path):
    assert read(write(tmp_path / "rows.csv", "id\n1\n01\n1.0\n"), id="id").ids.to_pylist() == ["1", "01", "1.0"]


@pytest.mark.parametrize(
    ("role", "cell", "expected"),
    [
        ("weight", "-0.5", "a weight of 0 or more"),
        ("weight", "heavy", "a number"),
        ("weight", "inf", "a number"),
        ("fold", "-1", "the number of a fold"),
        ("fold", "1.5", "the number of a fold"),
        ("fold", "1e300", "the number of a fold"),
        ("fold", "a", "the number of a fold: a whole number from 0, as in other rows"),
    ],
)
def test_weights_and_folds_that_cannot_be_are_named(role, cell, expected, tmp_path):
    message = problem(tmp_path / "rows.csv", f"text,other\na,1\nb,{cell}\n", text="text", **{role: "other"})

    assert f"row 2, column 'other': found '{cell}', expected {expected}" in message


def test_weights_that_are_all_0_are_refused(tmp_path):
    assert "only weights of 0" in problem(tmp_path / "rows.csv", "text,w\na,0\nb,0.0\n", text="text", weight="w")


def test_a_long_cell_is_cut_in_the_message(tmp_path):
    assert "x" * 61 not in problem(tmp_path / "rows.csv", f"text,w\na,{'x' * 9999}\n", text="text", weight="w")


# Numbers


@given(
    cells=st.lists(
        st.from_regex(r"[ \t\n]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?[ \r\n]*", fullmatch=True),
        min_size=1,
    )
)
@settings(deadline=None)
def test_decimal_literals_are_the_numbers_that_python_reads(cells):
    assert parse_numbers(Path("x.csv"), "y", pa.array(cells)).tolist() == [float(cell) for cell in cells]


@given(cell=st.text("0123456789+-.eE_, ndinfax\n", max_size=8))
@settings(max_examples=500, deadline=None)
def test_a_cell_is_a_number_where_python_says_so_too(cell):
    try:
        expected = math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        expected = False

    if expected:
        assert parse_numbers(Path("x.csv"), "y", pa.array([cell])).tolist() == [float(cell)]
    else:
        with pytest.raises(TableError):
            parse_numbers(Path("x.csv"), "y", pa.array([cell]))


REFUSED = ["nan", "NaN", "inf", "-Infinity", "1_000", "1,5", "", " ", "0x10", "1e400", "１", "1 2", "1\n2", "1.2.3"]


@pytest.mark.parametrize("cell", [*REFUSED, "--1", "+", ".", "e5"])
def test_anything_but_a_decimal_literal_is_refused_at_its_first_row(cell):
    with pytest.raises(TableError) as caught:
        parse_numbers(Path("x.csv"), "y", pa.array(["1", "2.5", cell, "worse"]))

    assert str(caught.value).startswith(f"x.csv, row 3, column 'y': found {cell!r}, expected a number such as")


def test_whitespace_around_a_number_is_fine():
    cells = pa.array([" 1", "2\t", "\n3\r\n", "\u30004\xa0"])

    assert parse_numbers(Path("x.csv"), "y", cells).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_numbers_of_no_rows_are_none():
    assert parse_numbers(Path("x.csv"), "y", pa.array([], pa.string())).tolist() == []


def test_the_largest_and_smallest_numbers_are_exact():
    cells = [repr(sys.float_info.max), repr(-sys.float_info.max), "5e-324", "0.1", "9007199254740993"]

    assert parse_numbers(Path("x.csv"), "y", pa.array(cells)).tolist() == [float(cell) for cell in cells]


# Settings


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"text": ["a", "b", "c"]}, "one text or a pair"),
        ({"text": "a", "target": "a"}, "twice"),
        ({"text": ["a", "a"]}, "twice"),
        ({"target": ["a", "a"]}, "twice"),
        ({"encoding": "klingon"}, "no text encoding"),
        ({"encoding": "base64"}, "no text encoding"),
        ({"delimiter": ""}, "one ASCII character"),
        ({"delimiter": "\\t"}, "one ASCII character"),
        ({"delimiter": '"'}, "one ASCII character"),
        ({"delimiter": "、"}, "one ASCII character"),
        ({"path": "rows.jsonl", "delimiter": ","}, "only for CSV"),
        ({"path": "rows.parquet.gz", "delimiter": ","}, "only for CSV"),
        ({"path": "rows.parquet", "encoding": "cp932"}, "not used for Parquet"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"task": "ranking"}, "regression"),
        ({"texts": "a"}, "texts"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        DataSettings(**{"path": "rows.csv", **wrong})


def test_settings_come_back_from_their_own_dump():
    given_settings = DataSettings(path="rows.parquet", text="a", target=["b", "c"], limit=5)

    assert DataSettings.model_validate(given_settings.model_dump(mode="json")) == given_settings


# Real tables


@pytest.mark.parametrize(
    ("name", "rows", "text", "target", "columns"),
    [
        ("commonlit/train.csv", 3987, ["excerpt"], ["target"], {"id": "id"}),
        ("commonlit/test.csv", 737, ["excerpt"], [], {"id": "id"}),
        ("emobank/train.csv", 8062, ["text"], ["V", "A", "D"], {"id": "id"}),
        ("onestop/onestop.csv", 378, ["text"], ["level"], {"group": "article"}),
        ("banking77/train.csv", 10003, ["text"], ["category"], {}),
        ("goemotions/dev.csv", 5426, ["text"], ["joy", "neutral"], {"id": "id"}),
        ("stsb/train.csv", 5749, ["sentence1", "sentence2"], ["score"], {}),
        ("jcola/in_domain_train.tsv", 6919, ["sentence"], ["label"], {}),
        ("jsts/train.jsonl", 12451, ["sentence1", "sentence2"], ["label"], {"id": "sentence_pair_id"}),
    ],
)
def test_real_tables_read_as_the_standard_library_reads_them(name, rows, text, target, columns):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with path.open(newline="", encoding="utf-8") as file:
        if name.endswith(".jsonl"):
            expected = [{key: str(value) for key, value in json.loads(line).items()} for line in file]
        else:
            expected = list(csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ","))

    table = read(path, text=text, target=target, **columns)

    assert len(table) == len(expected) == rows
    for column, cells in zip(text + target, (*table.texts, *table.targets.values()), strict=True):
        assert cells.to_pylist() == [row[column] for row in expected]
    if "id" in columns:
        assert table.ids.to_pylist() == [row[columns["id"]] for row in expected]


# A file of rows that validate


def two_files(folder: Path, train: str, validation: str) -> dict[str, Path]:
    return {"path": write(folder / "train.csv", train), "validation": write(folder / "valid.tsv", validation)}


def test_the_rows_of_a_validation_file_come_after_those_that_train_and_are_fold_0(tmp_path):
    files = two_files(tmp_path, "y,text,w,n\n1,a,2,x\n2,b,0,y\n3,c,1,z\n", "n\tw\ttext\ty\nx\t0\tc,d\t4\nu\t5\te\t5\n")

    table = read_table(DataSettings(**files, text="text", target="y", weight="w", id="n"))

    assert table.texts[0].to_pylist() == ["a", "b", "c", "c,d", "e"]
    assert table.targets["y"].to_pylist() == ["1", "2", "3", "4", "5"]
    assert table.ids.to_pylist() == ["x", "y", "z", "x", "u"]
    assert table.weights.tolist() == [2, 0, 1, 0, 5]
    assert table.folds.tolist() == [1, 1, 1, 0, 0]
    assert table.holdout
    assert table.row_numbers.tolist() == [0, 1, 2, 0, 1]
    assert table.describe_place(2) == f"{files['path']}, row 3"
    assert table.describe_place(3) == f"{files['validation']}, row 1"


def test_default_ids_number_each_file_and_a_limit_cuts_each(tmp_path):
    files = two_files(tmp_path, "text\na\nb\nc\n", "text\nd\ne\nf\n")

    table = read_table(DataSettings(**files, text="text", limit=2))

    assert table.texts[0].to_pylist() == ["a", "b", "d", "e"]
    assert table.ids.to_pylist() == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ("text,y,n\na,1,i\nb,2,j\n", "text\ty\na\t1\n", "valid.tsv: found no column 'n'"),
        ("text,y,n\na,1,i\nb,2,j\n", "text\ty\tn\na\t1\tk\nb\t\tl\n", "valid.tsv, row 2, column 'y': found ''"),
        ("text,y,n\na,1,i\nb,2,j\n", "text\ty\tn\na\t1\tk\nb\t2\tk\n", "valid.tsv, row 2, column 'n': found 'k'"),
        ("text,y,n\na,1,i\nb,2,i\n", "text\ty\tn\na\t1\tk\nb\t2\tk\n", "train.csv, row 2, column 'n': found 'i'"),
        ("text,y,n\na,1,i\nb,2,j\n", "text\ty\tn\n", "valid.tsv: found no rows"),
    ],
)
def test_what_is_wrong_names_the_file_that_it_is_in(train, validation, message, tmp_path):
    files = two_files(tmp_path, train, validation)
    with pytest.raises(TableError) as caught:
        read_table(DataSettings(**files, text="text", target="y", id="n"))
    assert message in str(caught.value)


def test_a_validation_file_that_is_not_there_is_named_with_its_setting(tmp_path):
    train = write(tmp_path / "train.csv", "text\na\n")
    for file, advice in (
        (tmp_path / "none.csv", r"correct the path \(data.validation\)"),
        (tmp_path, "set data.validation to"),
    ):
        with pytest.raises(TableError, match=advice):
            read_table(DataSettings(path=train, validation=file, text="text"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fold": "part"}, "validation: not used where fold"),
        ({"group": "author"}, "group: not used where validation"),
        (
            {"encoding": "cp932"},
            "encoding is not used for Parquet, Arrow and Excel, and the file is a.parquet and b.parquet",
        ),
    ],
)
def test_settings_that_a_validation_file_makes_meaningless_are_refused(more, message):
    with pytest.raises(ValidationError, match=message):
        DataSettings(path="a.parquet", validation="b.parquet", **more)


def test_the_digest_of_one_file_is_its_own_and_that_of_two_tells_them_apart(tmp_path):
    one, other = (write(tmp_path / f"{name}.csv", f"text\n{name}\n") for name in "ab")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (one, other)]
    assert data_sha256(DataSettings(path=one)) == digests[0]
    both = hashlib.sha256(f"{digests[0]}\n{digests[1]}\n".encode()).hexdigest()
    assert data_sha256(DataSettings(path=one, validation=other)) == both
    assert data_sha256(DataSettings(path=other, validation=one)) != both


# A column that says which rows validate


@pytest.mark.parametrize("training", ["train", "Training", " TRAIN "])
@pytest.mark.parametrize("validation", ["valid", "validation", "Val", "dev ", "TEST"])
def test_two_names_tell_the_rows_that_train_from_those_that_validate(training, validation, tmp_path):
    path = write(tmp_path / "rows.csv", f"text,split\na,{training}\nb,{validation}\nc,{training}\n")
    table = read(path, text="text", fold="split")
    assert table.folds.tolist() == [1, 0, 1]
    assert table.holdout
    assert table.row_numbers.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["train", "holdout"], "row 2, column 'split': found 'holdout', expected the number of a fold (a whole number"),
        (
            ["train", "train"],
            "column 'split': found 'train', expected two names: train or training for rows that train",
        ),
        (["dev", "dev"], "found 'dev', expected two names"),
        (["train", "valid", "test"], "found 'test', 'train', 'valid', expected two names"),
        (["valid", "test"], "found 'test', 'valid', expected two names"),
        (["train", "0"], "row 1, column 'split': found 'train', expected the number of a fold"),
    ],
)
def test_other_names_in_the_column_of_folds_are_refused_with_what_is_allowed(cells, message, tmp_path):
    rows = "".join(f"a,{cell}\n" for cell in cells)
    said = problem(tmp_path / "rows.csv", f"text,split\n{rows}", text="text", fold="split")
    assert message in said
    if "two names" in message or "holdout" in message:
        assert "valid, validation, val, dev or test for rows that validate" in said


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.csv.zst", "rows.csv.zip", "rows.jsonl"])
def test_reading_tells_how_far_it_has_come(name, tmp_path):
    frame = pd.DataFrame({"text": [f"text {row} {row * 7919 % 1013}" for row in range(45_000)]})
    if name.endswith(".jsonl"):
        frame.to_json(tmp_path / name, orient="records", lines=True)
    elif name.endswith(".zst"):
        with pa.output_stream(str(tmp_path / name), compression="zstd") as stream:
            stream.write(frame.to_csv(index=False).encode())
    else:
        frame.to_csv(tmp_path / name, index=False)

    steps = list(reading_table(DataSettings(path=tmp_path / name, text="text")))

    assert [step.rows for step in steps] == [10_000, 20_000, 30_000, 40_000, 45_000]
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.9
    assert shares[-1] > 0.99
