"""Tables that a program holds: whatever holds them, the cells are those of a file."""

import datetime
import decimal
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.system.errors import SettingsError, TableError
from leantune.tables.memory import MemoryTable, columns_of, content_sha256, describe_columns
from leantune.tables.readers import ReadOptions, read_cells
from leantune.tables.table import DataSettings, data_sha256, read_table

COLUMNS: dict[str, list[Any]] = {
    "text": ["one", "", None],
    "score": [1.0, float("nan"), 0.1],
    "yes": [True, False, None],
    "count": [1, 2, 30],
}
CELLS = {
    "text": ["one", "", None],
    "score": ["1.0", None, "0.1"],
    "yes": ["true", "false", None],
    "count": ["1", "2", "30"],
}


def polars_frame() -> Any:
    return pytest.importorskip("polars", reason="polars is not installed").DataFrame(COLUMNS)


def datasets_table() -> Any:
    return pytest.importorskip("datasets", reason="datasets is not installed").Dataset.from_dict(COLUMNS)


HOLDERS = {
    "dict of lists": lambda: COLUMNS,
    "dict of arrays": lambda: {name: np.array(cells, dtype=object) for name, cells in COLUMNS.items()},
    "dict of series": lambda: {name: pd.Series(cells) for name, cells in COLUMNS.items()},
    "list of dicts": lambda: [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*COLUMNS.values(), strict=True)],
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas with Arrow types": lambda: pa.table(COLUMNS).to_pandas(types_mapper=pd.ArrowDtype),
    "polars": polars_frame,
    "Arrow table": lambda: pa.table(COLUMNS),
    "Arrow table in chunks": lambda: pa.concat_tables([pa.table(COLUMNS)[:1], pa.table(COLUMNS)[1:]]),
    "Arrow batch": lambda: pa.RecordBatch.from_pydict(COLUMNS),
    "datasets": datasets_table,
}


def texts(data: Any, *columns: str, **options: Any) -> dict[str, list[str | None]]:
    cells = columns_of(data, columns, **options)
    assert all(values.type == pa.large_string() for values in cells.values())
    return {name: values.to_pylist() for name, values in cells.items()}


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_a_table_its_cells_are_the_same(holder):
    data = HOLDERS[holder]()
    assert texts(data, *COLUMNS) == CELLS
    assert describe_columns(data) == (list(COLUMNS), 4)


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_a_table_its_hash_is_the_same(holder):
    digest = content_sha256(columns_of(HOLDERS[holder](), list(COLUMNS)))
    assert digest == content_sha256({name: pa.array(cells, pa.large_string()) for name, cells in CELLS.items()})


def test_the_cells_are_those_of_a_parquet_file(tmp_path):
    frame = pd.DataFrame(
        {
            "float32": np.array([0.1, 1e30, np.nan], np.float32),
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "category": pd.Categorical(["a", "b", None]),
            "time": pd.to_datetime(["2020-01-02", None, "2021-01-01"]),
            "number of a class": pd.Categorical([1.0, 2.0, 1.0]),
        }
    )
    pq.write_table(pa.table(frame), tmp_path / "table.parquet")
    columns = list(frame.columns)
    from_file = read_cells(tmp_path / "table.parquet", columns, ReadOptions())
    assert texts(frame, *columns) == {name: cells.to_pylist() for name, cells in from_file.items()}


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.floats(allow_infinity=False)),
        min_size=1,
    )
)
def test_a_frame_and_its_csv_file_give_the_same_numbers(tmp_path_factory, rows):
    frame = pd.DataFrame(rows, columns=["text", "score"])
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    frame[["score"]].to_csv(path, index_label="row")
    from_file = read_cells(path, ["score"], ReadOptions())["score"].to_pylist()
    numbers = [float(cell) if cell else None for cell in texts(frame, "score")["score"]]
    assert numbers == [float(cell) if cell else None for cell in from_file]
    assert texts(frame, "text")["text"] == frame["text"].tolist()


@pytest.mark.parametrize(
    "data",
    [
        ["a", None],
        ("a", None),
        np.array(["a", None], dtype=object),
        pd.Series(["a", None]),
        pa.array(["a", None]),
        pa.chunked_array([["a"], pa.array([None], pa.string())]),
        np.array([["a"], [None]], dtype=object),
    ],
    ids=lambda data: type(data).__name__,
)
def test_texts_without_names_are_the_one_text_column(data):
    assert texts(data, "excerpt", texts=["excerpt"]) == {"excerpt": ["a", None]}
    assert describe_columns(data) == (None, 1)


