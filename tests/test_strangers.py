"""Files from strangers: what they hold is data, never code, and names lead nowhere else. And secrets stay home."""

import ast
import gzip
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import leantune
from fork_server import Server
from interruptions import cut_off
from leantune.comparison import compare_runs
from leantune.encoder.loading import load_encoder
from leantune.encoder.model import ModelSettings
from leantune.encoder.saving import save_model
from leantune.experiments.recipes import load_experiment, parse_experiment
from leantune.experiments.runner import _lock_of, run_experiment
from leantune.report import rebuild_report
from leantune.runs.config import load_config, read_yaml
from leantune.runs.record import note_formulas, write_folds
from leantune.runs.run import run
from leantune.system.errors import InputError, LeantuneError, ModelError, RunFolderError, SettingsError, TableError
from leantune.system.files import write_text
from leantune.tables.table import DataSettings, read_table
from leantune.tokens.tokens import load_tokenizer, tokenize
from small_runs import finish, run_all, tiny_config, write_table
from synthetic_experiments import run_folder, write_experiment

SOURCE = Path(str(leantune.__file__)).parent


class Payload:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.touched),)


@pytest.fixture
def touched(tmp_path: Path) -> Iterator[Path]:
    """What a payload leaves behind when it has run; it must not be there in the end."""
    path = tmp_path / "touched"
    yield path
    assert not path.exists()


# No reader that runs code


FORBIDDEN_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy", "imp"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "np.load",
    "np.save", "numpy.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system",
    "os.popen", "pd.read_pickle",
}  # fmt: skip


WITHOUT_PICKLE = {"np.load", "np.save"}
"""Calls that are data only where `allow_pickle=False` is written."""


