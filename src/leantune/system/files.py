"""Files that appear whole or not at all, stay when the power goes, and say so where they cannot be written."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from leantune.system.errors import LeantuneError, RunFolderError, SavingError

ESCAPE = "backslashreplace"
"""What is done with bytes of a file name that are no UTF-8: they are written as JSON and YAML escape them."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk, a quota, or a limit to the size of files."""

CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system answers that has no such operation."""


def remedy(error: Exception) -> str:
    """Return what to do first where a file could not be written: `make room`, for example.

    Libraries written in Rust tell the system's error number only in their message.
    """
    in_words = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(in_words[1]) if in_words else None
    if number in FULL:
        return "make room"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make the folder writable"
    return "check the disk, or the connection to the network drive"


@contextmanager
def saving(
    path: Path,
    size: int,
    *,
    others: tuple[type[Exception], ...] = (),
    then: str = "go on with --resume, or move the folder away and begin again",
) -> Iterator[None]:
    """Turn an error of the system, or one of `others`, while `path` of about `size` bytes is written into a
    `SavingError`, which says what to do `then`.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except kinds as error:
        why = getattr(error, "strerror", None) or error
        raise SavingError(f"{path}: cannot be written ({size:,} bytes): {why}; {remedy(error)}, then {then}") from None


def unwritable(folder: Path, error: OSError) -> LeantuneError:
    """Return what to raise where a folder takes no file at all."""
    if error.errno in FULL:
        return SavingError(f"{folder}: cannot be written: {error.strerror}; make room, then try again")
    return RunFolderError(f"{folder}: cannot be written: {error.strerror}; give another --output")


@contextmanager
def locked(path: Path, *, taken: str) -> Iterator[None]:
    """Hold the lock file `path` during a block; the system frees it however the process ends.

    Raises `RunFolderError`, which says that the folder is `taken`, where another process holds it, and where the file
    system has no locks.
    """
    lock = FileLock(path, fallback_to_soft=False)  # which would stay when a process is killed
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"{path.parent}: {taken}; wait for it, or stop it") from None
    except OSError as error:
        if error.errno != errno.ENOLCK and error.errno not in CANNOT:
            raise unwritable(path.parent, error) from None
        raise RunFolderError(
            f"{path.parent}: this file system cannot lock files ({error.strerror}), and without a lock two processes "
            "could write here at once; give an --output on another disk, and copy the folder when it is finished"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; what is there at the end is synced to the disk and takes its place.

    A reader sees the old file or the new one, never a part.
    """
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)  # in a stranger's folder it may be a link to a file elsewhere
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file at once, which ends with a line break."""
    text += "" if text.endswith("\n") else "\n"
    content = text.encode("utf-8", errors=ESCAPE)
    with saving(path, len(content)), replacing(path) as beside, beside.open("xb") as file:
        file.write(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file at once; raises ValueError for a number that is not finite."""
    write_text(path, strict_json(content, indent=2))


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a YAML file at once."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in "\x85\u2028\u2029"):  # PyYAML writes these as they are, and reads line breaks
        text = yaml.safe_dump(content, sort_keys=False)
    write_text(path, text)


def strict_json(value: dict[str, Any], indent: int | None = None) -> str:
    """Return strict JSON: NaN is not in it, and a number that is not one must never reach a file."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `RunFolderError`, naming the file."""
    try:
        return parse_json_object(file, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise unreadable(file, error) from None


def parse_json_object(where: object, text: str) -> dict[str, Any]:
    """Parse a JSON object; raises `RunFolderError`, naming `where` it stands."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{where}: found no whole JSON ({error}), expected an object") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{where}: found {type(content).__name__}, expected a JSON object")
    return content


def unreadable(where: object, error: Exception) -> RunFolderError:
    """Return what to raise where a file of a run folder cannot be read."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return RunFolderError(f"{where}: cannot be read: {why}")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_tree(path: Path) -> None:
    """Wait until a folder with all that is in it is on the disk."""
    for inner in path.rglob("*"):
        if inner.is_dir():
            sync_folder(inner)
        else:
            _sync(inner)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # which has no such thing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Wait until an open file or folder is on the disk, where its file system can tell.

    Network and FUSE mounts (Google Drive in Colab) may have no such operation, for folders above all.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        sync(stream.fileno())
