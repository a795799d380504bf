"""Stopping when the system or the user asks (SIGTERM, SIGINT, SIGHUP): at once, or where work goes on, when it is safe.

The commands listen; a program that uses leantune as a library keeps its own handlers, and `check` never raises there.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_REQUEST_SECONDS = 5.0
"""A signal that comes again so soon is the same request, unless it is Ctrl-C: schedulers signal a process and its
group, and `compare` passes on what its run may have got already."""


class Stopped(SystemExit):
    """A signal asked this process to stop; leaves with 128 + its number. No error: nothing went wrong."""

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.at_once = at_once
        """Raised wherever the process was, so that nothing that is going on can be saved."""


_asked: tuple[int, float] | None = None
"""The signal that asked, and when."""
_deferred = 0


def listen() -> None:
    """Raise `Stopped` where SIGINT, SIGTERM or SIGHUP arrives, from now on; call it in the main thread.

    SIGHUP comes where a terminal is closed; it stays ignored where `nohup` ignores it.
    """
    global _asked, _deferred
    _asked, _deferred = None, 0
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block, only remember a first signal until `check`, or the end of the block; a second one raises."""
    global _deferred  # noqa: PLW0603
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
    check()


def check() -> None:
    """Raise `Stopped` where a signal has asked for it: called where everything that is going on can be saved."""
    if _asked is not None:
        raise Stopped(_asked[0])


def _handle(number: int, _: FrameType | None) -> None:
    global _asked  # noqa: PLW0603
    now, before = time.monotonic(), _asked
    if before is not None and number == before[0] != signal.SIGINT and now - before[1] < SAME_REQUEST_SECONDS:
        return
    _asked = number, now
    if before is not None or not _deferred:
        raise Stopped(number, at_once=True)
