"""Signals: wherever a run is, it saves what it has done, leaves with 128 + n within seconds, and can go on."""

import os
import pty
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fork_server import Process, Server
from interruptions import differing, events_of, outcome
from leantune.runs.config import dump_config
from leantune.system import stopping
from leantune.system.files import write_yaml
from leantune.training.checkpoint import read_newest
from small_runs import run_all, tiny_config, write_table
from tiny_encoders import make_texts

SECONDS_TO_LEAVE = 20  # the machine may be busy; alone it takes under one

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def write_config(folder: Path, bert: Path, /, rows: int = 45, **settings: Any) -> Any:
    config = tiny_config(write_table(folder / "train.csv", rows=rows), bert, **settings)
    write_yaml(folder / "run.yaml", dump_config(config))
    return config


COMMAND = ("train", "--config", "run.yaml", "--output", "run", "--resume")


def wait_for(condition: Callable[[], Any], process: Process, pause: float = 0.002) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.is_running(), "it ended by itself"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def stop(process: Process, number: int) -> None:
    """Send a signal; it must leave as it promises."""
    began = time.monotonic()
    process.send(number)
    assert process.wait() == 128 + number
    assert time.monotonic() - began < SECONDS_TO_LEAVE


def has_steps(folder: Path, count: int) -> Callable[[], bool]:
    events = folder / "run" / "events.jsonl"
    return lambda: events.exists() and events.read_text().count('"event": "step"') >= count


def newest(folder: Path, fold: int = 0) -> str:
    saved, warnings = read_newest(folder / "run" / f"fold_{fold}" / "checkpoint")
    assert warnings == []
    assert saved is not None
    return saved.path.name


def test_a_signal_in_training_saves_and_the_run_goes_on_to_the_same_end(
    server: Server, bert: Path, tmp_path: Path
) -> None:
    batching = {"batch_size": 8, "micro_batch": {"rows": 1}}
    config = write_config(tmp_path, bert, batching=batching, optimizer={"epochs": 16}, evaluation__every={"steps": 60})
    run_all(config, tmp_path / "whole")
    for at_least, number, times in ((5, signal.SIGINT, 1), (20, signal.SIGHUP, 1), (35, signal.SIGTERM, 2)):
        process = server.begin(*COMMAND, folder=tmp_path)
        wait_for(has_steps(tmp_path, at_least), process)
        for _ in range(times - 1):  # a scheduler tells a process and its group
            process.send(number)
            time.sleep(0.01)
        stop(process, number)
        assert f"stopped by {number.name}" in (tmp_path / "said.txt").read_text()
        assert int(newest(tmp_path)[5:13]) >= at_least
    assert server.begin(*COMMAND, folder=tmp_path).wait() == 0
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
    assert len(events_of(tmp_path / "run", "resume")) == 3


def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(server: Server, bert: Path, tmp_path: Path) -> None:
    """400 rows validate, one at a time, after each step of 8 rows."""
    data = tmp_path / "train.csv"
    lines = ["text,score,part", *(f'"{text}",{i % 7}.5,{int(i > 15)}' for i, text in enumerate(make_texts(416)))]
    data.write_text("\n".join(lines), encoding="utf-8")
    columns = {"path": str(data), "text": "text", "target": "score", "fold": "part"}
    batching = {"batch_size": 8, "micro_batch": {"rows": 1}}
    config = tiny_config(data, bert, data=columns, fold=1, batching=batching, evaluation__every={"steps": 1})
    write_yaml(tmp_path / "run.yaml", dump_config(config))
    run_all(config, tmp_path / "whole")
    process = server.begin(*COMMAND, folder=tmp_path)
    wait_for(has_steps(tmp_path, 2), process)  # the second step is told, its evaluation begins
    stop(process, signal.SIGTERM)
    assert newest(tmp_path, fold=1) == "step_00000002"  # and was not waited for
    assert server.begin(*COMMAND, folder=tmp_path).wait() == 0
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_a_signal_in_saving_lets_it_finish(server: Server, bert: Path, tmp_path: Path) -> None:
    write_config(tmp_path, bert, optimizer={"epochs": 1000}, checkpoint={"every": {"steps": 1}})
    process = server.begin(*COMMAND, folder=tmp_path)
    place = tmp_path / "run" / "fold_0" / "checkpoint"
    wait_for(has_steps(tmp_path, 3), process)
    wait_for(lambda: any(place.glob(".*.new")), process, pause=0)
    stop(process, signal.SIGTERM)
    assert not any(place.glob(".*.new"))
    newest(tmp_path)


