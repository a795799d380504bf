"""The command line. Heavy imports wait until a command runs, so that help and mistyped options answer at once."""

# ruff: noqa: PLC0415
import gc
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from leantune.system import threads
from leantune.system.errors import LeantuneError, SettingsError
from leantune.system.stopping import Stopped, listen
from leantune.system.terminal import flush_standard_streams, hold_standard_streams, say

app = typer.Typer(
    help="Fine-tune an encoder such as BERT on a table of texts, and compare ways to train.",
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
    list[str] | None,
    typer.Option(metavar="COL", help="Column to predict; for several: repeat it, or a,b, or 'label_*'."),
]
Group = Annotated[str | None, typer.Option(metavar="COL", help="Column of groups; no group is split between folds.")]
Id = Annotated[
    str | None,
    typer.Option(
        "--id", metavar="COL", help="Column that names the rows; default: `id` if there is one, else numbers."
    ),
]

MissingText = Annotated[
    str | None, typer.Option(help="What a missing text is: refuse (error), empty, or drop (leave out the row).")
]
DropMissing = Annotated[bool, typer.Option("--drop-missing", help="Leave out rows that have no target.")]
Decimal = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Decimal separator of numbers: a point (default) or a comma.")
]
Thousands = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Thousands separator of numbers, such as the comma in 1,500.")
]
LabelSeparator = Annotated[
    str | None,
    typer.Option(metavar="CHAR", help="What separates several labels in a cell; default: found by the values."),
]
Encoding = Annotated[
    str | None, typer.Option(metavar="NAME", help="Text encoding of DATA, such as latin-1; default: utf-8.")
]
Delimiter = Annotated[
    str | None, typer.Option(metavar="CHAR", help="What separates the fields of CSV or TSV, such as ';'.")
]


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
        list[str] | None, typer.Option(metavar="COL", help="Column of the texts; give it twice for pairs of texts.")
    ] = None,
    target: Targets = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="An encoder: a folder, a name on the Hugging Face hub, or `demo`."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="RUN", help="New folder for the model and all results.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped; start one if RUN holds none.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --resume: continue even if data or settings have changed.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of settings; options of the command override it.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as optimizer.epochs=1; may be repeated."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of validation rows; then all rows of DATA train.")
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Fold that validates, from 0 (default); `all`: a model for each fold; `none`: all rows train.",
        ),
    ] = None,
    id_column: Id = None,
    group: Group = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Join the columns of --text into one text, with TEXT between them."),
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
    say(f"leantune: finished; to predict: leantune predict {shlex.quote(str(output))} TABLE --output FILE", error=True)
    say(f"{output}")


