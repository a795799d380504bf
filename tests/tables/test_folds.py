import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.model_selection
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from leantune.system.errors import SettingsError, TableError
from leantune.tables.folds import Folds, FoldSettings, given_folds, make_folds
from leantune.tables.targets import Targets

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the data sets of the project are not at {DATA}")

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(2, 7)


def numbers(*columns) -> Targets:
    values = np.array(columns, dtype=np.float64).T
    names = tuple("abc"[: len(columns)])
    return Targets(kind="regression", columns=names, classes=(), values=values, reason="")


def classes(values, count: int | None = None) -> Targets:
    values = np.array(values, dtype=np.int64)
    names = tuple(f"class {i}" for i in range(count or values.max() + 1))
    kind = "binary" if len(names) == 2 else "multiclass"
    return Targets(kind=kind, columns=("a",), classes=names, values=values, reason="")


def labels(values) -> Targets:
    values = np.array(values, dtype=np.float64)
    names = tuple(f"label {i}" for i in range(values.shape[1]))
    return Targets(kind="multilabel", columns=names, classes=names, values=values, reason="")


def shares(values) -> Targets:
    values = np.array(values, dtype=np.float64)
    names = tuple(f"class {i}" for i in range(values.shape[1]))
    return Targets(kind="soft", columns=names, classes=names, values=values, reason="")


def article_bins(targets: pd.Series) -> pd.Series:
    bins = int(np.floor(1 + np.log2(len(targets))))
    return pd.cut(targets, bins=bins, labels=False)


def folds_in_pandas(table: pd.DataFrame, strata, count: int, seed: int) -> list[int] | None:
    """The article's recipe; `strata` makes the bins from the shuffled table. None where scikit-learn refuses."""
    table = table.assign(row=range(len(table)))
    table = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    splitter = StratifiedKFold(n_splits=count, shuffle=True, random_state=seed)
    table["fold"] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for fold, (_, rows) in enumerate(splitter.split(table, strata(table.target))):
                table.loc[rows, "fold"] = fold
        except ValueError:
            return None
    return table.sort_values("row").fold.tolist()


def check_whole(folds: Folds, row_count: int, count: int) -> None:
    assert folds.of_row.dtype == np.int64
    assert folds.of_row.shape == (row_count,)
    assert folds.count == count
    assert set(folds.of_row) == set(range(count))


def sizes(folds: Folds) -> list[int]:
    return np.bincount(folds.of_row).tolist()


numeric_targets = st.integers(2, 120).flatmap(
    lambda size: (
        st.lists(st.floats(-1000, 1000), min_size=size, max_size=size)
        | st.lists(st.integers(-3, 3).map(float), min_size=size, max_size=size)
        | st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.1]), min_size=size, max_size=size)
        | st.floats(-1000, 1000).map(lambda value: [value] * size)
    )
)
class_targets = st.integers(1, 8).flatmap(lambda most: st.lists(st.integers(0, most), min_size=2, max_size=80))
label_targets = st.tuples(st.integers(2, 60), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 1))
)


@given(numeric_targets, counts, seeds)
@example([0.0, 1.0, 2.0, 3.0, 4.0] * 3, 3, 0)  # every value lies on the edge of a bin
def test_sturges_folds_are_those_of_the_article_row_for_row(values, count, seed):
    assume(len(values) >= count)
    found = make_folds(numbers(values), None, FoldSettings(count=count, seed=seed))
    check_whole(found, len(values), count)
    assert found.kind == "sturges"
    with np.errstate(all="ignore"):
        try:
            bins = article_bins(pd.Series(values))
        except ValueError:  # a range of a few rounding errors, in which pandas cannot place its edges
            return
    if bins.notna().all():
        expected = folds_in_pandas(pd.DataFrame({"target": values}), article_bins, count, seed)
        if expected is None:
            assert "neighbours were joined" in found.notes[-1]
        else:
            assert found.of_row.tolist() == expected


