"""Commands in processes that begin at once: forked from one that has imported everything, and has a single thread.

Reads lines of JSON (argv, cwd, stderr) and answers each with the process's id, and with its exit code once it has left
(negative for a signal that killed it).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _serve() -> None:
    import leantune.cli  # noqa: PLC0415
    import leantune.runs.run  # noqa: PLC0415

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.chdir(request["cwd"])
            target = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(target, 1)
            os.dup2(target, 2)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever runs the tests may ignore it
            sys.argv = ["leantune", *request["argv"]]
            code = 99
            try:
                leantune.cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Process:
    """A command that was begun."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        assert server.stdout is not None
        self._stdout = server.stdout
        self.pid = int(self._stdout.readline())
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
            self._code = int(self._stdout.readline())
        return self._code


class Server:
    """Begins one command at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def begin(self, *arguments: object, folder: Path, stderr: str | Path = "said.txt") -> Process:
        """Begin `leantune` with these arguments, in `folder`."""
        assert self._process.stdin is not None
        request = {"argv": [str(part) for part in arguments], "cwd": str(folder), "stderr": str(stderr)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Process(self._process)


@contextmanager
def serve(cache: Path) -> Iterator[Server]:
    """Have a server, stopped at the end, whose commands keep tokens in `cache`."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LEANTUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    _serve()
