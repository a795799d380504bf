"""Files on network drives and full disks: what does without is used, what fails says why and what would help."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leantune.system.errors import RunFolderError, SavingError
from leantune.system.files import locked, saving, sync_folder, sync_tree, write_json


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    write_json(tmp_path / "inner.json", {"a": 1})
    sync_folder(tmp_path)
    sync_tree(tmp_path)
    assert (tmp_path / "inner.json").read_text() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)
    with pytest.raises(SavingError, match=os.strerror(number)):
        write_json(tmp_path / "inner.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room, then go on with --resume"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room, then go on with --resume"),
        (ValueError("I/O error: No space left on device (os error 28)"), "make room, then go on with --resume"),
        (OSError(errno.EROFS, "Read-only file system"), "make the folder writable, then go on with --resume"),
        (
            OSError(errno.EIO, "Input/output error"),
            "check the disk, or the connection to the network drive, then go on",
        ),
        (ValueError("the tensors overlap"), "check the disk, or the connection to the network drive, then go on"),
    ],
)
def test_only_where_there_is_no_room_the_advice_is_to_make_room(tmp_path: Path, error: Exception, advice: str) -> None:
    with pytest.raises(SavingError) as caught, saving(tmp_path / "weights", 1234, others=(ValueError,)):
        raise error
    assert f"weights: cannot be written (1,234 bytes): {getattr(error, 'strerror', error)}; {advice}" in str(
        caught.value
    )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_refused_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(number))
    with pytest.raises(RunFolderError) as caught, locked(tmp_path / ".lock", taken="another process is here"):
        pass
    assert f"{tmp_path}: this file system cannot lock files ({os.strerror(number)})" in str(caught.value)
    assert "give an --output on another disk" in str(caught.value)


def test_a_lock_that_fails_for_another_reason_says_that_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.EIO))
    with pytest.raises(RunFolderError, match="cannot be written: Input/output error; give another --output"):
        locked(tmp_path / ".lock", taken="another process is here").__enter__()


def test_a_lock_that_is_held_says_who_holds_it(tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".lock", taken="another process is here"),
        pytest.raises(RunFolderError, match="another process is here; wait for it, or stop it"),
        locked(tmp_path / ".lock", taken="another process is here"),
    ):
        pass