@pytest.mark.parametrize(
    "data", [[("a", "b"), ("c", "d")], [["a", "b"], ["c", "d"]], np.array([["a", "b"], ["c", "d"]])]
)
def test_pairs_without_names_are_the_two_text_columns_in_their_order(data):
    assert texts(data, "u", "t", texts=["t", "u"]) == {"u": ["b", "d"], "t": ["a", "c"]}
    assert describe_columns(data) == (None, 2)


def test_cells_of_several_types_are_written_one_by_one():
    day = datetime.date(2020, 1, 2)
    cells = [
        "a",
        1,
        2.5,
        float("nan"),
        pd.NA,
        pd.NaT,
        None,
        True,
        np.float32(0.1),
        decimal.Decimal("1.10"),
        day,
        10**30,
    ]
    assert texts({"t": cells}, "t")["t"] == [
        *("a", "1", "2.5", None, None, None, None, "true", "0.1", "1.10", "2020-01-02", "1" + 30 * "0"),
    ]


def test_rows_that_were_chosen_and_shuffled_come_in_their_order():
    table = datasets_table().select([2, 0])
    assert texts(table, "text", "count") == {"text": [None, "one"], "count": ["30", "1"]}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("one text", "the table in memory: found one text, expected a pandas or polars frame"),
        (7, "the table in memory: found int, expected"),
        (iter(["a"]), "the table in memory: found list_iterator, expected"),
        (["a"], "found rows without names of columns"),
        ({"train": pa.table(COLUMNS)}, r"found tables \('train'\), expected one table; give one of them"),
        (
            {"text": ["a"], "label": [1]},
            "found no column 'texts', expected one of 'text', 'label'; did you mean 'text'",
        ),
        (pd.DataFrame([["a", "b"]], columns=["texts", "texts"]), "found 2 columns named 'texts'"),
        ({"texts": ["a", ["b"]]}, "the table in memory, row 2, column 'texts': found list, expected a text, a number"),
        ({"texts": ["a", object()]}, "row 2, column 'texts': found object"),
        ({"texts": [["a"], ["b"]]}, r"column 'texts': found the type list<item: string>, expected a text or a number"),
        ({"texts": ["a", "\ud800"]}, "row 2, column 'texts': found '\\\\ud800', expected a text of whole characters"),
        ({"texts": [b"\xff"]}, "column 'texts': found Invalid UTF8 payload"),
        ({"texts": np.zeros((2, 2))}, "row 1, column 'texts': found ndarray"),
        (np.zeros((1, 1, 1)), "found an array of 3 dimensions"),
        ([{"texts": "a"}, "b"], "row 2: found \"'b'\", expected a dict, as in the first row"),
    ],
)
def test_what_is_no_table_of_texts_is_one_message(data, found):
    with pytest.raises(TableError, match=found):
        columns_of(data, ["texts"])


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(TableError, match=r"different lengths \('a': 2, 'b': 1\)"):
        columns_of({"a": ["x", "y"], "b": ["z"]}, ["a", "b"])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ([("a", "b", "c")], r"found 3 columns without names, expected 2 \('t', 'u'\)"),
        (["a"], "found 1 column without names, expected 2"),
        ([("a", "b"), ("c",)], r"row 2: found \"\('c',\)\", expected 2 cells, as in the first row"),
    ],
)
def test_rows_of_another_width_are_refused(data, found):
    with pytest.raises(TableError, match=found):
        columns_of(data, ["t", "u"], texts=["t", "u"])


def test_the_hash_tells_every_change_apart():
    def digest(**columns: list[str | None]) -> str:
        return content_sha256({name: pa.array(cells, pa.large_string()) for name, cells in columns.items()})

    changed = [
        digest(a=["x", "y"], b=["1", "2"]),
        digest(a=["x", "y"], c=["1", "2"]),
        digest(a=["y", "x"], b=["1", "2"]),
        digest(a=["xy", ""], b=["1", "2"]),
        digest(a=["x", None], b=["1", "2"]),
        digest(a=["x", ""], b=["1", "2"]),
        digest(a=["x", "y"], b=["1", "2x"]),
        digest(a=["x", "y"]),
        digest(a=["x"]),
        digest(a=[]),
    ]
    assert len(set(changed)) == len(changed)
    assert digest(b=["1", "2"], a=["x", "y"]) == changed[0]


