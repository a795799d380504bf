"""One model of several: the mean of the weights of runs that differ in nothing but the seed.

Models that begin at the same pretrained weights may lie so close that the mean of their weights is as good as the mean
of their answers (Wortsman et al. 2022, Model soups, https://arxiv.org/abs/2203.05482). But each seed draws another head
and another order of the rows, so whether that holds is measured on validation rows for every average that is made.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from leantune.inference.trained_run import TrainedRun
from leantune.runs.config import dump_config
from leantune.system.errors import RunFolderError, SettingsError
from leantune.system.files import read_json
from leantune.system.settings import flatten

FREE = (
    *("seed", "device", "data.path", "data.validation", "batching.micro_batch", "batching.layout"),
    *("checkpoint.every", "checkpoint.every.seconds", "checkpoint.every.steps", "checkpoint.keep"),
    *("batching.micro_batch.tokens", "batching.micro_batch.rows", "model.name", "deterministic"),
)
"""Settings that may differ: what is learned does not depend on them, or a fingerprint says whether it is the same."""
FINGERPRINTS = {
    "data_sha256": "table",
    "folds_sha256": "folds",
    "model_sha256": "pretrained weights",
    "tokenizer_sha256": "tokenizer",
}


def refuse_other_recipe(runs: Sequence[TrainedRun]) -> None:
    """Raise `SettingsError` or `RunFolderError` where runs differ in anything but the seed."""
    if len(runs) < 2:
        raise SettingsError(
            "--average: found one run, expected at least two that differ in the seed only; the models of the folds of "
            "one run are no seeds of one recipe (without --average they are exported as an ensemble)"
        )
    first, *others = runs
    own, known = _settings(first), read_json(first.folder / "environment.json")
    for other in others:
        theirs, environment = _settings(other), read_json(other.folder / "environment.json")
        for name in sorted(own.keys() | theirs.keys()):
            if own.get(name) != theirs.get(name):
                raise RunFolderError(
                    f"{other.folder}: found {name} = {theirs.get(name)}, and {first.folder} has {own.get(name)}; "
                    "--average takes runs that differ in the seed only"
                )
        for name, what in FINGERPRINTS.items():
            if known.get(name) != environment.get(name):
                raise RunFolderError(
                    f"{other.folder}: was trained with another {what} than {first.folder} ({name} in "
                    "environment.json); --average takes runs that differ in the seed only"
                )
        if [fold.number for fold in other.folds] != [fold.number for fold in first.folds]:
            raise RunFolderError(f"{other.folder}: has other folds than {first.folder}; --average takes the same ones")


def _settings(run: TrainedRun) -> dict[str, Any]:
    return {name: value for name, value in flatten(dump_config(run.config)).items() if name not in FREE}


def average_models(models: Sequence[Path], folder: Path) -> None:
    """Write a model whose weights are the mean of those of `models`, computed in float64; its other files are those of
    the first.

    Raises `RunFolderError` where the models have other weights, or buffers that cannot be averaged.
    """
    shutil.copytree(models[0], folder)
    weights = [load_file(model / "model.safetensors") for model in models]
    mean = {}
    for name, first in weights[0].items():
        for model, others in zip(models, weights, strict=True):
            if name not in others or others[name].shape != first.shape or others.keys() != weights[0].keys():
                raise RunFolderError(f"{model}: its weights are not those of {models[0]} ({name}); they have no mean")
        if first.is_floating_point():
            total = sum(others[name].double() for others in weights)
            mean[name] = (torch.as_tensor(total) / len(weights)).to(first.dtype).contiguous()
        elif all(torch.equal(others[name], first) for others in weights):
            mean[name] = first
        else:
            raise RunFolderError(f"{folder.name}: {name} is no number with a fraction and differs between the models")
    save_file(mean, folder / "model.safetensors", metadata={"format": "pt"})
