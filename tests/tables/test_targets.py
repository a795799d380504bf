"""What the target columns are taken for, and every cell that cannot be one."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from leantune.system.errors import InputError, SettingsError, TableError
from leantune.tables.table import DataSettings, Table, read_table
from leantune.tables.targets import Targets, parse_known_targets, parse_targets

SHARED = Path(__file__).parents[3] / "shared" / "data"


def table_of(**columns: list[str]) -> Table:
    count = len(next(iter(columns.values()), []))
    return Table(
        path=Path("rows.csv"),
        texts=(),
        ids=pa.array(map(str, range(count)), pa.string()),
        targets={name: pa.array(cells, pa.string()) for name, cells in columns.items()},
        groups=None,
        weights=None,
        folds=None,
    )


def parse(cells: list[str], task: str = "auto") -> Targets:
    return parse_targets(table_of(y=cells), task)


def problem(task: str = "auto", **columns: list[str]) -> str:
    with pytest.raises(TableError) as caught:
        parse_targets(table_of(**columns), task)
    assert len(str(caught.value)) < 600
    return str(caught.value)


# What auto takes a column for


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["0", "1", "1"], "binary"),
        (["0.0", "1.0", "1"], "binary"),
        (["1", "2", "1"], "binary"),
        (["-1", "+1"], "binary"),
        (["0", "1", "2"], "multiclass"),
        ([str(number) for number in range(20)], "multiclass"),
        ([str(number) for number in range(21)], "regression"),
        (["0.0", "1.0", "2.0"], "regression"),
        (["1", "2", "3e0"], "regression"),
        (["0.5", "0.5", "1"], "regression"),
        (["1.0", "2.0"], "regression"),
        (["yes", "no"], "binary"),
        (["yes", "no", "maybe"], "multiclass"),
        (["true", "false"], "binary"),
        (["1", "2", "3", "other"], "multiclass"),
        ([f"class {number}" for number in range(20)], "multiclass"),
        ([f"class {number}" for number in range(21)] * 2, "multiclass"),
    ],
)
def test_auto_takes_a_column_for(cells, kind):
    targets = parse(cells)

    assert targets.kind == kind
    assert targets.reason.startswith(f"{kind}: column 'y' holds ")


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (["0", "1"], ["1", "0"], "multilabel"),
        (["0", "1"], ["0", "0"], "multilabel"),
        (["0.0", "1.0"], ["1", "0"], "multilabel"),
        (["0", "1"], ["1", "2"], "regression"),
        (["0.5", "3"], ["-1e3", "2"], "regression"),
    ],
)
def test_auto_takes_several_columns_for(first, second, kind):
    targets = parse_targets(table_of(a=first, b=second), "auto")

    assert targets.kind == kind
    assert targets.columns == ("a", "b")
    assert targets.values.tolist() == [[float(a), float(b)] for a, b in zip(first, second, strict=True)]
    assert "2 target" in targets.reason or "2 targets" in targets.reason


def test_the_reason_tells_how_to_choose_otherwise():
    assert "set data.task to regression if the numbers are a scale" in parse(["1", "2", "3"]).reason
    assert "set data.task to multiclass if they are class codes" in parse([str(n) for n in range(30)]).reason


@given(
    cells=st.lists(
        st.sampled_from(["0", "1", "0.0", "1.0", "01", " 1", "2", "2.5", "7", "a", "b", "NA", "1e400"]), min_size=1
    ),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_shuffling_the_rows_changes_neither_kind_nor_classes(cells, data):
    order = data.draw(st.permutations(range(len(cells))))
    shuffled = [cells[row] for row in order]
    try:
        expected = parse(cells)
    except InputError:
        with pytest.raises(InputError):
            parse(shuffled)
        return

    targets = parse(shuffled)

    assert (targets.kind, targets.classes, targets.reason) == (expected.kind, expected.classes, expected.reason)
    assert np.array_equal(targets.values, expected.values[order])


# Classes


def test_classes_are_sorted_as_text_and_rows_point_at_them():
    targets = parse(["pos", "neg", "neutral", "pos", "Also"])

    assert targets.classes == ("Also", "neg", "neutral", "pos")
    assert targets.values.tolist() == [3, 1, 2, 3, 0]
    assert targets.values.dtype == np.int64


def test_whole_numbers_are_sorted_as_numbers():
    targets = parse(["10", "9", "-2", "10"])

    assert targets.classes == ("-2", "9", "10")
    assert targets.values.tolist() == [2, 1, 0, 2]


def test_codes_too_long_for_a_float_stay_apart():
    assert parse(["9007199254740993", "9007199254740992"]).classes == ("9007199254740992", "9007199254740993")


def test_codes_keep_their_leading_zeros():
    assert parse(["007", "010"]).classes == ("007", "010")


def test_one_number_in_several_spellings_is_one_class():
    targets = parse(["01", "1", "1.0", "0", "0.0"], "binary")

    assert targets.classes == ("0", "1")
    assert targets.values.tolist() == [1, 1, 1, 0, 0]


def test_the_name_of_a_number_in_several_spellings_does_not_depend_on_the_rows():
    assert parse(["+1", "01", "0"], "binary").classes == parse(["01", "+1", "0"], "binary").classes == ("0", "+1")


def test_whitespace_around_a_label_does_not_make_a_class():
    assert parse(["yes", " yes", "no", "no\t"]).classes == ("no", "yes")


@given(cells=st.lists(st.sampled_from(["a", "B", "ä", "日本", "a b", "10", "9", "-"]), min_size=2))
@settings(deadline=None)
def test_text_labels_are_encoded_as_scikit_learn_does(cells):
    cells = ["text", "other", *cells]
    encoder = LabelEncoder().fit(cells)

    targets = parse(cells, "multiclass")

    assert targets.classes == tuple(encoder.classes_)
    assert targets.values.tolist() == encoder.transform(cells).tolist()


def test_the_classes_of_labels_are_their_columns():
    targets = parse_targets(table_of(joy=["0", "1"], fear=["1", "1"]), "multilabel")

    assert targets.classes == ("joy", "fear")
    assert targets.values.dtype == np.float64


def test_regression_has_no_classes_and_keeps_two_dimensions():
    targets = parse(["0.5", "-1e3", " 2"])

    assert targets.classes == ()
    assert targets.values.tolist() == [[0.5], [-1000.0], [2.0]]
    assert targets.values.dtype == np.float64


# What auto refuses


def test_a_few_texts_among_numbers_are_mistakes():
    message = problem(y=[*(f"{n}.5" for n in range(17)), "oops", "?", "1.5", *(f"{n}" for n in range(10))])

    assert message.startswith("rows.csv, row 18, column 'y': found 'oops', expected a number, as in most rows")
    assert "set data.task to multiclass if these are class names" in message


def test_exactly_nine_tenths_of_numbers_are_most():
    assert "row 10" in problem(y=[*"123456789", "oops"])
    assert parse([*"12345678", "fine", "well"]).kind == "multiclass"


@pytest.mark.parametrize("mark", ["NA", "nan", "None", "null", "N/A", "-", " na "])
def test_marks_of_missing_values_among_numbers_are_no_class(mark):
    assert f"row 2, column 'y': found {mark!r}" in problem(y=["1", mark, mark, mark, "2"])


def test_numbers_too_large_are_no_numbers():
    assert "found '1e400'" in problem(y=["1.5"] * 19 + ["1e400"])


def test_texts_that_hardly_any_rows_share_are_no_classes():
    message = problem(y=[f"text {number}" for number in range(21)])

    assert "found 21 different texts in 21 rows ('text 0', 'text 1', 'text 10' and 18 more)" in message
    assert "data.target is the right column" in message
    assert parse([f"text {number}" for number in range(21)], "multiclass").kind == "multiclass"


@pytest.mark.parametrize("task", ["auto", "regression", "binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("cell", ["1", "0"])
def test_a_target_that_never_changes_is_refused(cell, task):
    assert f"found '{cell}' in every row, expected at least two different values" in problem(task, y=[cell] * 3)


def test_a_target_of_several_that_never_changes_is_named():
    assert "column 'b': found '2' in every row" in problem(a=["1", "5"], b=["2", "2"])


def test_labels_that_no_row_has_are_fine_beside_others():
    assert parse_targets(table_of(a=["0", "0"], b=["0", "1"]), "auto").kind == "multilabel"
    assert "in every row" in problem(a=["0", "0"], b=["1", "1"])


def test_a_text_in_several_columns_is_named():
    message = problem(a=["1", "2", "3"], b=["1", "2", "many"])

    assert message.startswith("rows.csv, row 3, column 'b': found 'many', expected a number")


# What a set task enforces


def test_a_set_task_is_its_own_reason():
    for task in ("regression", "binary", "multiclass", "multilabel"):
        targets = parse(["0", "1"], task)
        assert targets.kind == task
        assert targets.reason == f"{task}: data.task is set."


def test_numbers_may_be_set_to_be_classes():
    assert parse(["1.5", "2.5", "1.5"], "multiclass").classes == ("1.5", "2.5")


def test_whole_numbers_may_be_set_to_be_a_scale():
    assert parse(["1", "2", "5"], "regression").values.tolist() == [[1.0], [2.0], [5.0]]


def test_regression_refuses_what_is_no_number():
    assert problem("regression", y=["1", "2-5"]).startswith("rows.csv, row 2, column 'y': found '2-5', expected a num")


def test_binary_names_the_classes_when_there_are_more():
    message = problem("binary", y=["b", "a", "c", "a"])

    assert "column 'y': found 3 classes ('a', 'b', 'c'), expected 2" in message
    assert "set data.task to multiclass" in message


@pytest.mark.parametrize("cell", ["2", "0.5", "perhaps"])
def test_multilabel_names_the_cell_that_is_neither_0_nor_1(cell):
    message = problem("multilabel", a=["0", "1", "1"], b=["0", "1", cell])

    assert f"row 3, column 'b': found '{cell}', expected" in message


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_columns_of_numbers_are_no_classes(task):
    with pytest.raises(SettingsError, match=r"data\.task is .* 2 columns \('a', 'b'\)"):
        parse_targets(table_of(a=["0", "1"], b=["0", "7"]), task)


def test_a_row_with_several_classes_is_named():
    assert "row 2, columns 'a', 'b': found 2 cells that are 1, expected exactly one" in problem(
        "multiclass", a=["0", "1"], b=["1", "1"]
    )


def test_columns_with_one_1_a_row_are_labels_and_the_reason_offers_classes():
    targets = parse_targets(table_of(a=["0", "1", "0"], b=["1", "0", "1"]), "auto")

    assert targets.kind == "multilabel"
    assert "Each row has exactly one 1: set data.task to multiclass" in targets.reason


def test_columns_with_one_1_a_row_are_classes_when_asked():
    targets = parse_targets(table_of(a=["False", "True"], b=["True", "False"]), "multiclass")

    assert targets.classes == ("a", "b")
    assert targets.values.tolist() == [1, 0]


def test_shares_are_divided_by_their_sum_and_named_by_their_columns():
    targets = parse_targets(table_of(a=["0.333", "1", "0"], b=["0.333", "0", "1e-4"], c=["0.333", "0", "1"]), "soft")

    assert targets.kind == "soft"
    assert targets.classes == targets.columns == ("a", "b", "c")
    np.testing.assert_allclose(targets.values.sum(axis=1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(targets.values, [[1 / 3] * 3, [1, 0, 0], [0, 1e-4 / 1.0001, 1 / 1.0001]])
    assert targets.describe(np.array([0, 1])) == "mean a 0.667, b 0.167, c 0.167"


def test_of_many_classes_or_columns_a_few_are_described_and_the_rest_counted():
    classes = parse_targets(table_of(a=[f"class {number % 9}" for number in range(18)]), "auto")
    assert classes.describe(np.arange(18)).endswith("class 5: 2 and 3 more")
    labels = parse_targets(table_of(**{name: ["0", "1"] for name in "abcdefgh"}), "multilabel")
    assert labels.describe(np.array([0, 1])) == "mean " + ", ".join(f"{name} 0.5" for name in "abcdef") + " and 2 more"


@pytest.mark.parametrize("share", ["0.499", "0.501"])
def test_shares_that_add_up_to_1_within_a_thousandth_are_taken(share):
    assert parse_targets(table_of(a=["0.5", "1"], b=[share, "0"]), "soft").kind == "soft"


def test_shares_are_never_inferred():
    assert parse_targets(table_of(a=["0.5", "0.25"], b=["0.5", "0.75"]), "auto").kind == "regression"
    assert parse_targets(table_of(a=["0", "1"], b=["1", "0"]), "auto").kind == "multilabel"


@pytest.mark.parametrize(("share", "total"), [("0.4", "0.9"), ("0.502", "1.002"), ("0.498", "0.998"), ("5e8", "5e+08")])
def test_a_row_whose_shares_do_not_add_up_to_1_is_named(share, total):
    message = problem("soft", a=["1", "0.5", "0"], b=["0", share, "0"])

    assert message.startswith("rows.csv, row 2, columns 'a', 'b': found shares that add up to ")
    assert f"add up to {total} ('0.5', '{share}'), expected 1 " in message


def test_shares_whose_sum_is_no_number_are_named():
    assert "add up to inf ('1e308', '1e308'), expected 1 " in problem("soft", a=["1e308"], b=["1e308"])


def test_a_negative_share_is_named():
    message = problem("soft", a=["1", "1.5"], b=["0", "-0.5"])

    assert "rows.csv, row 2, column 'b': found '-0.5', expected a share of 0 or more" in message


def test_a_share_that_is_no_number_is_named():
    assert "row 1, column 'b': found 'half', expected a number" in problem("soft", a=["0.5", "1"], b=["half", "0"])


def test_shares_that_are_the_same_in_every_row_are_refused_and_a_class_without_any_is_not():
    assert "column 'a': found '0.25' in every row" in problem("soft", a=["0.25"] * 2, b=["0.75"] * 2)
    assert parse_targets(table_of(a=["0", "0"], b=["0.5", "1"], c=["0.5", "0"]), "soft").kind == "soft"


def test_shares_need_two_columns():
    with pytest.raises(SettingsError, match=r"data\.task is soft, and data\.target names one column \('y'\)"):
        parse(["1", "1"], "soft")


def test_a_table_without_targets_is_a_mistake_in_the_settings():
    with pytest.raises(SettingsError, match=r"data\.target"):
        parse_targets(table_of(), "auto")


# What is shown to people


def test_targets_are_readable_again():
    rows = np.array([2, 0])

    assert parse(["yes", "no", "no"]).readable(rows).to_pylist() == ["no", "yes"]
    assert parse(["1.5", "2", "3"]).readable(rows).to_pylist() == [3.0, 1.5]
    labels = parse_targets(table_of(a=["0", "1", "1"], b=["1", "1", "0"]), "auto")
    assert labels.readable(rows).to_pylist() == [[1.0, 0.0], [0.0, 1.0]]


# Real tables


@pytest.mark.parametrize(
    ("name", "target", "kind", "classes"),
    [
        ("commonlit/train.csv", ["target"], "regression", 0),
        ("emobank/train.csv", ["V"], "regression", 0),
        ("emobank/train.csv", ["V", "A", "D"], "regression", 0),
        ("onestop/onestop.csv", ["level"], "binary", 2),
        ("banking77/train.csv", ["category"], "multiclass", 77),
        ("goemotions/dev.csv", ["joy", "sadness", "neutral"], "multilabel", 3),
        ("stsb/train.csv", ["score"], "regression", 0),
        ("jcola/in_domain_train.tsv", ["label"], "binary", 2),
        ("jsts/train.jsonl", ["label"], "regression", 0),
    ],
)
def test_real_targets_are_what_they_are_known_to_be(name, target, kind, classes):
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not on this machine")

    targets = parse_targets(read_table(DataSettings(path=SHARED / name, target=target)), "auto")

    assert targets.kind == kind
    assert len(targets.classes) == classes


def test_real_class_names_are_those_in_the_file():
    path = SHARED / "banking77" / "train.csv"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with path.open(newline="", encoding="utf-8") as file:
        expected = [row["category"] for row in csv.DictReader(file)]

    targets = parse_targets(read_table(DataSettings(path=path, target="category")), "auto")

    assert targets.readable(np.arange(len(expected))).to_pylist() == expected


def test_readable_targets_are_columns_without_a_list_of_python_on_the_way():
    class WithoutLists(np.ndarray):
        def tolist(self):
            raise AssertionError("2 million rows would not fit")

    def targets_of(kind, columns, classes, values):
        values = np.array(values).view(WithoutLists)
        return Targets(kind=kind, columns=columns, classes=classes, values=values, reason="").readable(np.array([2, 0]))

    numbers = targets_of("regression", ("a",), (), [[0.5], [1.5], [np.nan]])
    assert (numbers.type, repr(numbers.to_pylist())) == (pa.float64(), "[nan, 0.5]")
    lists = targets_of("multilabel", ("a", "b"), ("a", "b"), [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert (lists.type, lists.to_pylist()) == (pa.list_(pa.float64()), [[1.0, 0.0], [0.0, 1.0]])
    names = targets_of("binary", ("a",), ("no", "yes"), [0, 0, 1])
    assert (names.type, names.to_pylist()) == (pa.string(), ["yes", "no"])


def test_a_bad_cell_of_a_validation_file_is_named_there(tmp_path):
    files = {"path": tmp_path / "train.csv", "validation": tmp_path / "valid.csv"}
    files["path"].write_text("y\n0.5\n1.5\n2.5\n")
    files["validation"].write_text("y\n1\nNA\n")
    with pytest.raises(TableError) as caught:
        parse_targets(read_table(DataSettings(**files, target="y")), "auto")
    assert str(caught.value).startswith(f"{files['validation']}, row 2, column 'y': found 'NA'")
    with pytest.raises(TableError, match=r"valid\.csv, row 2, column 'y': found 'NA'"):
        parse_targets(read_table(DataSettings(**files, target="y")), "regression")


def test_the_classes_are_those_of_both_files(tmp_path):
    files = {"path": tmp_path / "train.csv", "validation": tmp_path / "valid.csv"}
    files["path"].write_text("y\na\nb\n")
    files["validation"].write_text("y\nc\na\n")
    assert parse_targets(read_table(DataSettings(**files, target="y")), "auto").classes == ("a", "b", "c")


def test_a_limit_that_leaves_one_class_of_a_sorted_table_is_named_as_the_likely_cause(tmp_path):
    path = tmp_path / "sorted.csv"
    path.write_text("y\n" + "a\n" * 5 + "b\n" * 5)
    limited = read_table(DataSettings(path=path, target="y", limit=5))
    with pytest.raises(TableError, match=r"'a' in every row.*only the first 5 rows.*raise or remove data\.limit"):
        parse_targets(limited, "auto")


def test_a_limit_that_leaves_no_row_out_is_not_named(tmp_path):
    path = tmp_path / "same.csv"
    path.write_text("y\n" + "a\n" * 5)
    whole = read_table(DataSettings(path=path, target="y", limit=6))
    with pytest.raises(TableError, match=r"check that data\.target is the right column"):
        parse_targets(whole, "auto")


def known(cells: list[str], kind: str, classes: tuple[str, ...]) -> list[int]:
    table = table_of(label=cells)
    return parse_known_targets(table, kind, classes).tolist()  # type: ignore[arg-type]


def test_targets_of_known_classes_are_their_places_whichever_occur():
    assert known(["b", " a", "b"], "multiclass", ("a", "b", "c")) == [1, 0, 1]
    assert known(["b"], "binary", ("a", "b")) == [1]


def test_numbers_that_name_known_classes_may_be_written_otherwise():
    assert known(["1", "01", "2.0"], "multiclass", ("1", "2")) == [0, 0, 1]
    assert known(["1.0"], "multiclass", ("1.0", "x")) == [0]


def test_a_class_that_is_not_known_is_refused_with_its_row():
    with pytest.raises(TableError, match=r"row 2, column 'label': found '3', expected one of the 2 classes"):
        known(["1", "3"], "multiclass", ("1", "2"))
    with pytest.raises(TableError, match=r"row 1, column 'label': found '1', expected one of the 2 classes"):
        known(["1"], "binary", ("1.0", "x"))
