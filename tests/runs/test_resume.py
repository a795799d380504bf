"""Law 5: a run that was interrupted anywhere and goes on equals the uninterrupted run, bit for bit."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

import leantune
import leantune.runs.fold_run
from interruptions import RowTrace, cut_off, differing, events_of, outcome, run_with_copies
from leantune.batches.plan import TokensPerMicroBatch
from leantune.comparison.results import read_run
from leantune.runs.config import dump_config, load_config, read_yaml
from leantune.runs.fold_run import read_result
from leantune.runs.run import load_run_config, run
from leantune.system.errors import RunFolderError, SettingsError, TableError, TrainingError
from leantune.system.settings import flatten
from leantune.tables.memory import MemoryTable
from leantune.training.checkpoint import read_newest
from leantune.training.device_memory import MeasuredLimit
from leantune.training.events import Evaluation, Note
from leantune.training.metrics import as_metric
from small_runs import run_all, tiny_config, write_table

MODES = list(itertools.product(("random", "uniform_length"), ("fixed", "dynamic", "packed"), (1, 3)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv", rows=45)  # 36 rows train in steps of 8: the fifth has 4


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def every_step(data: Path, bert: Path, **changes: Any) -> Any:
    """Two epochs of 5 steps, evaluated in the middle of them, saved after every step; dropout draws random numbers."""
    settings: dict[str, Any] = {
        "checkpoint": {"every": {"steps": 1}, "keep": True},
        "evaluation": {"every": {"fraction": 0.4}},
        "optimizer": {"epochs": 2, "learning_rate": 2e-2, "schedule": "cosine", "warmup_fraction": 0.3},
    }
    return tiny_config(data, bert, **(settings | changes))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> list[Path]:
    """Copies of one run of `every_step`, as a kill after its first, second, ... checkpoint leaves it. Where its table
    lies plays no part: a test resumes with its own."""
    folder = tmp_path_factory.mktemp("left")
    config = every_step(write_table(folder / "train.csv", rows=45), tiny_encoder_dir("bert"))
    with pytest.MonkeyPatch.context() as patch:
        copies = run_with_copies(config, folder / "whole", RowTrace(patch), folder / "copies")
    return [copy for copy, _, _ in copies[:-1]]


def resume_all(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[int], bool]) -> int:
    """Do a run, then go on from a copy of it at each checkpoint that is to be tried; the number that were."""
    trace = RowTrace(monkeypatch)
    *copies, (whole, _, rows) = run_with_copies(config, tmp_path / "whole", trace, tmp_path / "copies")
    expected = outcome(whole)
    tried = 0
    for number, (folder, step, before) in enumerate(copies):
        if keep(number):
            run_all_resumed(config, folder)
            assert differing(outcome(folder), expected) == [], f"from step {step}"
            assert [*before, *trace.take()] == rows, f"from step {step}"  # 0 repeated, 0 skipped
            assert [event["step"] for event in events_of(folder, "resume")] == [step]
            tried += 1
    return tried


def run_all_resumed(config: Any, folder: Path, **options: Any) -> list[Any]:
    return list(run(config, folder, resume=True, **options))


@pytest.mark.parametrize(
    ("order", "layout", "rows", "keep"),
    [("random", "packed", 3, lambda n: n % 5 == 0), ("uniform_length", "dynamic", 1, lambda n: n % 5 == 2)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    data: Path,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    layout: str,
    rows: int,
    keep: Callable[[int], bool],
) -> None:
    batching = {"batch_size": 8, "order": order, "layout": layout, "micro_batch": {"rows": rows}}
    config = every_step(data, bert, batching=batching)
    assert resume_all(config, tmp_path, monkeypatch, keep) == 2


@pytest.mark.parametrize("read", ["one", "all"])
def test_a_run_that_reads_windows_goes_on_with_the_windows_of_its_epoch(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    tokens = {"max_length": 16, "truncation": "windows", "stride": 6, "training_windows": read}
    config = every_step(data, bert, tokens=tokens, batching={"batch_size": 8, "micro_batch": {"rows": 5}})
    assert resume_all(config, tmp_path, monkeypatch, lambda n: n in (2, 6)) == 2  # in the middle of either epoch


@pytest.mark.slow
@pytest.mark.parametrize(("order", "layout", "rows"), MODES)
def test_a_resumed_run_is_the_uninterrupted_one_from_every_step_in_every_mode(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, layout: str, rows: int
) -> None:
    batching = {"batch_size": 8, "order": order, "layout": layout, "micro_batch": {"rows": rows}}
    assert resume_all(every_step(data, bert, batching=batching), tmp_path, monkeypatch, lambda _: True) == 10


def test_finished_folds_are_kept_and_the_fold_that_was_not_goes_on(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"fold": "all", "folds__count": 2, "batching": {"batch_size": 16, "layout": "packed"}}
    config = every_step(data, bert, checkpoint={"every": {"steps": 2}, "keep": True}, **changes)
    # 23 or 22 rows are 2 steps an epoch: each fold has checkpoints at 2 and 4, and the first folds one of its end.
    assert resume_all(config, tmp_path, monkeypatch, lambda number: number in (0, 2)) == 2
    assert sorted(path.name for path in (tmp_path / "whole").glob("fold_*/checkpoint/*")) == [
        *["step_00000004-evaluated"] * 2,
        *["step_00000004-finished"] * 2,
    ]


def test_a_finished_folds_yardsticks_are_kept_and_not_computed_again(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"fold": "all", "folds__count": 2, "batching": {"batch_size": 16, "layout": "packed"}}
    changes["optimizer"] = {"epochs": 2, "learning_rate": 1e-9}  # which learns nothing, and is told so
    config = every_step(data, bert, checkpoint={"every": {"steps": 2}, "keep": True}, **changes)
    run_all(config, tmp_path / "whole")
    cut_off(config, tmp_path / "run", 3)  # two of the first fold's, and the first of the second
    real, computed = leantune.runs.fold_run.measure_yardsticks, []

    def watched(*given: Any, **named: Any) -> Any:
        computed.append(named["validation_rows"].tolist())
        return real(*given, **named)

    monkeypatch.setattr(leantune.runs.fold_run, "measure_yardsticks", watched)
    run_all_resumed(config, tmp_path / "run")
    assert len(computed) == 1
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run")]
    for place in (("overall",), ("folds", "0"), ("folds", "1")):
        one, other = metrics
        for name in place:
            one, other = one[name], other[name]
        assert one["yardsticks"] == other["yardsticks"]  # the seconds too: those of the computation
        assert one["yardsticks"]["linear"] is not None
    told = [[event["text"] for event in events_of(tmp_path / name, "warning")] for name in ("whole", "run")]
    assert told[0] == told[1] != []


def test_a_fold_that_was_finished_before_there_were_yardsticks_still_reads(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    changes = {"fold": "all", "folds__count": 2, "batching": {"batch_size": 16, "layout": "packed"}}
    config = every_step(data, bert, checkpoint={"every": {"steps": 2}, "keep": True}, **changes)
    run_all(config, tmp_path / "run")
    saved, _ = read_newest(tmp_path / "run" / "fold_0" / "checkpoint")
    assert saved is not None
    assert read_result(saved).yardsticks is not None
    older = {name: tensor for name, tensor in saved.tensors("predictions").items() if name in ("best", "last")}
    save_file(older, saved.path / "predictions.safetensors")
    del saved.state["finished"]["metrics"]["yardsticks"]
    assert read_result(saved).yardsticks is None


def test_a_checkpoint_is_there_only_while_the_run_is_unfinished(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert, checkpoint={"every": "epoch"}, evaluation={})
    cut_off(config, tmp_path / "run", 2)
    names = [path.name for path in (tmp_path / "run" / "fold_0" / "checkpoint").iterdir()]
    assert sorted(names) == ["step_00000005-evaluated", "step_00000010-evaluated"]
    run_all_resumed(config, tmp_path / "run")
    assert not (tmp_path / "run" / "fold_0" / "checkpoint").exists()
    assert not (tmp_path / "run" / ".lock").exists()


def test_what_a_resumed_run_says_of_itself(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert)
    cut_off(config, tmp_path / "run", 3)
    until_then = [event["time"] for event in events_of(tmp_path / "run")][-1]
    metrics = run_all_resumed(config, tmp_path / "run")[-1].metrics
    (resumed,) = events_of(tmp_path / "run", "resume")
    assert resumed["step"] == 3
    assert resumed["time"] > until_then
    assert resumed["total_steps"] == 10
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [place["step"] for place in environment["resumed"]] == [3]
    assert metrics["overall"]["sessions"] == 2
    parts = [metrics["overall"][f"{phase}_seconds"] for phase in ("startup", "train", "evaluation", "checkpoint")]
    assert sum(parts) == pytest.approx(metrics["overall"]["total_seconds"], rel=0.02)
    assert metrics["overall"]["startup_seconds"] > 0.5 * resumed["seconds_before"] > 0
    steps = [event["train_seconds"] for event in events_of(tmp_path / "run", "step")]
    assert steps == sorted(steps)
    assert metrics["overall"]["train_seconds"] >= steps[-1]


def test_a_resumed_run_is_read_as_one_without_the_time_between(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert)
    cut_off(config, tmp_path / "run", 3)
    cut_off(config, tmp_path / "run", 3, resume=True)
    events = tmp_path / "run" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    events.write_text("".join(json.dumps(line | {"time": line["time"] - 3600}) + "\n" for line in lines))
    for state in (tmp_path / "run").glob("fold_0/checkpoint/*/state.json"):
        content = json.loads(state.read_text())
        assert content["events_bytes"] <= events.stat().st_size
    run_all_resumed(config, tmp_path / "run")
    read = read_run(tmp_path / "run", 0)
    assert len(read.losses) == 10
    assert read.memory_seconds[0] > 0
    assert (np.diff(read.memory_seconds) > 0).all()
    assert read.memory_seconds[-1] < read.overall["total_seconds"]


# Nothing to go on with


def test_resume_begins_a_run_where_there_is_none(data: Path, bert: Path, tmp_path: Path) -> None:
    events = run_all_resumed(every_step(data, bert), tmp_path / "run")
    assert any("the run begins" in event.text for event in events if isinstance(event, Note))
    run_all(every_step(data, bert), tmp_path / "plain")
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "plain")) == []


def test_resume_begins_again_where_a_run_was_killed_before_its_first_checkpoint(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    config = every_step(data, bert, checkpoint={"every": {"seconds": 1e6}})
    with closing(run(config, tmp_path / "run")) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Evaluation):
                break
    assert events_of(tmp_path / "run", "step")
    run_all_resumed(config, tmp_path / "run")
    assert [event["step"] for event in events_of(tmp_path / "run", "step")] == list(range(1, 11))


def test_a_folder_of_something_else_is_not_resumed(data: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        run_all_resumed(every_step(data, bert), tmp_path / "run")


def test_a_finished_run_is_told_and_not_trained_again(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert, checkpoint__keep=False)
    first = run_all(config, tmp_path / "run")[-1].metrics
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    note, end = run_all_resumed(config, tmp_path / "run")
    assert "nothing is trained" in note.text
    assert end.metrics == first
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    with pytest.raises(RunFolderError, match=r"optimizer.epochs: 2 in the run, 3 now"):
        run_all_resumed(every_step(data, bert, optimizer={"epochs": 3}), tmp_path / "run")


def test_an_unfinished_run_is_not_overwritten_without_resume(
    data: Path, bert: Path, left: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(left[0], tmp_path / "run")
    with pytest.raises(RunFolderError, match="go on with the unfinished run in it by --resume"):
        run_all(every_step(data, bert), tmp_path / "run")


# Refusing to mix


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed: 0 in the run, 1 now"),
        ({"batching": {"batch_size": 4}}, "batching.batch_size: 8 in the run, 4 now"),
        ({"optimizer": {"epochs": 3, "learning_rate": 2e-2}}, "optimizer.schedule: cosine in the run, linear now"),
        ({"folds__seed": 4}, "folds_sha256: "),
        ({"tokens__max_length": 30}, "tokens.max_length: 128 in the run, 30 now"),
    ],
)
def test_changed_settings_are_refused_with_what_changed(
    data: Path, bert: Path, left: list[Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    shutil.copytree(left[0], tmp_path / "run")
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="--force") as caught:
        run_all_resumed(every_step(data, bert, **changes), tmp_path / "run")
    assert said in str(caught.value)
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


def test_changed_data_tokens_and_weights_are_refused_each_by_its_name(data: Path, bert: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bert, tmp_path / "model")
    config = every_step(data, model)
    cut_off(config, tmp_path / "run", 1)
    text = data.read_bytes()
    data.write_bytes(text[:-3] + b"9\r\n")
    with pytest.raises(
        RunFolderError, match=r"\n  data_sha256: [0-9a-f]{12}\.\.\. in the run, [0-9a-f]{12}\.\.\. now$"
    ):
        run_all_resumed(config, tmp_path / "run")
    data.write_bytes(text)

    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-2] + bytes([weights[-2] ^ 1]) + weights[-1:])
    with pytest.raises(RunFolderError, match=r"What changed:\n  model_sha256: [^\n]*$"):
        run_all_resumed(config, tmp_path / "run")
    (model / "model.safetensors").write_bytes(weights)

    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ba"], vocabulary["ko"] = vocabulary["ko"], vocabulary["ba"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RunFolderError, match=r"tokenizer_sha256"):
        run_all_resumed(config, tmp_path / "run")


def test_a_run_with_a_validation_file_goes_on_as_if_uninterrupted_and_only_with_the_same_file(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = write_table(tmp_path / "valid.csv", rows=10, seed=1)
    config = every_step(data, bert, data__validation=str(valid))
    assert resume_all(config, tmp_path, monkeypatch, lambda number: number == 3) == 1

    shutil.copytree(tmp_path / "copies" / "004", tmp_path / "run")
    told, _ = run_all_resumed(config, tmp_path / "whole")
    assert "nothing is trained" in told.text
    text = valid.read_bytes()
    valid.write_bytes(text[:-3] + b"9\r\n")
    for folder in ("run", "whole"):  # an unfinished one, and one that is finished
        with pytest.raises(RunFolderError, match=r"\n  data_sha256: [^\n]*$"):
            run_all_resumed(config, tmp_path / folder)
    valid.unlink()
    (moved := tmp_path / "moved.csv").write_bytes(text)
    with pytest.raises(TableError, match=r"valid\.csv: there is no such file"):
        run_all_resumed(config, tmp_path / "whole")
    run_all_resumed(every_step(data, bert, data__validation=str(moved)), tmp_path / "run")
    assert differing(outcome(tmp_path / "run") | {"config": ""}, outcome(tmp_path / "whole") | {"config": ""}) == []
    with pytest.raises(RunFolderError, match=r"data_sha256: "):
        run_all_resumed(every_step(data, bert), tmp_path / "whole")


def test_force_lists_what_it_overrides_and_goes_on(data: Path, bert: Path, left: list[Path], tmp_path: Path) -> None:
    shutil.copytree(left[3], tmp_path / "run")
    changed = every_step(data, bert, optimizer={"epochs": 3, "learning_rate": 1e-3})
    events = run_all_resumed(changed, tmp_path / "run", force=True)
    said = [
        event.text
        for event in events
        if isinstance(event, Note) and (event.event, event.about) == ("warning", "resume")
    ]
    assert "overridden by --force: optimizer.epochs: 2 in the run, 3 now" in said
    assert events[-1].metrics["overall"]["optimizer_steps"] == 15
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(environment["resumed"][0]["changes"]) == len(said) >= 3
    assert "epochs: 3" in (tmp_path / "run" / "config.yaml").read_text()


def test_force_does_not_make_another_model_fit(
    data: Path, bert: Path, left: list[Path], tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(left[0], tmp_path / "run")
    with pytest.raises(RunFolderError, match="of another model"):
        run_all_resumed(every_step(data, tiny_encoder_dir("electra")), tmp_path / "run", force=True)


def test_moved_data_another_machine_and_rarer_checkpoints_do_not_stop_a_run(
    data: Path, bert: Path, left: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(left[0], tmp_path / "run")
    data.rename(tmp_path / "moved.csv")
    monkeypatch.setattr("leantune.runs.session.version", lambda name: "9.9" if name == "torch" else version(name))
    batching = {"batch_size": 8, "micro_batch": {"rows": 2}}
    changed = every_step(tmp_path / "moved.csv", bert, checkpoint={"every": "epoch"}, batching=batching)
    events = run_all_resumed(changed, tmp_path / "run")
    said = [
        event.text
        for event in events
        if isinstance(event, Note) and (event.event, event.about) == ("warning", "resume")
    ]
    assert all("the result may differ from an uninterrupted run's in its last digits" in text for text in said)
    assert [text.partition(":")[0] for text in said if "null" not in text] == ["versions.torch"]
    assert any(text.startswith("batching.micro_batch.rows: null in the run, 2 now") for text in said)


@pytest.fixture
def a_gpu_with_less_and_less_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let this processor count its memory as a GPU does; each time it is measured, fewer tokens fit: those that are
    listed. A smaller micro-batch draws other dropout."""
    measured: list[int] = []

    def measure(*_: Any, **__: Any) -> MeasuredLimit:
        measured.append([200, 40, 20][len(measured)])
        return MeasuredLimit(micro_batch=TokensPerMicroBatch(tokens=measured[-1]), reason="measured: all of it")

    monkeypatch.setattr("leantune.runs.preparation.counts_memory", lambda _: True)
    monkeypatch.setattr("leantune.runs.resume.counts_memory", lambda _: True)
    monkeypatch.setattr("leantune.runs.preparation.measure_micro_batch", measure)
    return measured


