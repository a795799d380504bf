"""Checkpoints: everything that an unfinished run needs in order to go on, in folders that are complete or not there.

    RUN/fold_0/checkpoint/step_00000120/    numbers in state.json, tensors in *.safetensors, copies of files,
                                            manifest.json with the bytes and SHA-256 of each

1. `write_checkpoint` writes beside, syncs files and folder to the disk, renames, and keeps the last two
2. `read_newest` checks every byte of the newest against its manifest, and falls back to the one before it

Nothing is pickled: only JSON and safetensors are ever read.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from leantune.system.errors import ModelError, RunFolderError, SavingError, TrainingError
from leantune.system.files import read_json, remedy, sha256_of, sync, sync_folder
from leantune.system.settings import Section

FORMAT = 2
KEPT = 2
"""Checkpoints that stay: should the newest be damaged, there is one more."""
LARGEST_SHARE = 0.02
"""Share of the time that saving may take where checkpoints come by time."""
BYTES_PER_SECOND = 200e6
"""What a disk is taken to write before the first checkpoint was timed."""
CHUNK_BYTES = 2**24
MANIFEST, STATE = "manifest.json", "state.json"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types of numbers that it reads back."""


class SaveEverySeconds(Section):
    """Save as time goes."""

    seconds: float = Field(gt=0)
    """Seconds between checkpoints."""


class SaveEverySteps(Section):
    """Save every so many optimizer steps."""

    steps: int = Field(ge=1)
    """Optimizer steps between checkpoints."""


class CheckpointSettings(Section):
    """How often a run is saved, so that `--resume` can continue it after an interruption."""

    every: Literal["epoch"] | SaveEverySteps | SaveEverySeconds = SaveEverySeconds(seconds=300)
    """`{seconds: n}`, `{steps: n}` or `epoch`. An interval in seconds is made longer if saving would take more than 2
    percent of the time. It does not change what is learned. A run that is stopped by SIGTERM or Ctrl-C is saved,
    too."""
    keep: bool = False
    """Keep the last two checkpoints when the run is finished. Each takes 16 bytes for each weight of the model."""

    def is_due(self, step: int, steps_per_epoch: int) -> bool:
        """Tell whether a checkpoint follows step `step`, from 1; never where checkpoints come by time."""
        if isinstance(self.every, SaveEverySeconds):
            return False
        return step % (self.every.steps if isinstance(self.every, SaveEverySteps) else steps_per_epoch) == 0