@needs_data
@pytest.mark.parametrize("seed", [0, 1, 42, 2021, 2**32 - 1])
@pytest.mark.parametrize("count", [2, 5, 10])
def test_sturges_folds_of_commonlit_are_those_of_the_article(seed, count):
    table = pd.read_csv(DATA / "commonlit" / "train.csv")
    found = make_folds(numbers(table.target), None, FoldSettings(count=count, seed=seed))
    assert found.of_row.tolist() == folds_in_pandas(table, article_bins, count, seed)


def test_sturges_cuts_the_first_of_several_targets():
    values = np.random.RandomState(0).normal(size=(3, 100))
    one, several = (make_folds(numbers(*table), None, FoldSettings()) for table in (values[:1], values))
    assert one.of_row.tolist() == several.of_row.tolist()


def test_rare_bins_are_noted_and_kept():
    found = make_folds(numbers([*np.zeros(30), 1.0, 1.0]), None, FoldSettings())
    assert found.notes == (
        "Some folds validate without a bin of the target that has fewer rows than there are folds (5): 1 of 2 bins.",
    )


def test_bins_that_are_all_rare_are_joined_with_their_neighbours():
    found = make_folds(numbers([1, 2, 3, 4, 5, 6, 7, 8]), None, FoldSettings(count=4))  # 4 bins of 2 rows
    assert "joined" in found.notes[-1]
    for fold in range(4):
        low, high = found.validation_rows(fold)
        assert low < 4 <= high


def test_common_bins_need_no_note():
    assert make_folds(numbers([0, 0, 0, 1, 1, 1]), None, FoldSettings(count=3)).notes == ()


@given(class_targets, counts, seeds)
def test_stratified_folds_are_those_of_a_shuffled_table_in_scikit_learn(values, count, seed):
    assume(len(values) >= count)
    found = make_folds(classes(values), None, FoldSettings(count=count, seed=seed))
    check_whole(found, len(values), count)
    assert found.kind == "stratified"
    expected = folds_in_pandas(pd.DataFrame({"target": values}), lambda target: target, count, seed)
    if expected is None:
        assert "neighbours were joined" in found.notes[-1]
    else:
        assert found.of_row.tolist() == expected


def test_rare_classes_are_noted_by_name_with_their_rows():
    found = make_folds(classes([0] * 10 + [1] * 3 + [2] * 5 + [4], count=5), None, FoldSettings())
    assert found.notes == (
        "Some folds validate without a class that has fewer rows than there are folds (5): 'class 1' (3), "
        "'class 4' (1). Their "
        "metrics do not measure it, and a fold that validates all rows of a class never trains on it.",
    )


def test_a_long_list_of_rare_classes_is_cut_short():
    (note,) = make_folds(classes([*range(40), *[40] * 5]), None, FoldSettings()).notes
    assert "'class 4' (1) and 35 more. " in note


def test_a_table_with_as_many_classes_as_rows_still_has_folds():
    found = make_folds(classes(range(23)), None, FoldSettings())
    assert sizes(found) == [5, 5, 5, 4, 4]