RUNS_HELP = "Folders of finished runs (several are averaged), then the table: .csv, .tsv, .jsonl or .parquet."
Paths = Annotated[list[Path], typer.Argument(metavar="RUN... DATA", help=RUNS_HELP)]
TextColumn = Annotated[
    list[str] | None, typer.Option(metavar="COL", help="Column of the texts, if its name is not the training's.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W,W", help="Weight of each run, such as 0.7,0.3; or `fitted`, on the validation rows; default: equal."
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(help="Number format: fp32, which repeats the run's own predictions; auto, bf16, fp16 or tf32.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.")]
Reading = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="data.KEY=VALUE", help="How DATA is read, such as data.encoding=latin-1."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE.")]


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
        list[str] | None, typer.Option(metavar="COL", help="Column of DATA to copy into FILE; may be repeated.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Write the columns and rows of this table, in its order."),
    ] = None,
    weights: Weights = None,
    decide: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="Decide by thresholds that are fitted for METRIC (f1, f1_macro, qwk, ...)."
        ),
    ] = None,
    per_fold: Annotated[
        bool, typer.Option("--per-fold", help="Add the predictions of each model, and their standard deviation.")
    ] = False,
    precision: PrecisionOption = "fp32",
    device: Device = "auto",
    assign: Reading = None,
    force: Force = False,
) -> None:
    """Predict a table of texts with a finished run. After an interruption, the same command continues."""
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
    """Score a finished run on a table that has the targets.

    Each metric has a 95% interval, and stands beside the constant answer and a linear model.
    """
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
        list[str] | None, typer.Option(metavar="COL", help="Column of the texts; give it twice for pairs of texts.")
    ] = None,
    target: Targets = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An encoder; adds tokens, padding, times and proposed settings.")
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="File to write: .html, .md or .json; .yaml has the settings only; may be repeated."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Finding to leave out, such as LT403; may be repeated.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of settings; options of the command override it.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as tokens.max_length=128; may be repeated."),
    ] = None,
    validation: Annotated[Path | None, typer.Option(metavar="FILE", help="Table of validation rows.")] = None,
    id_column: Id = None,
    group: Group = None,
) -> None:
    """Look for problems in a table, or in a finished run. With --model it also measures what training costs."""
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
    output: Annotated[Path, typer.Option(metavar="FILE", help="CSV file to write, with the columns id and fold.")],
    count: Annotated[int, typer.Option(help="Number of folds.")] = 5,
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
    """Assign the rows of a table to folds, and write them as CSV."""
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
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT.yaml", help="The experiment: recipes, seeds and folds (docs/experiments.md)."
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the runs and the report; finished runs in it are kept.")
    ],
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the experiment, such as base.data.limit=400."),
    ] = None,
    settle: Annotated[
        int | None, typer.Option(metavar="N", help="Add seeds until every recipe has a verdict; at most N seeds.")
    ] = None,
    repeat_disturbed: Annotated[
        bool,
        typer.Option(
            "--repeat-disturbed", help="Repeat runs for which the machine was 20% slower or faster than usual."
        ),
    ] = False,
) -> None:
    """Compare training recipes on the same rows, folds and seeds. Each difference has a 95% interval."""
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
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs; several make an ensemble.")
    ],
    *,
    output: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.")],
    format: Annotated[str, typer.Option("--format", help="huggingface or onnx (extra `onnx`).")] = "huggingface",  # noqa: A002
    fold: Annotated[
        str | None, typer.Option(metavar="N", help="Write the model of one fold; default: those of all folds.")
    ] = None,
    average: Annotated[
        bool,
        typer.Option(
            "--average", help="Write one model for several seeds, the mean of their weights, if it is as good."
        ),
    ] = False,
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="Add an ONNX file in 8 bits, if it is nearly as good.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of the gain over the constant answer that int8 may lose; default: 0.02."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of validation rows, if the run's own table is gone.")
    ] = None,
) -> None:
    """Write a run's model for other programs, and test it.

    The programs are transformers, sentence-transformers and onnxruntime.
    """
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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `leantune compare` wrote.")],
) -> None:
    """Write the report of a comparison again, from its run folders."""
    with _importing():
        from leantune.report.overview import show_comparison
        from leantune.report.pages import rebuild_report
        from leantune.training.events import heard

    for _ in heard([rebuild_report(folder)], show_comparison, "the display"):
        say(f"{folder / 'report.html'}")


@app.command()
def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the comparison; default: leantune-demo, with a number if it is there."
        ),
    ] = None,
) -> None:
    """Compare four ways to fine-tune a small encoder, offline.

    The sentences come with leantune. The comparison takes minutes.
    """
    with _importing():
        from leantune.experiments.example import free_folder
        from leantune.experiments.experiment import demo as compare_demo

    folder = output or free_folder(Path("leantune-demo"))
    compare_demo(folder)
    say(f"{folder / 'report.html'}")


@app.command()
def cache(
    *, clear: Annotated[bool, typer.Option("--clear", help="Remove the files; later runs then tokenize again.")] = False
) -> None:
    """Show how much disk space the cache takes. It keeps tokens and yardsticks of earlier runs."""
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
        _suggest_setting(getattr(error, "option_name", ""), getattr(error, "possibilities", None) or ())
        sys.exit(error.exit_code)
    except Stopped as stopped:
        say(f"leantune: stopped by {stopped.name}{' (Ctrl-C)' * (stopped.name == 'SIGINT')}", error=True)
        raise
    except LeantuneError as error:
        say(f"leantune: {error}", error=True)
        sys.exit(error.exit_code)
    finally:
        flush_standard_streams()


def _suggest_setting(option: str, possible: Sequence[str]) -> None:
    """Say how a setting is given that was taken for an option, such as `--epochs`, unless an option gives it, too."""
    if not option.startswith("--"):
        return
    with _importing():
        from leantune.runs.config import Config
        from leantune.system.settings import nearest_setting

    for name in nearest_setting(option.lstrip("-").replace("-", "_"), Config):
        if f"--{name.rpartition('.')[2]}" not in possible:
            say(f"It is a setting: --set {name}=VALUE", error=True)
