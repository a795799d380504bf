"""What holds a table's bytes: compressed files, zip archives, folders of parts, and files that know their types."""

import codecs
import json
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from leantune.system.errors import TableError

_SIGNATURES = (
    (b"PAR1", "parquet", "a Parquet file", "give it a name that ends in .parquet"),
    (b"ARROW1", "arrow", "an Arrow file", "give it a name that ends in .arrow"),
    (b"\xd0\xcf\x11\xe0", "", "an old Excel workbook (.xls)", "save it as .xlsx or .csv"),
    (b"\x1f\x8b", "", "a gzip file", "give it a name that ends in .gz"),
    (b"\x28\xb5\x2f\xfd", "", "a zstd file", "give it a name that ends in .zst"),
)
_INSTALL_EXCEL = 'pip install "leantune[excel]"'


@dataclass(frozen=True, kw_only=True)
class ArrowSource:
    """An open table whose columns have types."""

    schema: pa.Schema
    batches: Callable[[list[str], int], Iterator[pa.RecordBatch]]
    """Columns and the most rows a batch -> the table's batches."""


def recognised(path: Path, kind: str) -> tuple[str, str] | None:
    """Return what a file is and what to do, where its first bytes are those of another format than `kind`."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK\x03\x04") and kind != "excel":
        with path.open("rb") as file:
            is_excel = zipfile.is_zipfile(file) and any(
                name.startswith("xl/") for name in zipfile.ZipFile(path).namelist()
            )
        if is_excel:
            return "an Excel workbook", "give it a name that ends in .xlsx"
        return "a zip archive", "give it a name that ends in .zip"
    for signature, its_kind, found, advice in _SIGNATURES:
        if start.startswith(signature) and kind != its_kind:
            return found, advice
    return None


def checked_folder(path: Path, setting: str) -> str:
    """Return the format of a folder that is a table: parts in Parquet, or what `Dataset.save_to_disk` writes."""
    if (path / "dataset_dict.json").is_file():
        splits = sorted(part.name for part in path.iterdir() if part.is_dir())
        raise TableError(
            f"{path}: found a DatasetDict with the splits {', '.join(splits)}, expected one table; set {setting} to "
            f"one of them, such as {path / (splits[0] if splits else 'train')}"
        )
    if (path / "state.json").is_file():
        return "dataset"
    if any(path.glob("*.parquet")):
        return "parquet"
    raise TableError(
        f"{path}: found a folder without Parquet files, expected a file, a folder of .parquet parts or a folder that "
        f"datasets wrote; set {setting} to the table in it"
    )


def parts_of(path: Path) -> list[Path]:
    """Return the files of a table in their order: of a file, itself."""
    if not path.is_dir():
        return [path]
    if (path / "state.json").is_file():
        return _dataset_files(path)
    return sorted(path.glob("*.parquet"))


def zip_member(path: Path) -> str:
    """Return the name of the only file in an archive; TableError where there is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise TableError(f"{path}: found {one_line(error)}, expected a whole zip archive; copy it again") from None
    if len(names) != 1:
        raise TableError(
            f"{path}: found {len(names)} files in the archive ({', '.join(names[:5])}), expected one table; unpack it "
            "and name the file"
        )
    return names[0]


class Reached:
    """How far an open file has been read."""

    def __init__(self) -> None:
        """Follow no file yet."""
        self._file: Any = None
        self._size = 0

    def follow(self, file: Any, path: Path) -> None:
        """Follow the file as it is on the disk, packed or not."""
        self._file, self._size = file, path.stat().st_size

    @property
    def share(self) -> float:
        """The share of the file's bytes that were read, from 0 to 1; 0 where none is open."""
        if self._file is None or self._file.closed:
            return 0.0
        return min(1.0, float(self._file.tell()) / max(1, self._size))


@contextmanager
def opened_bytes(path: Path, compression: str | None, reached: Reached | None = None) -> Iterator[Any]:
    """Open a file, unpacked, as a stream of bytes, which `reached` follows."""
    if compression == "zip":
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open(zip_member(path)) as member:
                if reached is not None:
                    reached.follow(file, path)
                yield member
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise OSError(str(error)) from None
        return
    with pa.OSFile(str(path)) as file:
        if reached is not None:
            reached.follow(file, path)
        if compression is None:
            yield file
            return
        with pa.CompressedInputStream(file, compression) as stream:
            yield stream


@contextmanager
def open_arrow(path: Path, kind: str, sheet: str | None, setting: str) -> Iterator[ArrowSource]:
    """Open Parquet, Arrow, Excel or a folder; what is wrong in the block becomes a `TableError`."""
    if kind == "excel":
        yield _excel(path, sheet)
        return
    name = "Arrow" if kind in ("arrow", "dataset") else "Parquet"
    try:
        with ExitStack() as stack:
            parts = parts_of(path)
            opened = [_open_part(stack, part, kind) for part in parts]
            for part, source in zip(parts, opened, strict=True):
                if not source.schema.equals(opened[0].schema):
                    raise TableError(
                        f"{part}: found other columns or types than in {parts[0].name}, expected the same in all parts "
                        f"of {path}; write them again, or set {setting} to one of them"
                    )
            yield ArrowSource(
                schema=opened[0].schema,
                batches=lambda columns, rows: (batch for source in opened for batch in source.batches(columns, rows)),
            )
    except (pa.ArrowException, OSError) as error:
        suffix = path.suffix.lower()
        packed = suffix in (".gz", ".zst", ".zip")
        compression = {".gz": "gzip", ".zst": "zstd"}.get(suffix, "zip")
        what = f"{name} in a whole {compression} file" if packed else f"a whole {name} file of texts and numbers"
        raise TableError(f"{path}: found {one_line(error)}, expected {what}; write it again") from None


