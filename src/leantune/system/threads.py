"""How many threads compute, and how they wait for each other: set before torch is imported, which reads it once.

Between two pieces of parallel work, the threads of OpenMP wait by spinning, for 15 milliseconds and more. Where another
program has taken a processor, a spinning thread holds up the very thread that it waits for, and a training step takes
many times as long (docs/design/0005).
"""

import math
import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

SHORT_SPIN = "10000"
"""Rounds that a thread spins before it sleeps, about half a millisecond; libgomp's own are 300,000. As fast alone, and
several times as fast beside another program."""

SECONDS_TO_LOOK = 0.1
LEAST_TAKEN = 0.25
"""Processors that other programs must use, on average, so that they count."""

THREADS = "OMP_NUM_THREADS"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def set_up_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Set the environment of OpenMP as this machine asks for; what the user has set stays.

    Threads spin shortly, and not at all where other programs are using these processors now, which costs a third of the
    time alone and saves half of it beside them. There are as many threads as a container's share of the processors,
    where that is less than there are. Looking takes a tenth of a second, on Linux only.
    """
    own = os.environ if environment is None else environment
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    share = processor_share()
    if share is not None and share < len(usable):
        own.setdefault(THREADS, str(max(1, math.ceil(share))))
    if not any(name in own for name in WAITING):
        if taken_by_others(usable) > LEAST_TAKEN:
            own["OMP_WAIT_POLICY"] = "passive"
        else:
            own["GOMP_SPINCOUNT"] = SHORT_SPIN


def processor_share(root: Path = Path("/")) -> float | None:
    """Return how many processors' time this process's control group may use; None where it has no limit."""
    shares = []
    for group in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/cpu"):
        try:
            if (group / "cpu.max").exists():  # version 2
                quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            else:
                quota, period = (
                    (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip() for name in ("quota", "period")
                )
        except (OSError, ValueError):
            continue
        if quota.isdecimal():  # not "max", not -1
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def taken_by_others(
    processors: set[int], *, read: Callable[[], str] | None = None, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Return how many of these processors, by number, are in use while this process sleeps; 0 where that is not known.

    `read` gives the content of /proc/stat.
    """
    read = read or (lambda: Path("/proc/stat").read_text(encoding="ascii"))
    try:
        before = _ticks(read(), processors)
        sleep(SECONDS_TO_LOOK)
        after = _ticks(read(), processors)
    except (OSError, ValueError):
        return 0.0
    busy, all_ticks = (now - then for now, then in zip(after, before, strict=True))
    return len(processors) * busy / all_ticks if all_ticks else 0.0


def _ticks(stat: str, processors: set[int]) -> tuple[int, int]:
    """Return the ticks in which some processors worked, and all of theirs, since the system was started."""
    busy = total = 0
    for line in stat.splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in processors:
            ticks = [int(count) for count in counts[:8]]  # user, nice, system, idle, iowait, irq, softirq, steal
            total += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]
    return busy, total