@given(numeric_targets | class_targets | label_targets, counts, seeds, st.data())
def test_a_group_is_never_split(values, count, seed, data):
    if isinstance(values, np.ndarray):
        targets = labels(values)
    else:
        targets = numbers(values) if isinstance(values[0], float) else classes(values)
    groups = data.draw(arrays("U1", len(values), elements=st.sampled_from("abcdefgh")))
    group_count = len(set(groups))
    fold_settings = FoldSettings(count=count, seed=seed)
    if group_count < count:
        with pytest.raises(TableError):
            make_folds(targets, groups, fold_settings)
        return
    found = make_folds(targets, groups, fold_settings)
    check_whole(found, len(values), count)
    assert found.kind == "group"
    assert all(len(set(found.of_row[groups == group])) == 1 for group in set(groups))


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_groups_are_spread_as_scikit_learn_spreads_them(task, seed):
    random = np.random.RandomState(1)
    of_group = random.randint(0, 40, size=300)
    groups = np.array([f"author {group}" for group in of_group])
    if task == "regression":
        values = of_group % 7 + random.normal(size=300)
        targets, strata = numbers(values), article_bins(pd.Series(values))
    else:
        strata = (of_group + random.randint(0, 2, size=300)) % 3
        targets = classes(strata)
    splitter = StratifiedGroupKFold(n_splits=4, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [rows for _, rows in splitter.split(groups, strata, groups)]
    found = make_folds(targets, groups, FoldSettings(count=4, seed=seed))
    assert [found.validation_rows(fold).tolist() for fold in range(4)] == [list(rows) for rows in expected]


def test_groups_of_multilabel_rows_are_dealt_at_random_as_scikit_learn_does():
    groups = np.random.RandomState(0).randint(100, 120, size=80).astype(str)
    found = make_folds(labels(np.eye(80)), groups, FoldSettings(seed=3))
    splitter = GroupKFold(n_splits=5, shuffle=True, random_state=3)
    expected = [rows.tolist() for _, rows in splitter.split(groups, groups=groups)]
    assert [found.validation_rows(fold).tolist() for fold in range(5)] == expected


def test_a_fold_that_scikit_learn_leaves_empty_gets_groups(monkeypatch):
    class LeavesOneEmpty(StratifiedGroupKFold):
        def _iter_test_indices(self, rows, *_):
            yield from (np.arange(len(rows)), [], [])

    monkeypatch.setattr(sklearn.model_selection, "StratifiedGroupKFold", LeavesOneEmpty)
    found = make_folds(classes([0, 1] * 6), np.array(list("aabbccddeeff")), FoldSettings(count=3))
    assert sizes(found) == [4, 4, 4]
    assert "too few groups" in found.notes[-1]


def test_few_groups_of_few_classes_leave_no_fold_empty():
    for seed in range(300):  # scikit-learn leaves a fold empty in about one table in two hundred of these
        random = np.random.RandomState(seed)
        groups = np.concatenate([np.arange(5), random.randint(0, 5, size=32)])
        values = random.randint(0, 4, size=5)[groups]
        check_whole(make_folds(classes(values, count=4), groups.astype(str), FoldSettings(seed=seed)), 37, 5)


@given(label_targets, counts, seeds)
def test_multilabel_folds_take_every_row_once(values, count, seed):
    assume(len(values) >= count)
    found = make_folds(labels(values), None, FoldSettings(count=count, seed=seed))
    check_whole(found, len(values), count)
    assert found.kind == "multilabel"


@given(label_targets, counts, seeds)
@example(np.array([[1, 1, 0]] * 2 + [[0, 1, 0]] * 3 + [[0, 0, 1]] * 4), 3, 0)  # the second overtakes the third
def test_multilabel_folds_are_those_of_the_paper(table, count, seed):
    assume(len(table) >= count)
    random = np.random.RandomState(seed)
    rows_left = set(range(len(table)))
    rows_wanted = np.full(count, len(table) / count)
    labels_wanted = np.tile(table.sum(axis=0, dtype=int) / count, (count, 1))
    expected = [-1] * len(table)
    while rows_left:
        label_counts = {
            label: rows for label in range(table.shape[1]) if (rows := sum(table[row, label] for row in rows_left))
        }
        label = min(label_counts, key=label_counts.__getitem__, default=None)
        for row in random.permutation(sorted(row for row in rows_left if label is None or table[row, label])):
            lots = random.random_sample(count)
            best = range(count)
            if label is not None:
                best = [fold for fold in best if labels_wanted[fold, label] == max(labels_wanted[:, label])]
            best = [fold for fold in best if rows_wanted[fold] == max(rows_wanted[fold] for fold in best)]
            fold = min(best, key=lots.__getitem__)
            expected[row] = fold
            rows_wanted[fold] -= 1
            labels_wanted[fold] -= table[row]
            rows_left.remove(row)
    assert make_folds(labels(table), None, FoldSettings(count=count, seed=seed)).of_row.tolist() == expected


@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), counts, seeds)
def test_rows_of_one_label_or_none_are_spread_evenly(values, count, seed):
    assume(len(values) >= count)
    table = np.eye(6)[values][:, 1:]  # 0 stands for a row without labels
    found = make_folds(labels(table), None, FoldSettings(count=count, seed=seed))
    assert np.ptp(sizes(found)) <= 1
    for label in range(5):
        rows = table[:, label] == 1
        assert np.ptp(np.bincount(found.of_row[rows], minlength=count)) <= 1


