"""`leantune inspect`: a table before training, or a finished run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leantune.advice.blocks import Block, Cells, Paragraph, Section
from leantune.advice.inspection import Inspection, check_codes, sort_findings
from leantune.advice.probe import measure, prepare_quietly
from leantune.advice.run_parts import (
    Answers,
    describe_calibration,
    describe_doubts,
    describe_errors,
    describe_parts,
    describe_run,
    text_lengths,
)
from leantune.advice.settings_advice import advise
from leantune.advice.table_parts import (
    Part,
    describe_table,
    describe_targets,
    measure_simple_answers,
    other_columns,
)
from leantune.advice.token_part import describe_tokens
from leantune.inference.out_of_fold import OutOfFold, read_out_of_fold
from leantune.inference.trained_run import open_run
from leantune.inspection.findings import Finding, duplicates_across_folds, percent, row_text, untrained_classes
from leantune.inspection.leakage import (
    NearCopies,
    column_predicts_target,
    contradicting_targets,
    duplicates,
    id_predicts_target,
    near_duplicates_across_folds,
    suggested_groups,
)
from leantune.inspection.target_checks import (
    constant_labels,
    correlated_targets,
    fold_differs,
    one_class_dominates,
    other_reading,
    outliers,
    rare_classes,
    rounded_scale,
)
from leantune.runs.config import Config, assign, dump_config, load_config
from leantune.system.errors import InputError, SettingsError
from leantune.system.settings import check
from leantune.tables.columns import resolve_targets
from leantune.tables.folds import fold_table
from leantune.tables.memory import MemoryTable, as_origin
from leantune.tables.table import DataSettings, Table, read_table

NO_MODEL = "none"
"""Stands for the model in settings that are read without one."""


def inspect(
    data: Any = None,
    *,
    text: str | list[str] | None = None,
    target: str | list[str] | None = None,
    model: str | None = None,
    validation: Any = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    ignore: Iterable[str] = (),
) -> Inspection:
    """Inspect a table before training, or a finished run; the same as `leantune inspect`.

    `data` is a table as `leantune.train` takes it, or the folder of a finished run; the other arguments are those of
    `leantune.train`. Without `model`, what needs a tokenizer or an encoder is left out, and said to be. `ignore` has
    codes of findings to leave out. Raises `InputError` for what the caller must change.
    """
    flags = {
        "data.path": None if data is None else as_origin(data),
        "data.text": text,
        "data.target": target,
        "data.validation": None if validation is None else as_origin(validation),
        "model.name": model,
    }
    given = {name: value for name, value in flags.items() if value is not None} | dict(settings or {})
    return inspect_any(None if config is None else Path(config), given, (), ignore=tuple(ignore))


def inspect_any(
    config: Path | None, flags: Mapping[str, Any], assignments: Iterable[str], *, ignore: tuple[str, ...]
) -> Inspection:
    """Inspect the run or the table that `data.path` names, with settings as `load_config` takes them."""
    ignored = check_codes(ignore)
    path = flags.get("data.path")
    if isinstance(path, str | Path) and _is_run(Path(path).expanduser(), flags):
        others = sorted(name for name in flags if name != "data.path")
        given = tuple(assignments)
        if others or config is not None or any(not text.startswith("data.") for text in given):
            raise SettingsError(
                f"{path}: found a folder, which is inspected as a run, expected no settings beside it but --set "
                f"data.KEY=VALUE, and found {', '.join(others) or '--config or --set'}; remove them, or give the file "
                "of a table"
            )
        return inspect_run(Path(path), ignored, given)
    has_model = "model.name" in flags
    if not has_model and config is None:
        flags = {**flags, "model.name": NO_MODEL}
    loaded = load_config(config, flags, assignments)
    return inspect_table(loaded, ignored, has_model=loaded.model.name != NO_MODEL)


def _is_run(folder: Path, flags: Mapping[str, Any]) -> bool:
    """Tell whether a path is meant as a run; a folder of which columns are named may be a table in parts."""
    names_columns = "data.text" in flags or "data.target" in flags
    return folder.is_dir() and ((folder / "config.yaml").is_file() or not names_columns)


def inspect_table(config: Config, ignored: tuple[str, ...], *, has_model: bool) -> Inspection:
    """Inspect a table; with a model also its tokens and what training costs."""
    config = config.model_copy(update={"data": resolve_targets(config.data)})
    table, targets, folds = fold_table(config.data, None if config.fold == "none" else config.folds)
    numbers: list[int] = [] if config.fold == "none" else list(range(folds.count))
    others = other_columns(config.data)
    copies = NearCopies.find(table)
    findings: list[Finding] = [
        *other_reading(table, targets, config.data.task),
        *rare_classes(targets),
        *one_class_dominates(targets),
        *outliers(table, targets),
        *rounded_scale(targets),
        *correlated_targets(targets),
        *constant_labels(targets),
        *duplicates(table, copies),
        *contradicting_targets(table, targets),
        *suggested_groups(table, others, targets, group=config.data.group),
        *id_predicts_target(others, targets),
        *column_predicts_target(others, targets),
    ]
    if numbers:
        findings += [
            *duplicates_across_folds(table, folds, numbers),
            *untrained_classes(table, targets, folds, numbers),
            *fold_differs(targets, folds, numbers),
            *near_duplicates_across_folds(table, folds, numbers, copies),
        ]
    parts: dict[str, Part] = {
        "table": describe_table(config.data, table, targets, others, folds),
        "targets": describe_targets(targets, folds, numbers),
        "copies": _describe_copies(table, copies),
    }
    if numbers:
        weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
        number = config.fold if isinstance(config.fold, int) else 0
        parts["yardsticks"] = measure_simple_answers(table, targets, folds, number, weights=weights)
    settings = ""
    if has_model:
        quiet = config.model_copy(update={"tokens": config.tokens.model_copy(update={"unknown": "allow"})})
        prepared, encoder = prepare_quietly(quiet)
        parts["tokens"] = describe_tokens(prepared, encoder, table, config.model.name)
        known = (*findings, *(finding for part in parts.values() for finding in part.findings))
        cost = measure(prepared, encoder)
        del encoder  # its memory is the next candidate's
        parts["advice"], settings = advise(quiet, prepared, cost, known)
    else:
        left_out = Paragraph(
            text="Left out, since they need a model: lengths in tokens, what max_length cuts, padding, unknown tokens, "
            "seconds an epoch, memory, and settings to train with. Give one with --model MODEL."
        )
        parts["tokens"] = Part(section=Section(title="Lengths and tokens", blocks=(left_out,)), data={"left_out": True})
    findings += [finding for part in parts.values() for finding in part.findings]
    names = " and ".join(path.name for path in config.data.files)
    return Inspection(
        title=names,
        subtitle=f"{len(table):,} rows, {' and '.join(config.data.text)} → {_few(config.data.target)} ({targets.kind})"
        + (f", {config.model.name}" if has_model else ""),
        findings=sort_findings(findings, ignored),
        sections=tuple(part.section for part in _in_order(parts)),
        data={name: part.data for name, part in parts.items()},
        settings=settings,
        ignored=ignored,
        places=_places(config),
    )


def _places(config: Config) -> tuple[str, ...]:
    """Return the paths that settings name: of the table and of the model, which may also be a name."""
    files = (path for path in config.data.files if not isinstance(path, MemoryTable))
    return (*map(str, files), config.model.name)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _in_order(parts: Mapping[str, Part]) -> list[Part]:
    order = ("table", "targets", "tokens", "copies", "yardsticks", "advice")
    return [parts[name] for name in order if name in parts]


def _describe_copies(table: Table, copies: NearCopies) -> Part:
    """Show the pairs of rows whose texts are most alike, but not the same."""
    order = np.argsort(-copies.similarity, kind="stable")
    order = order[copies.similarity[order] < 1][:6]
    lines = tuple(
        (
            f"{table.place(int(one))[1] + 1} and {table.place(int(other))[1] + 1}",
            percent(float(copies.similarity[place])),
            f"{row_text(table, int(one), 80)} / {row_text(table, int(other), 80)}",
        )
        for place in order
        for one, other in [copies.pairs[place]]
    )
    pairs = "1 pair shares" if len(copies.pairs) == 1 else f"{len(copies.pairs):,} pairs share"
    said = f"{copies.compared:,} rows were compared; {pairs} 80% or more of the runs of 5 characters. The findings "
    said += "above say how many of them have one text in training and the other in validation."
    blocks: list[Block] = [Paragraph(text=said)]
    if lines:
        blocks.append(Cells(head=("rows", "alike", "texts"), lines=lines, has_texts=True))
    data = {
        "compared": copies.compared,
        "pairs": len(copies.pairs),
        "examples": [
            {"rows": copies.pairs[place].tolist(), "similarity": float(copies.similarity[place])} for place in order
        ],
    }
    return Part(section=Section(title="Copies and near copies", blocks=tuple(blocks)), data=data)


def inspect_run(folder: Path, ignored: tuple[str, ...], assignments: tuple[str, ...] = ()) -> Inspection:
    """Inspect the validation rows of a finished run.

    `assignments` such as `data.path=train.csv` say where its table is now, and how it is read.
    """
    run = open_run(folder)
    found = read_out_of_fold(run)
    settings = dump_config(run.config)
    for assignment in assignments:
        assign(settings, assignment)
    texts, columns, left_out = _texts_of(check(DataSettings, settings["data"], "data"), found)
    answers = Answers(run=run, found=found, texts=texts, columns=columns)
    parts = {
        "run": describe_run(answers),
        "errors": describe_errors(answers),
        "calibration": describe_calibration(answers),
        "doubts": describe_doubts(answers),
        "parts": describe_parts(answers, text_lengths(texts)),
    }
    sections = [part.section for part in parts.values()]
    if left_out:
        sections.append(Section(title="What was left out", blocks=(Paragraph(text=left_out),)))
    findings = [finding for part in parts.values() for finding in part.findings]
    return Inspection(
        title=folder.expanduser().resolve().name,
        subtitle=f"{run.task.kind}, {len(found.rows):,} validation rows, {run.config.model.name}",
        findings=sort_findings(findings, ignored),
        sections=tuple(sections),
        data={name: part.data for name, part in parts.items()},
        ignored=ignored,
        places=_places(run.config),
    )


def _texts_of(data: DataSettings, found: OutOfFold) -> tuple[tuple[pa.Array, ...] | None, dict[str, pa.Array], str]:
    """Return the texts and other columns of a run's validation rows, or why there are none."""
    advice = "say where it is with --set data.path=FILE"
    if any(isinstance(path, MemoryTable) for path in data.files):
        return None, {}, f"Texts and columns are not shown, since the table was in memory: {advice}."
    try:
        table = read_table(data)
        others = other_columns(data)
    except InputError as error:
        return None, {}, f"Texts and columns are not shown, since the table cannot be read ({error}): {advice}."
    places = pa.array(found.rows)
    if len(table) <= int(found.rows.max()) or tuple(table.ids.take(places).to_pylist()) != found.ids:
        return None, {}, f"Texts and columns are not shown, since {table.path} is not the table of this run: {advice}."
    groups = {} if table.groups is None or data.group is None else {data.group: table.groups}
    columns = {name: cells.take(places) for name, cells in {**others, **groups}.items()}
    return tuple(column.take(places) for column in table.texts), columns, ""
