"""The command line. Heavy imports wait until a command runs, so that help and mistyped options answer at once."""

# ruff: noqa: PLC0415
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from leantune.system import threads
from leantune.system.errors import LeantuneError, SettingsError
from leantune.system.stopping import Stopped, listen
from leantune.system.terminal import flush_standard_streams, hold_standard_streams, say

app = typer.Typer(
    help="Fine-tune a text encoder without waste, and know what each trick bought you.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

STARTING = "leantune: loading torch and transformers, which takes some seconds"
"""Said before that, so that nobody wonders what happens."""

UsageError: Any = typer.BadParameter.__base__
"""What typer raises for options and commands that do not exist; it has no public name for it."""

TABLE_HELP = "Table of rows: .csv, .tsv, .jsonl, .json, .parquet, .feather or .xlsx; .gz, .zst or .zip may follow."
Targets = Annotated[
    list[str] | None, typer.Option(metavar="COL", help="Column to learn; 'label_*', a,b or repeated for several.")
]
Group = Annotated[str | None, typer.Option(metavar="COL", help="Column whose groups no fold may part.")]
Id = Annotated[
    str | None, typer.Option("--id", metavar="COL", help="Column that names the rows; else `id` if there, or numbers.")
]

MissingText = Annotated[str | None, typer.Option(help="A missing text: refuse, empty or drop (leave out the row).")]
DropMissing = Annotated[bool, typer.Option("--drop-missing", help="Leave out the rows without a target.")]
Decimal = Annotated[str | None, typer.Option(metavar="CHAR", help="What separates decimals: . or a comma.")]
Thousands = Annotated[str | None, typer.Option(metavar="CHAR", help="What separates thousands, as in 1,500.")]
LabelSeparator = Annotated[
    str | None, typer.Option(metavar="CHAR", help="What separates the labels in a cell; else it is found.")
]
Encoding = Annotated[str | None, typer.Option(metavar="NAME", help="Text encoding of DATA, such as cp932; else UTF-8.")]
Delimiter = Annotated[str | None, typer.Option(metavar="CHAR", help="What separates fields in CSV or TSV.")]


@contextmanager
def _importing() -> Iterator[None]:
    """Import without garbage collection during a block: it would look through everything imported before, again and
    again, which takes a second with torch and transformers. What was imported stays, so later collections pass over it.
    """
    modules = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if len(sys.modules) > modules:
            gc.freeze()


def _joined(text: list[str] | None, between: str) -> str:
    """Return the template that joins columns."""
    if not text:
        raise SettingsError("--join: it joins the columns of --text; name them")
    braces = str.maketrans({"{": "{{", "}": "}}"})
    return between.translate(braces).join(f"{{{name}}}" for name in text)


@app.command()
def train(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help=TABLE_HELP)] = None,
    *,
    text: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="Column of the texts; twice for pairs of texts.")
    ] = None,
    target: Targets = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An encoder: folder, hub name, or `demo` (extra `demo`).")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="RUN", help="New folder for everything the run writes.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where RUN was stopped or killed; begin where nothing is there.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --resume: go on although data or settings have changed.")
    ] = False,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file of settings; options win.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as optimizer.epochs=1.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table whose rows validate; then all rows of DATA train.")
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="The fold that validates, from 0; `all`: a model a fold; `none`: all rows train."
        ),
    ] = None,
    id_column: Id = None,
    group: Group = None,
    join: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Join the columns of --text to one text, with this between.")
    ] = None,
    missing_text: MissingText = None,
    drop_missing: DropMissing = False,
    decimal: Decimal = None,
    thousands: Thousands = None,
    label_separator: LabelSeparator = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
) -> None:
    """Fine-tune an encoder on a table of texts, and measure it."""
    say(STARTING, error=True)
    threads.set_up_threads()
    with _importing():
        from leantune.runs.display import Display
        from leantune.runs.run import load_run_config, run
        from leantune.training.clock import process_started_at

    flags = {
        "data.path": data,
        "data.text": text,
        "data.target": target,
        "data.id": id_column,
        "data.group": group,
        "data.validation": validation,
        "data.template": None if join is None else _joined(text, join),
        "data.missing_text": missing_text,
        "data.drop_missing": drop_missing,
        "data.decimal": decimal,
        "data.thousands": thousands,
        "data.label_separator": label_separator,
        "data.encoding": encoding,
        "data.delimiter": delimiter,
        "model.name": model,
        "fold": fold,
    }
    if force and not resume:
        raise SettingsError("--force: it overrides what --resume refuses; give both, or neither")
    given = {name: value for name, value in flags.items() if value}
    loaded = load_run_config(config, given, assign or (), resumed=output if resume else None)
    for _ in Display.over(run(loaded, output, started_at=process_started_at(), resume=resume, force=force)):
        pass
    say(f"{output}")


