"""What is exported repeats the run's own predictions with other programs, or is refused."""

import csv
import hashlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import leantune
from leantune.inference import exporting
from leantune.inference.exporting import export
from leantune.inference.quantization_loss import QuantizationLoss, measure_loss
from leantune.system.errors import InputError, LeantuneError, ModelError, RunFolderError, SettingsError, TableError
from small_runs import LABELS, run_all, tiny_config, write_table
from tiny_encoders import OTHER_SCRIPTS, make_texts

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `onnx` is not installed",
)
Dirs = Callable[[str], Path]


def write_classes(path: Path, count: int) -> Path:
    """Four rows of each class; the names are Japanese."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "text", "label"])
        for row, text in enumerate(make_texts(4 * count, most_words=12)):
            writer.writerow([row, text, f"分類{row % count}"])
    return path


def japanese(rows: int) -> list[str]:
    return [f"{OTHER_SCRIPTS[1]} {text} {OTHER_SCRIPTS[1] * (row % 4)}" for row, text in enumerate(make_texts(rows))]


def short(length: int, **settings: Any) -> dict[str, Any]:
    return {"tokens": {"max_length": length, **settings}, "optimizer": {"epochs": 1, "learning_rate": 1e-3}}


CASES: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any]]] = {
    "single": ("bert", write_table, short(16)),
    "tail": ("modernbert", write_table, short(16, truncation="tail")),
    "japanese_pair": (
        "xlm-roberta",
        lambda p: write_table(p, texts=japanese(50)),
        {"data__text": ["text", "other"]} | short(40, head_fraction=0.29),
    ),
    "targets": (
        "deberta-v2",
        lambda p: write_table(p, kind="soft"),
        {"data__target": list(LABELS["soft"]), "data__task": "regression"} | short(12, head_fraction=0.7),
    ),
    "classes": ("distilbert", lambda p: write_classes(p, 30), {"data__target": "label"} | short(12)),
    "windows": (
        "electra",
        lambda p: write_classes(p, 3),
        {"data__target": "label"} | short(12, truncation="windows", window_pooling="max", stride=4),
    ),
    "window_pair": ("bert", write_table, {"data__text": ["text", "other"]} | short(20, truncation="windows")),
    "label_pair": (
        "bert",
        lambda p: write_table(p, kind="multilabel"),
        {"data__target": list(LABELS["multilabel"]), "data__text": ["text", "other"]} | short(24),
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Dirs) -> Callable[[str], Path]:
    """Name of a case -> its run, trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("finished-secret-place")

    def find(name: str) -> Path:
        if not (folder / name).exists():
            encoder, write, settings = CASES[name]
            run_all(tiny_config(write(folder / f"{name}.csv"), tiny_encoder_dir(encoder), **settings), folder / name)
        return folder / name

    return find


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Dirs) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    config = tiny_config(write_table(folder / "table.csv"), tiny_encoder_dir("bert"), fold="all", folds__count=2)
    run_all(config, folder / "run")
    return folder / "run"


def as_if_learned(_: Any, __: Any, exact: np.ndarray, quantized: np.ndarray) -> QuantizationLoss:
    """Measure against targets near the run's predictions: an untrained encoder gains nothing that could be lost."""
    targets = exact + 0.01 * exact.std(axis=0) * np.random.default_rng(0).normal(size=exact.shape)
    return measure_loss("regression", targets, exact, quantized)


def export_int8(run: Path, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "measure_loss", as_if_learned)
        return export(run, output=folder, format="onnx", quantize="int8", tolerance=1.0).folder


