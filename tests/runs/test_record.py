"""The run folder: complete files that anybody can read, and nothing of anybody else's overwritten."""

import csv
import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leantune.runs.record
from leantune.runs.record import RunFolder, code_revision, hold, refuse_taken, write_folds
from leantune.system.errors import RunFolderError
from leantune.training.events import Checkpoint, Evaluation, FoldStart, Note, TrainStep

NOTE = Note(about="data", text="2,000 rows of “東京”\nand more")
FOLD_START = FoldStart(fold=0, training_rows=80, validation_rows=20, total_steps=5)
STEP = TrainStep(
    fold=0,
    step=1,
    epoch=0.2,
    loss=0.5,
    learning_rate=2e-5,
    gradient_norm=None,
    skipped=False,
    rows=32,
    tokens=600,
    computed_tokens=640,
    useful_flops=1e9,
    tokens_per_second=1000.0,
    memory=2**30,
    train_seconds=0.6,
)
EVALUATION = Evaluation(
    fold=0,
    step=5,
    epoch=1.0,
    metrics={"rmse": 0.5, "pearson": None},
    metric="rmse",
    is_best=True,
    predictions=np.zeros((20, 1)),
    rows=20,
    train_seconds=3.0,
    evaluation_seconds=0.5,
)
SAVED = Checkpoint(fold=0, step=5, path="fold_0/model", checkpoint_seconds=0.1)
EVENTS = [NOTE, FOLD_START, STEP, EVALUATION, SAVED]


