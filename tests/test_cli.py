"""The commands: what they print, what they write, and the exit code."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from leantune import cli
from leantune.experiments.example import free_folder
from small_runs import write_table
from synthetic_experiments import write_example


@pytest.fixture
def leantune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["leantune", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv")


def train_arguments(data: Path, model: Path, output: Path) -> list[object]:
    arguments: list[object] = [
        "train",
        data,
        "--text",
        "text",
        "--target",
        "score",
        "--model",
        model,
        "--output",
        output,
    ]
    return [*arguments, "--set", "optimizer.epochs=1", "--set", "batching.batch_size=8", "--set", "device=cpu"]


def test_train_writes_a_run_and_prints_where(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    code, out, err = leantune(*train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"))
    assert code == 0
    assert out.strip() == str(tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["overall"]["optimizer_steps"] == 6
    assert "rmse" in err


def test_all_files_of_the_model_may_be_read_by_the_same_people(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    leantune(*train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"))
    files = list((tmp_path / "run" / "fold_0" / "model").iterdir())
    assert "model.safetensors" in {file.name for file in files}
    assert len({file.stat().st_mode for file in files}) == 1


def test_the_parts_of_a_commands_time_add_up_to_the_whole_process(
    data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "leantune", *train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run")]
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    whole = time.perf_counter() - start
    overall = json.loads((tmp_path / "run" / "metrics.json").read_text())["overall"]
    # Leaving the process takes a moment that it cannot write down any more.
    assert 0.75 * whole <= overall["total_seconds"] <= whole + 0.05


def test_options_win_over_the_file_and_set_wins_over_options(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("seed: 1\nfold: 1\nfolds: {count: 4}\n")
    arguments = train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run")
    code, _, _ = leantune(*arguments, "--config", tmp_path / "settings.yaml", "--fold", 2, "--set", "seed=7")
    assert code == 0
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "\nseed: 7" in text
    assert "\nfold: 2" in text
    assert "count: 4" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "optimizer.epoch=1"], "did you mean optimizer.epochs?"),
        (["--set", "optimizer.epochs"], "key.sub=value"),
        (["--fold", "first"], "fold"),
        (["--text", "nothing"], "nothing"),
        (["--config", "no.yaml"], "no.yaml"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, change: list[str], message: str
) -> None:
    code, _, err = leantune(*train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"), *change)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "3"], "It is a setting: --set optimizer.epochs=VALUE"),
        (["--lr", "1e-4"], "It is a setting: --set optimizer.learning_rate=VALUE"),
        (["--batch-size", "8"], "It is a setting: --set batching.batch_size=VALUE"),
    ],
)
def test_a_setting_that_was_taken_for_an_option_is_told_with_set(
    leantune: Any, arguments: list[str], message: str
) -> None:
    code, _, err = leantune("train", "--output", "run", *arguments)
    assert code == 2
    assert f"No such option: {arguments[0]}" in err
    assert err.splitlines()[-1] == message


def test_a_misspelt_option_is_not_told_to_be_a_setting(leantune: Any) -> None:
    code, _, err = leantune("train", "--output", "run", "--txt", "excerpt")
    assert code == 2
    assert "--text" in err
    assert "It is a setting" not in err


def test_an_option_that_is_like_nothing_is_only_refused(leantune: Any) -> None:
    code, _, err = leantune("train", "--output", "run", "--zzz", "1")
    assert code == 2
    assert "--set" not in err


def test_a_run_without_data_or_model_says_what_is_missing(leantune: Any, tmp_path: Path) -> None:
    code, _, err = leantune("train", "--output", tmp_path / "run")
    assert code == 2
    assert "data" in err
    assert "model" in err


def test_an_interrupted_run_leaves_with_128_and_the_signal(
    data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run")
    command = [sys.executable, "-m", "leantune", *arguments, "--set", "optimizer.epochs=100000"]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    events = tmp_path / "run" / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (events.exists() and '"step"' in events.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in err
    assert "Traceback" not in err


def test_folds_writes_the_fold_of_every_row(leantune: Any, data: Path, tmp_path: Path) -> None:
    code, out, _ = leantune("folds", data, "--target", "score", "--id", "name", "--output", tmp_path / "folds.csv")
    assert code == 0
    with (tmp_path / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"{i:04d}" for i in range(60)]
    assert {row["fold"] for row in rows} == set("01234")
    assert "fold 4: 12 rows" in out


def test_folds_never_overwrites_a_file_unasked(leantune: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("mine")
    command = ("folds", data, "--target", "score", "--output", tmp_path / "folds.csv")
    code, _, err = leantune(*command)
    assert code == 2
    assert "folds.csv is there already; give another name, or --force" in err
    assert (tmp_path / "folds.csv").read_text() == "mine"
    code, _, _ = leantune(*command, "--force")
    assert code == 0
    assert (tmp_path / "folds.csv").read_text().startswith("id,fold")


def test_the_option_that_a_missing_target_asks_for_leaves_out_its_row(leantune: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,y\n" + "".join(f"text {row},{row / 2}\n" for row in range(20)) + "last,\n")
    command = ("folds", tmp_path / "rows.csv", "--target", "y", "--output", tmp_path / "folds.csv")
    code, _, err = leantune(*command)
    assert code == 2
    assert "(--drop-missing)" in err
    code, out, _ = leantune(*command, "--drop-missing")
    assert code == 0
    assert "1 of 21 rows are left out" in out


def test_folds_are_csv(leantune: Any, data: Path, tmp_path: Path) -> None:
    code, _, err = leantune("folds", data, "--target", "score", "--output", tmp_path / "folds.parquet")
    assert code == 2
    assert "expected a name that ends in .csv" in err


def test_a_pattern_of_targets_is_a_list_in_the_effective_settings_and_a_column_id_names_the_rows(
    leantune: Any, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    lines = [f"row-{row},text {row} of many,{row % 2},{row % 3 == 0:d},{row}" for row in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,text,label_b,label_a,other", *lines]))
    code, _, err = leantune(
        *train_arguments(tmp_path / "rows.csv", tiny_encoder_dir("bert"), tmp_path / "run"),
        *("--set", "data.id=null", "--set", "data.target=label_*", "--set", "data.text=text"),
    )
    assert code == 0, err
    assert "the rows are named by the column 'id'" in err
    effective = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    assert (effective["target"], effective["id"]) == (["label_b", "label_a"], "id")
    code, _, err = leantune(
        "predict", tmp_path / "run", tmp_path / "rows.csv", "--output", tmp_path / "out.csv", "--device", "cpu"
    )
    assert code == 0, err
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [f"row-{row}" for row in range(30)]


def test_a_run_may_take_its_folds_from_the_table(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    leantune("folds", data, "--target", "score", "--output", tmp_path / "folds.csv", "--count", 3, "--seed", 5)
    folds = [line.split(",")[1] for line in (tmp_path / "folds.csv").read_text().splitlines()]
    lines = data.read_text(encoding="utf-8").splitlines()
    (tmp_path / "with.csv").write_text("\n".join(f"{line},{fold}" for line, fold in zip(lines, folds, strict=True)))
    arguments = train_arguments(tmp_path / "with.csv", tiny_encoder_dir("bert"), tmp_path / "run")
    code, _, _ = leantune(*arguments, "--set", "data.fold=fold", "--fold", 2)
    assert code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["folds"]["2"]["validation_rows"] == folds.count("2")


def test_the_rows_of_a_second_file_validate(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    valid = write_table(tmp_path / "valid.csv", rows=14, seed=1)
    arguments = train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run")
    code, _, _ = leantune(*arguments, "--validation", valid)
    assert code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["folds"]["0"]["validation_rows"] == 14
    code, _, err = leantune(*arguments, "--validation", valid, "--fold", "all")
    assert code == 2
    assert "fold: found all, and with data.validation there is one split only" in err


def test_folds_never_overwrites_the_table(leantune: Any, data: Path) -> None:
    before = data.read_bytes()
    code, _, err = leantune("folds", data, "--target", "score", "--output", data)
    assert code == 2
    assert "the table itself" in err
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {}\nbaseline: a\nrecipes: {a: {precison: fp32}, b: {}}", "recipes.a.precison"),
        ("base: [", "is not YAML"),
        ("", "expected settings"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_experiment_is_one_message_and_exit_code_2(
    leantune: Any, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    code, _, err = leantune("compare", tmp_path / "mine.yaml", "--output", tmp_path / "out")
    assert code == 2
    assert message in err
    assert "mine.yaml" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_report_makes_the_page_anew_without_torch(tmp_path: Path) -> None:
    write_example(tmp_path / "out")
    probe = "import sys; from leantune import cli\ntry: cli.main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe, "report", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(tmp_path / "out" / "report.html"), "False"]
    assert max(map(len, done.stderr.splitlines())) <= 80
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "out" / name).is_file()


def test_a_report_of_no_experiment_is_one_message_and_exit_code_2(leantune: Any, tmp_path: Path) -> None:
    code, _, err = leantune("report", tmp_path)
    assert code == 2
    assert "holds no experiment" in err
    assert "Traceback" not in err


def test_version_and_help_answer_without_heavy_imports() -> None:
    heavy = {"torch", "transformers", "numpy", "pydantic"}
    probe = f"import sys; from leantune import cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-m", "leantune", option], capture_output=True, text=True, check=True)
        assert "leantune" in done.stdout


def test_before_its_first_step_train_imports_no_scikit_learn_and_collects_no_garbage(
    data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    probe = """
