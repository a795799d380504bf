"""Words on their way to a terminal: none of them are commands to it, and nothing depends on its being there."""

import os
import re
import sys
from contextlib import suppress
from typing import IO

# What a terminal obeys instead of showing (but line break and tab), what turns the reading direction of the text around
# it, and what cannot be encoded.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text with everything that a terminal would obey instead of showing written as Python escapes it.

    Without this, a file name or a class in a stranger's table could clear the screen, or print a line of its own.
    """
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, *, error: bool = False) -> None:
    """Print a line, if there is anybody to read it: what was done stays done, whatever became of the terminal."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # as in a program without a console
        return
    try:
        # In the stream's own encoding: a terminal that has no "é" shows "\\xe9".
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):  # closed: by its reader, or altogether
        _write_to_nowhere(stream)


def flush_standard_streams() -> None:
    """Write what is left in the two output streams, if there is anybody to read it.

    Python does so itself when it ends, but where it cannot, a command that has done its work leaves with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _write_to_nowhere(stream)


def _write_to_nowhere(stream: IO[str]) -> None:
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def hold_standard_streams() -> None:
    """Open those of the three standard streams that the caller has closed, on nothing.

    Or else the next file would get their number, and whatever a library prints would stand in `events.jsonl`.
    """
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
