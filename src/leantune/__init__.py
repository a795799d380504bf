"""Fine-tune text encoders without waste, and know what each trick bought you."""

from typing import TYPE_CHECKING, Any

from leantune.errors import LeantuneError

if TYPE_CHECKING:
    from leantune.experiment import Run, train

__all__ = ["LeantuneError", "Run", "train"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `leantune --help` must not wait for them.
    if name in __all__:
        from leantune import experiment  # noqa: PLC0415

        return getattr(experiment, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
