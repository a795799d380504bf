"""Where a finished run errs: what it predicted for the rows that validated it, beside what is true."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.advice import drawings
from leantune.advice.blocks import Block, Cells, Figure, Paragraph, Section
from leantune.advice.table_parts import MOST_LINES, Part
from leantune.comparison.words import minus
from leantune.inference.intervals import bootstrap_intervals
from leantune.inference.out_of_fold import OutOfFold
from leantune.inference.trained_run import TrainedRun
from leantune.inspection.findings import Finding, count_rows
from leantune.inspection.mislabelled import suspect_classes, suspect_labels, suspect_numbers
from leantune.inspection.mistakes import (
    CLASSES,
    answer_text,
    class_probabilities,
    confusion_matrix,
    count_labels,
    most_confused,
    outcomes,
    reliability,
    slope,
    truth_text,
)
from leantune.report import plots
from leantune.system.formatting import duration, figure
from leantune.tables.readers import shown
from leantune.tables.targets import TaskKind
from leantune.training.metrics import LOWER_IS_BETTER, metric_names

Floats = NDArray[np.float64]

CALIBRATION_TO_WARN = 0.05
CALIBRATE = {
    "high": "train fewer epochs, or try loss.label_smoothing",
    "low": "train more epochs, or with less loss.label_smoothing",
}
"""What brings probabilities nearer to what comes true, where they are too high and where they are too low."""
LEAST_ROWS = 20
"""Of a group that is told by itself."""
STANDARD_ERRORS = 4.0
MUCH_LARGER = 1.5
MOST_CLASSES_SHOWN = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A run's validation rows with their texts, where the table is still there."""

    run: TrainedRun
    found: OutOfFold
    texts: tuple[pa.Array, ...] | None
    """One array [n] a text, in the order of `found`."""
    columns: dict[str, pa.Array]
    """Other columns of these rows [n]."""

    @property
    def kind(self) -> TaskKind:
        """The task."""
        return self.run.task.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.run.task.labels

    @property
    def probabilities(self) -> Floats:
        """[n, classes], of a binary task, too."""
        return class_probabilities(self.found.predictions, len(self.labels))

    def errors(self) -> tuple[str, Floats]:
        """Return what the error of a row is called, and each row's [n]."""
        targets, predictions = self.found.targets, self.found.predictions
        match self.kind:
            case "regression":
                return "mean absolute error", np.abs(targets - predictions).mean(axis=1)
            case "binary" | "multiclass":
                return "share of errors", (self.probabilities.argmax(axis=1) != targets).astype(np.float64)
            case "soft":
                return "mean absolute error of the shares", np.abs(targets - predictions).mean(axis=1)
            case _:
                wrong = np.where(np.isnan(targets), np.nan, (predictions > 0.5) != (targets > 0.5))
                scored = np.maximum(1, (~np.isnan(wrong)).sum(axis=1))  # labels that were not scored are NaN
                return "share of wrong labels", np.nansum(wrong, axis=1) / scored

    def text(self, row: int, most: int = 90) -> str:
        """Return a row's text, shortened."""
        return "" if self.texts is None else " | ".join(shown(column[row].as_py(), most) for column in self.texts)

    def name(self, row: int) -> str:
        """Name a row of the table, from 1, with its id."""
        number, own = int(self.found.rows[row]), self.found.ids[row]
        return str(number + 1) if own == str(number) else f"{number + 1} ({own})"

    def truth(self, row: int) -> str:
        """Return a row's target in words."""
        return truth_text(self.kind, self.labels, self.found.targets[row])

    def answer(self, row: int) -> str:
        """Return a row's prediction in words."""
        return answer_text(self.kind, self.labels, self.found.predictions[row])