class Timer:
    """Says when a checkpoint is due where they come by time."""

    def __init__(self, settings: CheckpointSettings, expected_bytes: int) -> None:
        self._interval = settings.every.seconds if isinstance(settings.every, SaveEverySeconds) else None
        self._cost = expected_bytes / BYTES_PER_SECOND
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether enough time has gone by since the last checkpoint, in view of what one costs."""
        if self._interval is None:
            return False
        return time.monotonic() - self._since >= max(self._interval, self._cost / LARGEST_SHARE)

    def saved(self, seconds: float) -> None:
        """Note a checkpoint that took `seconds`."""
        self._cost, self._since = seconds, time.monotonic()


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """A checkpoint that is whole."""

    path: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one file, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")


def write_checkpoint(
    place: Path,
    name: str,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    copies: Mapping[str, Path],
    state: Mapping[str, Any],
) -> None:
    """Write the checkpoint `name` below `place` unless it is there, and remove all but the last two by their names.

    `tensors` are by file and name, `copies` files that are copied in, `state` is plain values. Raises `TrainingError`
    where a number is not finite, `ModelError` where numbers are of a type that no file can hold, and `SavingError`
    where a file cannot be written; the checkpoints before stay as they were.
    """
    folder, beside = place / name, place / f".{name}.new"
    if folder.exists():  # made of the same step
        return
    file = _File(beside)
    try:
        remove_leftovers(place)
        beside.mkdir(parents=True)
        manifest: dict[str, Any] = {}
        for stem, content in tensors.items():
            with _File(beside / f"{stem}.safetensors") as file:
                _write_tensors(file, content)
            manifest[f"{stem}.safetensors"] = file.entry()
        for path, source in copies.items():
            (beside / path).parent.mkdir(exist_ok=True)
            with _File(beside / path) as file, source.open("rb") as original:
                while chunk := original.read(CHUNK_BYTES):
                    file.write(chunk)
            manifest[path] = file.entry()
        for path, plain in ((STATE, state), (MANIFEST, {"format": FORMAT, "files": manifest})):
            with _File(beside / path) as file:
                file.write(json.dumps(plain, allow_nan=False, separators=(",", ":")).encode())
            manifest[path] = file.entry()
        for inner in {(beside / path).parent for path in manifest}:
            sync_folder(inner)
        beside.rename(folder)
        sync_folder(place)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        kept = [path.name for path in _complete(place)]
        raise SavingError(
            f"{file.path}: cannot be written, {file.bytes:,} bytes were: {error.strerror}; "
            + (f"the checkpoint {kept[-1]} is as it was: " if kept else "there is no checkpoint before it: ")
            + f"{remedy(error)}, then go on with --resume"
        ) from None
    for old in _complete(place)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def read_newest(place: Path) -> tuple[SavedState | None, list[str]]:
    """Return the newest whole checkpoint below `place`, None where there is none, and a warning for each damaged one.

    Raises `RunFolderError` where all of them are damaged.
    """
    warnings: list[str] = []
    for path in reversed(_complete(place)):
        try:
            found = read_checkpoint(path)
        except RunFolderError as error:
            warnings.append(str(error))
        else:
            return found, [f"{text}; the run goes on from {found.path.name}, before it" for text in warnings]
    if warnings:
        raise RunFolderError(
            "\n".join([*warnings, f"{place}: no checkpoint is whole; to begin again, move this folder away"])
        )
    return None, []


def read_checkpoint(path: Path) -> SavedState:
    """Check a checkpoint against its manifest; raises `RunFolderError` that names the file that is not as written."""
    manifest = _read_part(path / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise RunFolderError(
            f"{path / MANIFEST}: found format {manifest.get('format')!r}, expected {FORMAT}: damaged, or written by "
            "another version of leantune"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise RunFolderError(f"{path / MANIFEST}: damaged: found no list of files with {STATE}")
    for name, entry in files.items():
        file = path / name
        try:
            size, digest = file.stat().st_size, sha256_of(file)
        except OSError as error:
            raise RunFolderError(f"{file}: damaged: cannot be read: {error.strerror}") from None
        if not isinstance(entry, dict) or (size, digest) != (entry.get("bytes"), entry.get("sha256")):
            expected = entry.get("bytes") if isinstance(entry, dict) else entry
            what = (
                f"found {size:,} bytes, expected {expected}" if size != expected else "its bytes are not those written"
            )
            raise RunFolderError(f"{file}: damaged: {what}")
    return SavedState(path=path, state=_read_part(path / STATE))


def _read_part(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except RunFolderError as error:
        raise RunFolderError(f"{file}: damaged: {str(error).removeprefix(f'{file}: ')}") from None


def remove_after(place: Path, used: Path | None) -> None:
    """Remove the checkpoints that come after the one that is used, or all, and half-written ones."""
    for path in _complete(place):
        if used is None or path.name > used.name:
            shutil.rmtree(path)
    remove_leftovers(place)


def remove_leftovers(place: Path) -> None:
    """Remove checkpoints that were never completed."""
    for path in place.glob(".*.new"):
        shutil.rmtree(path)


def _complete(place: Path) -> list[Path]:
    """Return the checkpoints below `place`, the oldest first: names sort as steps do."""
    return sorted(path for path in place.glob("step_*") if path.is_dir())


class _File:
    """A file that is hashed while it is written, and synced to the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self._digest = path, 0, hashlib.sha256()

    def __enter__(self) -> "_File":
        self._file = self.path.open("wb", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                sync(self._file.fileno())
        finally:
            self._file.close()

    def write(self, content: bytes | memoryview) -> None:
        self._digest.update(content)
        rest = memoryview(content)
        while rest:
            done = self._file.write(rest)
            self.bytes += done
            rest = rest[done:]

    def entry(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self._digest.hexdigest()}


def _write_tensors(file: _File, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors lays them out, one at a time: its own writer would hold a second copy of all.

    Raises `TrainingError` where a number is not finite: such weights must never take the place of good ones; and
    `ModelError` where numbers are of a type that safetensors does not have.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"model.name: {name} ({file.path.stem}) holds numbers of type {kind}, which a checkpoint cannot hold, "
                f"expected one of {', '.join(_DTYPES.values())}; choose another model"
            )
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise TrainingError(
                f"{name} ({file.path.stem}) has numbers that are not finite; training stopped, and the checkpoint "
                "before it is kept. A smaller optimizer.learning_rate, or precision: fp32, may help."
            )
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch cannot tell for all types of 8 bits
    return bool(wide.isfinite().all())
