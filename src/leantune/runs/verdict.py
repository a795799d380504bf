"""What a finished run must say of its own result: that something simpler is as good, or that nothing was learned.

    metrics, predictions of the best evaluations, events  ->  warnings, each with its usual cause and what to try

Losses and evaluations are read back from `events.jsonl`, so that a run that was interrupted says what one that was not
says.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.system.errors import RunFolderError
from leantune.system.files import parse_json_object, unreadable
from leantune.system.formatting import figure
from leantune.training.events import Note
from leantune.training.metrics import is_better

LEAST_SPREAD = 0.01
"""Of the targets' standard deviation: predictions that are closer together tell no rows apart."""
LEAST_EVALUATIONS = 3
"""A metric that never moved says something only after so many."""
LEAST_STEPS = 20
RISE = 0.1
"""Share by which the loss of the last steps must be above that of the first steps, so that noise is not told."""
NAMES_SHOWN = 3
SIMPLER = {"constant": "the constant answer", "linear": "a linear model on n-grams"}


def result_warnings(
    metrics: dict[str, Any],
    truth: NDArray[np.generic],
    predictions: NDArray[np.float64],
    labels: Sequence[str],
    folder: Path,
) -> Iterator[Note]:
    """Yield the warnings about a run's result.

    `metrics` as in `metrics.json`; `truth` and `predictions` of all validation rows at the best evaluations; `labels`
    the names of the outputs. Raises `RunFolderError` where the events cannot be read.
    """
    texts = [
        *worse_than_yardsticks(metrics["metric"], metrics["overall"]),
        *predictions_alike(truth, predictions, labels),
        *learning_stalled(folder / "events.jsonl", metrics["metric"], several=len(metrics["folds"]) > 1),
    ]
    for text in texts:
        yield Note(event="warning", about="result", text=text)


def worse_than_yardsticks(metric: str, overall: dict[str, Any]) -> Iterator[str]:
    """Say where the run's best evaluation is worse than the constant answer or the linear model, by its own metric."""
    own = overall["best"].get(metric)
    found = {}
    for name in SIMPLER:
        value = ((overall.get("yardsticks") or {}).get(name) or {}).get(metric)
        if own is not None and value is not None and is_better(metric, value, own):  # type: ignore[arg-type]
            found[name] = value
    if "constant" in found:
        both = f" and {SIMPLER['linear']} ({figure(found['linear'], 4)})" if "linear" in found else ""
        yield (
            f"this run is worse than the constant answer: {metric} is {figure(own, 4)}, and "
            f"{figure(found['constant'], 4)} for the answer that is the same for every row{both}. Usually the training "
            "has diverged or hardly begun: try a smaller optimizer.learning_rate, or more optimizer.epochs."
        )
    elif "linear" in found:
        yield (
            f"this run is worse than a linear model on n-grams: {metric} is {figure(own, 4)}, and "
            f"{figure(found['linear'], 4)} for the linear model, which takes seconds. Usually the training is too "
            "short, or the learning rate does not suit the model: try more optimizer.epochs, another "
            "optimizer.learning_rate, or a larger model.name."
        )


def predictions_alike(
    truth: NDArray[np.generic], predictions: NDArray[np.float64], labels: Sequence[str]
) -> Iterator[str]:
    """Say where the predictions do not tell the validation rows apart."""
    advice = (
        "Usually the learning rate is too high, so that the model has collapsed, or the training is too short: try a "
        "smaller optimizer.learning_rate, or more optimizer.epochs."
    )
    if truth.ndim == 1:
        chosen = np.unique(predictions.argmax(axis=1))
        if len(chosen) == 1 and len(np.unique(truth)) > 1:
            yield f"every validation row is predicted as {labels[chosen[0]]}, and there are several classes. {advice}"
        return
    targets = truth.astype(np.float64)
    spread = np.ma.masked_invalid(targets).std(axis=0).filled(0)  # of the labels that were scored
    alike = np.flatnonzero(predictions.std(axis=0) < LEAST_SPREAD * spread)
    if len(alike):
        names = ", ".join(labels[column] for column in alike[:NAMES_SHOWN])
        more = f" and {len(alike) - NAMES_SHOWN} more" if len(alike) > NAMES_SHOWN else ""
        yield f"the predictions of {names}{more} are almost the same for all validation rows. {advice}"


def learning_stalled(events: Path, metric: str, *, several: bool) -> Iterator[str]:
    """Say of each fold where its metric never moved, and where its training loss rose."""
    values: dict[int, list[float | None]] = {}
    losses: dict[int, list[float | None]] = {}
    try:
        with events.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                event = parse_json_object(f"{events}, line {number}", line)
                if event["event"] == "evaluation":
                    values.setdefault(event["fold"], []).append(event["metrics"].get(metric))
                elif event["event"] == "step":
                    losses.setdefault(event["fold"], []).append(event["loss"])
    except KeyError as error:
        raise RunFolderError(f"{events}, line {number}: found no {error.args[0]}, expected an event of a run") from None
    except (OSError, UnicodeError) as error:
        raise unreadable(events, error) from None
    for fold, found in values.items():
        where = f"fold {fold}: " if several else ""
        if len(found) >= LEAST_EVALUATIONS and found[0] is not None and len(set(found)) == 1:
            yield (
                f"{where}{metric} was {figure(found[0], 4)} at all {len(found)} evaluations. Usually the weights do "
                "not change what is predicted: try a larger optimizer.learning_rate; if the predictions are all alike, "
                "a smaller one."
            )
    for fold, steps in losses.items():
        where = f"fold {fold}: " if several else ""
        tenth = max(1, len(steps) // 10)
        first = [loss for loss in steps[:tenth] if loss is not None]
        last = [loss for loss in steps[-tenth:] if loss is not None]
        if len(steps) < LEAST_STEPS or not first or not last:
            continue
        before, after = sum(first) / len(first), sum(last) / len(last)
        if after > before + RISE * abs(before):
            yield (
                f"{where}the training loss rose from {figure(before, 3)} to {figure(after, 3)} (means of the first and "
                "the last tenth of the steps). Usually the learning rate is too high: try a smaller "
                "optimizer.learning_rate, or a longer optimizer.warmup_fraction."
            )