def describe_run(answers: Answers) -> Part:
    """Tell what was trained, how good it is, and beside the yardsticks."""
    run, found = answers.run, answers.found
    overall, metric = run.metrics["overall"], run.metrics["metric"]
    best = overall.get("best") or {}
    names = [name for name in metric_names(run.task.kind) if best.get(name) is not None]
    named = [name for name in dict.fromkeys([metric, *names]) if name in names][:6]
    intervals = bootstrap_intervals(run.task.kind, found.targets, found.predictions, metrics=named)
    yardsticks = overall.get("yardsticks") or {}
    lines = []
    for name in named:
        interval = intervals[name]
        lines.append(
            (
                name,
                _value(best[name]),
                "–" if interval is None else minus(f"[{interval[0]:.4g}, {interval[1]:.4g}]"),
                *(_value((yardsticks.get(of) or {}).get(name)) for of in ("linear", "constant")),
            )
        )
    findings = []
    for of, said in (("constant", "the constant answer"), ("linear", "the linear model")):
        other, own = (yardsticks.get(of) or {}).get(metric), best.get(metric)
        if other is None or own is None or metric not in metric_names(run.task.kind):
            continue
        if (own >= other) if metric in LOWER_IS_BETTER else (own <= other):
            findings.append(
                Finding(
                    code="LT603",
                    severity="warning",
                    found=f"{metric} {own:.4g} is no better than that of {said} ({other:.4g})",
                    advice="train longer, or with another learning rate, or take the simple answer",
                )
            )
            break
    seconds = overall.get("train_seconds")
    return Part(
        section=Section(
            title="How good the run is",
            blocks=(
                Paragraph(
                    text=f"{run.config.model.name} on {len(found.rows):,} validation rows of "
                    f"{len(run.folds)} fold{'s' * (len(run.folds) != 1)}"
                    f"{f', trained in {duration(seconds)}' if seconds else ''}. Each row is predicted by the model "
                    "that did not train on it, at its best evaluation."
                ),
                Cells(head=("metric", "run", "95% interval", "linear model", "constant answer"), lines=tuple(lines)),
            ),
        ),
        data={"metric": metric, "metrics": best, "rows": len(found.rows)},
        findings=tuple(findings),
    )


def _value(value: float | None) -> str:
    return "–" if value is None else minus(figure(value, 4))


def describe_errors(answers: Answers) -> Part:
    """Show residuals or confusions, and the worst rows."""
    kind, found = answers.kind, answers.found
    blocks: list[Block] = []
    data: dict[str, Any] = {}
    if kind == "regression":
        for place, name in enumerate(answers.labels[:6]):
            truth, said = found.targets[:, place].astype(np.float64), found.predictions[:, place]
            blocks.append(
                Figure(
                    svg=drawings.scatter(
                        f"fitted-{place}",
                        f"Targets and predictions of {name}",
                        x=said,
                        y=truth,
                        labels=("prediction", name),
                    ),
                    caption=f"{name}: each point is a row; on the line, prediction and target are the same.",
                )
            )
            blocks.append(
                Figure(
                    svg=drawings.histogram(
                        f"residuals-{place}", f"Residuals of {name}", truth - said, "target less prediction"
                    ),
                    caption=f"{name}: target less prediction.",
                )
            )
        residuals = found.targets - found.predictions
        worst = np.argsort(-np.abs(residuals / np.maximum(residuals.std(axis=0), 1e-12)).max(axis=1), kind="stable")
        data["residuals"] = {
            name: {"mean": float(r.mean()), "deviation": float(r.std())}
            for name, r in zip(answers.labels, residuals.T, strict=True)
        }
    elif kind in {"binary", "multiclass"}:
        said = answers.probabilities.argmax(axis=1)
        matrix = confusion_matrix(found.targets.astype(np.int64), said, len(answers.labels))
        blocks += _confusions(matrix, answers.labels)
        data["confusion"] = {"classes": list(answers.labels), "matrix": matrix.tolist()}
        own = answers.probabilities[np.arange(len(said)), found.targets]
        worst = np.argsort(own, kind="stable")
    else:
        worst = np.argsort(-np.nan_to_num(np.abs(found.targets - found.predictions)).max(axis=1), kind="stable")
        if kind == "multilabel":
            blocks.append(_label_table(answers))
    blocks.append(
        Cells(
            head=("row", "target", "prediction", "text"),
            lines=tuple(
                (answers.name(row), answers.truth(row), answers.answer(row), answers.text(row))
                for row in worst[:MOST_LINES].tolist()
            ),
            caption="The rows that are furthest off.",
            has_texts=True,
        )
    )
    data["worst_rows"] = [int(found.rows[row]) for row in worst[:MOST_LINES]]
    return Part(section=Section(title="Where it errs", blocks=tuple(blocks)), data=data)


