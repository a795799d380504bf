"""A command in a process that the fork server forks: how to ask for one, and a stand-in for Python that does.

Imports as little as it can, since the stand-in is started once a command.
"""

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence


def connect(address: str) -> socket.socket:
    """Return a connection to the server; the process that is asked for on it is killed once it is closed."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


def ask(
    connection: socket.socket,
    module: str,
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    python: str,
    streams: Sequence[int],
) -> None:
    """Ask for `python -m MODULE ARGUMENTS`.

    Answered with two lines, the process's id and, later, its exit code (negative for a signal that killed it). A byte
    that is sent until then is a signal for the process. `streams`: descriptors of its standard input, output and error.
    `python`: what it takes to start others.
    """
    content = {
        "module": module,
        "arguments": list(arguments),
        "folder": folder,
        "environment": dict(environment),
        "python": python,
        "most_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    request = json.dumps(content).encode()
    socket.send_fds(connection, [len(request).to_bytes(8)], streams)
    connection.sendall(request)


def run_as_python(address: str) -> None:
    """Be `python [-P] -m MODULE ARGUMENTS`: its streams, folder, environment, signals and end."""
    python, *given = sys.argv
    flags, (module, *arguments) = given[: given.index("-m")], given[given.index("-m") + 1 :]
    assert flags in ([], ["-P"]), f"{flags}: the server has no such flags"
    connection = connect(address)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    ask(
        connection,
        module,
        arguments,
        folder=os.getcwd(),  # noqa: PTH109 - pathlib takes longer to import than all else here
        environment=os.environ,
        python=python,
        streams=(0, 1, 2),
    )
    with connection.makefile() as answers:
        _, code = int(answers.readline()), int(answers.readline())
    if code < 0:
        if -code in (signal.SIGINT, signal.SIGTERM):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
