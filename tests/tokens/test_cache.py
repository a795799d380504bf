"""The token cache keeps to its limit, and removes only what it made."""

import os
import time
from pathlib import Path

import pytest

from leantune.tokens.cache import LIMIT_BYTES, limit_bytes, list_files, make_room, mark_used

DAY = 24 * 3600


def add(folder: Path, number: int, *, size: int = 10, age: float = 0, kind: str = "arrow") -> Path:
    path = folder / f"{number:064x}.{kind}"
    path.write_bytes(bytes(size))
    os.utime(path, (0, time.time() - age))
    return path


def names(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def test_the_least_recently_used_files_go_until_the_rest_is_within_the_limit(tmp_path: Path) -> None:
    oldest, old, new, newest = (add(tmp_path, number, age=100 - number) for number in range(4))
    make_room(tmp_path, 40, in_use=newest)
    assert names(tmp_path) == {oldest, old, new, newest}
    make_room(tmp_path, 39, in_use=newest)
    assert names(tmp_path) == {old, new, newest}
    mark_used(old)
    make_room(tmp_path, 20, in_use=newest)
    assert names(tmp_path) == {old, newest}


def test_the_file_in_use_never_goes(tmp_path: Path) -> None:
    in_use, other = add(tmp_path, 0, size=50, age=100), add(tmp_path, 1)
    make_room(tmp_path, 20, in_use=in_use)
    assert names(tmp_path) == {in_use}
    assert not other.exists()


def test_a_file_that_cannot_be_removed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows keeps a file that another process maps."""
    mapped, old, in_use = (add(tmp_path, number, age=100 - number) for number in range(3))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == mapped:
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    make_room(tmp_path, 20, in_use=in_use)
    assert names(tmp_path) == {mapped, in_use}
    assert not old.exists()


def test_what_a_killed_process_left_half_written_goes_after_a_day(tmp_path: Path) -> None:
    in_use = add(tmp_path, 0)
    add(tmp_path, 1, age=DAY + 60, kind=f"{7:032x}.partial")
    being_written = add(tmp_path, 2, age=DAY - 60, kind=f"{8:032x}.partial")
    make_room(tmp_path, 10, in_use=in_use)
    assert names(tmp_path) == {in_use, being_written}


def test_nothing_that_the_cache_did_not_make_is_counted_or_removed(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    in_use = add(folder, 0)
    for name in ("thesis.arrow", "thesis.partial", "notes.txt", f"{1:064x}.arrow.bak", f"{2:064X}F.arrow"):
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (0, 0))
    (folder / f"{3:064x}.arrow").mkdir()
    before = names(folder)
    make_room(folder, 0, in_use=in_use)
    assert names(folder) == before
    assert [file.path for file in list_files(folder)] == [in_use]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert list_files(tmp_path / "nowhere") == []


def test_the_limit_is_ten_gigabytes_unless_the_user_sets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEANTUNE_CACHE_BYTES", raising=False)
    assert limit_bytes() == LIMIT_BYTES == 10_000_000_000
    monkeypatch.setenv("LEANTUNE_CACHE_BYTES", "123")
    assert limit_bytes() == 123
