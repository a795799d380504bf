"""One process's share in a run: what it brings beside the work, and what it leaves to the process that goes on."""

import hashlib
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from leantune.encoder.model import Encoder
from leantune.runs.config import dump_config
from leantune.runs.preparation import Prepared
from leantune.runs.record import RunFolder, code_revision
from leantune.runs.resume import Progress, checkpoint_place
from leantune.system.device import describe_device, peak_device_bytes, processor_name
from leantune.tables.folds import FoldNumber
from leantune.tables.table import data_sha256
from leantune.training.checkpoint import write_checkpoint
from leantune.training.clock import Phase, PhaseClock, forget_process_peak, peak_process_bytes
from leantune.training.events import Checkpoint, Resume
from leantune.training.state import weights_digest

VERSIONED = ("leantune", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "pyarrow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Session:
    """Settings, surroundings and clock of one process; the first of a run, or one that goes on."""

    settings: dict[str, Any]
    """Effective settings."""
    environment: dict[str, Any]
    clock: PhaseClock
    device: torch.device
    peaks: dict[str, int | None] = field(default_factory=dict)
    """Largest memory in bytes of what was before, of the `device` and the `process`."""

    @classmethod
    def begin(cls, prepared: Prepared, encoder: Encoder, clock: PhaseClock) -> "Session":
        """Return a run's first session; `encoder` is as it was loaded."""
        device = prepared.precision.device
        return cls(
            settings=dump_config(prepared.config),
            environment=_describe_environment(prepared, encoder, device),
            clock=clock,
            device=device,
        )

    def after(self, progress: Progress, changes: list[str]) -> "Session":
        """Return this session as one that goes on, whose clock goes on too."""
        self.clock.go_on_from(progress.state["seconds"])
        before = progress.state["environment"]
        place = {name: progress.state[name] for name in ("fold", "step")}
        resumption = {"time": self.environment["started"], **place, "changes": changes}
        of_run = {"started": before["started"], "resumed": [*before["resumed"], resumption]}
        return replace(self, environment=self.environment | of_run, peaks=dict(progress.state["peaks"]))

    def peaks_until_now(self) -> dict[str, int | None]:
        """Return the largest memory of all processes of the run, in bytes; None where it cannot be told."""
        now = {"device": peak_device_bytes(self.device), "process": peak_process_bytes()}
        return {of: max(filter(None, (peak, self.peaks.get(of))), default=None) for of, peak in now.items()}

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Do something whose memory is not the run's: its peaks are those of before and after the block."""
        peaks = self.peaks_until_now()
        try:
            yield
        finally:
            self.peaks.update(peaks)
            forget_process_peak()

    def write_checkpoint(
        self,
        folder: RunFolder,
        fold: FoldNumber,
        step: int,
        *,
        suffix: str,
        tensors: Mapping[str, Mapping[str, Tensor]],
        copies: Mapping[str, Path],
        state: Mapping[str, Any],
    ) -> Checkpoint:
        """Write a checkpoint of a fold with what the run must know in order to go on from it; return the event."""
        path = checkpoint_place(folder.path, fold) / f"step_{step:08d}{suffix}"
        of_run = {
            "fold": fold,
            "step": step,
            "settings": self.settings,
            "environment": self.environment,
            "seconds": {phase: self.clock.seconds(phase) for phase in get_args(Phase)},
            "peaks": self.peaks_until_now(),
            "events_bytes": folder.sync_events(),
        }
        with self.clock.during("checkpoint"):
            write_checkpoint(path.parent, path.name, tensors=tensors, copies=copies, state=of_run | dict(state))
        return Checkpoint(
            fold=fold,
            step=step,
            path=path.relative_to(folder.path).as_posix(),
            checkpoint_seconds=self.clock.seconds("checkpoint"),
        )


def resumption(progress: Progress, folder: Path) -> Resume:
    """Return the event that tells where a run goes on."""
    return Resume(
        fold=progress.state["fold"],
        step=progress.state["step"],
        total_steps=progress.state["total_steps"],
        path=progress.latest.path.relative_to(folder).as_posix(),
        seconds_before=sum(progress.state["seconds"].values()),
    )


def remove_checkpoints(folder: Path, folds: list[FoldNumber]) -> None:
    """Remove the checkpoints of a run that is finished."""
    for number in folds:
        shutil.rmtree(checkpoint_place(folder, number), ignore_errors=True)


def _describe_environment(prepared: Prepared, encoder: Encoder, device: torch.device) -> dict[str, Any]:
    """Return what a reader needs in order to repeat the run and to judge its times."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONED},
        "platform": platform.platform(),
        "processor": processor_name(),
        "device": describe_device(device),
        "code_revision": code_revision(),
        "data_sha256": data_sha256(prepared.config.data),
        "tokenizer_sha256": prepared.tokenizer_fingerprint,
        "model_sha256": weights_digest(encoder),
        "folds_sha256": hashlib.sha256(prepared.folds.of_row.tobytes()).hexdigest(),
        "resumed": [],
    }
