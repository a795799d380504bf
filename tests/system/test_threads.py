"""Threads: a container's share of the processors, and how long threads spin where others use them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leantune.system import threads
from leantune.system.threads import processor_share, set_up_threads, taken_by_others

STAT = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 {0} 0 0 {1} 0 0 0 0 0 0\ncpu1 {2} 0 0 {3} 0 0 0 0 0 0\ncpu10 50 0 0 0 0 0 0 0\n"


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_share_of_a_container(tmp_path: Path, files: dict[str, str], share: float | None) -> None:
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert processor_share(tmp_path) == share


def test_only_the_processors_that_may_be_used_count() -> None:
    readings = iter([STAT.format(0, 0, 0, 0), STAT.format(2, 8, 10, 0)])
    assert taken_by_others({0, 1}, read=lambda: next(readings), sleep=lambda _: None) == pytest.approx(1.2)
    readings = iter([STAT.format(0, 0, 0, 0), STAT.format(2, 8, 10, 0)])
    assert taken_by_others({0}, read=lambda: next(readings), sleep=lambda _: None) == pytest.approx(0.2)


def test_without_a_record_of_the_processors_nothing_is_known() -> None:
    def read() -> str:
        raise FileNotFoundError

    assert taken_by_others({0}, read=read) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_do_not_spin_where_another_program_computes() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(len(os.sched_getaffinity(0)))]
    try:
        assert taken_by_others(os.sched_getaffinity(0)) > 0.5
        environment: dict[str, str] = {}
        set_up_threads(environment)
        assert environment == {"OMP_WAIT_POLICY": "passive"}
        for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}):
            environment = dict(own)
            set_up_threads(environment)
            assert environment == own
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("taken", "expected"), [(0.2, {"GOMP_SPINCOUNT": "10000"}), (0.3, {"OMP_WAIT_POLICY": "passive"})]
)
def test_threads_spin_shortly_where_they_are_alone(
    monkeypatch: pytest.MonkeyPatch, taken: float, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(threads, "taken_by_others", lambda _: taken)
    environment: dict[str, str] = {}
    set_up_threads(environment)
    assert environment == expected


def test_there_are_as_many_threads_as_the_containers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "processor_share", lambda: 0.5)
    for own, expected in (({}, "1"), ({"OMP_NUM_THREADS": "7"}, "7")):
        environment = dict(own)
        set_up_threads(environment)
        assert environment["OMP_NUM_THREADS"] == expected


def test_a_training_begins_with_it_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys, leantune.system.threads as threads\n"
        "threads.set_up_threads = lambda: print('torch' in sys.modules)\n"
        "from leantune.cli import app\n"
        "app(['train', 'no.csv', '--text', 'a', '--target', 'b', '--model', 'm', '--output', 'run'],"
        " standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.splitlines()[:1] == ["False"], done.stderr