def test_a_micro_batch_that_was_measured_is_the_resumed_runs_too(
    data: Path,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    a_gpu_with_less_and_less_memory: list[int],
) -> None:
    assert resume_all(every_step(data, bert), tmp_path, monkeypatch, lambda n: n == 3) == 1
    assert a_gpu_with_less_and_less_memory == [200]
    assert read_yaml(tmp_path / "whole" / "config.yaml")["batching"]["micro_batch"] == {"tokens": 200}
    (said,) = [event["text"] for event in events_of(tmp_path / "whole", "note") if event["about"] == "batching"]
    assert said.endswith("micro-batches of up to 200 tokens (measured: all of it)")


def test_on_another_device_it_is_measured_anew(
    data: Path, bert: Path, tmp_path: Path, a_gpu_with_less_and_less_memory: list[int]
) -> None:
    config = every_step(data, bert)
    cut_off(config, tmp_path / "run", 3)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    environment["device"]["name"] = "a larger one"
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment))
    events = run_all_resumed(config, tmp_path / "run")
    assert a_gpu_with_less_and_less_memory == [200, 40]
    said = [event.text for event in events if isinstance(event, Note) and event.about == "resume"]
    assert any(text.startswith("batching.micro_batch.tokens: 200 in the run, 40 now") for text in said)