@needs_data
def test_multilabel_folds_of_goemotions_have_their_share_of_every_label_within_seconds():
    table = pd.read_csv(DATA / "goemotions" / "train.csv").iloc[:, 2:].to_numpy()
    started = time.perf_counter()
    found = make_folds(labels(table), None, FoldSettings())
    assert time.perf_counter() - started < 10
    share = np.array([table[found.validation_rows(fold)].sum(axis=0) for fold in range(5)])
    assert np.abs(share - table.sum(axis=0) / 5).max() <= 2
    assert np.ptp(sizes(found)) < 0.01 * len(table)


def test_rare_labels_are_noted():
    found = make_folds(labels([[1, 0, 0]] * 5 + [[0, 1, 0]] * 2 + [[0, 0, 0]]), None, FoldSettings())
    assert found.notes == (
        "Some folds validate without a label that has fewer rows than there are folds (5): 'label 1' (2). Their "
        "metrics do not measure it, and a fold that validates all rows of a label never trains on it.",
    )


@given(st.integers(2, 200), counts, seeds)
def test_random_folds_differ_by_one_row_at_most(row_count, count, seed):
    assume(row_count >= count)
    found = make_folds(numbers(np.arange(row_count)), None, FoldSettings(count=count, seed=seed, kind="random"))
    check_whole(found, row_count, count)
    assert found.kind == "random"
    assert np.ptp(sizes(found)) <= 1


TASKS = {
    "regression": numbers(np.arange(60) % 12),
    "binary": classes(np.arange(60) % 2),
    "multiclass": classes(np.arange(60) % 3),
    "multilabel": labels(np.eye(6)[np.arange(60) % 6]),
    "soft": shares(np.full((60, 3), 0.2) + 0.4 * np.eye(3)[np.arange(60) % 3]),
}
GROUPS = np.array([f"group {row // 3}" for row in range(60)])


