"""The clock: every moment of a run belongs to one phase."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import leantune.training.clock
from leantune.training.clock import (
    Phase,
    PhaseClock,
    forget_process_peak,
    peak_process_bytes,
    process_bytes,
    process_started_at,
)

PHASES = get_args(Phase)


class FakeTime:
    """Stands in for the module `time`, and goes on only when told to."""

    def __init__(self, unix: float = 1_000_000.0) -> None:
        self.unix = unix
        self.now = 64.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.unix

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    made = FakeTime()
    monkeypatch.setattr(leantune.training.clock, "time", made)
    return made


# Sixteenths of a second add up without rounding.
moments = st.lists(st.tuples(st.integers(0, 10**6).map(lambda n: n / 16), st.sampled_from(PHASES)), max_size=30)


@given(moments, st.integers(0, 10**6).map(lambda n: n / 16))
def test_the_phases_add_up_to_all_the_time_that_went_by(moments, rest):
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeTime()
        patch.setattr(leantune.training.clock, "time", fake)
        clock = PhaseClock()
        expected = dict.fromkeys(PHASES, 0.0)
        phase = "startup"
        for seconds, following in [*moments, (rest, None)]:
            fake.sleep(seconds)
            expected[phase] += seconds
            if following is not None:
                clock.enter(following)
                phase = following
        assert {name: clock.seconds(name) for name in PHASES} == expected
        assert clock.total() == sum(expected.values()) == fake.now - 64.0


def test_a_clock_starts_in_startup(fake):
    clock = PhaseClock()
    fake.sleep(2)
    assert (clock.seconds("startup"), clock.total()) == (2, 2)


def test_what_went_by_before_the_clock_was_made_is_startup(fake):
    clock = PhaseClock(started_at=fake.unix - 3)
    fake.sleep(2)
    clock.enter("train")
    fake.sleep(1)
    assert (clock.seconds("startup"), clock.seconds("train"), clock.total()) == (5, 1, 6)


def test_a_start_in_the_future_does_not_make_time_negative(fake):
    assert PhaseClock(started_at=fake.unix + 3).total() == 0


def test_a_block_during_a_phase_goes_back_to_the_phase_before(fake):
    clock = PhaseClock()
    clock.enter("train")
    fake.sleep(1)
    with clock.during("evaluation"):
        fake.sleep(2)
        with clock.during("checkpoint"):
            fake.sleep(4)
        fake.sleep(8)
    fake.sleep(16)
    assert [clock.seconds(phase) for phase in ("train", "evaluation", "checkpoint")] == [17, 10, 4]


def test_a_block_that_fails_goes_back_to_the_phase_before(fake):
    clock = PhaseClock()
    clock.enter("train")
    with pytest.raises(ZeroDivisionError), clock.during("evaluation"):
        raise ZeroDivisionError
    fake.sleep(1)
    assert (clock.seconds("train"), clock.seconds("evaluation")) == (1, 0)


def test_entering_the_phase_that_is_on_loses_nothing(fake):
    clock = PhaseClock()
    clock.enter("train")
    fake.sleep(1)
    clock.enter("train")
    fake.sleep(1)
    assert clock.seconds("train") == 2


def test_queued_work_belongs_to_the_phase_that_queued_it(fake):
    clock = PhaseClock(synchronize=lambda: fake.sleep(5))  # the device needs five seconds more
    clock.enter("train")
    assert (clock.seconds("startup"), clock.seconds("train")) == (5, 0)


def counted_synchronize() -> tuple[list[str], Callable[[], None]]:
    calls: list[str] = []
    return calls, lambda: calls.append("synchronize")


def test_the_device_is_waited_for_at_each_change_of_phase_and_only_there():
    calls, synchronize = counted_synchronize()
    clock = PhaseClock(synchronize=synchronize)
    assert len(calls) == 0
    clock.enter("train")
    assert len(calls) == 1
    with clock.during("evaluation"):
        assert len(calls) == 2
    assert len(calls) == 3
    clock.seconds("train")
    clock.total()
    assert len(calls) == 3


def test_a_process_knows_when_it_was_created():
    code = "from leantune.training.clock import process_started_at; print(process_started_at())"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert before - 0.05 < float(done.stdout) < time.time()  # kernels count in hundredths of a second


def test_a_process_is_always_as_old():
    assert process_started_at() == pytest.approx(process_started_at(), abs=0.05)


def test_the_peak_of_memory_is_no_less_than_the_memory_and_stays():
    before = process_bytes()
    block = np.ones(64 * 2**20, dtype=np.uint8)
    during = process_bytes()
    assert during > before + 32 * 2**20
    assert peak_process_bytes() >= during
    del block
    assert peak_process_bytes() > before + 32 * 2**20


def test_the_peak_of_memory_does_not_count_the_program_that_started_this_one():
    code = f"""
import subprocess, sys
block = bytearray(b"x") * {256 * 2**20}
subprocess.run([sys.executable, "-c", "from leantune.training.clock import *; print(peak_process_bytes())"], check=True)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 128 * 2**20


def use_memory() -> int:
    """Use 64 MiB and give them back; return the memory before."""
    before = process_bytes()
    np.ones(64 * 2**20, dtype=np.uint8)
    return before


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system keeps a process's peak")
def test_a_peak_from_before_the_measurement_is_forgotten():
    before = use_memory()
    forget_process_peak()
    assert peak_process_bytes() < before + 32 * 2**20
    use_memory()
    assert peak_process_bytes() > before + 32 * 2**20


def test_where_the_system_keeps_an_earlier_peak_the_largest_reading_counts(monkeypatch):
    peak = [2**40]
    monkeypatch.setattr(leantune.training.clock, "_system_peak", lambda: peak[-1])
    forget_process_peak()
    before = process_bytes()
    block = np.ones(64 * 2**20, dtype=np.uint8)
    process_bytes()
    del block
    assert before + 32 * 2**20 < peak_process_bytes() < before + 128 * 2**20
    peak.append(2**41)  # it must be the run's own
    assert peak_process_bytes() == 2**41


def test_a_system_without_a_peak_to_reset_is_measured_all_the_same(monkeypatch):
    """macOS has no such file; some containers do not let a process write it."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refuse)
    forget_process_peak()
    assert peak_process_bytes() >= process_bytes() > 0