RUNS_HELP = "Folders of finished runs (several are averaged), then the table: .csv, .tsv, .jsonl or .parquet."
Paths = Annotated[list[Path], typer.Argument(metavar="RUN... DATA", help=RUNS_HELP)]
TextColumn = Annotated[
    list[str] | None, typer.Option(metavar="COL", help="Column of the texts, where it is not the training's.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W,W", help="What each run counts, such as 0.7,0.3, or fitted: by its validation rows; else alike."
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="fp32 repeats the run's own predictions; auto, bf16, fp16 or tf32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Reading = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="data.KEY=VALUE", help="How DATA is read, such as data.encoding=cp932."),
]
Force = Annotated[bool, typer.Option("--force", help="Write FILE anew where it is there.")]


@app.command()
def predict(
    paths: Paths,
    *,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Table to write: .csv, .tsv, .jsonl or .parquet; .gz or .zst may follow."),
    ],
    text: TextColumn = None,
    id_column: Id = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="Column to copy into FILE; repeat for several.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Write the columns and the rows, in their order, of this table."),
    ] = None,
    weights: Weights = None,
    decide: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Fit thresholds for this metric (f1, f1_macro, qwk, ...) and decide by them."
        ),
    ] = None,
    per_fold: Annotated[
        bool, typer.Option("--per-fold", help="Add the values of each model, and their standard deviation.")
    ] = False,
    precision: PrecisionOption = "fp32",
    device: Device = "auto",
    assign: Reading = None,
    force: Force = False,
) -> None:
    """Predict a table of texts with a finished run; give the same command again after an interruption."""
    threads.set_up_threads()
    with _importing():
        from leantune.inference.file import (
            PredictOptions,
            as_metric_name,
            as_precision,
            parse_weights,
            predict_file,
            split_paths,
        )
        from leantune.runs.display import Display

    runs, data = split_paths(paths)
    options = PredictOptions(
        weights=parse_weights(weights),
        decide=as_metric_name(decide),
        text=tuple(text or ()),
        id=id_column,
        keep=tuple(keep or ()),
        like=like,
        per_model=per_fold,
        force=force,
        device=device,
        precision=as_precision(precision),
        assignments=tuple(assign or ()),
    )
    for _ in Display.over(predict_file(runs, data, output.expanduser(), options)):
        pass
    say(f"{output}")


@app.command()
def evaluate(
    paths: Paths,
    *,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the predictions, as `leantune predict` does.")
    ] = None,
    text: TextColumn = None,
    id_column: Id = None,
    weights: Weights = None,
    precision: PrecisionOption = "fp32",
    device: Device = "auto",
    assign: Reading = None,
    force: Force = False,
) -> None:
    """Tell how good a finished run is on a table with targets: metrics with intervals, beside simple answers."""
    threads.set_up_threads()
    with _importing():
        from leantune.inference.evaluation import evaluate_and_show
        from leantune.inference.file import PredictOptions, as_precision, parse_weights, split_paths

    runs, data = split_paths(paths)
    options = PredictOptions(
        weights=parse_weights(weights),
        text=tuple(text or ()),
        id=id_column,
        force=force,
        device=device,
        precision=as_precision(precision),
        assignments=tuple(assign or ()),
    )
    found = evaluate_and_show(runs, data, None if output is None else output.expanduser(), options)
    for line in found.lines():
        say(line)


