"""Terminals that are hostile, poor or gone: what is printed is no command to them, and nothing depends on them."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from rich.console import Console

from leantune.comparison import compare_runs
from leantune.report import Overview, show_comparison
from leantune.runs.display import Display
from leantune.runs.run import run
from leantune.system.console import Terminal
from leantune.system.terminal import printable, say
from leantune.training.events import Note, Recorded, heard
from planned import PLAN, done
from small_runs import tiny_config, write_table
from synthetic_experiments import write_experiment

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\r\x08 \u202etxt.exe"


@pytest.fixture
def broken_pipe() -> Iterator[IO[str]]:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w", buffering=1)
    yield file
    with contextlib.suppress(OSError):
        file.close()


@pytest.fixture
def hung_up_terminal() -> Iterator[IO[str]]:
    """A terminal whose window was closed."""
    outer, inner = os.openpty()
    os.close(outer)
    file = os.fdopen(inner, "w", buffering=1)
    yield file
    with contextlib.suppress(OSError):
        file.close()


class Ascii(io.TextIOWrapper):
    """A stream that has no other characters than ASCII's, and says so only when it gets one."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)


def closed() -> IO[str]:
    file = io.StringIO()
    file.close()
    return file


def full() -> IO[str]:
    """A disk without space."""
    return Path("/dev/full").open("w", buffering=1)


def console_on(file: IO[str], *, is_terminal: bool = False) -> Console:
    terminal = Terminal()
    terminal.file = file
    terminal._force_terminal = is_terminal
    return terminal


def test_what_a_terminal_obeys_is_written_as_an_escape() -> None:
    assert printable(HOSTILE) == r"\x1b[2J\x1b]0;title\x07\x9b31m\r\x08 \u202etxt.exe"
    assert printable("two\nlines\t日本語 é 🙂 –  \udc80") == "two\nlines\t日本語 é 🙂 –  \\udc80"


def test_names_of_strangers_reach_the_display_without_commands(tmp_path: Path) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200, force_terminal=False)) as display:
        display.show(Note(about=HOSTILE, text=HOSTILE))
    with Overview(Console(file=out, width=200, force_terminal=False)) as overview:
        overview.show(PLAN)
        overview.show(done("plain", HOSTILE))
    folder = write_experiment(tmp_path, recipes={"plain": {}, "other": {"precision": "bf16"}}, failed={
        ("other", 0, 1): HOSTILE
    })  # fmt: skip
    plan = json.loads((folder / "plan.json").read_text())
    plan["recipes"][HOSTILE] = plan["recipes"].pop("other")
    (folder / "plan.json").write_text(json.dumps(plan))
    show_comparison(compare_runs(folder), Console(file=out, width=200, force_terminal=False))
    assert out.getvalue().count(r"\x1b[2J") >= 5
    assert not set(out.getvalue()) & set("\x1b\x07\x9b\r\x08\u202e")


def test_error_messages_have_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"leantune: {HOSTILE}", error=True)
    assert capsys.readouterr().err == f"leantune: {printable(HOSTILE)}\n"


def test_a_listener_that_fails_is_reported_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def listen(event: int) -> None:
        told.append(event)
        if event == 2:
            raise ConnectionError("nobody answers")

    assert list(heard(range(5), listen, "the tracker")) == [0, 1, 2, 3, 4]
    assert told == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "the tracker has failed and is left out from here on (ConnectionError('nobody answers'))"
    ]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_that_arrives_while_an_event_is_shown_stops(stop: type[BaseException]) -> None:
    def listen(_: int) -> None:
        raise stop

    with pytest.raises(stop):
        list(heard(range(5), listen, "the display"))