def faults(source: str) -> list[str]:
    """What a source file does that a file from a stranger could turn into code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
                found += [name for alias in names if (name := f"{module}.{alias.name}") in FORBIDDEN_CALLS]
            case ast.Call(func=function, keywords=keywords):
                name = ast.unparse(function)
                without_pickle = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in keywords)
                found += [name] if name in FORBIDDEN_CALLS - (WITHOUT_PICKLE if without_pickle else set()) else []
                for keyword in keywords:
                    if keyword.arg in ("trust_remote_code", "shell", "allow_pickle"):
                        found += [] if ast.unparse(keyword.value) == "False" else [f"{keyword.arg}="]
                if name.endswith(".from_pretrained"):
                    given = {keyword.arg for keyword in keywords}
                    found += [] if {"trust_remote_code", None} & given else [f"{name} without trust_remote_code"]
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                        found += [] if ast.unparse(value) == "False" else ["trust_remote_code"]
    return found


def test_no_source_file_has_a_reader_that_runs_code() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 40
    assert {str(file): found for file in files if (found := faults(file.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch; torch.load(x, weights_only=True)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "from torch.hub import load; import yaml; yaml.load(x, yaml.SafeLoader)",
        "eval(x)",
        "AutoModel.from_pretrained(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "shared = {'trust_remote_code': settings.trust}",
        "subprocess.run(x, shell=True)",
    ],
)
def test_a_source_file_that_has_one_would_be_found_out(line: str) -> None:
    assert faults(line)


# Payloads in every file that is read


def test_the_pickle_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.csv.gz", "t.parquet.zst"])
def test_a_pickle_for_a_table_is_refused(name: str, tmp_path: Path, touched: Path) -> None:
    content = pickle.dumps(Payload(touched))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(TableError):
        read_table(DataSettings(path=tmp_path / name, text=("text",)))


def test_a_pickled_type_in_a_parquet_file_is_not_read(tmp_path: Path, touched: Path) -> None:
    hidden = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(touched)),
    }
    schema = pa.schema([pa.field("text", pa.string(), metadata=hidden)], metadata={b"pandas": b"\x80\x04"})
    pq.write_table(pa.table({"text": ["one", "two"]}, schema=schema), tmp_path / "t.parquet")
    table = read_table(DataSettings(path=tmp_path / "t.parquet", text=("text",)))
    assert table.texts[0].to_pylist() == ["one", "two"]


def test_brackets_without_end_are_an_error_of_their_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n")
    with pytest.raises(TableError, match="row 2"):
        read_table(DataSettings(path=tmp_path / "t.jsonl", text=("text",)))


@pytest.mark.parametrize("load", [lambda path: load_config(path, {}), load_experiment, read_yaml])
@pytest.mark.parametrize("kind", ["pickle", "yaml", "bomb"])
def test_a_payload_for_settings_is_one_message(
    load: Callable[[Path], Any], kind: str, tmp_path: Path, touched: Path
) -> None:
    lines = [
        "a: &a [x]",
        *(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    content = {
        "pickle": pickle.dumps(Payload(touched)),
        "yaml": f"model: !!python/object/apply:os.mkdir ['{touched}']".encode(),
        "bomb": "\n".join(lines).encode(),
    }
    (tmp_path / "settings.yaml").write_bytes(content[kind])
    with pytest.raises(SettingsError, match=r"settings\.yaml: is not YAML") as error:
        load(tmp_path / "settings.yaml")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name", ["plan.json", "metrics.json", "environment.json", "config.yaml", "events.jsonl", "predictions.parquet"]
)
def test_a_payload_in_a_folder_of_runs_is_refused_by_name(name: str, tmp_path: Path, touched: Path) -> None:
    folder = write_experiment(tmp_path / "out")
    [file, *_] = sorted(folder.rglob(name))
    file.write_bytes(pickle.dumps(Payload(touched)))
    with pytest.raises(RunFolderError, match=name):
        compare_runs(folder)


def test_a_pickle_in_the_cache_of_tokens_is_made_again(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path], touched: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(str(tiny_encoder_dir("bert")))
    texts = (pa.array(["one text", "another"]),)
    before = finish(tokenize(texts, tokenizer, tmp_path / "cache")).ids(0).tolist()
    [file] = (tmp_path / "cache" / "tokens").iterdir()
    file.write_bytes(pickle.dumps(Payload(touched)))
    after = finish(tokenize(texts, tokenizer, tmp_path / "cache"))
    assert after.ids(0).tolist() == before
    assert "is damaged" in caplog.text


# Folders of models


def load(folder: Path) -> Any:
    tokenizer = load_tokenizer(str(folder))
    encoder = load_encoder(
        ModelSettings(name=str(folder)), labels=("a",), problem_type="regression", device=torch.device("cpu"), seed=0
    )
    return encoder, tokenizer


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | entries), "utf-8")


def add_code(folder: Path, touched: Path) -> None:
    """Code that comes with a model, as its configuration and its tokenizer's ask for."""
    code = f"""
import os
from transformers import BertForSequenceClassification

os.mkdir({str(touched)!r})

class Model(BertForSequenceClassification):
    pass
"""
    (folder / "own.py").write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    change(folder / "config.json", auto_map=dict.fromkeys(names[1:], "own.Model"))
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Model", "own.Model"]})


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "model"))


def test_code_that_comes_with_a_model_is_not_run_and_not_asked_for_by_what_is_saved(
    folder: Path, tmp_path: Path, touched: Path
) -> None:
    add_code(folder, touched)
    change(folder / "config.json", attn_implementation="stranger/kernel")
    save_model(*load(folder), tmp_path / "saved")
    saved = [file.read_text("utf-8") for file in (tmp_path / "saved").glob("*.json")]
    assert len(saved) >= 3
    assert not any("own.Model" in text or "stranger" in text for text in saved)


def test_that_code_is_live(folder: Path, tmp_path: Path) -> None:
    add_code(folder, tmp_path / "touched")
    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "touched").exists()


