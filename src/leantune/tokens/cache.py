"""The token cache: files of token ids that later runs map instead of tokenizing again; the least recently used go.

1. `token_folder`, `limit_bytes`: where the files lie, and how much they may take together
2. `mark_used`: a run tells that it uses a file, since the system's own record of reading is often off
3. `make_room`: files beyond the limit go, and what killed processes left half-written
4. `list_files`, `remove_files`: what `leantune cache` shows and empties

Only files that are named as the cache names them are counted or removed.
"""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leantune.system.errors import SettingsError

LIMIT_BYTES = 10**10
"""10 GB, where LEANTUNE_CACHE_BYTES is not set: about 2.5 billion tokens."""

STALE_SECONDS = 24 * 3600
"""A half-written file that nobody has written to for a day is of a process that was killed."""

_NAME = re.compile(r"[0-9a-f]{64}\.(arrow|[0-9a-f]{32}\.partial)")


@dataclass(frozen=True, kw_only=True)
class CacheFile:
    """A file of the cache, whole or half-written (`.partial`)."""

    path: Path
    bytes: int
    used_at: float
    """Unix time in seconds at which it was written or last marked as used."""


def default_cache_dir() -> Path:
    """Return LEANTUNE_CACHE where it is set, else ``leantune`` in the user's cache (XDG_CACHE_HOME or ~/.cache)."""
    if chosen := os.environ.get("LEANTUNE_CACHE"):
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "leantune"


def token_folder(cache_dir: Path | None = None) -> Path:
    """Return the folder of the token files, under `cache_dir` or else `default_cache_dir()`."""
    return (cache_dir or default_cache_dir()) / "tokens"


def yardstick_folder(cache_dir: Path | None = None) -> Path:
    """Return the folder of what linear models predicted, small files that are named alike."""
    return (cache_dir or default_cache_dir()) / "yardsticks"


def limit_bytes() -> int:
    """Return how many bytes the files may take together: LEANTUNE_CACHE_BYTES where it is set, else `LIMIT_BYTES`.

    Raises `SettingsError` where it is no whole number.
    """
    text = os.environ.get("LEANTUNE_CACHE_BYTES")
    if not text:
        return LIMIT_BYTES
    if not text.isdecimal():
        raise SettingsError(
            f"LEANTUNE_CACHE_BYTES: found {text!r}, expected a whole number of bytes, such as {LIMIT_BYTES}; "
            "set this environment variable to one, or unset it"
        )
    return int(text)


def mark_used(path: Path) -> None:
    """Make a file the most recently used one."""
    with suppress(OSError):  # it is not there, or is another user's
        os.utime(path)


def make_room(folder: Path, limit: int, *, in_use: Path) -> None:
    """Remove stale half-written files, then the least recently used ones until the others take at most `limit` bytes.

    The file `in_use` counts and stays. A file that cannot be removed stays, too: Windows keeps one that a process maps.
    """
    files = list_files(folder)
    stale = time.time() - STALE_SECONDS
    remove_files(file for file in files if file.path.suffix == ".partial" and file.used_at < stale)
    whole = [file for file in files if file.path.suffix == ".arrow"]
    total = sum(file.bytes for file in whole)
    for file in sorted(whole, key=lambda file: file.used_at):
        if total > limit and file.path != in_use:
            total -= sum(removed.bytes for removed in remove_files([file]))


def list_files(folder: Path) -> list[CacheFile]:
    """Return the files that the cache made in a folder; none where it is not there or cannot be read."""
    files = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):  # another process removed it a moment ago
                status = path.lstat()
                if _NAME.fullmatch(path.name) and path.is_file():
                    files.append(CacheFile(path=path, bytes=status.st_size, used_at=status.st_mtime))
    return files


def remove_files(files: Iterable[CacheFile]) -> list[CacheFile]:
    """Remove files; return those that are gone: some may be in use, or another user's."""
    removed = []
    for file in files:
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
            removed.append(file)
    return removed
