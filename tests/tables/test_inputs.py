"""Every kind of table that people have: read, or refused with a remedy that works. docs/tables.md is made of it."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.system.errors import InputError, TableError
from leantune.tables.table import DataSettings, Table, read_table
from leantune.tables.targets import Targets, parse_known_targets, parse_targets

DOCS = Path(__file__).parents[2] / "docs" / "tables.md"
TEXTS = ["a fine day", "rain again", "no news", "all good", "so so", "the end"]
FRAME = pd.DataFrame({"text": TEXTS, "y": [1.5, 2.5, 3.25, 4.0, 5.0, 6.5]})
Write = Callable[[Path], Path]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of table, and what is made of it."""

    title: str
    make: Write
    """Writes the table in a folder, and returns its path."""
    task: str = ""
    """The kind of task that is found; empty where the table is refused."""
    classes: tuple[str, ...] = ()
    says: str = ""
    """What the reason or the message says."""
    remedies: tuple[dict[str, Any], ...] = ()
    """Each remedy of the message that is a setting: followed, the table is read."""
    settings: dict[str, Any] = field(default_factory=dict)


def column(*cells: str, name: str = "rows.csv", **more: Any) -> Write:
    """Write a CSV file with a column of texts and `cells` as targets."""

    def make(folder: Path) -> Path:
        path = folder / name
        rows = [cells[place % len(cells)] for place in range(max(6, len(cells)))]
        pd.DataFrame({"text": [f"{TEXTS[place % 6]} {place}" for place in range(len(rows))], "y": rows}).to_csv(
            path, index=False, **more
        )
        return path

    return make


def columns(**cells: list[str]) -> Write:
    def make(folder: Path) -> Path:
        path = folder / "rows.csv"
        pd.DataFrame({"text": [f"{text} {n}" for n, text in enumerate(TEXTS)], **cells}).to_csv(path, index=False)
        return path

    return make


def content(name: str, data: str | bytes) -> Write:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return folder / name

    return make


def lines(values: list[Any]) -> str:
    return "".join(json.dumps({"text": text, "y": y}) + "\n" for text, y in zip(TEXTS, values, strict=True))


def parquet_of(values: list[Any], texts: list[str | None] | None = None) -> Write:
    def make(folder: Path) -> Path:
        pa.parquet.write_table(pa.table({"text": texts or TEXTS, "y": values}), folder / "rows.parquet")
        return folder / "rows.parquet"

    return make


def excel(*sheets: str, name: str = "rows.xlsx") -> Write:
    def make(folder: Path) -> Path:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for sheet in sheets:
            page = book.create_sheet(sheet)
            page.append(["text", "y"])
            for row in FRAME.itertuples(index=False):
                page.append(list(row))
        book.save(folder / "book.xlsx")
        return (folder / "book.xlsx").rename(folder / name)

    return make


def zipped(*names: str) -> Write:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "rows.zip", "w") as archive:
            for name in names:
                archive.writestr(name, FRAME.to_csv(index=False))
        return folder / "rows.zip"

    return make


def feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(pa.Table.from_pandas(FRAME), folder / "rows.feather")
    return folder / "rows.feather"