def _open_part(stack: ExitStack, path: Path, kind: str) -> ArrowSource:
    compression = {".gz": "gzip", ".zst": "zstd", ".zip": "zip"}.get(path.suffix.lower())
    stream = stack.enter_context(opened_bytes(path, compression))
    if compression:  # these formats are read from their end, and a compressed stream has none until it is unpacked
        stream = pa.BufferReader(stream.read())
    if kind == "parquet":
        file = stack.enter_context(pq.ParquetFile(stream))
        return ArrowSource(
            schema=file.schema_arrow.remove_metadata(),
            batches=lambda columns, rows: file.iter_batches(batch_size=rows, columns=columns),
        )
    if kind == "dataset":
        reader: Any = pa.ipc.open_stream(stream)
        batches: Iterator[pa.RecordBatch] = iter(reader)
    else:
        reader = pa.ipc.open_file(stream)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    return ArrowSource(
        schema=reader.schema.remove_metadata(), batches=lambda columns, rows: _sliced(batches, columns, rows)
    )


def _sliced(batches: Iterator[pa.RecordBatch], columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        chosen = batch.select(list(dict.fromkeys(columns)))
        for start in range(0, len(chosen), rows):
            yield chosen.slice(start, rows)


def _dataset_files(path: Path) -> list[Path]:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        names = [Path(part["filename"]).name for part in state["_data_files"]]
        indices = state.get("_indices_files") or state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path / 'state.json'}: found {one_line(error)}, expected what datasets writes") from None
    if not names or indices:
        raise TableError(f"{path}: found no plain data files, expected what Dataset.save_to_disk writes; save it again")
    return [path / name for name in names]


def _excel(path: Path, sheet: str | None) -> ArrowSource:
    """Read one sheet: its first row has the names, and dates are written as ISO 8601."""
    try:
        import openpyxl  # noqa: PLC0415
    except ImportError:
        raise TableError(
            f"{path}: reading Excel needs the package openpyxl, which is not installed; install it with "
            f"{_INSTALL_EXCEL}, or save the sheet as CSV (UTF-8)"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:
        raise TableError(f"{path}: found {one_line(error)}, expected an Excel workbook; save it again") from None
    try:
        names: Sequence[str] = book.sheetnames
        if sheet is None and len(names) > 1:
            raise TableError(
                f"{path}: found {len(names)} sheets ({', '.join(names[:10])}), expected one; set data.sheet to the one "
                "to read"
            )
        if sheet is not None and sheet not in names:
            raise TableError(
                f"{path}: found no sheet {sheet!r}, expected one of {', '.join(names[:10])}; correct data.sheet"
            )
        rows = book[sheet or names[0]].iter_rows(values_only=True)
        header = next(rows, ())
        columns = ["" if cell is None else str(cell) for cell in header]
        while columns and not columns[-1]:
            columns.pop()
        if not columns:
            raise TableError(f"{path}: found an empty sheet, expected a header and rows; check data.sheet")
        cells = [[_excel_cell(cell) for cell in row[: len(columns)]] for row in rows if any(c is not None for c in row)]
    finally:
        book.close()
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise TableError(f"{path}: found two columns named {twice!r}, expected one; rename one of them")
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    padded = [row + [None] * (len(columns) - len(row)) for row in cells]
    table = pa.table(
        [pa.array([row[place] for row in padded], pa.large_string()) for place in range(len(columns))], schema
    )
    return ArrowSource(
        schema=schema, batches=lambda wanted, count: iter(table.select(wanted).to_batches(max_chunksize=count))
    )


def _excel_cell(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).lower()
    return cell.isoformat() if hasattr(cell, "isoformat") else str(cell)


def likely_encoding(path: Path, compression: str | None) -> str | None:
    """Return the encoding that the first 64 KiB of a file are likely to be in, or None; UTF-8 is not asked for.

    Of the encodings that fit, that which gives the most characters of running text: kana, Han characters and letters.
    Half-width kana and control characters count against it, for they are what a wrong encoding makes of other bytes.
    """
    with opened_bytes(path, compression) as stream:
        start = stream.read(1 << 16)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if start.count(b"\0") > len(start) / 5:
        return "utf-16-le" if start[1::2].count(b"\0") >= start[::2].count(b"\0") else "utf-16-be"
    best: tuple[float, str] | None = None
    for encoding in ("cp932", "euc_jp", "gb18030", "euc_kr", "big5", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            text = [char for char in decoder.decode(start) if ord(char) > 0x7F]
        except UnicodeDecodeError:
            continue
        score = sum(map(_plausible, text)) / max(1, len(text))
        if best is None or score > best[0]:
            best = (score, encoding)
    return None if best is None or best[0] <= 0 else best[1]


def _plausible(char: str) -> float:
    """Return how likely a character is to stand in a text: kana and Hangul above all."""
    if "\u3040" <= char <= "\u30ff" or "\uac00" <= char <= "\ud7a3":
        return 1.0
    if "\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f":
        return 0.5
    if "\uff61" <= char <= "\uff9f" or unicodedata.category(char)[0] == "C":
        return -1.0
    return 0.3 if char.isalpha() else 0.0


def one_line(error: BaseException | str) -> str:
    """Return what an error says as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
