"""A finished run as those need it who use its models: what it read, how it read it, and where its weights lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leantune.encoder.loading import load_encoder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.runs.config import Config, parse_config, read_yaml
from leantune.runs.record import FOLD
from leantune.system.device import resolve_device
from leantune.system.errors import RunFolderError
from leantune.system.files import parse_json_object, unreadable
from leantune.tables.folds import FoldNumber, fold_number
from leantune.training.task import PROBLEM_TYPES, Task

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """One trained model of a run."""

    number: FoldNumber
    """The fold whose rows validated it; `none` where all rows trained."""
    model: Path
    """The folder that transformers loads."""

    @property
    def predictions(self) -> Path:
        """The file of its validation rows' predictions; of the fold `none` there is none."""
        return self.model.parent / "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run, opened; its folder is only read."""

    folder: Path
    config: Config
    """Effective settings: what `auto` came to stands in them."""
    metrics: dict[str, Any]
    """The content of `metrics.json`."""
    task: Task
    """Kind and output names; its loss is not that of training."""
    folds: tuple[TrainedFold, ...]
    """One for each trained model, by number."""

    def load(self, fold: TrainedFold, device: str = "auto") -> Encoder:
        """Load a fold's model, float32, ready to predict packed rows where its architecture can (`pooling`).

        Raises `ModelError` where it cannot be loaded, and `DeviceError` where the device is not there.
        """
        return load_encoder(
            ModelSettings(name=str(fold.model), head="keep", dropout=None, attention_dropout=None),
            labels=self.task.labels,
            problem_type=self.task.problem_type,
            device=resolve_device(device),
            seed=0,  # nothing is drawn
            packed=True,
        )


def open_run(folder: Path) -> TrainedRun:
    """Open the folder of a finished run.

    Raises `RunFolderError` where it is none, is unfinished, or lacks a file that it must have.
    """
    folder = folder.expanduser()
    if not (folder / "config.yaml").is_file():
        found = "no folder" if not folder.is_dir() else "no config.yaml"
        if (folder / "report.json").is_file():
            found = "a comparison"
        raise RunFolderError(
            f"{folder}: found {found}, expected the folder of a run, as leantune train --output writes it"
        )
    if not (folder / "metrics.json").is_file():
        raise RunFolderError(
            f"{folder}: found an unfinished run (it has no metrics.json), expected a finished one; continue it with "
            f"leantune train --resume --output {folder}"
        )
    try:
        metrics = parse_json_object(folder / "metrics.json", (folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise unreadable(folder / "metrics.json", error) from None
    kind, numbers = metrics.get("task"), metrics.get("folds")
    if kind not in PROBLEM_TYPES or not isinstance(numbers, dict) or not numbers:
        raise RunFolderError(f"{folder / 'metrics.json'}: found no task and folds, expected those of a finished run")
    folds = tuple(_open_fold(folder, name) for name in numbers)
    return TrainedRun(
        folder=folder,
        config=parse_config(_without_function(read_yaml(folder / "config.yaml"))),
        metrics=metrics,
        task=Task(kind=kind, labels=_labels(folds[0].model / "config.json")),
        folds=folds,
    )


def _open_fold(folder: Path, name: str) -> TrainedFold:
    if not FOLD.fullmatch(f"fold_{name}"):
        raise RunFolderError(f"{folder / 'metrics.json'}: found the fold {name!r}, expected a number or none")
    model = folder / f"fold_{name}" / "model"
    for file in MODEL_FILES:
        if not (model / file).is_file():
            raise RunFolderError(
                f"{model}: found no {file}, expected the whole model that the run saved; train it again"
            )
    return TrainedFold(number=fold_number(name), model=model)


def _labels(path: Path) -> tuple[str, ...]:
    """Return the names of a model's outputs, in their order."""
    try:
        names = parse_json_object(path, path.read_text(encoding="utf-8"))["id2label"]
        return tuple(names[str(place)] for place in range(len(names)))
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from None
    except (KeyError, TypeError):
        raise RunFolderError(f"{path}: found no names of the outputs (id2label), expected one for each") from None


def _without_function(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out how the best evaluation was chosen: it may be by a function that no file can hold."""
    return {name: value for name, value in settings.items() if name != "evaluation"}
