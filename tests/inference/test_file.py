"""A table in a file becomes a table of predictions: every row once, in order, whole or not at all."""

import csv
import gzip
import io
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import leantune
from fork_server import Server
from leantune.inference import blocks, source
from leantune.inference.file import PredictOptions, predict_file
from leantune.inference.source import open_source, scan
from leantune.inference.trained_run import open_run
from leantune.system.errors import InputError, RunFolderError, SettingsError, TableError
from leantune.training.events import Note, Progress
from small_runs import LABELS
from tiny_encoders import make_texts

TEXTS = make_texts(25, most_words=30, seed=5)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (source, blocks):
        monkeypatch.setattr(module, "BLOCK_ROWS", 10)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "test.csv"
    frame = pd.DataFrame({"more": range(25), "name": [f"n{row:02d}" for row in range(25)], "text": TEXTS})
    frame.to_csv(path, index=False)
    return path


def predict(runs: Path | list[Path], table: Path, name: str = "out.csv", **options: Any) -> Path:
    output = table.parent / name
    list(predict_file([runs] if isinstance(runs, Path) else runs, table, output, PredictOptions(**options)))
    return output


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet", "out.csv.zst", "out.jsonl.gz"])
def test_every_format_has_the_ids_and_predictions_of_all_rows_in_order(run: Path, table: Path, name: str) -> None:
    output = predict(run, table, name)
    expected = leantune.load(run).predict(TEXTS).values[:, 0]
    match name.split(".")[1]:
        case "jsonl":
            frame = pd.read_json(output, lines=True, dtype={"name": str}, precise_float=True)
        case "parquet":
            frame = pq.read_table(output).to_pandas()
        case kind:
            text = pa.input_stream(output, compression="zstd" if name.endswith("zst") else None).read()
            frame = pd.read_csv(io.BytesIO(text), sep="\t" if kind == "tsv" else ",")
    assert list(frame.columns) == ["name", "score"]
    assert list(frame["name"]) == [f"n{row:02d}" for row in range(25)]
    np.testing.assert_allclose(frame["score"], expected, rtol=0, atol=1e-6)
    assert hidden(table.parent) == []


def test_classes_have_a_class_and_probabilities(classes: Path, table: Path) -> None:
    frame = pd.read_csv(predict(classes, table))
    names = [f"probability_{name}" for name in LABELS["multiclass"]]
    assert list(frame.columns) == ["name", "prediction", *names]
    chosen = frame[names].to_numpy().argmax(axis=1)
    assert list(frame["prediction"]) == [LABELS["multiclass"][place] for place in chosen]


def test_rows_are_numbered_where_there_are_no_ids(run: Path, table: Path) -> None:
    pd.read_csv(table)[["text"]].to_csv(table, index=False)
    frame = pd.read_csv(predict(run, table))
    assert list(frame.columns) == ["id", "score"]
    assert list(frame["id"]) == list(range(25))


def test_other_columns_can_be_named_and_kept(run: Path, table: Path) -> None:
    pd.read_csv(table).rename(columns={"text": "body"}).to_csv(table, index=False)
    frame = pd.read_csv(predict(run, table, text=("body",), id="more", keep=("name", "body")))
    assert list(frame.columns) == ["more", "score", "name", "body"]
    assert list(frame["more"]) == list(range(25))
    assert list(frame["body"]) == TEXTS


def test_the_values_of_each_fold_are_beside_their_mean(folds: Path, table: Path) -> None:
    frame = pd.read_csv(predict(folds, table, per_model=True))
    assert list(frame.columns) == ["name", "score", "score@fold_0", "score@fold_1", "score@spread"]
    both = frame[["score@fold_0", "score@fold_1"]].to_numpy()
    np.testing.assert_allclose(frame["score"], both.mean(axis=1))
    np.testing.assert_allclose(frame["score@spread"], both.std(axis=1))


def test_several_runs_are_averaged_by_their_weights(run: Path, folds: Path, table: Path) -> None:
    frame = pd.read_csv(predict([run, folds], table, weights=[3, 1]))
    expected = leantune.load(run, folds, weights=[3, 1]).predict(TEXTS).values[:, 0]
    np.testing.assert_allclose(frame["score"], expected, rtol=0, atol=1e-6)