def test_a_signal_in_tokenizing_stops_and_leaves_nothing(server: Server, bert: Path, tmp_path: Path) -> None:
    cache = Path(os.environ["LEANTUNE_CACHE"])
    texts = make_texts(500, most_words=60)
    write_table(tmp_path / "train.csv", texts=[f"{i} {texts[i % 500]} {texts[i // 500]}" for i in range(60_000)])
    config = tiny_config(tmp_path / "train.csv", bert)
    write_yaml(tmp_path / "run.yaml", dump_config(config))
    process = server.begin(*COMMAND, folder=tmp_path)
    wait_for(lambda: any(cache.glob("tokens/*.partial")), process)
    stop(process, signal.SIGTERM)
    assert not any(cache.glob("tokens/*.partial"))
    assert not (tmp_path / "run").exists()


def test_a_second_signal_stops_at_once_and_the_terminal_is_left_in_order(
    server: Server, bert: Path, tmp_path: Path
) -> None:
    write_config(tmp_path, bert, optimizer={"epochs": 1000}, checkpoint={"every": {"steps": 1}})
    terminal, end = pty.openpty()
    said = bytearray()

    def read() -> None:
        try:
            while part := os.read(terminal, 4096):
                said.extend(part)
        except OSError:  # nobody has the other end any more
            return

    reader = threading.Thread(target=read)
    reader.start()
    process = server.begin(*COMMAND, folder=tmp_path, stderr=os.ttyname(end))
    wait_for(has_steps(tmp_path, 5), process)
    process.send(signal.SIGTERM)
    process.send(signal.SIGINT)
    assert process.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    os.close(end)
    reader.join()
    os.close(terminal)
    assert b"\x1b[?25l" in said  # the cursor was hidden for the live line,
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")  # and is shown again
    assert b"Traceback" not in said
    newest(tmp_path)  # whatever was being written


def test_a_signal_that_keeps_coming_counts_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    monkeypatch.setattr(stopping, "_asked", None)
    monkeypatch.setattr(stopping, "_deferred", 1)
    for now in (0.0, 4.0):  # noqa: B007 - read by the clock
        stopping._handle(signal.SIGTERM, None)
    now = 8.0
    with pytest.raises(stopping.Stopped) as caught:
        stopping._handle(signal.SIGTERM, None)
    assert caught.value.at_once


def kill_while_saving(server: Server, folder: Path, moments: int) -> None:
    """Kill a run until it was cut off in the middle of saving so often, at random moments, and go on each time."""
    draw, cut, attempts = Random(0), 0, 0
    place = folder / "run" / "fold_0" / "checkpoint"
    reached = ""
    while cut < moments:
        attempts += 1
        assert attempts < 10 * moments
        process = server.begin(*COMMAND, folder=folder)
        wait_for(lambda: any(place.glob(".*.new")), process, pause=0)
        time.sleep(draw.uniform(0, 0.05))
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        cut += any(place.glob(".*.new"))
        if any(place.glob("step_*")):
            assert newest(folder) >= reached  # whole, and nothing is lost that was complete
            reached = newest(folder)
    assert "damaged" not in (folder / "said.txt").read_text()


@pytest.mark.parametrize("moments", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_while_it_saves_always_goes_on_to_the_same_end(
    server: Server, bert: Path, tmp_path: Path, moments: int
) -> None:
    settings = {"optimizer": {"epochs": 4 * moments}, "checkpoint": {"every": {"steps": 1}}}
    config = write_config(tmp_path, bert, **settings, evaluation__every={"steps": 7})
    run_all(config, tmp_path / "whole")
    kill_while_saving(server, tmp_path, moments)
    assert server.begin(*COMMAND, folder=tmp_path).wait() == 0
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []


def test_a_run_killed_between_its_checkpoints_does_the_steps_after_the_last_one_again(
    server: Server, bert: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, bert, optimizer={"epochs": 16}, checkpoint={"every": {"steps": 20}})
    run_all(config, tmp_path / "whole")
    process = server.begin(*COMMAND, folder=tmp_path)
    wait_for(has_steps(tmp_path, 30), process)
    process.send(signal.SIGKILL)
    process.wait()
    assert newest(tmp_path) in ("step_00000020-evaluated", "step_00000040-evaluated", "step_00000060-evaluated")
    # Alone, the command takes the run's own settings.
    assert server.begin("train", "--output", "run", "--resume", folder=tmp_path).wait() == 0
    steps = [event["step"] for event in events_of(tmp_path / "run", "step")]
    assert steps == list(range(1, 81))
    assert differing(outcome(tmp_path / "run"), outcome(tmp_path / "whole")) == []
