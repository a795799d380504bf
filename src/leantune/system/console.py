"""The terminal as rich writes to it."""

from rich.console import Console


class Terminal(Console):
    """Standard error as rich writes to it, but for one thing: a reader that has left does not end the process."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Raise the error as it is, where rich would leave with exit code 1 in the middle of a training."""
        raise  # noqa: PLE0704 - called while the error is handled