import gc, sys
from leantune import cli
from leantune.training.clock import PhaseClock

def enter(clock, phase):
    assert phase == "train", phase
    heavy = {"torch", "sklearn", "scipy.stats", "matplotlib"} & set(sys.modules)
    print(heavy, "frozen" if gc.isenabled() and gc.get_freeze_count() > 100_000 else "not frozen")
    sys.exit()

PhaseClock.enter = enter
cli.main()
"""
    arguments = map(str, train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "{'torch'} frozen\n"


def test_predict_imports_no_scikit_learn_unless_something_is_fitted() -> None:
    probe = "import sys, leantune.inference.file; print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "{'torch'}\n"


def test_folds_are_dealt_without_torch_or_scikit_learn(data: Path, tmp_path: Path) -> None:
    probe = "import sys; from leantune import cli\ntry: cli.main()\nexcept SystemExit: print(*sys.modules)"
    arguments = ["folds", str(data), "--target", "score", "--output", str(tmp_path / "folds.csv")]
    done = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=True)
    assert (tmp_path / "folds.csv").is_file()
    assert not {"torch", "transformers", "sklearn"} & set(done.stdout.split())


def test_help_fits_80_columns() -> None:
    commands = ("train", "predict", "evaluate", "inspect", "folds", "compare", "export", "report", "demo", "cache")
    for command in ([], *([name] for name in commands)):
        done = subprocess.run(
            [sys.executable, "-m", "leantune", *command, "--help"], capture_output=True, text=True, check=True
        )
        assert max(map(len, done.stdout.splitlines())) <= 80
        if not command:
            assert all(f"  {name} " in done.stdout for name in commands)
            assert "..." not in done.stdout.partition("Commands:")[2], "a summary is cut off"


def test_a_demo_takes_the_next_free_folder(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"


def test_cache_shows_what_is_kept_and_clear_removes_that_and_nothing_else(
    leantune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", "5000")
    folder = tmp_path / "cache" / "tokens"
    code, out, _ = leantune("cache")
    assert (code, out.splitlines()[:2]) == (0, [f"folder: {folder}", "files: 0, 0 bytes"])
    folder.mkdir(parents=True)
    (folder / f"{'0a' * 32}.arrow").write_bytes(bytes(1200))
    (folder / f"{'0a' * 32}.{'1b' * 16}.partial").write_bytes(bytes(34))
    (folder / "thesis.arrow").write_bytes(b"years of work")
    (tmp_path / "cache" / "yardsticks").mkdir()
    (tmp_path / "cache" / "yardsticks" / f"{'0c' * 32}.arrow").write_bytes(bytes(5))
    code, out, _ = leantune("cache")
    assert (code, out.splitlines()[1]) == (0, "files: 3, 1,239 bytes")
    assert "limit: 5,000 bytes (LEANTUNE_CACHE_BYTES)" in out
    code, out, _ = leantune("cache", "--clear")
    assert (code, out.splitlines()) == (0, [f"folder: {folder}", "removed: 3 files, 1,239 bytes"])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["thesis.arrow"]


def test_a_limit_of_the_cache_that_is_no_number_is_wrong_input(leantune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", "10 GB")
    code, _, err = leantune("cache")
    assert code == 2
    assert "LEANTUNE_CACHE_BYTES: found '10 GB', expected a whole number of bytes" in err


def test_export_writes_a_model_and_prints_where(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    assert leantune(*train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"))[0] == 0
    code, out, err = leantune("export", tmp_path / "run", "--output", tmp_path / "model")
    assert (code, out.strip()) == (0, str(tmp_path / "model"))
    assert err.startswith("Plain transformers with cut.py repeats the run's own predictions for ")
    assert {"README.md", "cut.py", "model.safetensors"} <= {path.name for path in (tmp_path / "model").iterdir()}
    code, out, err = leantune("export", tmp_path / "run", "--output", tmp_path / "model")
    assert (code, out) == (2, "")
    assert "there already; give another --output" in err


def test_predict_writes_a_table_and_prints_where(
    leantune: Any, data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    leantune(*train_arguments(data, tiny_encoder_dir("bert"), tmp_path / "run"), "--id", "name")
    output = tmp_path / "out.csv"
    code, out, err = leantune("predict", tmp_path / "run", data, "--output", output, "--keep", "other")
    assert (code, out.strip()) == (0, str(output))
    assert "60 rows of" in err
    with output.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "score", "other"]
    assert [row[0] for row in rows] == [f"{row:04d}" for row in range(60)]

    code, out, err = leantune("predict", tmp_path / "run", data, "--output", output)
    assert (code, out) == (2, "")
    assert "is there already" in err

    other = write_table(tmp_path / "other.csv", rows=12, seed=3)
    code, out, err = leantune("evaluate", tmp_path / "run", other)
    assert code == 0
    assert out.splitlines()[0].split() == ["metric", "value", "95%", "interval", "constant", "linear"]
    assert "rmse" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "data.csv", "--output", "o.csv"], "found data.csv alone, expected a run"),
        (["predict", "run", "data.csv", "--output", "o.csv", "--weights", "a,b"], "--weights: found 'a,b'"),
        (["predict", "run", "data.csv", "--output", "o.csv", "--precision", "fp8"], "--precision: found 'fp8'"),
        (["predict", "none", "data.csv", "--output", "o.csv"], "none: found no folder, expected the folder of a run"),
        (["evaluate", "none", "data.csv"], "none: found no folder, expected the folder of a run"),
    ],
)
def test_predict_says_what_is_wrong_in_one_message(
    leantune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = leantune(*arguments)
    assert (code, out) == (2, "")
    assert message in err.replace("\n", " ")
    assert not list(tmp_path.iterdir())