def test_the_hash_of_rows_from_the_middle_of_an_array_is_that_of_a_copy():
    cells = pa.array(["a", None, "bc", "d"], pa.large_string())
    assert content_sha256({"t": cells[1:3]}) == content_sha256({"t": pa.array([None, "bc"], pa.large_string())})


def data(table: Any, **settings: Any) -> DataSettings:
    return DataSettings(path=MemoryTable(data=table), **{"text": "text", "target": "count"} | settings)


def test_a_table_in_memory_and_its_file_read_alike(tmp_path):
    frame = pd.DataFrame({"text": ["one", "two"], "score": [0.5, 1.0], "id": [7, 8], "weight": [1, 2], "fold": [0, 1]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    columns = {"target": "score", "id": "id", "weight": "weight", "fold": "fold"}
    one = read_table(data(frame, **columns))
    other = read_table(DataSettings(path=tmp_path / "table.csv", text="text", **columns))
    assert one.texts == other.texts
    assert one.targets == other.targets
    assert one.ids == other.ids
    assert one.weights.tolist() == other.weights.tolist()
    assert one.folds.tolist() == other.folds.tolist()


def test_a_wrong_cell_is_named_by_its_row_in_the_table_in_memory():
    with pytest.raises(TableError, match=r"^the table in memory, row 3, column 'text': found nothing, expected a text"):
        read_table(data(COLUMNS))


def test_a_table_in_memory_without_rows_is_refused():
    with pytest.raises(TableError, match=r"^the table in memory: found no rows, expected at least one$"):
        read_table(data({"text": [], "count": []}))


def test_a_wrong_cell_of_the_validation_table_is_named_so():
    train = {"text": ["a", "b"], "count": [1, 2]}
    settings = data(train, validation=MemoryTable(data={"text": ["a"], "count": [None]}))
    with pytest.raises(TableError, match=r"^the validation table in memory, row 1, column 'count': found nothing"):
        read_table(settings)


def test_a_validation_table_and_a_limit_are_read_as_of_files():
    train = {"text": ["a", "b", "c"], "count": [1, 2, 3]}
    table = read_table(data(train, validation=MemoryTable(data={"text": ["d"], "count": [4]}), limit=2))
    assert table.texts[0].to_pylist() == ["a", "b", "d"]
    assert table.folds.tolist() == [1, 1, 0]
    assert table.describe_place(1) == "the table in memory, row 2"
    assert table.describe_place(2) == "the validation table in memory, row 1"


@pytest.mark.parametrize(("setting", "value"), [("encoding", "cp932"), ("delimiter", ";")])
def test_settings_of_files_are_refused_for_a_table_in_memory(setting, value):
    with pytest.raises(ValueError, match=f"{setting} is .*used .*, and the table is the table in memory: remove it"):
        data(COLUMNS, **{setting: value})


def test_settings_that_name_a_table_in_memory_say_that_it_must_be_given_again():
    settings = DataSettings(path="memory", text="text", target="count")
    for read in (read_table, data_sha256):
        with pytest.raises(SettingsError, match=r"data\.path: memory: the table was given from memory.*give it again"):
            read(settings)


def test_the_hash_is_of_the_columns_that_are_read():
    whole = {"text": ["a", "b"], "count": [1, 2], "other": [3, 4]}
    changed = whole | {"other": [5, 6]}
    assert data_sha256(data(whole)) == data_sha256(data(changed))
    assert data_sha256(data(whole)) != data_sha256(data(whole | {"count": [1, 3]}))


WITHOUT_LIBRARIES = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("pandas", "polars", "datasets", "torch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent)
from leantune.tables.memory import columns_of
assert columns_of(["a", 1, None, float("nan")], ["t"], texts=["t"])["t"].to_pylist() == ["a", "1", None, None]
"""


def test_no_library_of_tables_must_be_installed():
    subprocess.run([sys.executable, "-c", WITHOUT_LIBRARIES], check=True)