def test_another_fold_than_the_runs_is_refused_and_its_checkpoints_stay(data: Path, bert: Path, tmp_path: Path) -> None:
    cut_off(every_step(data, bert, fold=1), tmp_path / "run", 3)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for fold in (0, 3):
        with pytest.raises(RunFolderError, match=rf"has checkpoints of fold 1, and fold {fold} would be trained"):
            run_all_resumed(every_step(data, bert, fold=fold), tmp_path / "run", force=fold == 3)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    run_all_resumed(every_step(data, bert, fold=1), tmp_path / "run")


@pytest.mark.parametrize("name", ["fold_scores.csv", "fold_7", "thesis"])
def test_what_a_run_has_not_written_is_not_removed_when_it_begins_again(
    data: Path, bert: Path, tmp_path: Path, name: str
) -> None:
    """A run that was killed before its first checkpoint, in whose folder somebody has put something."""
    config = every_step(data, bert, checkpoint={"every": {"seconds": 1e6}})
    with closing(run(config, tmp_path / "run")) as events:  # type: ignore[type-var]
        next(event for event in events if isinstance(event, Evaluation))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(RunFolderError, match=f"found {name}, which is no run's"):
        run_all_resumed(config, tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_a_project_with_a_config_yaml_of_its_own_is_not_taken_for_a_run(data: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "fold_0").mkdir(parents=True)
    for name in ("config.yaml", "fold_0/weights.bin"):
        (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(RunFolderError, match=r"found config\.yaml, expected the folder of a run"):
        run_all_resumed(every_step(data, bert), tmp_path / "mine")
    assert (tmp_path / "mine" / "fold_0" / "weights.bin").read_text() == "mine"


def test_a_damaged_fold_does_not_cost_the_folds_after_it_without_a_word(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert, fold="all", folds__count=3, checkpoint={"every": "epoch", "keep": True})
    run_all(config, tmp_path / "whole")
    cut_off(config, tmp_path / "run", 5)  # two of each of two folds, which are trained, and one of the third
    (tmp_path / "run" / "fold_0" / "checkpoint" / "step_00000008-finished" / "state.json").unlink()
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(RunFolderError, match=r"fold 0 is damaged, and folds 1, 2, .* --force") as caught:
        run_all_resumed(config, tmp_path / "run")
    assert "step_00000008-finished/state.json: damaged" in str(caught.value)
    assert sorted((tmp_path / "run").rglob("*")) == before
    events = run_all_resumed(config, tmp_path / "run", force=True)
    said = [event.text for event in events if isinstance(event, Note) and event.event == "warning"]
    assert any("overridden by --force: fold 0 is damaged" in text for text in said)
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_force_goes_on_with_other_targets_but_not_with_other_tokens(
    data: Path, bert: Path, left: list[Path], tmp_path: Path
) -> None:
    """Weights and moments are those of the tokens in use, in their order: among others they would mean other words."""
    config = every_step(data, bert)
    for name in ("targets", "tokens"):
        shutil.copytree(left[2], tmp_path / name)
    text = data.read_text(encoding="utf-8")
    data.write_text(text[:-2] + "9\n", encoding="utf-8")
    run_all_resumed(config, tmp_path / "targets", force=True)
    word = re.findall(r"[a-z]+", text)[-1]
    data.write_text(text.replace(word, "%"), encoding="utf-8")  # which is in no other text
    with pytest.raises(RunFolderError, match="the texts use other tokens than they did"):
        run_all_resumed(config, tmp_path / "tokens", force=True)


def test_force_cannot_go_back_to_fewer_steps_than_are_done(
    data: Path, bert: Path, left: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(left[3], tmp_path / "run")
    shorter = every_step(data, bert, optimizer={"epochs": 2, "max_steps": 2})
    with pytest.raises(RunFolderError, match="4 steps are done, and the run now ends after 2"):
        run_all_resumed(shorter, tmp_path / "run", force=True)


def test_a_finished_run_whose_table_is_gone_says_so(data: Path, bert: Path, tmp_path: Path) -> None:
    config = every_step(data, bert)
    run_all(config, tmp_path / "run")
    data.unlink()
    with pytest.raises(TableError, match=r"train\.csv: there is no such file"):
        run_all_resumed(config, tmp_path / "run")


# Locks


def test_two_processes_are_kept_out_of_one_folder_and_a_killed_one_leaves_it_free(
    data: Path, bert: Path, left: list[Path], tmp_path: Path
) -> None:
    config = every_step(data, bert)
    shutil.copytree(left[0], tmp_path / "run")
    place = f"pathlib.Path({str(tmp_path / 'run')!r})"
    hold = f"from leantune.runs.record import hold; import time, pathlib\nwith hold({place}):\n"
    other = subprocess.Popen(
        [sys.executable, "-c", hold + " print('held', flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match="another process is training here"):
            run_all_resumed(config, tmp_path / "run")
    finally:
        other.kill()
        other.communicate()
    assert (tmp_path / "run" / ".lock").exists()
    assert run_all_resumed(config, tmp_path / "run")[-1].metrics["overall"]["optimizer_steps"] == 10


# Numbers


def test_a_run_that_stops_at_a_number_that_is_not_finite_keeps_the_last_good_checkpoint(
    bert: Path, tmp_path: Path
) -> None:
    """One target is beyond float32 squared, if of next to no weight; where its row comes first, nothing was saved."""
    data = write_table(tmp_path / "train.csv", rows=45)
    header, *lines = data.read_text(encoding="utf-8").splitlines()
    config = every_step(data, bert, loss__standardize=False, data__weight="weight")
    step_of = {}
    for row in range(45):
        changed = [
            f"{line.rpartition(',')[0]},1e20,1e-12" if number == row else f"{line},1"
            for number, line in enumerate(lines)
        ]
        data.write_text("\n".join([f"{header},weight", *changed]), encoding="utf-8")
        with pytest.raises(TrainingError, match=r"(loss|gradient norm) of step \d+ .* is (inf|nan)") as caught:
            run_all(config, tmp_path / f"run{row}")
        step_of[row] = int(str(caught.value).split("of step ")[1].split()[0])
        if step_of[row] > 1:
            break
    assert re.search(rf"\b{row + 1}\b", str(caught.value).rpartition("the rows ")[2])
    saved, warnings = read_newest(tmp_path / f"run{row}" / "fold_0" / "checkpoint")
    assert saved is not None
    assert warnings == []
    assert saved.state["step"] == step_of[row] - 1
    assert [event["step"] for event in events_of(tmp_path / f"run{row}", "step")] == list(range(1, step_of[row]))
    assert all(event["loss"] is not None for event in events_of(tmp_path / f"run{row}", "step"))


def spread(targets: Any, predictions: Any) -> float:
    return float(predictions.std())


def other(targets: Any, predictions: Any) -> float:
    return 0.0


def test_a_run_whose_metric_is_a_function_goes_on_only_with_it(data: Path, bert: Path, tmp_path: Path) -> None:
    metric, settings = as_metric(spread), flatten(dump_config(every_step(data, bert)))
    config = load_run_config(None, settings, resumed=None, metric=metric)
    whole = list(run(config, tmp_path / "whole", metric=metric))
    cut_off(config, tmp_path / "run", 4, metric=metric)

    with pytest.raises(RunFolderError, match=r"config.yaml: the run's evaluation.metric is spread, a function"):
        leantune.train(output=tmp_path / "run", resume=True, display=False)
    with pytest.raises(RunFolderError, match=r"evaluation.metric: spread in the run, other now"):
        leantune.train(output=tmp_path / "run", resume=True, display=False, metric=other)
    done = leantune.train(output=tmp_path / "run", resume=True, display=False, metric=spread)
    assert done.metrics["overall"]["best"] == whole[-1].metrics["overall"]["best"]

    # Finished, it is only told: nothing is evaluated again.
    assert leantune.train(output=tmp_path / "run", resume=True, display=False).metrics == done.metrics
    with pytest.raises(RunFolderError, match=r"evaluation.metric: spread in the run, other now"):
        leantune.train(output=tmp_path / "run", resume=True, display=False, metric=other)


# Training without validation, and training that ends early


def test_a_run_without_validation_goes_on_to_the_same_bytes(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = every_step(data, bert, fold="none", evaluation={})
    assert resume_all(config, tmp_path, monkeypatch, lambda number: number in (0, 6)) == 2


def test_a_run_that_patience_ended_ends_at_the_same_step_again(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"every": {"steps": 2}, "patience": 1}
    optimizer = {"epochs": 4, "learning_rate": 1e-30}
    config = every_step(data, bert, evaluation=evaluation, optimizer=optimizer)
    assert resume_all(config, tmp_path, monkeypatch, lambda number: number in (0, 2, 3)) == 3
    assert events_of(tmp_path / "whole", "step")[-1]["step"] == 4


def test_a_run_of_a_table_in_memory_goes_on_with_the_same_rows_and_with_no_others(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(data)
    settings = {"data.path": MemoryTable(data=frame), "checkpoint": {"every": {"steps": 1}}, "optimizer.epochs": 1}
    config = load_config(None, settings | {"data.text": "text", "data.target": "score", "model.name": str(bert)})
    run_all(config, tmp_path / "whole")
    cut_off(config, tmp_path / "run", 2)

    def go_on(table: Any) -> leantune.Run:
        return leantune.train(
            table, config=tmp_path / "run" / "config.yaml", output=tmp_path / "run", resume=True, display=False
        )

    with pytest.raises(SettingsError, match=r"data\.path: memory: .* give it again"):
        leantune.train(output=tmp_path / "run", resume=True, display=False)
    with pytest.raises(RunFolderError, match=r"not the run that is there.*\n  data_sha256: \w+\.\.\. in the run"):
        go_on(frame.assign(score=frame["score"] + 1))
    resumed = go_on(frame.to_dict("list"))  # held by something else, and with another column fewer
    assert resumed.metrics["overall"]["sessions"] == 2
    assert outcome(tmp_path / "run").keys() == outcome(tmp_path / "whole").keys()
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
    assert go_on(frame).metrics == resumed.metrics  # finished
    with pytest.raises(RunFolderError, match="data_sha256"):
        go_on(frame.iloc[::-1])