@pytest.mark.parametrize(("groups", "kind"), [(None, "auto"), (None, "random"), (GROUPS, "auto")])
@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_folds_again_and_another_seed_gives_others(task, kind, groups):
    found = [make_folds(TASKS[task], groups, FoldSettings(seed=seed, kind=kind)).of_row.tolist() for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_folds_of_shares_are_those_of_the_most_probable_classes():
    draw = np.random.default_rng(0)
    values = draw.dirichlet(np.ones(4), size=90)
    settings = FoldSettings(count=4, seed=5)
    found = make_folds(shares(values), None, settings)
    assert found.of_row.tolist() == make_folds(classes(values.argmax(axis=1), 4), None, settings).of_row.tolist()
    assert make_folds(shares([[0.75, 0.25]] * 9 + [[0.25, 0.75]]), None, settings).notes == ()


@pytest.mark.parametrize(
    ("task", "groups", "kind"),
    [
        ("regression", None, "sturges"),
        ("binary", None, "stratified"),
        ("multiclass", None, "stratified"),
        ("multilabel", None, "multilabel"),
        ("soft", None, "stratified"),
        *((task, GROUPS, "group") for task in TASKS),
    ],
)
def test_auto_is_the_kind_that_fits(task, groups, kind):
    auto, named = (make_folds(TASKS[task], groups, FoldSettings(kind=given)) for given in ("auto", kind))
    assert auto.kind == named.kind == kind
    assert auto.of_row.tolist() == named.of_row.tolist()


@pytest.mark.parametrize(
    ("task", "kind", "fitting"),
    [
        ("regression", "stratified", "sturges or random"),
        ("regression", "multilabel", "sturges or random"),
        ("binary", "sturges", "stratified or random"),
        ("multiclass", "multilabel", "stratified or random"),
        ("multilabel", "stratified", "multilabel or random"),
        ("multilabel", "sturges", "multilabel or random"),
        ("soft", "multilabel", "stratified or random"),
    ],
)
def test_a_kind_that_does_not_fit_the_task_is_refused(task, kind, fitting):
    with pytest.raises(SettingsError, match=f"folds.kind is {kind}.* {task} target: use auto or {fitting}"):
        make_folds(TASKS[task], None, FoldSettings(kind=kind))


def test_group_folds_without_groups_are_refused():
    with pytest.raises(SettingsError, match=r"folds.kind is group.*set data.group"):
        make_folds(TASKS["binary"], None, FoldSettings(kind="group"))


@pytest.mark.parametrize("kind", ["sturges", "random"])
def test_groups_that_would_be_ignored_are_refused(kind):
    with pytest.raises(SettingsError, match=f"folds.kind is {kind}, which would ignore the groups"):
        make_folds(TASKS["regression"], GROUPS, FoldSettings(kind=kind))


@pytest.mark.parametrize("kind", ["auto", "random"])
@pytest.mark.parametrize("targets", [numbers([1, 2, 3]), classes([0, 1, 1]), labels(np.eye(3))])
def test_fewer_rows_than_folds_are_refused_with_both_numbers(targets, kind):
    with pytest.raises(TableError, match=r"3 rows cannot be divided into 4 folds: set folds.count to 3 or less"):
        make_folds(targets, None, FoldSettings(count=4, kind=kind))
    check_whole(make_folds(targets, None, FoldSettings(count=3, kind=kind)), 3, 3)


@pytest.mark.parametrize("row_count", [0, 1])
def test_a_table_too_small_for_any_folds_is_refused(row_count):
    with pytest.raises(TableError, match=rf"{row_count} rows? cannot be divided into 5 folds: .* need at least 2"):
        make_folds(numbers(np.arange(row_count)), None, FoldSettings())


def test_fewer_groups_than_folds_are_refused_with_both_numbers():
    with pytest.raises(TableError, match="2 groups cannot be divided into 5 folds"):
        make_folds(numbers(np.arange(20)), np.array(list("ab") * 10), FoldSettings())


def test_a_folds_rows_are_ascending_and_the_others_train():
    folds = given_folds(np.array([1, 0, 2, 1, 0]))
    assert (folds.kind, folds.count) == ("given", 3)
    assert folds.validation_rows(1).tolist() == [0, 3]
    assert folds.training_rows(1).tolist() == [1, 2, 4]
    assert folds.validation_rows(1).dtype == folds.training_rows(1).dtype == np.int64


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_does_not_exist_is_refused(fold):
    folds = given_folds(np.array([0, 1]))
    for rows in (folds.validation_rows, folds.training_rows):
        with pytest.raises(SettingsError, match=f"no fold {fold}: the folds are 0 to 1"):
            rows(fold)


@pytest.mark.parametrize(
    ("of_row", "message"),
    [
        ([1, 2, 3], "the numbers 1, 2, 3, expected 0 to 2"),
        ([0, 3, 0], "the numbers 0, 3, expected 0 to 1"),
        ([-1, 0, 1], "the numbers -1, 0, 1, expected 0 to 2"),
        (range(5, 25), "the numbers 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, ..., expected 0 to 19"),
        ([0, 0], "All rows are in fold 0"),
        ([], "is empty"),
    ],
)
def test_given_folds_that_leave_gaps_are_refused(of_row, message):
    with pytest.raises(TableError, match=message):
        given_folds(np.array(of_row, dtype=np.int64))


@pytest.mark.parametrize("values", [{"count": 1}, {"seed": -1}, {"seed": 2**32}, {"kind": "given"}, {"shuffle": True}])
def test_other_fold_settings_are_refused(values):
    with pytest.raises(ValidationError):
        FoldSettings(**values)


def test_of_a_split_only_fold_0_validates():
    folds = given_folds(np.array([1, 0, 1]), holdout=True)
    assert (folds.count, folds.kind) == (1, "given")
    assert folds.validation_rows(0).tolist() == [1]
    assert folds.training_rows(0).tolist() == [0, 2]
    with pytest.raises(SettingsError, match="no fold 1: the data say which rows train"):
        folds.validation_rows(1)
    with pytest.raises(SettingsError, match="fold: all trains one model a fold"):
        folds.all_numbers()
    assert given_folds(np.array([1, 0, 2])).all_numbers() == [0, 1, 2]