def test_a_model_that_is_nothing_without_its_code_is_refused(folder: Path, touched: Path) -> None:
    add_code(folder, touched)
    change(folder / "config.json", model_type="own")
    change(folder / "tokenizer_config.json", tokenizer_class="Own")
    with pytest.raises(ModelError, match="leantune never runs"):
        load_tokenizer(str(folder))
    settings = ModelSettings(name=str(folder))
    with pytest.raises(ModelError, match="cannot load"):
        load_encoder(settings, labels=("a",), problem_type="regression", device=torch.device("cpu"), seed=0)


def plant_pickle(folder: Path, name: str, touched: Path) -> None:
    (folder / name).write_bytes(pickle.dumps({"weight": Payload(touched)}))


def test_a_pickle_beside_the_weights_is_not_touched(folder: Path, touched: Path) -> None:
    plant_pickle(folder, "pytorch_model.bin", touched)
    load(folder)


def test_a_model_that_has_only_a_pickle_is_refused(folder: Path, touched: Path) -> None:
    (folder / "model.safetensors").unlink()
    plant_pickle(folder, "pytorch_model.bin", touched)
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)


@pytest.mark.parametrize("way", ["index", "configuration"])
@pytest.mark.parametrize("harmless", [True, False])
def test_a_pickle_that_the_folder_names_in_place_of_safetensors_is_refused(
    way: str, harmless: bool, folder: Path, touched: Path
) -> None:
    """transformers would open both, though it was told to use safetensors."""
    weights = load_file(folder / "model.safetensors")
    if way == "index":
        name = "weights.bin"
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "model.safetensors").unlink()
    else:
        name = "adapter_model.bin"
        change(folder / "config.json", transformers_weights=name)
    if harmless:
        torch.save(weights, folder / name)
        AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)  # the way is open
    else:
        plant_pickle(folder, name, touched)
    with pytest.raises(ModelError, match="its weights are a pickle"):
        load(folder)
    if harmless:
        assert torch.load(folder / name).keys() == weights.keys()  # for everybody else torch is as it was


def header(text: str, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({}),
        header("{}", 2**62),
        header('{"w": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}') + bytes(4),
        header('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4000000000]}}') + bytes(8),
        header('{"w": ' * 5000),
        b"",
    ],
    ids=["pickle", "length", "shape", "offsets", "nesting", "nothing"],
)
def test_safetensors_that_lie_are_one_message(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.name"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"hidden_size": "many"}),
        ("config.json", {"hidden_size": -4}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"pad_token_id": 10**9}),
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("tokenizer_config.json", {"model_max_length": [], "added_tokens_decoder": 1}),
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_sense_is_one_message(file: str, entries: dict[str, Any], folder: Path) -> None:
    change(folder / file, **entries)
    with pytest.raises(ModelError, match=r"model\.name"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_brackets_without_end_in_a_folder_of_a_model_are_one_message(name: str, folder: Path) -> None:
    (folder / name).write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match=r"model\.name"):
        load(folder)


# Names


HOSTILE_NAMES = (
    "../../up", "..", ".", "/etc/passwd", "a/b", "a\\b", "C:\\x", "CON", "nul.txt", "LPT1", ".hidden", "-rf", "~",
    "$HOME", "`x`", "a" * 80, "ａ", "а", "e\u0301", "é", "x ", "x", "X", "*", "?", "|", "<b>", "=1+1", "%2e%2e%2f",
    "a;b", "🙂",
)  # fmt: skip


def experiment_of(names: tuple[str, ...], data: Path, model: Path) -> dict[str, Any]:
    return {
        "base": {
            "data": {"path": str(data), "text": "text", "target": "score"},
            "model": {"name": str(model)},
            "optimizer": {"epochs": 1},
            "batching": {"batch_size": 16},
            "precision": "fp32",
            "device": "cpu",
        },
        "baseline": names[0],
        "recipes": {name: {"optimizer": {"learning_rate": 1e-4 * (i + 1)}} for i, name in enumerate(names)},
        "seeds": [0],
    }