@app.command()
def inspect(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA|RUN", help="A table, or the folder of a finished run.")
    ] = None,
    *,
    text: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="Column of the texts; twice for pairs of texts.")
    ] = None,
    target: Targets = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An encoder: adds tokens, padding, times and settings.")
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Write .html, .md, .json, or .yaml: the settings; may be repeated."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Finding to leave out, such as LT403; repeat for several.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML file of settings; options win.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as tokens.max_length=128.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(metavar="FILE", help="Table whose rows validate.")] = None,
    id_column: Id = None,
    group: Group = None,
) -> None:
    """Show what is wrong with a table before training, what training costs, or where a finished run errs."""
    threads.set_up_threads()
    with _importing():
        from leantune.advice.inspecting import inspect_any
        from leantune.advice.inspection import check_output

    files = [check_output(path) for path in output or ()]
    flags = {
        "data.path": data,
        "data.text": text,
        "data.target": target,
        "data.id": id_column,
        "data.group": group,
        "data.validation": validation,
        "model.name": model,
    }
    given = {name: value for name, value in flags.items() if value}
    found = inspect_any(config, given, tuple(assign or ()), ignore=tuple(ignore or ()))
    say(str(found))
    for path in files:
        found.write(path)
        say(f"written: {path}")


@app.command()
def folds(
    data: Annotated[Path, typer.Argument(metavar="DATA", help=TABLE_HELP)],
    *,
    target: Targets = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="CSV file to write: id,fold.")],
    count: Annotated[int, typer.Option(help="How many folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    kind: Annotated[str, typer.Option(help="auto, sturges, stratified, group, random or multilabel.")] = "auto",
    task: Annotated[str, typer.Option(help="auto, regression, binary, multiclass, multilabel or soft.")] = "auto",
    id_column: Id = None,
    group: Group = None,
    drop_missing: DropMissing = False,
    decimal: Decimal = None,
    thousands: Thousands = None,
    label_separator: LabelSeparator = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    assign: Reading = None,
    force: Force = False,
) -> None:
    """Deal the rows of a table into folds, and write id,fold."""
    with _importing():
        from leantune.runs.record import note_formulas, write_folds
        from leantune.system.settings import check
        from leantune.tables.folds import FoldSettings, fold_table
        from leantune.tables.table import DataSettings
        from leantune.tables.writers import refuse_unwritable

    if not target:
        raise SettingsError("--target: name the column whose values the folds should share out")
    if output.resolve() == data.resolve():
        raise SettingsError(f"--output: {output} is the table itself; give another file")
    if output.suffix.lower() != ".csv":
        raise SettingsError(f"--output: found {str(output)!r}, expected a name that ends in .csv: folds are CSV")
    refuse_unwritable(output, force=force)
    settings = check(FoldSettings, {"count": count, "seed": seed, "kind": kind}, "folds")
    given = {
        "path": data,
        "target": target,
        "task": task,
        "id": id_column,
        "group": group,
        "drop_missing": drop_missing,
        "decimal": decimal,
        "thousands": thousands,
        "label_separator": label_separator,
        "encoding": encoding,
        "delimiter": delimiter,
    }
    nested = {"data": {name: value for name, value in given.items() if value is not None}}
    for assignment in assign or ():
        if not assignment.startswith("data."):
            raise SettingsError(f"--set: found {assignment!r}, expected a setting of the table, data.NAME=VALUE")
        with _importing():
            from leantune.runs.config import assign as set_value  # with torch, which nothing else here needs
        set_value(nested, assignment)
    columns = check(DataSettings, nested["data"], "data")
    table, targets, made = fold_table(columns, settings)
    write_folds(output, table.ids, made.of_row)
    say(f"{targets.reason}\n{made.count} folds ({made.kind}) of {len(table):,} rows:")
    for number in range(made.count):
        rows = made.validation_rows(number)
        say(f"  fold {number}: {len(rows):,} rows, {targets.describe(rows)}")
    for note in (*table.notes, *made.notes, *note_formulas(table.ids)):
        say(note)
    say(f"written: {output}")


@app.command()
def compare(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="Recipes, seeds and folds.")],
    *,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs and the report; finished runs stay.")],
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the experiment, such as base.data.limit=400."),
    ] = None,
    settle: Annotated[
        int | None, typer.Option(metavar="N", help="Add seeds until every verdict is given: at most N in all.")
    ] = None,
    repeat_disturbed: Annotated[
        bool,
        typer.Option("--repeat-disturbed", help="Repeat runs before which the machine ran 20% slower or faster."),
    ] = False,
) -> None:
    """Compare training recipes on the same rows, folds and seeds, with intervals."""
    with _importing():
        from leantune.experiments.experiment import compare as compare_recipes

    compare_recipes(
        experiment,
        output=output,
        assignments=tuple(assign or ()),
        settle=settle,
        repeat_disturbed=repeat_disturbed,
    )
    say(f"{output / 'report.html'}")


