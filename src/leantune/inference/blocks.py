"""The predictions of a large table, block by block: each is kept as a file, so that a killed command goes on.

    FOLDER/KEY/000000.npy     one model's predictions [rows, outputs] for the computed rows of the first block

KEY stands for everything that the predictions of a model depend on: its weights, its preparation, the texts, the
precision and the kind of device. Whatever lies in the folder under another key belongs to another input, and goes.

1. `compute_blocks`: model by model, so that one of them is in memory; blocks that are there are not computed again
2. The mean over the models is written as one file, of which any rows can be read: `Computed`
"""

import hashlib
import json
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.inference.ensemble import Ensemble, Member
from leantune.inference.model import TrainedModel
from leantune.inference.source import BLOCK_ROWS, Scan, Source
from leantune.runs.config import dump_config
from leantune.system.device import resolve_device
from leantune.system.files import replacing, saving, sha256_of
from leantune.system.stopping import check
from leantune.training.events import Event, Note, Progress
from leantune.training.precision import PrecisionName, make_precision

FORMAT = 1
"""Part of every key: raise it when what the files hold changes."""
AGAIN = "give the same command again: it goes on with the blocks that are there"


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed:
    """The predictions of N rows in files, of which any rows can be read."""

    outputs: int
    answers: NDArray[np.int64]
    """[N]: which of the computed rows each row's prediction is of."""
    mean: Path
    """float64 [computed rows, outputs]."""
    of_models: tuple[Path, ...]
    """One file a model, of the same shape; none where they were not asked for."""

    def values(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read the predictions [n, outputs] of some rows."""
        return self._read(self.mean, rows)

    def values_of_models(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Read the predictions [models, n, outputs] of some rows; None where they were not asked for."""
        return np.stack([self._read(path, rows) for path in self.of_models]) if self.of_models else None

    def _read(self, path: Path, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # Mapped anew each time: pages that were read once would all count as this process's memory.
        mapped = np.memmap(path, np.float64, mode="r").reshape(-1, self.outputs)
        return np.array(mapped[self.answers[rows]])


def compute_blocks(
    ensemble: Ensemble,
    source: Source,
    scanned: Scan,
    folder: Path,
    *,
    device: str,
    precision: Literal["auto"] | PrecisionName,
    per_model: bool,
) -> Generator[Event, None, Computed]:
    """Predict every row of a table by every model, and return where the predictions lie, below `folder`.

    Raises `Stopped` between two micro-batches where that was asked for; the blocks that are finished stay.
    """
    named = make_precision(precision, resolve_device(device))
    keys = [_key(member, source, scanned, f"{named.name} {named.device.type}") for member in ensemble.members]
    for inner in folder.iterdir():
        if inner.is_dir() and inner.name not in keys:
            shutil.rmtree(inner)
    sizes = np.add.reduceat(scanned.is_computed.astype(np.int64), np.arange(0, len(scanned), BLOCK_ROWS))
    done = {key: _finished(folder / key, sizes, len(ensemble.labels)) for key in keys}
    total = scanned.computed * len(keys)
    before = rows_done = sum(int(sizes[list(numbers)].sum()) for numbers in done.values())
    if rows_done:
        text = f"{rows_done:,} of {total:,} predictions were there; it goes on with the others"
        yield Note(about="resume", text=text)
    began = time.monotonic()
    for key, member in zip(keys, ensemble.members, strict=True):
        missing = set(range(len(sizes))) - done[key]
        if not missing:
            continue
        (folder / key).mkdir(exist_ok=True)
        model = TrainedModel(member.run, member.fold, device=device, precision=precision)
        for number, (start, block) in enumerate(source.blocks(source.settings.text)):
            if number not in missing:
                continue
            own = _predict_block(model, source, scanned, start, block)[:, member.order]
            _write_block(_place(folder / key, number), own)
            rows_done += len(own)
            rate = (rows_done - before) / (time.monotonic() - began)
            yield Progress(stage="predict", done=rows_done, total=total, rows_per_second=rate)
        del model  # its memory is the next one's
    return _join(ensemble, scanned, folder, keys, blocks=len(sizes), per_model=per_model)


def _key(member: Member, source: Source, scanned: Scan, computed_in: str) -> str:
    files = sorted(path for path in member.fold.model.iterdir() if path.is_file())
    parts = {
        "format": FORMAT,
        "block_rows": BLOCK_ROWS,
        "model": {path.name: sha256_of(path) for path in files},
        "tokens": dump_config(member.run.config.tokens),
        "order": member.order.tolist(),
        "texts": [source.settings.text_count, scanned.sha256],
        "computed_in": computed_in,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"


def _finished(folder: Path, sizes: NDArray[np.int64], outputs: int) -> set[int]:
    """Return the numbers of the blocks that are there, whole."""
    found = set()
    for number, size in enumerate(sizes):
        try:
            if np.load(_place(folder, number), mmap_mode="r", allow_pickle=False).shape == (size, outputs):
                found.add(number)
        except (OSError, ValueError):  # not there, or cut off
            continue
    return found


def _predict_block(
    model: TrainedModel, source: Source, scanned: Scan, start: int, block: dict[str, pa.Array]
) -> NDArray[np.float64]:
    """Predict the rows of a block that are computed, in their order."""
    texts = source.texts_of(block)
    mine = np.flatnonzero(scanned.is_computed[start : start + len(texts[0])])
    rows = pa.array(mine)
    return model.predict(
        tuple(text.take(rows) for text in texts), lambda row: f"{source.path}, row {start + mine[row] + 1}"
    )


def _write_block(path: Path, values: NDArray[np.float64]) -> None:
    with saving(path, values.nbytes, then=AGAIN), replacing(path) as beside, beside.open("xb") as file:
        np.save(file, values, allow_pickle=False)


def _join(
    ensemble: Ensemble, scanned: Scan, folder: Path, keys: list[str], *, blocks: int, per_model: bool
) -> Computed:
    """Write the mean of the models' blocks, one after the other, and with `per_model` each model's."""
    outputs = len(ensemble.labels)
    paths = [folder / "mean", *(folder / f"{key}.all" for key in keys if per_model)]
    with saving(paths[0], scanned.computed * outputs * 8, then=AGAIN):
        for path in paths:
            path.unlink(missing_ok=True)
        for number in range(blocks):
            check()
            parts = [np.load(_place(folder / key, number), allow_pickle=False) for key in keys]
            for path, values in zip(paths, [ensemble.mean(parts), *parts], strict=False):
                with path.open("ab") as file:
                    file.write(np.ascontiguousarray(values).data)
    return Computed(outputs=outputs, answers=scanned.answers, mean=paths[0], of_models=tuple(paths[1:]))