def test_a_text_that_stands_twice_is_computed_once(run: Path, table: Path) -> None:
    texts = [*TEXTS[:12], *TEXTS[:12], TEXTS[3]]  # in other blocks, too
    pd.DataFrame({"name": range(25), "text": texts}).to_csv(table, index=False)
    events = list(predict_file([run], table, table.with_name("out.csv"), PredictOptions()))
    assert [event.total for event in events if isinstance(event, Progress)] == [12, 12, 12]
    frame = pd.read_csv(table.with_name("out.csv"))
    np.testing.assert_allclose(frame["score"], leantune.load(run).predict(texts).values[:, 0], rtol=0, atol=1e-6)


def test_texts_that_only_look_alike_are_told_apart() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("ab", "c"), ("", "abc")]
    digests = source.digests_of([pa.array([one for one, _ in pairs]), pa.array([two for _, two in pairs])])
    assert len(set(digests.tolist())) == 3
    assert digests[0] == digests[2]


def interrupt(runs: list[Path], table: Path, blocks_done: int, **options: Any) -> None:
    """Leave a command off after so many blocks, as a kill does: nothing of it runs any more."""
    events = predict_file(runs, table, table.with_name("out.csv"), PredictOptions(**options))
    for event in events:
        blocks_done -= isinstance(event, Progress)
        if not blocks_done:
            break
    events.close()  # type: ignore[attr-defined]