@app.command()
def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs; several are an ensemble.")],
    *,
    output: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.")],
    format: Annotated[str, typer.Option("--format", help="huggingface or onnx (extra `onnx`).")] = "huggingface",  # noqa: A002
    fold: Annotated[str | None, typer.Option(metavar="N", help="The model of one fold; else those of all.")] = None,
    average: Annotated[
        bool,
        typer.Option("--average", help="One model of several seeds: the mean of the weights, where it is as good."),
    ] = False,
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="Add an ONNX file in 8 bits, where it is nearly as good.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of the gain over the constant answer, what int8 may lose; else 0.02."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Validation rows, where the run's table is not there any more.")
    ] = None,
) -> None:
    """Write a run's model for transformers, sentence-transformers or onnxruntime, and try it."""
    threads.set_up_threads()
    with _importing():
        from leantune.inference.exporting import export as export_runs

    done = export_runs(
        runs,
        output=output,
        format=format,
        fold=fold,
        average=average,
        quantize=quantize,
        tolerance=tolerance,
        data=data,
    )
    for note in done.notes:
        say(note, error=True)
    say(f"{done.folder}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `leantune compare` wrote.")],
) -> None:
    """Rebuild a comparison's report from its run folders."""
    with _importing():
        from leantune.report.overview import show_comparison
        from leantune.report.pages import rebuild_report
        from leantune.training.events import heard

    for _ in heard([rebuild_report(folder)], show_comparison, "the display"):
        say(f"{folder / 'report.html'}")


@app.command()
def demo(
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the comparison; else leantune-demo, numbered.")
    ] = None,
) -> None:
    """Compare four ways to fine-tune a small encoder on shipped sentences, offline."""
    with _importing():
        from leantune.experiments.example import free_folder
        from leantune.experiments.experiment import demo as compare_demo

    folder = output or free_folder(Path("leantune-demo"))
    compare_demo(folder)
    say(f"{folder / 'report.html'}")


@app.command()
def cache(
    *, clear: Annotated[bool, typer.Option("--clear", help="Remove the files; later runs tokenize again.")] = False
) -> None:
    """Show what tokens and yardsticks are kept of earlier runs, and how much room they take."""
    from leantune.tokens.cache import limit_bytes, list_files, remove_files, token_folder, yardstick_folder

    folder = token_folder()
    files = [*list_files(folder), *list_files(yardstick_folder())]
    say(f"folder: {folder}")
    if clear:
        removed = remove_files(files)
        say(f"removed: {len(removed):,} files, {sum(file.bytes for file in removed):,} bytes")
        if left := len(files) - len(removed):
            say(f"in use, or another user's: {left:,} files stay")
    else:
        say(f"files: {len(files):,}, {sum(file.bytes for file in files):,} bytes")
        say(f"limit: {limit_bytes():,} bytes (LEANTUNE_CACHE_BYTES); beyond it, the least recently used files go")


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Options of the program itself."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"leantune {installed('leantune')}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 1 anything else, 128 + n stopped by signal n."""
    hold_standard_streams()
    listen()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except UsageError as error:
        error.show()
        _suggest_setting(getattr(error, "option_name", ""))
        sys.exit(error.exit_code)
    except Stopped as stopped:
        say(f"leantune: stopped by {stopped.name}", error=True)
        raise
    except LeantuneError as error:
        say(f"leantune: {error}", error=True)
        sys.exit(error.exit_code)
    finally:
        flush_standard_streams()


def _suggest_setting(option: str) -> None:
    """Say how a setting is given that was taken for an option, such as `--epochs`."""
    if not option.startswith("--"):
        return
    with _importing():
        from leantune.runs.config import Config
        from leantune.system.settings import nearest_setting

    for name in nearest_setting(option.lstrip("-").replace("-", "_"), Config):
        say(f"It is a setting: --set {name}=VALUE", error=True)