@pytest.fixture(scope="module")
def onnx_export(finished: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_int8(finished("label_pair"), tmp_path_factory.mktemp("onnx") / "out")


def columns_of(run: Path, fold: str = "fold_0") -> tuple[list[list[str]], np.ndarray]:
    """The texts of a fold's validation rows, and what the run itself predicted for them."""
    stored = pq.read_table(run / fold / "predictions.parquet")
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    with Path(settings["path"]).open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = stored["row"].to_pylist()
    predictions = np.array(stored["prediction"].to_pylist(), dtype=np.float64).reshape(len(rows), -1)
    return [[table[row][name] for row in rows] for name in settings["text"]], predictions


def load_cut(folder: Path) -> Any:
    """The file that lies in the exported folder, and not leantune's own; it leaves no compiled file there."""
    spec = importlib.util.spec_from_file_location("exported_cut", folder / "cut.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    return module


def inputs_of(folder: Path, columns: list[list[str]]) -> dict[str, list[list[int]]]:
    cut = load_cut(folder)
    return cut.encode(AutoTokenizer.from_pretrained(folder), cut.read_settings(), *columns)


def answers(folder: Path, columns: list[list[str]], logits: np.ndarray) -> np.ndarray:
    """What the logits of all inputs of some rows come to, as the folder's page says."""
    problem = json.loads((folder / "config.json").read_text())["problem_type"]
    values = torch.from_numpy(logits)
    if problem != "regression":
        values = values.sigmoid() if problem == "multi_label_classification" else values.softmax(1)
    cut, tokenizer = load_cut(folder), AutoTokenizer.from_pretrained(folder)
    settings = cut.read_settings()
    windows = cut.windows(settings, *(cut.tokens(tokenizer, column) for column in columns))
    return np.array(cut.pool(settings, values.tolist(), windows))


def torch_logits(folder: Path, inputs: dict[str, list[list[int]]]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**{name: torch.tensor(values) for name, values in inputs.items()}).logits.numpy()


def onnx_logits(file: Path, inputs: dict[str, list[list[int]]]) -> np.ndarray:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: np.array(values) for name, values in inputs.items()})[0]


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("case", CASES)
def test_plain_transformers_with_cut_repeats_the_runs_predictions(
    case: str, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    run = finished(case)
    done = export(run, output=tmp_path / "out")
    assert done.folder == tmp_path / "out"
    (note,) = done.notes
    assert re.search(
        r"repeats the run's own predictions for \d+ validation rows \(largest difference below 1e-\d", note
    )
    columns, own = columns_of(run)
    inputs = inputs_of(done.folder, columns)
    assert max(sum(mask) for mask in inputs["attention_mask"]) == len(inputs["input_ids"][0]) <= 40
    assert "repeats the run's own predictions" in (done.folder / "README.md").read_text()
    found = answers(done.folder, columns, torch_logits(done.folder, inputs))
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-6)


def test_rows_that_are_cut_are_among_those_that_are_compared(finished: Callable[[str], Path]) -> None:
    for case in CASES:
        columns, _ = columns_of(finished(case))
        tokenizer = AutoTokenizer.from_pretrained(finished(case) / "fold_0" / "model")
        lengths = [len(ids) for ids in tokenizer(*columns, verbose=False)["input_ids"]]
        assert max(lengths) > tokenizer.model_max_length, case