def test_an_interrupted_command_goes_on_with_the_blocks_that_are_there(
    folds: Path, table: Path, tmp_path: Path
) -> None:
    expected = predict(folds, table, "whole.csv").read_bytes()
    interrupt([folds], table, 4)  # the first model's three, and one of the second's
    assert not (tmp_path / "out.csv").exists()
    assert hidden(tmp_path) == [".out.csv.parts"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.csv.parts").rglob("*.npy")}
    assert len(written) == 4
    events = list(predict_file([folds], table, tmp_path / "out.csv", PredictOptions()))
    notes = [event.text for event in events if isinstance(event, Note) and event.about == "resume"]
    assert notes == ["35 of 50 predictions were there; it goes on with the others"]
    assert [event.done for event in events if isinstance(event, Progress)] == [45, 50]
    assert (tmp_path / "out.csv").read_bytes() == expected
    assert hidden(tmp_path) == []


def test_a_command_that_is_killed_and_stopped_ends_with_every_row_once(
    run: Path, tmp_path: Path, server: Server
) -> None:
    rows = 3 * 4096 + 5
    lines = [f"{row},ra {row}\n" for row in range(rows)]
    (tmp_path / "many.csv").write_text("".join(["name,text\n", *lines]))
    command = ("predict", run, "many.csv", "--output", "out.csv", "--device", "cpu")
    for number, least in ((signal.SIGKILL, 1), (signal.SIGTERM, 2)):
        process = server.begin(*command, folder=tmp_path)
        while len(list(tmp_path.rglob("*.npy"))) < least and process.is_running():
            time.sleep(0.01)
        process.send(number)
        assert process.wait() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[number]
        assert not (tmp_path / "out.csv").exists()
    assert server.begin(*command, folder=tmp_path).wait() == 0
    frame = pd.read_csv(tmp_path / "out.csv")
    assert list(frame["name"]) == list(range(rows))
    some = [0, 1, 4095, 4096, 8191, 8192, rows - 1]
    expected = leantune.load(run).predict([f"ra {row}" for row in some]).values[:, 0]
    np.testing.assert_allclose(frame["score"][some], expected, rtol=0, atol=1e-6)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("change", ["text", "run", "settings"])
def test_blocks_of_another_input_are_not_taken(
    change: str, run: Path, folds: Path, trained: Callable[..., Path], table: Path, tmp_path: Path
) -> None:
    interrupt([run], table, 2)
    if change == "text":
        table.write_text(table.read_text().replace(TEXTS[1], "Ra ra ba"))
    other = {"text": run, "run": folds, "settings": trained(tokens__max_length=12)}[change]
    events = list(predict_file([other], table, tmp_path / "out.csv", PredictOptions()))
    assert not [event for event in events if isinstance(event, Note) and event.about == "resume"]
    own = pd.read_csv(tmp_path / "out.csv")["score"]
    texts = list(pd.read_csv(table)["text"])
    np.testing.assert_allclose(own, leantune.load(other).predict(texts).values[:, 0], rtol=0, atol=1e-6)


def test_a_block_that_is_cut_off_is_computed_again(run: Path, table: Path, tmp_path: Path) -> None:
    expected = predict(run, table, "whole.csv").read_bytes()
    interrupt([run], table, 2)
    (block, *_) = sorted((tmp_path / ".out.csv.parts").rglob("*.npy"))
    block.write_bytes(block.read_bytes()[:-8])
    assert predict(run, table).read_bytes() == expected


def write_like(path: Path, columns: list[str], ids: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [columns, *([name if column == "name" else "0" for column in columns] for name in ids)]
        )
    return path


IDS = [f"n{row:02d}" for row in (4, 24, 0, *range(5, 24), 1, 3, 2)]


def test_a_table_like_another_has_its_columns_and_the_order_of_its_rows(run: Path, table: Path, tmp_path: Path) -> None:
    like = write_like(tmp_path / "sample.csv", ["score", "name"], IDS)
    frame = pd.read_csv(predict(run, table, like=like))
    assert list(frame.columns) == ["score", "name"]
    assert list(frame["name"]) == IDS
    expected = leantune.load(run).predict(TEXTS).values[:, 0]
    np.testing.assert_allclose(frame["score"], [expected[int(name[1:])] for name in IDS], rtol=0, atol=1e-6)


def test_a_table_like_one_of_classes_has_classes_or_probabilities(classes: Path, table: Path, tmp_path: Path) -> None:
    predictions = leantune.load(classes).predict(TEXTS)
    order = [int(name[1:]) for name in IDS]
    one = pd.read_csv(predict(classes, table, "a.csv", like=write_like(tmp_path / "1.csv", ["name", "label"], IDS)))
    assert list(one["label"]) == [predictions.decisions[row].as_py() for row in order]
    columns = ["name", "good", "bad", "fair"]
    each = pd.read_csv(predict(classes, table, "b.csv", like=write_like(tmp_path / "2.csv", columns, IDS)))
    assert list(each.columns) == columns
    expected = predictions.values[order][:, [2, 0, 1]]
    np.testing.assert_allclose(each[columns[1:]], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "ids", "message"),
    [
        (["name", "target"], IDS, r"found the columns 'name', 'target', expected only such as the runs predict"),
        (["name"], IDS, r"found the columns 'name', expected only"),
        (["key", "score"], IDS, r"found the columns 'key', 'score', expected only .* --id"),
        (["name", "score"], IDS[2:], r"2 ids are only in .*test\.csv \('n04', 'n24'\), by the column 'name'"),
        (["name", "score"], [*IDS, "x"], r"1 ids are only in .*sample\.csv \('x'\)"),
        (["name", "score"], ["x", *IDS[1:]], r"1 ids are only in .*sample\.csv \('x'\) and 1 ids are only in .*'n04'"),
        (["name", "score"], [*IDS, IDS[0]], r"sample\.csv, row 26, .*'n04', expected another id than that of row 1"),
    ],
)
def test_a_table_like_one_of_something_else_is_refused(
    columns: list[str], ids: list[str], message: str, run: Path, table: Path, tmp_path: Path
) -> None:
    like = write_like(tmp_path / "sample.csv", columns, ids)
    with pytest.raises(TableError, match=message):
        predict(run, table, like=like)
    assert {path.name for path in tmp_path.iterdir()} == {"test.csv", "sample.csv"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,body\n1,a\n", r"found no column 'text', expected one of 'name', 'body'.* --text names a column"),
        ("name,text\n", r"found no rows"),
        ("name,text\n1,a\n2,b\n1,c\n", r"row 3, column 'name': found '1', expected another id than that of row 1"),
        ("name,text\n1,a\n ,b\n", r"row 2, column 'name': found ' ', expected a value"),
        ("name,text\n" + "".join(f"{i},a\n" for i in range(14)) + "15,a,b\n", r"row 15: found 3 fields"),
    ],
)
def test_a_table_that_cannot_be_predicted_is_one_message_and_leaves_nothing(
    content: str, message: str, run: Path, table: Path, tmp_path: Path
) -> None:
    table.write_text(content)
    with pytest.raises(TableError, match=message):
        predict(run, table)
    assert [path.name for path in tmp_path.iterdir()] == ["test.csv"]