def _confusions(matrix: NDArray[np.int64], labels: tuple[str, ...]) -> Iterator[Block]:
    if len(labels) <= MOST_CLASSES_SHOWN:
        yield Cells(
            head=("target", *labels, "recall"),
            lines=tuple(
                (name, *(f"{count:,}" for count in line), f"{line[place] / max(1, line.sum()):.0%}")
                for place, (name, line) in enumerate(zip(labels, matrix, strict=True))
            ),
            caption="Confusion matrix. A line is a class of the target, a column a predicted class.",
        )
        return
    yield Cells(
        head=("target", "predicted", "rows", "of the class"),
        lines=tuple(
            (labels[a], labels[b], f"{matrix[a, b]:,}", f"{matrix[a, b] / max(1, matrix[a].sum()):.0%}")
            for a, b in most_confused(matrix, MOST_LINES)
        ),
        caption=f"The most frequent confusions of {len(labels)} classes.",
    )
    recall = np.diag(matrix) / np.maximum(1, matrix.sum(axis=1))
    there = np.flatnonzero(matrix.sum(axis=1))
    low = there[np.argsort(recall[there], kind="stable")][:MOST_LINES]
    yield Cells(
        head=("class", "recall", "rows"),
        lines=tuple((labels[p], f"{recall[p]:.0%}", f"{matrix[p].sum():,}") for p in low),
        caption="The classes that are found least often.",
    )


def _label_table(answers: Answers) -> Cells:
    counts = count_labels(answers.found.targets, answers.found.predictions)
    return Cells(
        head=("label", "rows", "predicted", "precision", "recall"),
        lines=tuple(
            (
                answers.labels[p],
                f"{counts.targets[p]:,}",
                f"{counts.predicted[p]:,}",
                f"{counts.precision[p]:.0%}",
                f"{counts.recall[p]:.0%}",
            )
            for p in np.argsort(-counts.targets, kind="stable")
        ),
        caption="Labels at a threshold of 0.5, the most frequent first.",
    )


def describe_calibration(answers: Answers) -> Part:
    """Tell whether probabilities come true; of numbers, whether predictions are drawn too much or too little apart."""
    found = answers.found
    if answers.kind == "regression":
        lines = []
        slopes = {}
        for place, name in enumerate(answers.labels):
            truth, said = found.targets[:, place].astype(np.float64), found.predictions[:, place]
            slopes[name] = found_slope = slope(truth, said)
            written = "–" if found_slope is None else f"{found_slope:.2f}"
            lines.append((name, written, f"{said.std():.3g}", f"{truth.std():.3g}"))
        block = Cells(
            head=("target", "slope", "deviation of predictions", "of targets"),
            lines=tuple(lines),
            caption="Slope of the targets over the predictions: 1 is right, below 1 the predictions are too far apart, "
            "above 1 too close together.",
        )
        return Part(section=Section(title="Calibration", blocks=(block,)), data={"slopes": slopes})
    said, was = outcomes(answers.kind, found.targets, found.predictions, len(answers.labels))
    what = "the predicted class" if answers.kind in CLASSES else "all labels together"
    bins = reliability(said, was)
    error = bins.error
    direction = "high" if said.mean() > was.mean() else "low"
    findings = []
    if error > CALIBRATION_TO_WARN:
        findings.append(
            Finding(
                code="LT602",
                severity="warning",
                found=f"the probabilities of {what} are too {direction}: {error:.3f} off on average (mean "
                f"{said.mean():.3f}, right {was.mean():.3f})",
                advice="do not read them as probabilities; fit thresholds with `leantune predict --decide METRIC`, or "
                + CALIBRATE[direction],
            )
        )
    blocks: tuple[Block, ...] = (
        Figure(
            svg=plots.reliability("calibration", "Calibration", [(1, "the run", bins)]),
            caption=f"Probability of {what} in {len(bins.said)} bins of about equal size, and how often it was right. "
            "On the line, probabilities come true.",
        ),
        Paragraph(text=f"Expected calibration error of {what}: {error:.3f} ({len(bins.said)} bins of equal size)."),
    )
    return Part(
        section=Section(title="Calibration", blocks=blocks),
        data={"expected_calibration_error": error},
        findings=tuple(findings),
    )