@needs_onnx
@pytest.mark.parametrize(
    "case", ["label_pair", *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "label_pair")]
)
def test_onnxruntime_with_cut_repeats_the_runs_predictions(
    case: str, finished: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, folder = finished(case), tmp_path / "out"
    if case == "label_pair":
        folder = request.getfixturevalue("onnx_export")
    else:
        export(run, output=folder, format="onnx")
    columns, own = columns_of(run)
    found = answers(folder, columns, onnx_logits(folder / "onnx" / "model.onnx", inputs_of(folder, columns)))
    np.testing.assert_allclose(found, own, atol=1e-5)
    for row in (0, 1):  # a batch of one, and whatever length the row has
        alone = inputs_of(folder, [[column[row]] for column in columns])
        single = answers(
            folder, [[column[row]] for column in columns], onnx_logits(folder / "onnx" / "model.onnx", alone)
        )
        np.testing.assert_allclose(single, own[row : row + 1], atol=1e-5)


@needs_onnx
def test_an_onnx_folder_has_the_layout_that_others_read(onnx_export: Path) -> None:
    assert set(content(onnx_export)) == {
        *("README.md", "config.json", "cut.json", "cut.py", "tokenizer.json", "tokenizer_config.json"),
        *("onnx/model.onnx", "onnx/model_quantized.onnx"),
    }
    sizes = [(onnx_export / "onnx" / name).stat().st_size for name in ("model_quantized.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]
    assert "int8 loses" in (onnx_export / "README.md").read_text()


@needs_onnx
def test_the_int8_file_is_near_the_run_and_not_the_same(onnx_export: Path, finished: Callable[[str], Path]) -> None:
    columns, own = columns_of(finished("label_pair"))
    inputs = inputs_of(onnx_export, columns)
    found = answers(onnx_export, columns, onnx_logits(onnx_export / "onnx" / "model_quantized.onnx", inputs))
    difference = np.abs(found - own).max()
    assert 1e-5 < difference < 0.1


@needs_onnx
def test_two_exports_of_a_run_are_the_same_files(
    onnx_export: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    export_int8(finished("label_pair"), tmp_path / "two")
    assert content(tmp_path / "two") == content(onnx_export)


@needs_onnx
def test_no_exported_file_tells_where_things_lay(
    onnx_export: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    export(finished("label_pair"), output=tmp_path / "out")
    for folder in (onnx_export, tmp_path / "out"):
        for path in folder.rglob("*"):
            if path.is_file():
                found = path.read_bytes()
                for word in (b"secret-place", b"site-packages", str(tmp_path.parent).encode()):
                    assert word not in found, path


def test_two_huggingface_exports_are_the_same_files(finished: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(finished("single"), output=tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize("case", ["single", "targets", "classes", "label_pair"])
def test_a_pipeline_gives_numbers_and_probabilities(case: str, finished: Callable[[str], Path], tmp_path: Path) -> None:
    export(finished(case), output=tmp_path / "out")
    columns, own = columns_of(finished(case))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    lengths = [len(ids) for ids in tokenizer(*columns)["input_ids"]]
    row = int(np.argmin(lengths))  # one that is not cut
    texts = [column[row] for column in columns]
    classify = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None, device="cpu")
    (given,) = classify([texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]}])
    scores = {entry["label"]: entry["score"] for entry in given}
    labels = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    np.testing.assert_allclose([scores[labels[str(i)]] for i in range(len(labels))], own[row], rtol=1e-5, atol=1e-6)


def test_a_cross_encoder_is_told_which_function_gives_the_runs_numbers(
    finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """What sentence-transformers 4 to 6 read (`CrossEncoder.get_default_activation_fn`)."""
    for case, function in {"single": torch.nn.Identity(), "label_pair": torch.nn.Sigmoid()}.items():
        export(finished(case), output=tmp_path / case)
        told = json.loads((tmp_path / case / "config.json").read_text())["sentence_transformers"]["activation_fn"]
        module, _, name = told.rpartition(".")
        assert getattr(importlib.import_module(module), name) is type(function)


def test_a_cross_encoder_repeats_the_runs_numbers(finished: Callable[[str], Path], tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="the extra `benchmark` is not installed"
    )
    export(finished("label_pair"), output=tmp_path / "out")
    (firsts, seconds), own = columns_of(finished("label_pair"))
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(tmp_path / "out")(firsts, seconds)["input_ids"]]
    row = int(np.argmin(lengths))
    found = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu").predict(
        [(firsts[row], seconds[row])]
    )
    np.testing.assert_allclose(found[0], own[row], rtol=1e-5, atol=1e-6)


def test_the_models_of_all_folds_are_an_ensemble_of_whole_folders(folds: Path, tmp_path: Path) -> None:
    export(folds, output=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "member_0", "member_1"]
    assert "member_1" in (tmp_path / "out" / "README.md").read_text()
    for number in range(2):
        columns, own = columns_of(folds, f"fold_{number}")
        member = tmp_path / "out" / f"member_{number}"
        np.testing.assert_allclose(torch_logits(member, inputs_of(member, columns)), own, rtol=1e-5, atol=1e-6)


def test_the_model_of_one_fold_lies_in_the_folder_itself(folds: Path, tmp_path: Path) -> None:
    leantune.export(folds, output=tmp_path / "out", fold=1)
    columns, own = columns_of(folds, "fold_1")
    found = torch_logits(tmp_path / "out", inputs_of(tmp_path / "out", columns))
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-6)


def test_a_run_without_validation_is_tried_on_its_training_rows(tmp_path: Path, tiny_encoder_dir: Dirs) -> None:
    config = tiny_config(write_table(tmp_path / "table.csv"), tiny_encoder_dir("bert"), fold="none")
    run_all(config, tmp_path / "run")
    export(tmp_path / "run", output=tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "It was not measured: all rows trained it" in page
    assert "Plain transformers with cut.py predicts 48 rows" in page
    with pytest.raises(SettingsError, match="--average: found one run"):
        export(tmp_path / "run", output=tmp_path / "average", average=True)
    if importlib.util.find_spec("onnx") is not None:
        with pytest.raises(SettingsError, match=r"--quantize: .* no validation rows .* --data FILE"):
            export(tmp_path / "run", output=tmp_path / "onnx", format="onnx", quantize="int8")


@pytest.fixture
def copied(finished: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run with a table of its own, to be damaged."""
    run = shutil.copytree(finished("single"), tmp_path / "run")
    table = shutil.copyfile(finished("single").with_suffix(".csv"), tmp_path / "table.csv")
    change_settings(run, **{"data.path": str(table)})
    return run


def change_settings(run: Path, **changes: Any) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for name, value in changes.items():
        section, _, last = name.rpartition(".")
        (settings[section] if section else settings)[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


def change_weights(run: Path, factor: float) -> None:
    path = run / "fold_0" / "model" / "model.safetensors"
    weights = load_file(path)
    changed = {name: factor * tensor if name.startswith("classifier") else tensor for name, tensor in weights.items()}
    save_file(changed, path, metadata={"format": "pt"})


def assert_refused(kind: type[LeantuneError], match: str, run: Any, folder: Path, **options: Any) -> None:
    before = sorted(folder.parent.iterdir())
    with pytest.raises(kind, match=match):
        export(run, output=folder, **options)
    assert sorted(folder.parent.iterdir()) == before


def test_a_model_that_is_not_that_of_the_predictions_is_refused(copied: Path, tmp_path: Path) -> None:
    change_weights(copied, 1.01)
    assert_refused(ModelError, r"table.csv, row \d+: plain transformers gives", copied, tmp_path / "out")


def test_without_its_table_a_run_is_exported_untried_and_says_so(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").rename(tmp_path / "moved.csv")
    (note,) = export(copied, output=tmp_path / "out").notes
    assert re.search(r"not tried on real rows: .*not there any more .*--data FILE", note)
    assert "It was not tried on real rows" in (tmp_path / "out" / "README.md").read_text()
    (note,) = export(copied, output=tmp_path / "again", data=tmp_path / "moved.csv").notes
    assert "repeats the run's own predictions" in note
    assert "repeats the run's own predictions" in (tmp_path / "again" / "README.md").read_text()


@needs_onnx
def test_onnx_needs_the_table_as_it_was(copied: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("ba", "ko"))
    assert_refused(TableError, "changed since the run", copied, tmp_path / "out", format="onnx")
    table.unlink()
    assert_refused(SettingsError, "not there any more .* --data FILE", copied, tmp_path / "out", format="onnx")


def test_a_table_without_the_runs_columns_is_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert_refused(TableError, "text", copied, tmp_path / "out", data=tmp_path / "other.csv")


@needs_onnx
def test_int8_that_ruins_a_model_is_refused(
    finished: Callable[[str], Path], onnx_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    def ruin(source: Path, path: Path) -> None:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(-2 * numpy_helper.to_array(tensor), tensor.name))
        onnx.save(model, path)

    made = onnx_export / "onnx" / "model.onnx"  # the same run's: exporting it again takes seconds
    monkeypatch.setattr(exporting, "write_onnx", lambda _, __, path: shutil.copyfile(made, path))
    monkeypatch.setattr(exporting, "quantize_int8", ruin)
    monkeypatch.setattr(exporting, "measure_loss", as_if_learned)
    message = r"int8 loses [\d.e+]+% .* at most 2% may be lost \(--tolerance 0.02\)"
    assert_refused(ModelError, message, finished("label_pair"), tmp_path / "out", format="onnx", quantize="int8")


def test_a_model_that_gains_nothing_has_no_share_to_lose(
    monkeypatch: pytest.MonkeyPatch, copied: Path, tmp_path: Path
) -> None:
    for name in ("write_onnx", "quantize_int8"):
        monkeypatch.setattr(exporting, name, lambda *_: None)
    monkeypatch.setattr(exporting, "require_onnx", lambda: None)
    monkeypatch.setattr(exporting, "OnnxModel", lambda _: exporting.TorchModel(copied / "fold_0" / "model"))
    measure = exporting.measure_loss
    monkeypatch.setattr(exporting, "measure_loss", lambda kind, targets, *both: measure(kind, 9 - 9 * both[0], *both))
    assert_refused(ModelError, "gains nothing", copied, tmp_path / "out", format="onnx", quantize="int8")


def test_a_folder_that_is_there_is_refused_and_left_alone(finished: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert_refused(RunFolderError, "out: there already", finished("single"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unfinished_run_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "metrics.json").unlink()
    assert_refused(RunFolderError, "unfinished run", copied, tmp_path / "out")


def test_a_disk_that_is_full_leaves_nothing_behind(
    finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copy)
    assert_refused(LeantuneError, "make room, then give the same command again", finished("single"), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "pickle"}, "--format: found 'pickle', expected huggingface or onnx"),
        ({"quantize": "int4", "format": "onnx"}, "--quantize: found 'int4', expected int8"),
        ({"quantize": "int8"}, "--quantize: used only with --format onnx"),
        ({"tolerance": 0.1, "format": "onnx"}, "--tolerance: used only with --quantize"),
        ({"tolerance": 2.0, "format": "onnx", "quantize": "int8"}, "--tolerance: found 2.0"),
        ({"fold": 7}, "--fold: found 7, .* has the folds: 0"),
        ({"average": True}, "--average: found one run"),
        ({"data": "nowhere.csv"}, "--data: nowhere.csv is no file"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: dict[str, Any], message: str, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    assert_refused(InputError, message, finished("single"), tmp_path / "out", **options)


def test_the_mean_of_the_weights_of_two_seeds_is_written_where_it_is_as_good(copied: Path, tmp_path: Path) -> None:
    other = shutil.copytree(copied, tmp_path / "other")
    change_settings(other, seed=5)
    note, _ = export([copied, other], output=tmp_path / "out", average=True).notes
    score = json.loads((copied / "metrics.json").read_text())["overall"]["best"]["rmse"]
    assert note == (
        f"rmse {score:.4f} with the mean of the weights, {score:.4f} on average of the 2 models, on 12 validation rows"
    )
    columns, own = columns_of(copied)
    found = torch_logits(tmp_path / "out", inputs_of(tmp_path / "out", columns))
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-6)
    assert "| seeds | 0, 5 |" in (tmp_path / "out" / "README.md").read_text()


def test_a_mean_that_is_worse_than_its_models_is_refused_with_both_figures(copied: Path, tmp_path: Path) -> None:
    other = shutil.copytree(copied, tmp_path / "other")
    change_settings(other, seed=5)
    change_weights(other, -3.0)
    message = r"rmse [\d.]+ with the mean of the weights, [\d.]+ on average of the 2 models.*as an ensemble"
    assert_refused(ModelError, message, [copied, other], tmp_path / "out", average=True)


def test_runs_of_other_recipes_are_not_averaged(copied: Path, tmp_path: Path) -> None:
    other = shutil.copytree(copied, tmp_path / "other")
    change_settings(other, **{"optimizer.weight_decay": 0.5})
    message = "other: found optimizer.weight_decay = 0.5, and .* has 0.01"
    assert_refused(RunFolderError, message, [copied, other], tmp_path / "out", average=True)
    change_settings(other, **{"optimizer.weight_decay": 0.01})
    environment = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps(environment | {"model_sha256": "another"}))
    message = "other: was trained with another pretrained weights"
    assert_refused(RunFolderError, message, [copied, other], tmp_path / "out", average=True)
