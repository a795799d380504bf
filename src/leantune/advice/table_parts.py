"""What a table is like before anything is trained: its columns, its targets, what any model must beat."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.advice import drawings
from leantune.advice.blocks import Block, Cells, Figure, Paragraph, Section
from leantune.comparison.words import minus
from leantune.inference.intervals import bootstrap_differences, bootstrap_intervals
from leantune.inspection.findings import Finding, percent, rows_of_classes
from leantune.inspection.leakage import readable_target
from leantune.inspection.target_checks import target_correlations
from leantune.report.wording import shorten
from leantune.system.formatting import figure
from leantune.tables.folds import Folds
from leantune.tables.memory import MemoryTable
from leantune.tables.readers import ReadOptions, read_cells, read_column_names, shown
from leantune.tables.table import DataSettings, Table
from leantune.tables.targets import Targets
from leantune.training.metrics import LOWER_IS_BETTER, MetricName, default_metric
from leantune.training.scoring import compute_metrics
from leantune.training.yardsticks import Yardsticks, measure_yardsticks

MOST_LINES = 12
MOST_COLUMNS = 30
MOST_TARGETS = 6
"""Target columns that are described one by one."""
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the training rows, for the learning curve."""
LEAST_ROWS_TO_LEARN = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One section, its numbers, and the findings that come with it."""

    section: Section
    data: dict[str, Any]
    findings: tuple[Finding, ...] = ()


def other_columns(settings: DataSettings) -> dict[str, pa.Array]:
    """Return the columns of a file that training does not read, by name; of a table in memory nothing."""
    used = {*settings.text, *settings.target, settings.weight, settings.fold}
    parts: list[dict[str, pa.Array]] = []
    for path in settings.files:
        if isinstance(path, MemoryTable):
            return {}
        options = ReadOptions(encoding=settings.encoding, delimiter=settings.delimiter, limit=settings.limit)
        names = [name for name in read_column_names(path.expanduser(), options) if name not in used]
        if parts:
            names = [name for name in names if name in parts[0]]
        parts.append(read_cells(path.expanduser(), names, options) if names else {})
    shared = parts[-1]
    return {name: pa.chunked_array([part[name] for part in parts]).combine_chunks() for name in shared}


def describe_table(
    settings: DataSettings, table: Table, targets: Targets, others: Mapping[str, pa.Array], folds: Folds
) -> Part:
    """Tell the columns, what each is read as, and a few rows."""
    columns: list[tuple[str, str, pa.Array]] = []
    for number, (name, cells) in enumerate(zip(settings.text, table.texts, strict=True), start=1):
        columns.append((name, "text" if len(table.texts) == 1 else f"text {number}", cells))
    truths = [(name, f"target ({targets.kind})", cells) for name, cells in table.targets.items()]
    roles = {settings.id: "id", settings.group: "group"}
    rest = [(name, roles.get(name, "not used"), cells) for name, cells in others.items()]
    shown_columns = [*columns, *truths[:MOST_TARGETS], *rest][:MOST_COLUMNS]
    columns += [*truths, *rest]
    lines = tuple(
        (
            name,
            role,
            f"{pc.count_distinct(cells).as_py():,}",
            f"{pc.sum(pc.equal(pc.utf8_trim_whitespace(cells.fill_null('')), '')).as_py() or 0:,}",
            _example(cells),
        )
        for name, role, cells in shown_columns
    )
    blocks: list[Block] = [
        Paragraph(
            text=f"{len(table):,} rows, read as {targets.reason} "
            f"{_fold_sentence(folds)}{' ' if folds.notes else ''}{' '.join(folds.notes)}"
        ),
        Cells(head=("column", "read as", "different", "empty", "for example"), lines=lines, has_texts=True),
    ]
    if len(columns) > len(shown_columns):
        blocks.append(Paragraph(text=f"{len(columns) - len(shown_columns):,} more columns are not shown."))
    rows = np.unique(np.linspace(0, len(table) - 1, 3).astype(int))
    blocks.append(
        Cells(
            head=("row", "target", "text"),
            lines=tuple(
                (
                    str(table.place(int(row))[1] + 1),
                    shorten(_target_text(table, targets, int(row)), 40),
                    " | ".join(shown(column[int(row)].as_py(), 110) for column in table.texts),
                )
                for row in rows
            ),
            has_texts=True,
        )
    )
    return Part(
        section=Section(title="What the table is", blocks=tuple(blocks)),
        data={
            "rows": len(table),
            "task": targets.kind,
            "reason": targets.reason,
            "folds": {"kind": folds.kind, "count": folds.count},
            "columns": [
                {"name": name, "read_as": role, "different": pc.count_distinct(cells).as_py()}
                for name, role, cells in columns
            ],
        },
    )


def _target_text(table: Table, targets: Targets, row: int) -> str:
    """Return a row's target as the table has it; of labels the names of those that are there."""
    if targets.kind == "multilabel":
        return readable_target(targets, row)
    return ", ".join(cells[row].as_py() for cells in table.targets.values())