def test_recipes_of_any_name_have_folders_of_their_own_below_runs() -> None:
    experiment = parse_experiment(experiment_of(HOSTILE_NAMES, Path("t.csv"), Path("m")), title="../../title")
    folders = [cell.folder for cell in experiment.cells((0,))]
    for folder in folders:
        assert folder.parts[0] == "runs"
        assert len(folder.parts) == 3
        recipe = folder.parts[1]
        assert recipe.isascii()
        assert recipe.replace("_", "").replace("-", "").isalnum()
        assert recipe[0] not in ".-"
        assert len(recipe) < 64
    # Also where capital letters do not count, as on Windows and macOS.
    assert len({str(folder).casefold() for folder in folders}) == len(HOSTILE_NAMES)


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b[2J", "a" * 81, "", " ", "a\u202eb", "\ud800"])
def test_names_that_nobody_could_read_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="found the name") as error:
        parse_experiment(experiment_of(("plain", name), Path("t.csv"), Path("m")), title="x")
    assert str(error.value).replace("\n", "").isprintable()


def test_columns_of_any_name_lead_nowhere_else(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    data = write_table(tmp_path / "t.csv", rows=24)
    text = data.read_text("utf-8").replace("name,text,other,score", "/etc/passwd,../../text,..,../../../score")
    data.write_text(text, "utf-8")
    config = tiny_config(
        data,
        tiny_encoder_dir("bert"),
        optimizer__epochs=1,
        data__text=["../../text", ".."],
        data__target="../../../score",
        data__id="/etc/passwd",
    )
    before = set(tmp_path.rglob("*"))
    run_all(config, tmp_path / "work" / "run")
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "work" / "run") for path in new)


@pytest.mark.parametrize(
    "place",
    ["../../elsewhere", "/elsewhere", "runs/../../elsewhere", "runs/a/../../..", "runs/..", "runs", "runs/a\\..\\b"],
)
def test_a_plan_cannot_send_a_report_elsewhere(place: str, tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "out")
    plan = json.loads((folder / "plan.json").read_text())
    plan["recipes"]["other"]["folder"] = place
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunFolderError, match=r"recipes\.other\.folder"):
        compare_runs(folder)


def test_a_device_of_any_name_has_its_lock_among_the_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = experiment_of(("a", "b"), Path("t.csv"), Path("m"))
    for device in ("../../x", "/etc/x", "cuda:../../x", "cpu\0"):
        settings["base"]["device"] = device
        [recipe, _] = parse_experiment(settings, title="x").recipes
        assert Path(_lock_of(recipe)[1].lock_file).parent == tmp_path


def test_a_link_in_a_folder_of_runs_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "out")
    mine = tmp_path / "mine.txt"
    for name in (".report.html.tmp", "report.html", ".report.md.tmp"):
        mine.write_text("mine")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine)
        rebuild_report(folder)
        assert mine.read_text() == "mine"
        assert not (folder / "report.html").is_symlink()