def strict_json(text: str) -> Any:
    """Parse JSON as the standard has it: without NaN and Infinity, which Python would take."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_predictions(folder: RunFolder, **changes: Any) -> pa.Table:
    arguments = {
        "rows": np.array([3, 7, 11]),
        "ids": pa.array(["c", "a", "b"]),
        "targets": [1.5, 2.5, -1.0],
        "predictions": np.array([[1.0], [2.0], [3.0]]),
        "labels": ("score",),
    }
    folder.write_predictions(0, **(arguments | changes))
    return pq.read_table(folder.path / "fold_0" / "predictions.parquet")


# The folder


def test_a_run_folder_and_its_parents_are_made(tmp_path):
    with RunFolder(tmp_path / "a" / "b"):
        pass
    assert list(contents(tmp_path)) == ["a/b/events.jsonl"]


def test_an_empty_folder_is_taken_for_the_run(tmp_path):
    refuse_taken(tmp_path)
    with RunFolder(tmp_path) as folder:
        assert folder.path == tmp_path


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="there already, and not an empty folder; give another --output"):
        RunFolder(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_with_only_a_hidden_file_or_a_folder_in_it_is_refused(tmp_path):
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(RunFolderError):
        refuse_taken(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(RunFolderError):
        RunFolder(path)
    assert contents(tmp_path) == {"run": b""}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    with pytest.raises(RunFolderError) as caught:
        RunFolder(path)
    assert str(caught.value) == f"{path}: cannot be written: Not a directory; give another --output"


def test_a_finished_run_refuses_the_next_one(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_metrics({"overall": {}})
    before = contents(tmp_path)
    with pytest.raises(RunFolderError):
        RunFolder(tmp_path / "run")
    assert contents(tmp_path) == before


def test_a_fold_has_a_folder_of_its_own(tmp_path):
    with RunFolder(tmp_path) as folder:
        assert folder.fold(3) == folder.fold(3) == tmp_path / "fold_3"
        assert (tmp_path / "fold_3").is_dir()


# Files that are written at once


def test_settings_environment_and_metrics_read_back_as_they_were(tmp_path):
    written = {"b": [1, 2.5, None, True], "a": {"name": "東京, “quoted”\n#"}}
    with RunFolder(tmp_path) as folder:
        folder.write_config(written)
        folder.write_environment(written)
        folder.write_metrics(written)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8")) == written
    for name in ("environment.json", "metrics.json"):
        assert strict_json((tmp_path / name).read_text("utf-8")) == written


def test_settings_stay_in_their_order_and_readable(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_config({"data": {"text": ["本文"]}, "batching": {"batch_size": 8}})
    assert (tmp_path / "config.yaml").read_text("utf-8") == "data:\n  text:\n  - 本文\nbatching:\n  batch_size: 8\n"


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\ufeff", "\x07", "\r", "\r\n", "\t"])
def test_settings_keep_characters_that_yaml_takes_for_line_breaks(tmp_path, mark):
    written = {"data": {"text": f"a{mark}東", "target": mark}}
    with RunFolder(tmp_path) as folder:
        folder.write_config(written)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8")) == written


def test_nothing_but_the_files_stays_behind(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_config({})
        folder.write_environment({})
        folder.write_metrics({})
        write_predictions(folder)
    assert set(contents(tmp_path)) == {
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "fold_0/predictions.parquet",
        "metrics.json",
    }


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.json", "fold_0/predictions.parquet"])
def test_a_file_that_is_written_again_is_the_old_one_until_the_new_one_is_complete(tmp_path, monkeypatch, name):
    with RunFolder(tmp_path) as folder:
        write = {
            "config.yaml": lambda value: folder.write_config({"value": value}),
            "environment.json": lambda value: folder.write_environment({"value": value}),
            "metrics.json": lambda value: folder.write_metrics({"value": value}),
            "fold_0/predictions.parquet": lambda value: write_predictions(folder, targets=[value] * 3),
        }[name]
        write(1.0)
        before = (tmp_path / name).read_bytes()

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stop)  # the last moment before the new file is there
            with pytest.raises(KeyboardInterrupt):
                write(2.0)
        assert (tmp_path / name).read_bytes() == before
        write(2.0)
        assert (tmp_path / name).read_bytes() != before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_never_reaches_a_file(tmp_path, value):
    with RunFolder(tmp_path) as folder:
        folder.write_event(NOTE)
        before = contents(tmp_path)
        bad = Evaluation(**{**vars(EVALUATION), "metrics": {"rmse": value}})
        for write in (folder.write_metrics, folder.write_environment):
            with pytest.raises(ValueError, match="not JSON compliant"):
                write({"overall": {"rmse": value}})
        with pytest.raises(ValueError, match="not JSON compliant"):
            folder.write_event(bad)
        assert contents(tmp_path) == before


# Events


def test_an_event_is_a_line_of_strict_json_with_all_its_fields(tmp_path):
    with RunFolder(tmp_path) as folder:
        for event in EVENTS:
            folder.write_event(event)
    lines = (tmp_path / "events.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(EVENTS)
    for line, event in zip(lines, EVENTS, strict=True):
        found = strict_json(line)
        assert list(found)[:2] == ["event", "time"]
        assert {name: value for name, value in found.items() if name != "time"} == {
            name: value for name, value in vars(event).items() if name != "predictions"
        }


def test_events_can_be_read_while_the_run_goes(tmp_path):
    with RunFolder(tmp_path) as folder:
        for count, event in enumerate(EVENTS, start=1):
            folder.write_event(event)
            lines = (tmp_path / "events.jsonl").read_text("utf-8").splitlines()
            assert len(lines) == count
            assert strict_json(lines[-1])["event"] == event.event


def test_events_are_in_order_of_time(tmp_path):
    with RunFolder(tmp_path) as folder:
        for event in EVENTS:
            folder.write_event(event)
    times = [strict_json(line)["time"] for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert times == sorted(times)


def test_events_survive_a_run_that_fails(tmp_path):
    def run() -> None:
        with RunFolder(tmp_path) as folder:
            folder.write_event(NOTE)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert strict_json((tmp_path / "events.jsonl").read_text("utf-8"))["text"] == NOTE.text


def test_events_are_a_table_for_pandas(tmp_path):
    with RunFolder(tmp_path) as folder:
        for event in EVENTS:
            folder.write_event(event)
    table = pd.read_json(tmp_path / "events.jsonl", lines=True)
    assert list(table["event"]) == ["note", "fold", "step", "evaluation", "checkpoint"]


def test_a_file_name_that_is_no_utf_8_can_be_told(tmp_path):
    name = os.fsdecode("表.csv".encode("cp932"))
    with RunFolder(tmp_path) as folder:
        folder.write_event(Note(about="data", text=name))
        folder.write_config({"path": name})
        folder.write_environment({"path": name})
    assert strict_json((tmp_path / "events.jsonl").read_text("utf-8"))["text"] == name
    assert strict_json((tmp_path / "environment.json").read_text("utf-8"))["path"] == name
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8")) == {"path": name}


# Predictions


def test_one_output_is_predicted_as_a_number(tmp_path):
    with RunFolder(tmp_path) as folder:
        table = write_predictions(folder)
    assert table.to_pydict() == {
        "row": [3, 7, 11],
        "id": ["c", "a", "b"],
        "target": [1.5, 2.5, -1.0],
        "prediction": [1.0, 2.0, 3.0],
    }
    assert table.schema.remove_metadata() == pa.schema(
        {"row": pa.int64(), "id": pa.string(), "target": pa.float64(), "prediction": pa.float64()}
    )
    assert json.loads(table.schema.metadata[b"labels"]) == ["score"]


def test_several_targets_are_predicted_as_a_list_in_the_order_of_the_labels(tmp_path):
    predictions = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    targets = [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    with RunFolder(tmp_path) as folder:
        table = write_predictions(folder, targets=targets, predictions=predictions, labels=("valence", "覚醒"))
    assert table["target"].to_pylist() == targets
    assert table["prediction"].to_pylist() == predictions.tolist()
    assert table.schema.field("target").type == table.schema.field("prediction").type == pa.list_(pa.float64())
    assert json.loads(table.schema.metadata[b"labels"]) == ["valence", "覚醒"]


def test_classes_are_predicted_as_probabilities_beside_the_name_of_the_true_one(tmp_path):
    predictions = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [1.0, 0.0, 0.0]])
    labels = ("001", "no", "yes, “sir”")
    with RunFolder(tmp_path) as folder:
        table = write_predictions(folder, targets=["yes, “sir”", "001", "no"], predictions=predictions, labels=labels)
    assert table.schema.field("target").type == pa.string()
    assert table["target"].to_pylist() == ["yes, “sir”", "001", "no"]
    assert table["prediction"].to_pylist() == predictions.tolist()
    assert tuple(json.loads(table.schema.metadata[b"labels"])) == labels


def test_predictions_of_all_folds_are_one_file_in_the_order_of_the_rows(tmp_path):
    labels = ("content", "wording")
    with RunFolder(tmp_path / "a=b") as folder:  # no column of the file
        for fold, rows in ((0, [1, 4]), (1, [0, 2])):
            values = np.array([[row, row / 2] for row in rows])
            folder.write_predictions(
                fold,
                rows=np.array(rows),
                ids=pa.array(map(str, rows)),
                targets=values.tolist(),
                predictions=values,
                labels=labels,
            )
        folder.write_all_predictions([0, 1, "none"])
    table = pq.ParquetFile(tmp_path / "a=b" / "predictions.parquet").read()
    assert table.column_names == ["row", "id", "target", "prediction", "fold"]
    assert table["row"].to_pylist() == [0, 1, 2, 4]
    assert table["id"].to_pylist() == ["0", "1", "2", "4"]
    assert table["fold"].to_pylist() == [1, 0, 1, 0]
    assert table["prediction"].to_pylist() == [[0, 0], [1, 0.5], [2, 1], [4, 2]]
    assert json.loads(table.schema.metadata[b"labels"]) == list(labels)


def test_where_no_rows_validate_there_is_no_file_of_predictions(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_all_predictions(["none"])
    assert not (tmp_path / "run" / "predictions.parquet").exists()


def test_predictions_lie_in_the_order_in_which_they_were_given(tmp_path):
    rows = np.random.RandomState(0).permutation(1000)
    with RunFolder(tmp_path) as folder:
        table = write_predictions(
            folder,
            rows=rows,
            ids=pa.array([f"id {row}" for row in rows]),
            targets=(rows / 8).tolist(),
            predictions=rows[:, np.newaxis] / 16,
        ).to_pandas()
    assert (table["row"] == rows).all()
    assert (table["id"] == [f"id {row}" for row in rows]).all()
    assert (table["target"] == rows / 8).all()
    assert (table["prediction"] == rows / 16).all()


# Folds

# As a table may have them: text without surrogates, not empty.
ids = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    | st.sampled_from(["a,b", 'say "hi"', "two\nlines", "two\r\nlines", "two\rlines", " padded ", "'", "\u2028", "東"]),
    min_size=1,
    max_size=20,
    unique=True,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids, st.data())
def test_folds_read_back_as_they_were_whatever_the_ids(tmp_path, ids, data):
    folds = data.draw(st.lists(st.integers(0, 9), min_size=len(ids), max_size=len(ids)))
    path = tmp_path / "folds.csv"
    write_folds(path, pa.array(ids), np.array(folds))
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == ["id", "fold"]
    assert rows == [[name, str(fold)] for name, fold in zip(ids, folds, strict=True)]


def test_plain_ids_make_a_plain_file_that_replaces_the_old_one(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("something old")
    write_folds(path, pa.array(["0", "1", "a b"]), np.array([1, 0, 1]))
    assert contents(tmp_path) == {"folds.csv": b"id,fold\n0,1\n1,0\na b,1\n"}


def test_pandas_reads_ids_with_commas_quotes_and_newlines(tmp_path):
    names = ["a,b", 'say "hi"', "two\nlines", "carriage\rreturn"]
    write_folds(tmp_path / "folds.csv", pa.array(names), np.arange(4))
    table = pd.read_csv(tmp_path / "folds.csv", dtype={"id": str})
    assert table.to_dict("list") == {"id": names, "fold": [0, 1, 2, 3]}


# Code revision


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `record.py`, in a folder without git."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "repository" / "package" / "record.py"
    path.parent.mkdir(parents=True)
    path.write_text("first = 1\n")
    monkeypatch.setattr(leantune.runs.record, "__file__", str(path))
    return path


def git(source: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("there is no git here to make a repository with")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=source.parent.parent, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(source: Path, *files: str) -> str:
    git(source, "init")
    git(source, "add", *files)
    git(source, "commit", "--message", "first")
    return git(source, "rev-parse", "HEAD")


def test_code_outside_a_checkout_has_no_revision(source):
    assert code_revision() is None


def test_code_in_a_checkout_has_the_full_commit(source):
    revision = commit(source, "package/record.py")
    assert len(revision) == 40
    assert code_revision() == revision


def test_a_tag_does_not_change_what_the_revision_looks_like(source):
    revision = commit(source, "package/record.py")
    git(source, "tag", "--annotate", "v1.0", "--message", "one")
    assert code_revision() == revision


def test_changed_code_is_dirty(source):
    revision = commit(source, "package/record.py")
    source.write_text("first = 2\n")
    assert code_revision() == f"{revision}-dirty"


def test_a_package_inside_somebody_elses_checkout_has_no_revision(source):
    (source.parent.parent / "thesis.tex").write_text("x")
    commit(source, "thesis.tex")
    assert code_revision() is None


def test_a_checkout_without_a_commit_has_no_revision(source):
    git(source, "init")
    git(source, "add", "package/record.py")
    assert code_revision() is None


def test_a_machine_without_git_has_no_revision(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_revision() is None


# The lock


def test_the_lock_of_a_finished_run_goes_with_it_and_that_of_an_unfinished_one_stays(tmp_path):
    with hold(tmp_path):
        pass
    assert (tmp_path / ".lock").exists()
    with hold(tmp_path):
        (tmp_path / "metrics.json").write_text("{}")
    assert not (tmp_path / ".lock").exists()


def test_a_system_that_removes_no_open_file_ends_a_run_all_the_same(tmp_path, monkeypatch):
    """As Windows does."""

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "The process cannot access the file", str(path))

    with monkeypatch.context() as patch, hold(tmp_path):
        (tmp_path / "metrics.json").write_text("{}")
        patch.setattr(Path, "unlink", refuse)
    with hold(tmp_path):  # it is free
        pass


def test_a_process_that_takes_a_folder_while_another_leaves_it_has_it_alone(tmp_path, monkeypatch):
    """Wherever between removing the lock's file and freeing it the other process comes."""
    release = FileLock.release
    entered = ExitStack()

    def beset(lock, *arguments, **options):
        monkeypatch.setattr(FileLock, "release", release)
        enter()  # just before it is freed
        release(lock, *arguments, **options)
        enter()  # just after

    def enter():
        try:
            entered.enter_context(hold(tmp_path))
        except RunFolderError:
            refused.append("refused")

    refused = []
    monkeypatch.setattr(FileLock, "release", beset)
    with hold(tmp_path):
        (tmp_path / "metrics.json").write_text("{}")
    assert refused == ["refused"]  # one of the two moments has it, the other has not
    with pytest.raises(RunFolderError, match="another process is training here"), hold(tmp_path):
        pass
    entered.close()


# Large runs


def test_predictions_are_written_without_a_list_of_python_on_the_way(tmp_path):
    class WithoutLists(np.ndarray):
        def tolist(self):
            raise AssertionError("2 million rows would not fit")

    predictions = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with RunFolder(tmp_path) as folder:
        table = write_predictions(
            folder, targets=pa.array(["a", "b", "a"]), predictions=predictions.view(WithoutLists), labels=("a", "b")
        )
    assert table.schema.field("prediction").type == pa.list_(pa.float64())
    assert table["prediction"].to_pylist() == predictions.tolist()


@pytest.mark.parametrize("kept", [0, 1, 6, 7, 13, 14, 20])
def test_a_run_that_goes_on_keeps_its_events_to_the_byte_and_never_has_all_in_memory(tmp_path, monkeypatch, kept):
    content = bytes(range(97, 117))
    (tmp_path / "events.jsonl").write_bytes(content)

    def refuse(_):
        raise AssertionError("all of a long run's events would not fit")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        patch.setattr(leantune.runs.record, "CHUNK_BYTES", 7)
        with RunFolder(tmp_path, go_on_at=kept):
            pass
    assert (tmp_path / "events.jsonl").read_bytes() == content[:kept]
