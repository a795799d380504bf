"""Where a run's time goes: every moment belongs to exactly one phase, so the phases add up to the whole (law 7)."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil

Phase = Literal["startup", "train", "evaluation", "checkpoint"]


class PhaseClock:
    """Attributes wall-clock time to phases; starts in `startup`.

    `started_at` is the Unix time in seconds at which the measured span began: the creation of the process for a
    command, now (None) for a call from a notebook. `synchronize` waits for the device; it is called at every change of
    phase, and only there, since work that is still queued belongs to the phase that queued it.
    """

    def __init__(self, started_at: float | None = None, synchronize: Callable[[], None] = lambda: None) -> None:
        self.synchronize = synchronize
        self._phase: Phase = "startup"
        now = time.perf_counter()
        self._started = self._entered = now if started_at is None else now - max(0.0, time.time() - started_at)
        self._seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)

    def enter(self, phase: Phase) -> None:
        """End the current phase and begin another."""
        self.synchronize()
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._entered
        self._phase, self._entered = phase, now

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Spend a block in `phase`, then go back to the phase before it."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def go_on_from(self, seconds: Mapping[Phase, float]) -> None:
        """Add what each phase took in the processes that worked on this run before, as if they were this one."""
        for phase, before in seconds.items():
            self._seconds[phase] += before
        self._started -= sum(seconds.values())

    def seconds(self, phase: Phase) -> float:
        """Seconds spent in `phase` until now, without waiting for the device."""
        running = time.perf_counter() - self._entered if phase == self._phase else 0.0
        return self._seconds[phase] + running

    def total(self) -> float:
        """Seconds since the measured span began."""
        return time.perf_counter() - self._started


def process_started_at() -> float:
    """Unix time in seconds at which this process was created."""
    if sys.platform == "linux":  # psutil counts from the time of boot, which the kernel tells in whole seconds only
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    return psutil.Process().create_time()


@dataclass
class _Measured:
    """What was measured of this process's memory since `forget_process_peak`, in bytes."""

    peak_before: int = 0
    """The system's peak at that time: one that is no higher now is from before."""
    largest_reading: int = 0


_measured = _Measured()


def process_bytes() -> int:
    """Resident memory of this process now, in bytes."""
    now = psutil.Process().memory_info().rss
    _measured.largest_reading = max(_measured.largest_reading, now)
    return now


def forget_process_peak() -> None:
    """Begin to measure the peak of this process's memory anew: in a notebook, other runs came before.

    Only Linux can reset its own peak, and not in every container.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    _measured.peak_before = _system_peak()
    _measured.largest_reading = 0


def peak_process_bytes() -> int:
    """Largest resident memory that this process has had since `forget_process_peak`, or ever, in bytes.

    Where the system still tells an earlier, higher peak, the largest of the readings of `process_bytes` since then: a
    lower bound.
    """
    peak = _system_peak()
    return peak if peak > _measured.peak_before else max(_measured.largest_reading, process_bytes())


def _system_peak() -> int:
    """Largest resident memory that the system knows of, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # whose ru_maxrss begins with the memory of the program that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415  not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kibibytes everywhere but on macOS