def test_a_missing_text_is_refused_with_its_row(run: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"name": row, "text": "a"}) for row in range(13)] + ['{"name": 13, "text": null}']
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    with pytest.raises(TableError, match=r"row 14, column 'text': found nothing, expected a text"):
        predict(run, tmp_path / "test.jsonl")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.txt", {}, r"found '.*out\.txt', expected a name that ends in \.csv"),
        ("out.parquet.gz", {}, r"Parquet is compressed inside"),
        ("none/out.csv", {}, r"none is no folder"),
        ("test.csv", {}, r"is the table itself"),
        ("there.csv", {}, r"is there already; give another name, or --force"),
        ("out.csv", {"keep": ("name",)}, r"two columns would be called 'name'"),
        ("out.csv", {"keep": ("nothing",)}, r"found no column 'nothing'"),
        ("out.csv", {"id": "nothing"}, r"found no column 'nothing'"),
        ("out.csv", {"text": ("a", "b")}, r"--text: found 2 columns, expected 1"),
        ("out.csv", {"keep": ("more",), "like": Path("x.csv")}, r"--keep: not used with --like"),
        ("out.csv", {"assignments": ("optimizer.epochs=1",)}, r"expected a setting of the table"),
        ("out.csv", {"assignments": ("data.nothing=1",)}, r"data\.nothing"),
        ("out.csv", {"precision": "fp16"}, r"fp16 is not computed by this device"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything(
    name: str, options: dict[str, Any], message: str, run: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(InputError, match=message):
        predict(run, table, name, **({"device": "cpu"} | options))
    assert {path.name for path in tmp_path.iterdir()} == {"test.csv", "there.csv"}
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_with_force_an_output_is_written_anew(run: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    assert len(pd.read_csv(predict(run, table, force=True))) == 25


def test_runs_that_read_other_columns_need_them_named(run: Path, trained: Callable[..., Path], table: Path) -> None:
    other = trained(data__text="other")
    with pytest.raises(RunFolderError, match=r"reads the texts from 'other'.*--text"):
        predict([run, other], table)
    assert len(pd.read_csv(predict([run, other], table, text=("text",)))) == 25


def test_another_process_on_the_same_output_is_refused(run: Path, table: Path, tmp_path: Path) -> None:
    events = predict_file([run], table, tmp_path / "out.csv", PredictOptions())
    next(event for event in events if isinstance(event, Progress))
    with pytest.raises(RunFolderError, match=r"another process is predicting into out\.csv"):
        predict(run, table)
    assert len(list(events)) > 0
    assert (tmp_path / "out.csv").exists()


def test_what_is_said_of_the_trainings_file_does_not_hold_for_another_format(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    run = open_run(trained(data__encoding="latin-1"))
    for name, encoding in (("a.csv", "latin-1"), ("a.tsv", "latin-1"), ("a.jsonl", "latin-1")):
        rows = '{"text": "é"}\n' if name.endswith("jsonl") else "text\né\n"
        (tmp_path / name).write_text(rows, encoding=encoding)
        assert len(scan(open_source(tmp_path / name, run))) == 1
    pd.DataFrame({"text": ["é"]}).to_parquet(tmp_path / "a.parquet")
    assert len(scan(open_source(tmp_path / "a.parquet", run))) == 1
    (tmp_path / "b.csv").write_text("text\n東京\n", encoding="utf-8")
    opened = open_source(tmp_path / "b.csv", run, assignments=["data.encoding=utf-8"])
    assert [block["text"].to_pylist() for _, block in opened.blocks(["text"])] == [["東京"]]


def test_cells_with_quotes_and_line_breaks_are_read_back(run: Path, table: Path) -> None:
    ids = ["plain", 'with "quotes"', "a,b", "line\nbreak", "return\rhere"]
    pd.DataFrame({"name": ids, "text": TEXTS[:5]}).to_csv(table, index=False, quoting=csv.QUOTE_ALL)
    text = gzip.decompress(predict(run, table, "out.csv.gz").read_bytes()).decode()
    assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))] == ["name", *ids]


def test_weights_are_one_for_each_run(run: Path, table: Path) -> None:
    with pytest.raises(SettingsError, match="weights: found 2, expected one for each of the 1 runs"):
        predict(run, table, weights=[1, 2])