@pytest.mark.parametrize(
    ("kind", "is_terminal"),
    [
        ("broken_pipe", False),
        ("broken_pipe", True),
        ("hung_up_terminal", True),
        ("closed", True),
        ("full", False),
        ("ascii", False),
    ],
)
def test_a_training_goes_on_without_its_terminal(
    kind: str,
    is_terminal: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_encoder_dir: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)  # rich refreshes its bar in a thread of its own
    make: dict[str, Callable[[], IO[str]]] = {"closed": closed, "full": full, "ascii": Ascii}
    file = make[kind]() if kind in make else request.getfixturevalue(kind)
    data = write_table(tmp_path / "données.csv", rows=24)
    config = tiny_config(data, tiny_encoder_dir("bert"), optimizer__epochs=1)
    with Display(console_on(file, is_terminal=is_terminal)) as display:
        events = list(heard(run(config, tmp_path / "run"), display.show, "the display"))
    assert type(sys.stderr).__name__ != "FileProxy"  # rich has given back what it stood before
    assert (tmp_path / "run" / "metrics.json").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == sum(isinstance(event, Recorded) for event in events)
    assert [line["event"] for line in lines if line["event"] != "warning"][-1] == "fold_end"
    assert sum("has failed" in record.getMessage() for record in caplog.records) == 1
    with contextlib.suppress(OSError, ValueError):
        file.close()


def test_a_comparison_goes_on_without_its_terminal(broken_pipe: IO[str], caplog: pytest.LogCaptureFixture) -> None:
    with Overview(console_on(broken_pipe)) as overview:
        events = [PLAN, done("plain"), done("[red]odd[/red]")]
        assert list(heard(events, overview.show, "the display")) == events
    assert len(caplog.records) == 1


def test_the_command_ends_well_though_nobody_reads_what_it_says(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    """Standard output is a pipe without a reader; standard error a terminal that is closed while the bar is drawn."""
    data = write_table(tmp_path / "train.csv")
    reader, writer = os.pipe()
    os.close(reader)
    outer, inner = os.openpty()
    command = [sys.executable, "-m", "leantune", "train", str(data), "--text", "text", "--target", "score"]
    command += ["--model", str(tiny_encoder_dir("bert")), "--output", str(tmp_path / "run"), "--set", "device=cpu"]
    environment = {n: value for n, value in os.environ.items() if n not in ("NO_COLOR", "PYTHONUNBUFFERED", "TERM")}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writer, stderr=inner, env=environment | {"TERM": "xterm"}
    )
    os.close(writer)
    os.close(inner)
    assert os.read(outer, 1)  # it has begun to draw
    os.close(outer)
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line["event"] for line in lines if line["event"] != "warning"][-1] == "fold_end"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_words_that_nobody_reads_do_not_fail_the_command_when_it_ends(name: str) -> None:
    """What is left in the stream cannot be written: Python alone leaves with 120."""
    left = f"import sys; sys.{name}.write('left')"
    flush = "from leantune.system.terminal import flush_standard_streams as f; f()"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for program, code in ((left, 120), (f"{left}; {flush}", 0)):
        reader, writer = os.pipe()
        os.close(reader)
        streams: dict[str, int] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {name: writer}
        done = subprocess.run([sys.executable, "-c", program], check=False, env=buffered, **streams)
        assert done.returncode == code
        os.close(writer)


def test_a_standard_stream_that_is_closed_is_not_taken_by_a_file(tmp_path: Path) -> None:
    probe = "import os; {}; print(os.open(os.devnull, os.O_RDONLY), file=open({!r}, 'w'))"
    for number, hold in enumerate(("pass", "from leantune.system.terminal import hold_standard_streams as h; h()")):
        script = probe.format(hold, str(tmp_path / str(number)))
        subprocess.run(["/bin/sh", "-c", '"$0" -c "$1" 0<&- 2>&-', sys.executable, script], check=True)
    taken, held = (int((tmp_path / name).read_text()) for name in "01")
    assert taken <= 2  # the fault is there
    assert held > 2


def test_a_terminal_without_the_letters_gets_escapes(tmp_path: Path) -> None:
    data = write_table(tmp_path / "train.csv", kind="binary")
    data.write_text(data.read_text("utf-8").replace("yes", "größer"), "utf-8")
    command = [sys.executable, "-m", "leantune", "folds", str(data), "--target", "label"]
    command += ["--output", str(tmp_path / "folds.csv")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert r"gr\xf6\xdfer" in ended.stdout
