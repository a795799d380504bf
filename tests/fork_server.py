"""Commands in processes that begin at once: forked from one that has imported everything, and has a single thread.

A fresh Python process imports for seconds before it does anything. `fork_client` tells how the server is asked.
"""

import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import fork_client


def _serve(listener: socket.socket) -> None:
    """Fork until standard input ends, since whoever holds the other end is gone then."""
    import transformers.models.bert.modeling_bert  # noqa: F401, PLC0415

    import leantune.cli  # noqa: PLC0415
    import leantune.experiments.experiment  # noqa: PLC0415
    import leantune.runs.display  # noqa: PLC0415
    import leantune.runs.run  # noqa: F401, PLC0415

    gc.freeze()  # a collection in a child would copy all of this memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the attendants
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _attend(connection)
        connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """Start what a connection asks for, pass signals on, and answer with its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.read(int.from_bytes(length)))
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request, streams)
    for stream in streams:  # else a pipe would not end with the process
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())

    def pass_signals_on() -> None:
        with suppress(ProcessLookupError, ConnectionError):
            while number := connection.recv(1):
                os.kill(pid, number[0])
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=pass_signals_on, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(ConnectionError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Run a module as a fresh process would, but for its imports."""
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):  # whatever runs the tests may ignore them
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, request["most_bytes"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    sys.executable = request["python"]
    sys.argv = [request["module"], *request["arguments"]]
    code = 1
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Process:
    """A command that was begun; it is killed where nobody keeps this any more."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())
        self._code: int | None = None

    def is_running(self) -> bool:
        """Whether it has not ended, a zombie of the server's included."""
        try:
            return "Z" not in Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        if self._code is None:
            self._code = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self._code

    def __del__(self) -> None:
        self._answers.close()
        self._connection.close()


class Server:
    """Begins commands."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)
        self.python = address.with_name("python")
        """Takes the place of `sys.executable`, for `-m MODULE ARGUMENTS`."""
        lines = [
            f"#!{sys.executable} -IS",
            "import sys",
            f"sys.path.insert(0, {str(Path(fork_client.__file__).parent)!r})",
            "import fork_client",
            f"fork_client.run_as_python({self._address!r})",
        ]
        self.python.write_text("\n".join(lines), encoding="utf-8")
        self.python.chmod(0o700)

    def begin(self, *arguments: object, folder: Path, stderr: str | Path = "said.txt") -> Process:
        """Begin `leantune` with these arguments, in `folder`; it writes what it says to the end of a file there."""
        connection = fork_client.connect(self._address)
        said = os.open(folder / stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        fork_client.ask(
            connection,
            "leantune",
            [str(part) for part in arguments],
            folder=str(folder),
            environment=os.environ,
            python=str(self.python),
            streams=(nothing, said, said),
        )
        os.close(nothing)
        os.close(said)
        return Process(connection)


@contextmanager
def serve() -> Iterator[Server]:
    """Have a server, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="fork-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = Path(folder) / "socket"
        listener.bind(str(address))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests, which then stop it
        )
        listener.close()  # should it fail, asking fails too
        try:
            yield Server(address)
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
