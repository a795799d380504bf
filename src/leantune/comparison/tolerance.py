"""How large a difference of the metric may be and still not matter: what `as good` means in a comparison."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from leantune.system.formatting import figure

SHARE = 0.02
"""Of what the baseline gains over the constant answer, where nothing else is asked for (`auto`)."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Up to which difference a recipe is as good as the baseline."""

    value: float | None
    """In the metric's unit; None where no recipe is called as good."""
    said: str
    """A sentence: what it is, or why there is none."""


def check_tolerance(given: object) -> str | float | None:
    """Return a tolerance as the experiment file has it: `auto`, null, a number, or a share such as `2%`.

    Raises ValueError for anything else.
    """
    if given is None or given == "auto":
        return given
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < float("inf"):
        return float(given)
    if isinstance(given, str) and _share(given) is not None:
        return given
    raise ValueError(
        f"found {given!r}, expected auto, null, a number above 0 in the metric's unit, or a share such as 2% of what "
        "the baseline gains over the constant answer"
    )


def make_tolerance(
    given: str | float | None,
    *,
    metric: str,
    lower_is_better: bool,
    baseline: str,
    quality: float | None,
    yardsticks: Mapping[str, float],
) -> Tolerance:
    """Return what the given tolerance comes to; `quality` is the mean of the baseline's metric."""
    if given is None:
        return Tolerance(value=None, said="No recipe is called as good: the experiment sets no tolerance.")
    if isinstance(given, float):
        return Tolerance(value=given, said=f"{_meaning(given, metric)}, as the experiment says.")
    share = SHARE if given == "auto" else _share(given)
    assert share is not None
    constant = yardsticks.get("constant")
    if constant is None or quality is None:
        return Tolerance(
            value=None,
            said=f"No recipe is called as good: the runs have no {metric} of the constant answer to take a share of. "
            "`tolerance: 0.01` in the experiment file sets it in the metric's unit.",
        )
    gain = constant - quality if lower_is_better else quality - constant
    if gain <= 0:
        return Tolerance(
            value=None,
            said=f"No recipe is called as good: {baseline} gains nothing over the constant answer "
            f"({metric} {figure(quality, 4)}, constant {figure(constant, 4)}).",
        )
    value = float(f"{share * gain:.2g}")  # what is shown is what counts
    return Tolerance(
        value=value,
        said=f"{_meaning(value, metric)}: {100 * share:.3g}% of what {baseline} gains over the constant answer "
        f"({figure(constant, 4)} to {figure(quality, 4)}).",
    )


def _meaning(value: float, metric: str) -> str:
    return f"As good means that the whole interval of the difference lies within {figure(value, 2)} of {metric}"


def _share(given: str) -> float | None:
    """Return the share that a text such as `2%` means, between 0 and 1."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", given)
    share = float(found[1]) / 100 if found else 0.0
    return share if 0 < share <= 1 else None
