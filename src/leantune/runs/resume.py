"""An unfinished run folder: what of the run is done, and whether a command that would go on with it means the same run.

1. `finished_metrics`: a run that is finished is not trained again
2. `fingerprint`: everything that decides what is learned, and the machine that computes it
3. `find_progress`: the folds that are done, and the newest whole checkpoint of the one that is not
4. `refuse_other`: changed rows, texts, weights or settings are refused, or listed where they are forced
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leantune.batches.plan import BatchingSettings
from leantune.runs.config import Config, dump_config, read_yaml
from leantune.runs.record import FOLD
from leantune.system.device import counts_memory, describe_device, resolve_device
from leantune.system.errors import RunFolderError, TableError
from leantune.system.files import read_json
from leantune.system.settings import check, flatten
from leantune.tables.columns import resolve_targets
from leantune.tables.folds import FoldNumber, fold_number
from leantune.tables.table import data_sha256
from leantune.training.checkpoint import SavedState, read_newest, remove_after

FREE = ("data.path", "data.validation", "device", "checkpoint.", "batching.micro_batch", "tokens.unknown")
"""Settings that may change: where the same bytes lie, where it runs, how much at once, how often it is saved, and what
is refused before training."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run folder's run is."""

    done: Mapping[FoldNumber, SavedState]
    """The folds that are trained."""
    latest: SavedState
    """What was saved last of all that is whole: the next fold to train, or the end of the fold before it."""
    warnings: tuple[str, ...]
    """One for each damaged checkpoint."""

    @property
    def state(self) -> dict[str, Any]:
        """What was saved last, as plain values."""
        return self.latest.state

    @property
    def training(self) -> SavedState | None:
        """The checkpoint of the fold that was being trained; None where the next fold has not begun."""
        return None if "finished" in self.latest.state else self.latest


def finished_metrics(folder: Path, config: Config) -> dict[str, Any] | None:
    """Return the metrics of a run that is finished, else None.

    Raises `RunFolderError` where its settings or its data are not those that are asked for now.
    """
    if not (folder / "metrics.json").is_file():
        return None
    for data in (path.expanduser() for path in config.data.files if isinstance(path, Path)):
        if not data.is_file():
            raise TableError(
                f"{data}: there is no such file; whether the finished run in {folder} is of it cannot be told"
            )
    asked = {name: value for name, value in _comparable(dump_config(config)).items() if value != "auto"}
    had = {name: value for name, value in _comparable(read_yaml(folder / "config.yaml")).items() if name in asked}
    before = had | {"data_sha256": read_json(folder / "environment.json").get("data_sha256")}
    now = asked | {"data_sha256": data_sha256(resolve_targets(config.data))}
    changes = list(differences(before, now))
    if changes:
        raise RunFolderError(_refusal(folder, changes, "it is finished; give another --output"))
    return read_json(folder / "metrics.json")