def test_a_link_in_a_run_that_is_resumed_is_replaced_and_not_followed(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    config = tiny_config(
        write_table(tmp_path / "train.csv"), tiny_encoder_dir("bert"), checkpoint={"every": {"steps": 1}}
    )
    cut_off(config, tmp_path / "run", 2)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    links = [tmp_path / "run" / name for name in (".events.jsonl.tmp", "fold_0/.predictions.parquet.tmp")]
    for link in links:
        link.symlink_to(mine)
    list(run(config, tmp_path / "run", resume=True))
    assert mine.read_text() == "mine"
    assert not any(link.is_symlink() for link in links)


def test_a_file_is_written_though_its_temporary_file_was_left_behind(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.tmp").write_text("half of it")
    write_text(tmp_path / "a.txt", "all of it")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# Runs that strangers have changed


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("metrics.json", ("overall", "startup_seconds"), {"a": 1}),
        ("metrics.json", ("overall", "total_seconds"), 1e308),
        ("metrics.json", ("overall", "total_seconds"), 5e-324),
        ("metrics.json", ("overall", "total_seconds"), 10**400),
        ("metrics.json", ("folds", "0", "tokens"), "many"),
        ("metrics.json", ("folds", "0", "validation_rows"), 1e308),
        ("metrics.json", ("folds", "0", "best", "rmse"), -1e308),
        ("metrics.json", ("folds", "0", "yardsticks"), "none"),
        ("metrics.json", ("folds", "0", "yardsticks"), {"linear": 3}),
        ("metrics.json", ("folds", "0", "yardsticks"), {"constant": {"rmse": 1e308}}),
        ("metrics.json", ("metric",), "../../etc"),
        ("environment.json", ("device",), []),
        ("plan.json", ("recipes",), {"plain": 1}),
        ("plan.json", ("seeds",), [10**400]),
        ("plan.json", ("folds",), [-1]),
        ("plan.json", ("recipes", "other", "folder"), "runs/" + "a" * 300),
        ("plan.json", ("title",), {"a": 1}),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_changed_value_is_refused_with_its_place(
    name: str, place: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    folder = write_experiment(tmp_path / "out")
    file = folder / name if name == "plan.json" else run_folder(folder, "other", 0, 1) / name
    content = json.loads(file.read_text())
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(LeantuneError) as error:
        rebuild_report(folder)
    assert isinstance(error.value, InputError)
    assert len(str(error.value)) < 1000


# Formulas


def test_ids_that_a_spreadsheet_would_run_are_written_as_they_are_and_told_of(tmp_path: Path) -> None:
    names = [
        "a",
        '=HYPERLINK("http://x","y")',
        "+1",
        "-1.5e3",
        "@SUM(A1)",
        "\tx",
        "\r=1",
        "-1+cmd|' /C calc'!A0",
        "b=1",
    ]
    write_folds(tmp_path / "folds.csv", pa.array(names), pa.array(range(len(names))).to_numpy())
    read = read_table(DataSettings(path=tmp_path / "folds.csv", id="id"))
    assert read.ids.to_pylist() == names  # what is joined with the table must be what the table has
    [note] = note_formulas(pa.array(names))
    assert note.startswith("5 of 9 ids would run as formulas")
    assert "row 2" in note
    assert "HYPERLINK" in note


def test_ids_that_are_numbers_or_words_need_no_warning() -> None:
    assert note_formulas(pa.array(["1", "-1", "+2,5", "-1e9", "a-b", "x=1", ""])) == []


# Secrets


def test_no_secret_of_the_environment_is_in_anything_that_is_written(
    server: Server,
    tmp_path: Path,
    tiny_encoder_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "executable", str(server.python))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the locks of devices, too, are this test's own
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
    ):
        monkeypatch.setenv(name, f"hf_Canary{name}")
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://user:CanaryPassword@127.0.0.1:9")
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path / "out" / "cache"))
    settings = experiment_of(("plain", "lost"), write_table(tmp_path / "t.csv"), tiny_encoder_dir("bert"))
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_encoder_dir("bert"), damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    settings["recipes"]["lost"] = {"model": {"name": str(damaged)}}  # a failed run writes, too
    list(run_experiment(parse_experiment(settings, title="t"), tmp_path / "out", command="x", estimate=False))
    comparison = rebuild_report(tmp_path / "out")
    assert [cell.state for recipe in comparison.recipes for cell in recipe.cells] == ["done", "failed"]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {".parquet", ".safetensors", ".jsonl", ".json", ".yaml", ".html", ".md", ".log", ".arrow"} <= {
        path.suffix for path in files
    }
    for path in files:
        content = path.read_bytes()
        if path.name == "predictions.parquet":  # compressed
            table = pq.read_table(path)
            content += (str(table.to_pylist()) + str(table.schema)).encode()
        assert b"Canary" not in content, path
    assert "Canary" not in "".join(capfd.readouterr())
