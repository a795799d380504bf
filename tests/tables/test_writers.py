"""A table that is written block after block is read back as it was, and appears whole or not at all."""

import csv
import os
import resource
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.system.errors import SavingError, SettingsError
from leantune.tables.readers import ReadOptions, read_cells
from leantune.tables.writers import refuse_unwritable, writing_table

BLOCKS = [
    pa.table({"id": ["a", 'b"c', "d,e"], "value": [0.1, 1 / 3, 1e-9]}),
    pa.table({"id": ["f\ng", "h\ri", "\t"], "value": [-1.0, 2.0**60, 5e-324]}),
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.zst", ".jsonl.gz"])
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    with writing_table(path, BLOCKS[0].schema) as write:
        for block in BLOCKS:
            write(block)
    cells = read_cells(path, ["id", "value"], ReadOptions())
    whole = pa.concat_tables(BLOCKS)
    assert cells["id"].to_pylist() == whole["id"].to_pylist()
    assert [float(cell) for cell in cells["value"].to_pylist()] == whole["value"].to_pylist()
    assert [inner.name for inner in tmp_path.iterdir()] == [path.name]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    with writing_table(tmp_path / "out.parquet", BLOCKS[0].schema) as write:
        write(BLOCKS[0])
    assert pq.read_table(tmp_path / "out.parquet").equals(BLOCKS[0])


def test_plain_cells_make_a_plain_file(tmp_path: Path) -> None:
    block = pa.table({"id": ["r1", "r2"], "score": [0.5, 1.0]})
    with writing_table(tmp_path / "out.csv", block.schema) as write:
        write(block)
    assert (tmp_path / "out.csv").read_text() == "id,score\nr1,0.5\nr2,1.0\n"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl.gz"])
def test_an_error_in_the_middle_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("old")

    def write_half() -> None:
        with writing_table(path, BLOCKS[0].schema) as write:
            write(BLOCKS[0])
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert [inner.name for inner in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_is_one_message_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    block = pa.table({"id": [os.urandom(500).hex() for _ in range(500)]})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with (
            pytest.raises(SavingError, match=r"out\.\w+: cannot be written: .*; make room, then give the same"),
            writing_table(tmp_path / f"out{suffix}", block.schema) as write,
        ):
            write(block)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", r"expected a name that ends in \.csv, \.tsv"),
        ("out.parquet.gz", r"leave out \.gz"),
        ("folder.csv", r"is a folder"),
        ("none/out.csv", r"none is no folder"),
        ("there.csv", r"is there already"),
    ],
)
def test_a_name_under_which_nothing_can_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "there.csv").touch()
    with pytest.raises(SettingsError, match=message):
        refuse_unwritable(tmp_path / name, force=False)
    refuse_unwritable(tmp_path / "there.csv", force=True)


def test_a_header_may_hold_what_must_be_quoted(tmp_path: Path) -> None:
    block = pa.table({"a,b": ["1"], "c\rd": ["2"]})
    with writing_table(tmp_path / "out.csv", block.schema) as write:
        write(block)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a,b", "c\rd"], ["1", "2"]]
