"""Everything that leantune raises on purpose."""

from leantune.system.terminal import printable


class LeantuneError(Exception):
    """Base of all errors that leantune raises on purpose.

    The tree, with the exit code of the command line::

        LeantuneError                 1
        +-- InputError                2   what the user gave is wrong: the message says where, what, and what to do
        |   +-- TableError                a table: file, row, column
        |   +-- SettingsError             a setting: its dotted name, the value, what it may be
        |   +-- ModelError                a model or tokenizer that cannot be used, or an extra that is missing
        |   +-- DeviceError               a device or precision that this machine does not have
        |   `-- RunFolderError            an output folder that is taken, or is not a run folder
        +-- TrainingError             1   training cannot go on (a loss that is not finite)
        `-- SavingError               1   a file cannot be written (a full disk, a quota)

    A `TableError` and a `SettingsError` are also a `ValueError`: scikit-learn expects that of a wrong argument.
    Beside the tree stands `leantune.system.stopping.Stopped`, 128 + n: a signal is no error.
    """

    exit_code = 1


class InputError(LeantuneError):
    """What the user gave is wrong; the message says where, what was found, what was expected and what to do."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython prints in place of the traceback: the message, as the command line has it.

        https://ipython.readthedocs.io/en/stable/config/integrating.html; `traceback.print_last()` prints it in full.
        """
        return f"leantune: {printable(str(self))}".split("\n")


class TableError(InputError, ValueError):
    """A table cannot be used: names the file, and the row and column where there is one."""


class SettingsError(InputError, ValueError):
    """A setting is unknown, unused or has a value that it cannot have."""


class ModelError(InputError):
    """A model or tokenizer cannot be loaded or does not fit."""


class DeviceError(InputError):
    """The device or the precision that was asked for is not to be had on this machine."""


class RunFolderError(InputError):
    """An output folder holds something already, or a folder is not a run folder."""


class TrainingError(LeantuneError):
    """Training cannot go on."""


class SavingError(LeantuneError):
    """A file cannot be written: names the file, its size and what the system said."""
