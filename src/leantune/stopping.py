"""Stopping when the system or the user asks (SIGTERM, SIGINT): at once, or where work is going on, after it is saved.

The commands listen; a program that uses leantune as a library keeps its own handlers, and `check` never raises there.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """A signal asked this process to stop; leaves with 128 + its number. No error: nothing went wrong."""

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.at_once = at_once
        """Raised wherever the process was, so that nothing that is going on can be saved."""


_asked: int | None = None
_deferred = 0


def listen() -> None:
    """Raise `Stopped` where SIGINT or SIGTERM arrives, from now on; call it in the main thread."""
    global _asked, _deferred
    _asked, _deferred = None, 0
    for number in (signal.SIGINT, signal.SIGTERM):
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
        raise Stopped(_asked)


def _handle(number: int, _: FrameType | None) -> None:
    global _asked
    again, _asked = _asked is not None, number
    if again or not _deferred:
        raise Stopped(number, at_once=True)