def parts(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for number in range(3):
        FRAME[2 * number : 2 * number + 2].to_parquet(folder / "parts" / f"part-{number}.parquet")
    return folder / "parts"


def dataset(folder: Path) -> Path:
    inner = folder / "dataset"
    inner.mkdir()
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    with (
        pa.OSFile(str(inner / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    (inner / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (inner / "dataset_info.json").write_text("{}")
    return inner


SWALLOWED = "text\ty\n" + "".join(f"line {n} of many\t{n % 3}\n" for n in range(30))
SWALLOWED_TSV = (
    SWALLOWED.replace("line 4 of", '"Line 4 of')
    .replace("line 9 of many\t0", 'line 9 of "many"\t0')
    .replace('of "many"\t0', 'of many"\t0')
)
SWALLOWED_TSV = SWALLOWED.replace("line 4 of", '"Line 4 of').replace("line 9 of many", 'line 9 of many"')
ALL_SWALLOWED = "text,y\n" + "".join(f'"Hello {n},1\nWorld {n}",2\n' for n in range(15))
ORIENT_COLUMNS = FRAME.to_json()
LABELS = ("anger", "fear", "joy")

KINDS = [
    # Quotes
    Kind(title="TSV whose texts begin with a quotation mark", make=content("rows.tsv", SWALLOWED_TSV), says="swallows",
         remedies=({"quoting": "none"},)),
    Kind(title="CSV in which every cell swallows a row", make=content("rows.csv", ALL_SWALLOWED), says="swallows"),
    Kind(title="CSV with a quoted text of several lines",
         make=content("rows.csv", "text,y\n" + "".join(f'"one, two {n}\nthree",{n % 2}\n' for n in range(9))), task="binary",  # noqa: E501
         classes=("0", "1")),
    # Many labels in a cell
    Kind(title="labels with | between", make=column("joy|anger", "joy", "fear|joy", "anger", "fear", "joy|anger|fear"),
         task="multilabel", classes=LABELS, says="'|' separates"),
    Kind(title="labels with ; between", make=column("joy;anger", "joy", "fear; joy", "anger", "fear", "joy;fear"),
         task="multilabel", classes=LABELS, says="';' separates"),
    Kind(title="labels with a comma between", make=column("joy, anger", "joy", "fear,joy", "anger", "fear", "joy,fear"),
         task="multilabel", classes=LABELS, says="',' separates"),
    Kind(title="labels with a separator that is set", make=column("joy/anger", "joy", "", "anger", "fear", "joy/fear"),
         settings={"label_separator": "/"}, task="multilabel", classes=LABELS, says="data.label_separator is set"),
    Kind(title="JSON lists in a CSV cell", make=column('["joy", "anger"]', '["joy"]', '["fear"]', "[]"),
         task="multilabel", classes=LABELS, says="its cells are lists"),
    Kind(title="Python lists in a CSV cell", make=column("['joy', 'anger']", "['joy']", "['fear']", "[]"),
         task="multilabel", classes=LABELS, says="its cells are lists"),
    Kind(title="lists of 0 and 1 in a CSV cell", make=column("[0, 1, 0]", "[1, 1, 0]", "[0, 0, 1]"),
         task="multilabel", classes=("y_0", "y_1", "y_2"), says="its cells are lists"),
    Kind(title="lists in JSON lines", make=content("rows.jsonl", lines([["joy"], [], ["anger", "joy"], ["fear"], [], ["joy"]])),  # noqa: E501
         task="multilabel", classes=LABELS, says="its cells are lists"),
    Kind(title="lists in Parquet", make=parquet_of([["joy"], [], ["anger", "joy"], ["fear"], [], ["joy"]]),
         task="multilabel", classes=LABELS, says="its cells are lists"),
    Kind(title="class names with a comma in them", make=column("Arts, culture", "Science, technology"), task="binary",
         classes=("Arts, culture", "Science, technology")),
    # A column a label
    Kind(title="columns with one 1 a row", make=columns(a=list("100100"), b=list("010010"), c=list("001001")),
         settings={"target": ("a", "b", "c")}, task="multilabel", classes=("a", "b", "c"), says="set data.task to multiclass",  # noqa: E501
         remedies=({"task": "multiclass"},)),
    Kind(title="label columns with -1 for not scored", make=columns(a=["1", "0", "-1", "1", "0", "-1"], b=list("010010")),  # noqa: E501
         settings={"target": ("a", "b")}, task="multilabel", classes=("a", "b"), says="2 cells are -1, not scored"),
    Kind(title="label columns of True and False", make=columns(a=["True", "False"] * 3, b=["False", "True", "True"] * 2),  # noqa: E501
         settings={"target": ("a", "b")}, task="multilabel", classes=("a", "b")),
    Kind(title="label columns of yes and no", make=columns(a=["yes", "no"] * 3, b=["no", "yes", "yes"] * 2),
         settings={"target": ("a", "b")}, task="multilabel", classes=("a", "b")),
    Kind(title="label columns of 1 and blank", make=columns(a=["1", ""] * 3, b=["", "1", "1"] * 2),
         settings={"target": ("a", "b")}, task="multilabel", classes=("a", "b")),
    # Numbers and classes
    Kind(title="numbers with a decimal comma", make=column("4,5", "3,25", "1,0", "2,5", "7,75"), says="a decimal comma",
         remedies=({"decimal": ","}, {"label_separator": ","}, {"task": "multiclass"})),
    Kind(title="numbers with thousands", make=column("1,500", "2,250", "900", "12,000"), says="thousands",
         remedies=({"thousands": ","}, {"task": "multiclass"})),
    Kind(title="numbers with thousands and a blank", make=column("1 500", "2\u00a0250,5", "900"), says="a blank separates",  # noqa: E501
         remedies=({"thousands": " ", "decimal": ","}, {"task": "multiclass"})),
    Kind(title="numbers with a comma for two things", make=column("1,500", "4,5", "3,25"), says="write the column as plain",  # noqa: E501
         remedies=({"task": "multiclass"},)),
    Kind(title="percentages", make=column("10%", "25%", "3.5%"), says="a percent sign", remedies=({"task": "multiclass"},)),  # noqa: E501
    Kind(title="amounts of money", make=column("$12", "$3.50", "$1,200"), says="a currency sign",
         remedies=({"task": "multiclass"},)),
    Kind(title="classes that differ in case", make=column("Yes", "yes", "YES", "no"), says="differ only in case",
         remedies=({"class_case": "same"}, {"class_case": "distinct"})),
    Kind(title="NA among classes", make=column("pos", "neg", "NA"), says="2 of 6 rows have none",
         remedies=({"drop_missing": True}, {"task": "multiclass"})),
    Kind(title="- among numbers", make=column("1.5", "2.5", "-"), says="2 of 6 rows have none",
         remedies=({"drop_missing": True}, {"task": "multiclass"})),
    Kind(title="empty targets", make=column("pos", "neg", ""), says="2 of 6 rows have none", remedies=({"drop_missing": True},)),  # noqa: E501
    Kind(title="class codes written as 0.0, 1.0, 2.0", make=column("0.0", "1.0", "2.0"), task="regression",
         says="set data.task to multiclass", remedies=({"task": "multiclass"},)),
    Kind(title="class codes with leading zeros", make=column("001", "002", "003"), task="multiclass",
         classes=("001", "002", "003"), says="leading zeros", remedies=({"task": "regression"},)),
    Kind(title="yes and no", make=column("yes", "no"), task="binary", classes=("no", "yes")),
    # Texts
    Kind(title="missing texts in JSON lines",
         make=content("rows.jsonl", '{"text": null, "y": 1}\n{"text": "b", "y": 2}\n{"text": "c", "y": 1}\n'),
         says="1 row of 3 has none", remedies=({"missing_text": "empty"}, {"missing_text": "drop"})),
    Kind(title="missing texts in Parquet", make=parquet_of([1, 2, 1, 2, 1, 2], [None, "a", None, "c", "d", "e"]),
         says="2 rows of 6 have none", remedies=({"missing_text": "empty"}, {"missing_text": "drop"})),
    # Files
    Kind(title="Excel", make=excel("one"), task="regression"),
    Kind(title="Excel with several sheets", make=excel("one", "two"), says="found 2 sheets", remedies=({"sheet": "two"},)),  # noqa: E501
    Kind(title="Excel under the name of CSV", make=excel("one", name="rows.csv"), says="found an Excel workbook"),
    Kind(title="Feather", make=feather, task="regression"),
    Kind(title="a folder of Parquet parts", make=parts, task="regression"),
    Kind(title="a folder that `Dataset.save_to_disk` wrote", make=dataset, task="regression"),
    Kind(title="a JSON array", make=content("rows.json", FRAME.to_json(orient="records", indent=1)), task="regression"),
    Kind(title="JSON by columns", make=content("rows.json", ORIENT_COLUMNS), says='orient="records"'),
    Kind(title="zip with one member", make=zipped("inner.csv"), task="regression"),
    Kind(title="zip with two members", make=zipped("a.csv", "b.csv"), says="found 2 files in the archive"),
    Kind(title="CSV without a header", make=content("rows.csv", FRAME.to_csv(index=False, header=False)),
         says="the first line looks like a row"),
    Kind(title="CSV that begins with sep=;", make=content("rows.csv", "sep=;\n" + FRAME.to_csv(index=False, sep=";")),
         says="which Excel writes"),
    Kind(title="CSV with the header again", make=content("rows.csv", FRAME.to_csv(index=False) * 2), says="found the header again"),  # noqa: E501
    Kind(title="CSV with semicolons", make=content("rows.csv", FRAME.to_csv(index=False, sep=";")), says="set data.delimiter to ';'",  # noqa: E501
         remedies=({"delimiter": ";"},)),
]  # fmt: skip


def read(kind: Kind, path: Path, **more: Any) -> tuple[Table, Targets]:
    given = {"path": path, "text": "text", "target": "y", **kind.settings, **more}
    checked = DataSettings(**given)
    table = read_table(checked)
    return table, parse_targets(table, checked.task)


def said_of(kind: Kind, folder: Path) -> tuple[str, str]:
    """Return the verdict on a kind of table, and what is said."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _, targets = read(kind, kind.make(folder))
    except InputError as error:
        return "refused", str(error).replace(f"{folder}/", "")
    return targets.kind, targets.reason


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_each_kind_of_table_is_read_or_refused_as_told(kind: Kind, tmp_path: Path) -> None:
    verdict, said = said_of(kind, tmp_path)

    assert verdict == (kind.task or "refused"), said
    assert kind.says in said
    if kind.classes:
        assert read(kind, next(tmp_path.iterdir()))[1].classes == kind.classes


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [(kind, remedy) for kind in KINDS for remedy in kind.remedies],
    ids=lambda part: part.title if isinstance(part, Kind) else str(part),
)
def test_each_remedy_that_a_message_offers_is_one(kind: Kind, remedy: dict[str, Any], tmp_path: Path) -> None:
    _, said = said_of(kind, tmp_path)

    assert all(f"data.{name}" in said for name in remedy), said
    read(kind, next(tmp_path.iterdir()), **remedy)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.task == "multilabel"], ids=lambda kind: kind.title)
def test_labels_are_read_the_same_where_they_are_known(kind: Kind, tmp_path: Path) -> None:
    table, targets = read(kind, kind.make(tmp_path))

    np.testing.assert_array_equal(parse_known_targets(table, "multilabel", targets.classes), targets.values)


def test_labels_in_cells_become_rows_of_zeros_and_ones(tmp_path: Path) -> None:
    kind = Kind(title="", make=column("joy|anger", "joy", "fear|joy", "anger", "fear", "joy|anger|fear"))

    _, targets = read(kind, kind.make(tmp_path))

    assert targets.values.tolist() == [[1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_a_decimal_comma_is_read_as_the_number(tmp_path: Path) -> None:
    kind = Kind(title="", make=column("4,5", "1.500,25", "-3"), settings={"decimal": ","})

    assert read(kind, kind.make(tmp_path))[1].values[:3, 0].tolist() == [4.5, 1500.25, -3]


@pytest.mark.parametrize(
    ("cells", "settings", "numbers"),
    [
        (("1,500", "12,000.5", "900"), {"thousands": ","}, [1500, 12000.5, 900]),
        (("1 500", "2\u00a0250", "1\u202f000"), {"thousands": " "}, [1500, 2250, 1000]),
        (("1'500", "2'250.5", "7"), {"thousands": "'"}, [1500, 2250.5, 7]),
        (("1 500,5", "2,25", "7"), {"thousands": " ", "decimal": ","}, [1500.5, 2.25, 7]),
    ],
)
def test_thousands_are_read_as_the_number(
    cells: tuple[str, ...], settings: dict[str, Any], numbers: list[float], tmp_path: Path
) -> None:
    kind = Kind(title="", make=column(*cells), settings=settings)

    assert read(kind, kind.make(tmp_path))[1].values[:3, 0].tolist() == numbers


@pytest.mark.parametrize("cells", [("1,500", "2,250"), ("1,500", "4,5"), ("1,500", "12,000", "7"), ("1,500", "2.5")])
@pytest.mark.parametrize("task", ["auto", "regression"])
def test_no_message_offers_to_read_thousands_as_decimals(cells: tuple[str, ...], task: str, tmp_path: Path) -> None:
    kind = Kind(title="", make=column(*cells), settings={"task": task})

    assert "data.decimal" not in said_of(kind, tmp_path)[1]


def test_groups_of_other_than_three_digits_are_no_thousands(tmp_path: Path) -> None:
    kind = Kind(title="", make=column("1,500", "4,5", "12"), settings={"thousands": ",", "task": "regression"})

    with pytest.raises(TableError, match=r"row 2.*'4,5'|'4,5'"):
        read(kind, kind.make(tmp_path))


def test_a_character_separates_either_thousands_or_decimals() -> None:
    with pytest.raises(ValueError, match="thousands and decimal are both"):
        DataSettings(path=Path("rows.csv"), decimal=",", thousands=",")


def test_a_template_joins_columns_to_one_text(tmp_path: Path) -> None:
    path = content("rows.csv", "title,body\nA,b\nC{,d\n")(tmp_path)

    table = read_table(DataSettings(path=path, text=("title", "body"), template="{title} [SEP] {body}{{}}"))

    assert [texts.to_pylist() for texts in table.texts] == [["A [SEP] b{}", "C{ [SEP] d{}"]]


def test_rows_that_are_left_out_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    path = content("rows.csv", "text,y\na,1\n,2\nc,\nd,2.5\n")(tmp_path)

    table = read_table(DataSettings(path=path, text="text", target="y", missing_text="drop", drop_missing=True))

    assert table.row_numbers.tolist() == [0, 3]
    assert table.ids.to_pylist() == ["0", "3"]
    assert table.describe_place(1).endswith("row 4")
    assert len(table.notes) == 2


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("cp932", "これは日本語のレビューです。とても良かった"),
        ("euc_jp", "これは日本語のレビューです。とても良かった"),
        ("utf-16", "これは日本語のレビューです"),
        ("utf-16-le", "A café by the sea and nothing else"),
        ("cp1252", "Une soirée très agréable à côté de la forêt"),
    ],
)
def test_the_likely_encoding_of_a_file_is_named_and_reads_it(encoding: str, sentence: str, tmp_path: Path) -> None:
    path = content("rows.csv", f"text,y\n{sentence},1\n".encode(encoding))(tmp_path)

    with pytest.raises(TableError, match=rf"set data\.encoding to {encoding}\b"):
        read_table(DataSettings(path=path, text="text"))

    assert read_table(DataSettings(path=path, text="text", encoding=encoding)).texts[0].to_pylist() == [sentence]


def test_a_quotation_mark_in_an_unquoted_cell_is_told(tmp_path: Path) -> None:
    path = content("rows.csv", 'text,y\na "b" c,1\nd,2\n')(tmp_path)

    (note,) = read_table(DataSettings(path=path, text="text", target="y")).notes

    assert "1 row has a quotation mark in a cell that is not quoted (such as row 1)" in note


cells_of_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('"\n\r,\t| ;a1', max_size=12)


@given(rows=st.lists(st.tuples(cells_of_texts, cells_of_texts), min_size=1, max_size=12), tab=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_a_writer_quotes_is_read_back_to_the_character(
    rows: list[tuple[str, str]], tab: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / ("rows.tsv" if tab else "rows.csv")
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter="\t" if tab else ",", quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path.write_bytes(stream.getvalue().encode())
    try:
        table = read_table(DataSettings(path=path, text=("a", "b"), quoting="standard"))
    except InputError as error:
        assert "found the header again" in str(error)  # noqa: PT017
        return
    assert list(zip(*(texts.to_pylist() for texts in table.texts), strict=True)) == rows


@given(data=st.binary(max_size=60) | st.text('"\n\r,\t|;ab1', max_size=60).map(str.encode))
@settings(max_examples=500, deadline=None)
def test_hostile_files_are_read_or_refused_without_a_traceback(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_bytes(b"text,y\n" + data)
    try:
        parse_targets(read_table(DataSettings(path=path, text="text", target="y")), "auto")
    except InputError:
        return


POLLOCK = """
## Damaged files

[Pollock](https://github.com/HPI-Information-Systems/Pollock) has 2,290 CSV files with one pollution each.
`python benchmarks/pollock.py Pollock` (2026-11-26) compares every cell with the suite's clean version: 10 files are
read as the clean version, 2,233 are refused, 47 are read with other cells than the clean ones and with a sentence
about it, and none is read wrongly without a message.

- The 47 lack the delimiter before a quoted cell that holds another (`$78.07"Dining Table, Round 48"`), so that the row
  has as many cells as the header by chance. What was meant could only be guessed: the row is named, and read as it is.
- Nearly all that are refused have a row with a delimiter too many or too few, or a stray quotation mark, and the
  message names the row. The suite's own delimiter is given to the reader where it is one character.
- Before these checks, the reader read the same 10 as the clean version, and 49 wrongly without a message.

[Memory and time of large tables](results/2026-11-26-large-tables.md).
"""


def page(folder: Path) -> str:
    """Return docs/tables.md."""
    rows = []
    for number, kind in enumerate(KINDS):
        verdict, said = said_of(kind, folder / str(number))
        cell = " ".join(said.split()).replace("|", "\\|")
        given = (
            ""
            if not kind.settings
            else " with `"
            + ", ".join(
                f"{name}: {' '.join(value) if isinstance(value, tuple) else value}"
                for name, value in kind.settings.items()
            )
            + "`"
        )
        title = kind.title.replace("|", "\\|")
        rows.append(f"| {title}{given} | {verdict} | {cell} |")
    return (
        "# Tables: what is read, and how\n\n"
        "A table has the names of its columns in the first line, and then one row for each text or pair of texts.\n"
        "Many tables need nothing more than `--text` and `--target`. This page lists tables that need more, and\n"
        "others that are often asked about: what the task is (or that the table is refused), and what leantune says.\n"
        "Most messages name a [setting](settings.md): give it with `--set NAME=VALUE`.\n\n"
        "The page is made by tests/tables/test_inputs.py, which also tries what each message advises.\n\n"
        "| table | task | what leantune says |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n" + POLLOCK
    )


def test_the_page_of_tables_is_what_the_reader_does(tmp_path: Path) -> None:
    assert DOCS.read_text(encoding="utf-8") == page(tmp_path), "write it anew: python tests/tables/test_inputs.py"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        DOCS.write_text(page(Path(scratch)), encoding="utf-8")