def fingerprint(settings: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must stay the same when a run goes on, from its effective settings and its `environment.json`."""
    return {
        "settings": _comparable(settings),
        **{name: environment[name] for name in ("data_sha256", "tokenizer_sha256", "model_sha256", "folds_sha256")},
        "machine": flatten(
            {
                **{name: environment[name] for name in ("versions", "device")},
                "batching": {"micro_batch": settings["batching"]["micro_batch"]},
            }
        ),
    }


def remember_micro_batch(config: Config, folder: Path) -> Config:
    """Return the settings of a run that goes on in `folder`, with the micro-batch that was measured when it began.

    On the same GPU another amount of free memory must not change what is drawn for dropout (law 5). On any other device
    `auto` stays, and so it does where the run has not begun.
    """
    files = folder / "config.yaml", folder / "environment.json"
    if config.batching.micro_batch != "auto" or not all(file.is_file() for file in files):
        return config
    device = resolve_device(config.device)
    if not counts_memory(device) or read_json(files[1]).get("device") != describe_device(device):
        return config
    before = check(BatchingSettings, read_yaml(files[0]).get("batching", {}), "batching").micro_batch
    return config.model_copy(update={"batching": config.batching.model_copy(update={"micro_batch": before})})


def find_progress(folder: Path, folds: Sequence[FoldNumber], *, force: bool = False) -> Progress | None:
    """Return what is done of the run in `folder`; None where there is no checkpoint.

    Raises `RunFolderError` where a fold has checkpoints and none of them is whole, where there are checkpoints of folds
    that are not asked for, and, unless forced, where folds that are trained would have to be trained again, since a
    fold before them is damaged.
    """
    done: dict[FoldNumber, SavedState] = {}
    latest: SavedState | None = None
    warnings: list[str] = []
    begun = _folds_with_checkpoints(folder)
    if others := [number for number in begun if number not in folds]:
        raise RunFolderError(
            f"{folder}: has checkpoints of {_folds(others)}, and {_folds(folds)} would be trained now; give --fold as "
            "the run has it (config.yaml), or another --output"
        )
    for place, number in enumerate(folds):
        saved, damaged = read_newest(checkpoint_place(folder, number))
        warnings += damaged
        latest = saved or latest
        if saved is None or "finished" not in saved.state:
            if later := [other for other in folds[place + 1 :] if other in begun]:
                what = f"fold {number} is damaged, and {_folds(later)}, trained after it, would be trained again"
                if not force:
                    raise RunFolderError("\n  ".join([f"{folder}: {what}; --force does so:", *damaged]))
                warnings.append(f"overridden by --force: {what}")
            break
        done[number] = saved
    return None if latest is None else Progress(done=done, latest=latest, warnings=tuple(warnings))


def discard_later(folder: Path, progress: Progress, folds: Iterable[FoldNumber]) -> None:
    """Remove all checkpoints that come after the one from which the run goes on, the damaged ones among them."""
    for number in folds:
        used = progress.done.get(number) or (
            progress.training if progress.latest.path.parent == checkpoint_place(folder, number) else None
        )
        remove_after(checkpoint_place(folder, number), None if used is None else used.path)


def _folds_with_checkpoints(folder: Path) -> list[FoldNumber]:
    numbers = (fold_number(found[1]) for path in folder.iterdir() if (found := FOLD.fullmatch(path.name)))
    begun = (number for number in numbers if any(checkpoint_place(folder, number).glob("step_*")))
    return sorted(begun, key=lambda number: -1 if number == "none" else number)


def _folds(numbers: Sequence[FoldNumber]) -> str:
    return f"fold{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def checkpoint_place(folder: Path, fold: FoldNumber) -> Path:
    """Return where a fold's checkpoints lie."""
    return folder / f"fold_{fold}" / "checkpoint"


def refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, force: bool) -> list[str]:
    """Return what differs between two fingerprints, a sentence each.

    Raises `RunFolderError` with the same list where anything differs that decides what is learned, unless forced.
    Another machine does not: a job that was preempted goes on where there is room, if perhaps not bit for bit.
    """
    changes = list(differences(_but(before, "machine"), _but(now, "machine")))
    if changes and not force:
        raise RunFolderError(
            _refusal(folder, changes, "bring it back, give another --output, or override all of this with --force")
        )
    machine = differences({"machine": before["machine"]}, {"machine": now["machine"]})
    return [f"overridden by --force: {change}" for change in changes] + [
        f"{change}: the result may differ from an uninterrupted run's in its last digits" for change in machine
    ]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each value that is not the same, by its dotted name."""
    one, other = flatten(before), flatten(now)
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            label = name.removeprefix("settings.").removeprefix("machine.")
            yield f"{label}: {_shown(one.get(name))} in the run, {_shown(other.get(name))} now"


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flatten(settings).items() if not name.startswith(FREE)}


def _but(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


def _refusal(folder: Path, changes: list[str], remedy: str) -> str:
    return "\n  ".join([f"{folder}: not the run that is there; {remedy}. What changed:", *changes])


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # of a SHA-256, enough to tell two apart