def describe_doubts(answers: Answers) -> Part:
    """List the rows that are probably labelled wrongly."""
    found = answers.found
    if answers.kind == "regression":
        rows, columns, worth = suspect_numbers(found.predictions, found.targets.astype(np.float64))
        other = [f"{answers.labels[c]}: {found.predictions[r, c]:.4g}" for r, c in zip(rows, columns, strict=True)]
        how = "residual"
    elif answers.kind in {"binary", "multiclass"}:
        rows, classes, worth = suspect_classes(answers.probabilities, found.targets.astype(np.int64))
        other = [answers.labels[c] for c in classes]
        how = "margin"
    elif answers.kind == "multilabel":
        rows, labels, worth = suspect_labels(found.predictions, found.targets.astype(np.float64))
        other = [
            f"{'not ' if found.targets[r, c] > 0.5 else ''}{answers.labels[c]}"
            for r, c in zip(rows, labels, strict=True)
        ]
        how = "margin"
    else:
        return Part(
            section=Section(
                title="Rows that are probably labelled wrongly",
                blocks=(Paragraph(text="For shares of classes there is no such check."),),
            ),
            data={},
        )
    count = len(np.unique(rows))
    block: Block = Paragraph(text="No row contradicts the model so much.")
    findings = []
    if count:
        block = Cells(
            head=("row", "target", "probably", how, "text"),
            lines=tuple(
                (answers.name(r), answers.truth(r), other[i], f"{worth[i]:.2f}", answers.text(r))
                for i, r in enumerate(rows[: 2 * MOST_LINES].tolist())
            ),
            caption=f"The worst first{f', {2 * MOST_LINES} of {count:,}' if count > 2 * MOST_LINES else ''}. The model "
            "may be wrong, too.",
            has_texts=True,
        )
        findings.append(
            Finding(
                code="LT601",
                severity="note",
                found=f"{count:,} of {count_rows(len(found.rows))} {'is' if count == 1 else 'are'} probably labelled "
                f"wrongly, such as row {answers.name(int(rows[0]))}: {answers.truth(int(rows[0]))}, and the model says "
                f"{other[0]}",
                advice="look at the rows that the page lists, and correct those that are wrong",
            )
        )
    return Part(
        section=Section(title="Rows that are probably labelled wrongly", blocks=(block,)),
        data={"rows": [int(found.rows[r]) for r in rows[:1_000]], "count": count},
        findings=tuple(findings),
    )