def _example(cells: pa.Array) -> str:
    lengths = pc.utf8_length(cells.fill_null("")).to_numpy()
    return shown(cells[int(np.argsort(lengths, kind="stable")[len(lengths) // 2])].as_py() or "", 60)


def _fold_sentence(folds: Folds) -> str:
    if folds.kind == "none":
        return "All rows train."
    if folds.holdout:
        return f"{len(folds.training_rows(0)):,} rows train and {len(folds.validation_rows(0)):,} validate."
    return f"{folds.count} folds ({folds.kind})."


def describe_targets(targets: Targets, folds: Folds, numbers: list[int]) -> Part:
    """Tell how the targets are spread, over all rows and in each fold."""
    all_rows = np.arange(len(targets.values))
    blocks: list[Block] = []
    data: dict[str, Any] = {}
    if targets.kind == "regression":
        statistics = {
            name: [
                float(value)
                for value in (
                    v.mean(),
                    v.std(),
                    v.min(),
                    *np.quantile(v, (0.25, 0.5, 0.75)),
                    v.max(),
                    len(np.unique(v)),
                )
            ]
            for name, v in zip(targets.columns, targets.values.T, strict=True)
        }
        head = ("mean", "deviation", "least", "25%", "median", "75%", "most", "values")
        blocks.append(
            Cells(
                head=("target", *head),
                lines=tuple((name, *(minus(f"{value:,.4g}") for value in v)) for name, v in statistics.items()),
            )
        )
        data["statistics"] = {name: dict(zip(head, values, strict=True)) for name, values in statistics.items()}
        blocks += [
            Figure(
                svg=drawings.histogram(f"target-{place}", f"Values of {name}", values, name),
                caption=f"Values of {name}, all rows.",
            )
            for place, (name, values) in enumerate(zip(targets.columns, targets.values.T, strict=True))
            if place < MOST_TARGETS
        ]
    else:
        counts = targets.values.sum(axis=0) if targets.kind == "soft" else rows_of_classes(targets, all_rows)
        order = np.argsort(-counts, kind="stable")
        top = [*order] if len(order) <= 2 * MOST_LINES else [*order[:MOST_LINES], *order[-MOST_LINES:]]
        share = counts / len(targets.values)
        what, plural = ("label", "labels") if targets.kind == "multilabel" else ("class", "classes")
        blocks.append(
            Figure(
                svg=drawings.bars(
                    "classes",
                    "Rows of each class or label",
                    [targets.classes[place] for place in top],
                    [float(counts[place]) for place in top],
                    [f"{counts[place]:,.0f} ({percent(float(share[place]))})" for place in top],
                ),
                caption=f"Rows of each {what}."
                if len(top) == len(order)
                else f"Rows of the {MOST_LINES} most and the {MOST_LINES} least frequent of {len(order)} {plural}.",
            )
        )
        blocks.append(
            Cells(
                head=(what, "rows", "share"),
                lines=tuple(
                    (targets.classes[p], f"{counts[p]:,.0f}", percent(float(share[p]))) for p in top[:MOST_LINES]
                ),
                caption="" if len(order) <= MOST_LINES else f"The {MOST_LINES} most frequent of {len(order)}.",
            )
        )
        data["rows_of_classes"] = {targets.classes[p]: float(counts[p]) for p in order}
    correlations = target_correlations(targets)
    if correlations:
        strongest = sorted(correlations.items(), key=lambda item: -abs(item[1]))[:MOST_LINES]
        blocks.append(
            Cells(
                head=("targets", "correlation"),
                lines=tuple((f"{a} and {b}", minus(f"{r:.2f}")) for (a, b), r in strongest),
                caption="Pearson correlation of the targets, the strongest first.",
            )
        )
        data["correlations"] = [{"targets": list(pair), "pearson": r} for pair, r in correlations.items()]
    if numbers:
        blocks.append(
            Cells(
                head=("fold", "rows", "targets"),
                lines=tuple(
                    (
                        str(number),
                        f"{len(folds.validation_rows(number)):,}",
                        targets.describe(folds.validation_rows(number)),
                    )
                    for number in numbers
                ),
                caption="The validation rows of each fold.",
                has_texts=True,
            )
        )
    return Part(section=Section(title="The targets", blocks=tuple(blocks)), data=data)


def measure_simple_answers(
    table: Table, targets: Targets, folds: Folds, number: int, *, weights: NDArray[np.float64]
) -> Part:
    """Measure the constant answer and the linear model on the validation rows of a fold, and how the latter learns."""
    metric = default_metric(targets.kind)
    validation = folds.validation_rows(number)
    training = folds.training_rows(number)
    truth = targets.values[validation]
    shuffled = training[np.random.RandomState(0).permutation(len(training))]
    parts = [np.sort(shuffled[: max(1, round(len(shuffled) * share))]) for share in SHARES]
    made = [
        (len(part), _yardsticks(table, targets, part, validation, weights))
        for part in parts
        if len(part) >= LEAST_ROWS_TO_LEARN or part is parts[-1]
    ]
    whole = made[-1][1]
    lines: list[tuple[str, ...]] = []
    scores: dict[str, float] = {}
    data: dict[str, Any] = {"metric": metric, "fold": number, "validation_rows": len(validation), "curve": []}
    for name, predicted in (("constant answer", whole.constant), ("linear model", whole.linear)):
        if predicted is None:
            lines.append((name, f"none: {whole.reason}", ""))
            continue
        value, interval = _score(targets, truth, predicted, metric)
        lines.append((name, _number(value), _interval(interval)))
        if value is not None:
            scores[name] = value
        data[name.replace(" ", "_")] = {"value": value, "interval": interval}
    blocks: list[Block] = [
        Cells(
            head=("answer", metric, "95% interval"),
            lines=tuple(lines),
            caption=f"On the {len(validation):,} validation rows of fold {number}; "
            f"{'lower' if metric in LOWER_IS_BETTER else 'higher'} is better. The linear model sees n-grams of words "
            f"and characters, and learned from {whole.training_rows:,} rows.",
        )
    ]
    points = []
    for rows, yardsticks in made:
        if yardsticks.linear is not None:
            value, interval = _score(targets, truth, yardsticks.linear, metric)
            if value is not None:
                low, high = interval or (value, value)
                points.append((rows, (value, low, high)))
                data["curve"].append({"rows": rows, "value": value, "interval": interval})
    if len(points) > 1:
        blocks.append(
            Figure(
                svg=drawings.curve(
                    "curve",
                    "Learning curve of the linear model",
                    x=[rows for rows, _ in points],
                    points=[point for _, point in points],
                    labels=("training rows (log scale)", metric),
                ),
                caption="The linear model on 1/8, 1/4, 1/2 and all of the training rows, with 95% intervals.",
            )
        )
        blocks.append(
            Cells(
                head=("training rows", metric, "95% interval"),
                lines=tuple((f"{rows:,}", _number(v), _interval((low, high))) for rows, (v, low, high) in points),
            )
        )
    findings = [*_learns_nothing(targets, truth, whole, metric)]
    if len(made) > 1 and made[-2][1].linear is not None and whole.linear is not None:
        gain = bootstrap_differences(targets.kind, truth, whole.linear, made[-2][1].linear, metrics=[metric])[metric]
        said, finding = _more_rows(metric, gain, points)
        blocks.append(Paragraph(text=said))
        findings += finding
    if scores:
        name = (min if metric in LOWER_IS_BETTER else max)(scores, key=lambda name: scores[name])
        said = f"An encoder must beat {metric} {_number(scores[name])} ({name}) on these rows to be worth its time."
        blocks.append(Paragraph(text=said))
    return Part(
        section=Section(title="What any model must beat", blocks=tuple(blocks)), data=data, findings=tuple(findings)
    )


def _yardsticks(
    table: Table,
    targets: Targets,
    training: NDArray[np.int64],
    validation: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> Yardsticks:
    return measure_yardsticks(
        targets.kind,
        texts=table.texts,
        targets=targets.values,
        weights=weights,
        training_rows=training,
        validation_rows=validation,
        outputs=len(targets.classes) or len(targets.columns),
    )


def _score(
    targets: Targets, truth: NDArray[np.generic], predicted: NDArray[np.float64], metric: MetricName
) -> tuple[float | None, tuple[float, float] | None]:
    value = compute_metrics(targets.kind, truth, predicted)[metric]
    return value, bootstrap_intervals(targets.kind, truth, predicted, metrics=[metric])[metric]


def _learns_nothing(
    targets: Targets, truth: NDArray[np.generic], made: Yardsticks, metric: MetricName
) -> Iterator[Finding]:
    if made.linear is None:
        return
    gain = bootstrap_differences(targets.kind, truth, made.linear, made.constant, metrics=[metric])[metric]
    if gain is None:
        return
    better = gain[1] < 0 if metric in LOWER_IS_BETTER else gain[0] > 0
    if not better:
        yield Finding(
            code="LT501",
            severity="note",
            found="the linear model is not shown to be better than the constant answer (95% interval of the difference "
            f"in {metric}: {_interval(gain)})",
            advice="check that texts and targets belong together, and expect that an encoder may learn little, too",
        )


def _more_rows(
    metric: MetricName, gain: tuple[float, float] | None, points: list[tuple[int, tuple[float, float, float]]]
) -> tuple[str, list[Finding]]:
    if gain is None or len(points) < 2:
        return "Whether more rows would help cannot be told.", []
    rises = gain[1] < 0 if metric in LOWER_IS_BETTER else gain[0] > 0
    step = points[-1][1][0] - points[-2][1][0]
    change = minus(f"{step:+.3g}")
    said = f"from {points[-2][0]:,} to {points[-1][0]:,} rows {metric} changed by {change} {_interval(gain)}"
    if not rises:
        return f"The linear model gained nothing that can be shown from the last doubling: {said}.", []
    finding = Finding(
        code="LT502",
        severity="note",
        found=f"the learning curve of the linear model still rises: {said}",
        advice="more rows would probably help: expect of twice as many rows what the last doubling gained, or less",
    )
    return f"More rows would help the linear model: {said}.", [finding]


def _number(value: float | None) -> str:
    return "–" if value is None else minus(figure(value, 4))


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else minus(f"[{interval[0]:.4g}, {interval[1]:.4g}]")
