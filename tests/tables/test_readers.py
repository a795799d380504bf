"""Blocks of rows are the rows of the whole table, and are read when they are asked for."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.system.errors import TableError
from leantune.tables.readers import ReadOptions, read_blocks, read_cells, read_column_names

NAMES = ["id", "text"]
IDS = [str(number) for number in range(23)]
TEXTS = [f"text {number}" for number in range(23)]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        table = pa.table({"more": range(23), "id": IDS, "text": TEXTS})
        pq.write_table(table, path, row_group_size=7)  # which no block ends with
        return path
    if suffix.startswith(".jsonl"):
        lines = [f'{{"more": {number}, "id": "{number}", "text": "text {number}"}}' for number in range(23)]
    else:
        between = "\t" if suffix == ".tsv" else ","
        rows = [["more", *NAMES], *([one, one, text] for one, text in zip(IDS, TEXTS, strict=True))]
        lines = [between.join(row) for row in rows]
    content = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
@pytest.mark.parametrize("rows", [1, 5, 10, 23, 100])
def test_blocks_have_as_many_rows_as_asked_for_and_are_the_whole_table(suffix: str, rows: int, tmp_path: Path) -> None:
    path = write(tmp_path, suffix)
    blocks = list(read_blocks(path, NAMES, ReadOptions(), rows=rows))
    sizes = [len(block["id"]) for block in blocks]
    assert sizes[:-1] == [rows] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= rows
    whole = read_cells(path, NAMES, ReadOptions())
    for name, expected in (("id", IDS), ("text", TEXTS)):
        assert [cell for block in blocks for cell in block[name].to_pylist()] == expected
        assert whole[name].to_pylist() == expected
        assert all(block[name].type == pa.large_string() for block in blocks)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("limit", [1, 10, 12, 50])
def test_a_limit_ends_the_blocks(suffix: str, limit: int, tmp_path: Path) -> None:
    blocks = read_blocks(write(tmp_path, suffix), NAMES, ReadOptions(limit=limit), rows=10)
    assert [cell for block in blocks for cell in block["id"].to_pylist()] == IDS[:limit]


def test_a_block_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,text\n1,a\n2,b\n3,c\n4\n")
    blocks = read_blocks(path, NAMES, ReadOptions(), rows=2)
    assert next(blocks)["id"].to_pylist() == ["1", "2"]
    with pytest.raises(TableError, match="row 4: found 1 field"):
        next(blocks)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
def test_the_names_of_all_columns_are_read_in_their_order(suffix: str, tmp_path: Path) -> None:
    assert read_column_names(write(tmp_path, suffix), ReadOptions()) == ["more", *NAMES]


def test_a_file_that_is_not_there_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="found no readable file"):
        read_column_names(tmp_path / "table.csv", ReadOptions())
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(TableError, match="found an empty file"):
        read_column_names(tmp_path / "empty.csv", ReadOptions())