def describe_parts(answers: Answers, lengths: NDArray[np.int64] | None) -> Part:
    """Tell the error by length and by group."""
    name, errors = answers.errors()
    blocks: list[Block] = []
    data: dict[str, Any] = {"error": name}
    findings: list[Finding] = []
    count = min(5, 2 * len(errors) // (3 * LEAST_ROWS))  # so that equal lengths leave no part too small
    if lengths is not None and count >= 2 and len(np.unique(lengths)) > count:
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)).round().astype(np.int64))
        which = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
        labels = [f"{low:,} to {high - 1:,}" for low, high in pairwise([*edges[:-1].tolist(), int(edges[-1]) + 1])]
        blocks.append(_parts_table("characters", labels, which, errors, name))
        findings += _differs("texts of {} characters", labels, which, errors, name)
        data["by_length"] = _means(labels, which, errors)
    for column, cells in answers.columns.items():
        encoded = cells.fill_null("").dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        counts = np.bincount(codes)
        if not (counts >= LEAST_ROWS).sum() >= 2 or len(counts) > len(codes) / 2:
            continue
        labels = [shown(value, 40).strip("'") or "(empty)" for value in encoded.dictionary.to_pylist()]
        blocks.append(_parts_table(column, labels, codes, errors, name))
        findings += _differs(f"{column} {{}}", labels, codes, errors, name)
        data.setdefault("by_column", {})[column] = _means(labels, codes, errors)
    if not blocks:
        blocks.append(Paragraph(text="There is neither a text nor a column by which errors could be told apart."))
    return Part(
        section=Section(title="Error by length and by group", blocks=tuple(blocks)), data=data, findings=tuple(findings)
    )


def _means(labels: list[str], which: NDArray[np.integer[Any]], errors: Floats) -> dict[str, dict[str, float]]:
    counts = np.bincount(which, minlength=len(labels))
    means = np.bincount(which, weights=errors, minlength=len(labels)) / np.maximum(1, counts)
    return {
        label: {"rows": int(count), "error": float(mean)}
        for label, count, mean in zip(labels, counts, means, strict=True)
        if count >= LEAST_ROWS
    }


def _parts_table(what: str, labels: list[str], which: NDArray[np.integer[Any]], errors: Floats, name: str) -> Cells:
    lines = []
    told = _means(labels, which, errors)
    order = list(told) if what == "characters" else sorted(told, key=lambda label: -told[label]["error"])
    for label in order[:MOST_LINES]:
        inside = errors[which == labels.index(label)]
        margin = 1.96 * inside.std() / np.sqrt(len(inside))
        lines.append((label, f"{len(inside):,}", f"{inside.mean():.4g}", f"± {margin:.2g}"))
    more = f", the {MOST_LINES} largest errors of {len(told)}" if len(told) > MOST_LINES else ""
    return Cells(
        head=(what, "rows", name, "95%"),
        lines=tuple(lines),
        caption=f"By {what}{more}; parts of fewer than {LEAST_ROWS} rows are left out. All rows: {errors.mean():.4g}.",
    )


def _differs(
    said: str, labels: list[str], which: NDArray[np.integer[Any]], errors: Floats, name: str
) -> Iterator[Finding]:
    worst: tuple[float, str] | None = None
    for place, label in enumerate(labels):
        inside, outside = errors[which == place], errors[which != place]
        if min(len(inside), len(outside)) < LEAST_ROWS:
            continue
        margin = np.sqrt(inside.var() / len(inside) + outside.var() / len(outside))
        gap = inside.mean() - outside.mean()
        if gap > STANDARD_ERRORS * margin and inside.mean() > MUCH_LARGER * outside.mean():
            text = f"{said.format(label)}: {name} {inside.mean():.3g}, elsewhere {outside.mean():.3g}"
            worst = max(worst or (0.0, ""), (float(gap), text))
    if worst is not None:
        yield Finding(
            code="LT604",
            severity="note",
            found=f"the error is much larger for {worst[1]}",
            advice="look at these rows; more of their kind in training may help",
        )


def text_lengths(texts: tuple[pa.Array, ...] | None) -> NDArray[np.int64] | None:
    """Return the characters of each row's texts [n]."""
    if texts is None:
        return None
    return np.asarray(sum(pc.utf8_length(column).to_numpy() for column in texts), dtype=np.int64)
