"""`leantune predict`: from a table in a file to its predictions in another, in bounded memory, as often as killed.

1. `prepare_file`: everything that can be wrong is found, the quick checks first, and the table is looked through
2. `working_folder`: a hidden folder beside the output, where blocks of predictions stay until it is whole
3. `compute_blocks`, then `write_output`: the output appears whole, and the folder goes
"""

import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.inference.blocks import Computed, compute_blocks
from leantune.inference.ensemble import Ensemble, Weights, describe_fits, open_ensemble
from leantune.inference.predictions import output_columns, output_names
from leantune.inference.source import Scan, Source, find_rows, open_source, options_of, scan, without_bad_id
from leantune.system.device import resolve_device
from leantune.system.errors import RunFolderError, SettingsError, TableError
from leantune.system.files import locked, saving
from leantune.system.stopping import Stopped, check, deferred
from leantune.tables.readers import check_columns, listed, read_column_names
from leantune.tables.writers import refuse_unwritable, writing_table
from leantune.training.events import Event, Note
from leantune.training.metrics import MetricName
from leantune.training.precision import PrecisionName, make_precision

PRECISIONS: tuple[Literal["auto"] | PrecisionName, ...] = ("auto", *get_args(PrecisionName))


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How a table in a file is predicted."""

    weights: Weights = None
    decide: MetricName | None = None
    """The metric that thresholds are fitted for; None leaves probabilities and numbers as they are."""
    text: tuple[str, ...] = ()
    """Columns of the texts; none are those of the training."""
    id: str | None = None
    """Column of the ids; None is that of the training where the table has it, else the rows are numbered."""
    keep: tuple[str, ...] = ()
    """Columns that are copied into the output, as text."""
    like: Path | None = None
    """A table whose columns, and whose rows in their order, the output has."""
    per_model: bool = False
    """Whether the output also has each model's values, and their spread."""
    force: bool = False
    """Whether an output that is there is written anew."""
    device: str = "auto"
    precision: Literal["auto"] | PrecisionName = "fp32"
    assignments: tuple[str, ...] = ()
    """How the table is read where that differs from the training's, such as `data.encoding=utf-8`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedFile:
    """A table to predict, looked through, and what predicts it."""

    ensemble: Ensemble
    source: Source
    scanned: Scan
    options: PredictOptions
    like_columns: tuple[str, ...] = ()
    """The columns of the file that the output is like; none where there is no such file."""
    like_rows: NDArray[np.int64] | None = None
    """[rows of that file]: the row of the table for each."""

    def notes(self) -> Iterator[Note]:
        """Say what is read, and by which models."""
        rows, computed = len(self.scanned), self.scanned.computed
        text = f"{rows:,} rows of {self.source.path}"
        if computed < rows:
            text += f"; {rows - computed:,} have the same text as another, which is computed once"
        if self.source.id_is_found:
            text += f"; the rows are named by the column {self.source.id!r}"
        yield Note(about="data", text=text)
        members = self.ensemble.members
        runs = dict.fromkeys(str(member.run.folder) for member in members)
        mean = "" if len(members) == 1 else f", the mean of {len(members)} models"
        yield Note(about="model", text=f"{', '.join(runs)}{mean}; task {self.ensemble.kind}")
        for about, text in describe_fits(self.ensemble):
            yield Note(about=about, text=text)

    def compute(self, folder: Path) -> Generator[Event, None, Computed]:
        """Predict all rows, with blocks kept in `folder`."""
        return compute_blocks(
            self.ensemble,
            self.source,
            self.scanned,
            folder,
            device=self.options.device,
            precision=self.options.precision,
            per_model=self.options.per_model,
        )


def predict_file(runs: Sequence[Path], data: Path, output: Path, options: PredictOptions) -> Iterator[Event]:
    """Predict a table with one run or the mean of several, write the predictions, and yield what happens.

    A command that was stopped or killed goes on where it was when it is given again, as long as the models and the
    texts are the same. Raises `InputError` for what the user must change, before anything is computed.
    """
    refuse_output(output, data, options)
    prepared = prepare_file(runs, data, options)
    yield from prepared.notes()
    with working_folder(output) as folder, deferred():
        try:
            computed = yield from prepared.compute(folder)
        except Stopped as stopped:
            if not stopped.at_once:
                yield Note(
                    about="stop", text=f"{stopped.name}: the same command goes on with the blocks that are there"
                )
            raise
        write_output(output, prepared, computed)
        shutil.rmtree(folder, ignore_errors=True)


def refuse_output(output: Path, data: Path, options: PredictOptions) -> None:
    """Raise `SettingsError` where the output cannot be written, is there already, or is what is read."""
    for path, name in ((data, "the table itself"), (options.like, "the file of --like")):
        if path is not None and output.absolute() == path.absolute():
            raise SettingsError(f"--output: {output} is {name}; give another file")
    refuse_unwritable(output, force=options.force)


def prepare_file(runs: Sequence[Path], data: Path, options: PredictOptions) -> PreparedFile:
    """Find everything that is wrong before anything is computed."""
    for name, given in (("--keep", options.keep), ("--per-fold", options.per_model)):
        if given and options.like is not None:
            raise SettingsError(f"{name}: not used with --like, whose columns are all that is written: remove one")
    make_precision(options.precision, resolve_device(options.device))  # raises
    ensemble = open_ensemble(runs, options.weights, decide=options.decide)
    if not options.text:
        _refuse_other_texts(ensemble)
    source = open_source(
        data.expanduser(),
        ensemble.first,
        text=options.text,
        id_column=options.id,
        assignments=options.assignments,
    )
    source = without_bad_id(source)
    _refuse_names(ensemble, source, options)
    like_columns = () if options.like is None else _like_columns(ensemble, source, options.like)
    scanned = scan(source, keep_ids=options.like is not None)
    return PreparedFile(
        ensemble=ensemble,
        source=source,
        scanned=scanned,
        options=options,
        like_columns=like_columns,
        like_rows=None if options.like is None else find_rows(source, scanned, options.like),
    )


@contextmanager
def working_folder(output: Path) -> Iterator[Path]:
    """Have the hidden folder beside the output to oneself; one without a block in it goes at the end."""
    folder = output.with_name(f".{output.name}.parts")
    with saving(folder, 0, then="try again"):
        folder.mkdir(exist_ok=True)
    with locked(folder / ".lock", taken=f"another process is predicting into {output.name}"):
        try:
            yield folder
        finally:
            if folder.is_dir() and not any(folder.rglob("*.npy")):
                shutil.rmtree(folder, ignore_errors=True)


def write_output(output: Path, prepared: PreparedFile, computed: Computed) -> None:
    """Write the table of predictions, block after block."""
    schema: pa.Schema | None = None
    blocks = _like_blocks(prepared, computed) if prepared.like_columns else _own_blocks(prepared, computed)
    first = next(blocks)
    schema = first.schema
    with writing_table(output, schema) as write:
        write(first)
        for block in blocks:
            check()
            write(block)


def _own_blocks(prepared: PreparedFile, computed: Computed) -> Iterator[pa.Table]:
    """Yield ids, predictions and the columns that are kept, in the table's order."""
    ensemble, source, keep = prepared.ensemble, prepared.source, prepared.options.keep
    names = output_names(ensemble.kind, ensemble.labels, _model_names(prepared))
    read = dict.fromkeys([*([] if source.id is None else [source.id]), *keep]) or source.settings.text
    for start, block in source.blocks(read):
        rows = np.arange(start, start + len(next(iter(block.values()))))
        ids = pa.array(rows).cast(pa.string()) if source.id is None else block[source.id].cast(pa.string())
        columns = output_columns(
            ensemble.kind, ensemble.labels, computed.values(rows), computed.values_of_models(rows), ensemble.rule
        )
        yield pa.table([ids, *columns, *(block[name] for name in keep)], names=[source.id_name, *names, *keep])


def _like_blocks(prepared: PreparedFile, computed: Computed) -> Iterator[pa.Table]:
    """Yield the columns of the file that the output is like, in its order."""
    ensemble, source, like, all_rows = prepared.ensemble, prepared.source, prepared.options.like, prepared.like_rows
    assert like is not None
    assert all_rows is not None
    assert source.id is not None
    names = output_names(ensemble.kind, ensemble.labels)
    other = Source(settings=source.settings.model_copy(update={"path": like, "delimiter": None}), id=source.id)
    for start, block in other.blocks([source.id]):
        rows = all_rows[start : start + len(block[source.id])]
        columns = output_columns(ensemble.kind, ensemble.labels, computed.values(rows), rule=ensemble.rule)
        by_name = dict(zip(names, columns, strict=True)) | {source.id: block[source.id].cast(pa.string())}
        meant = _meanings(ensemble)
        yield pa.table([by_name[meant.get(name, name)] for name in prepared.like_columns], names=prepared.like_columns)


def _meanings(ensemble: Ensemble) -> dict[str, str]:
    """Return which column of the output each other name stands for: a class for its probability, the target's column
    for the class."""
    if ensemble.kind not in {"binary", "multiclass"}:
        return {}
    names = output_names(ensemble.kind, ensemble.labels)[1:]
    target = ensemble.first.config.data.target[0]
    return {target: "prediction"} | dict(zip(ensemble.labels, names, strict=True))


def _like_columns(ensemble: Ensemble, source: Source, like: Path) -> tuple[str, ...]:
    """Return the columns of a file that the output shall be like.

    Raises `TableError` where one is neither the id nor a prediction, and `SettingsError` where there are no ids.
    """
    columns = read_column_names(like, options_of(source.settings.model_copy(update={"path": like, "delimiter": None})))
    known = [*_meanings(ensemble), *output_names(ensemble.kind, ensemble.labels)]
    others = [name for name in columns if name != source.id and name not in known]
    if others or len(columns) < 2:
        expected = [*([source.id] if source.id else []), *known]
        raise TableError(
            f"{like}: found the columns {listed(columns, 6)}, expected only such as the runs predict "
            f"({listed(list(dict.fromkeys(expected)), 8)}); is it of another task? Name the column of the ids with --id"
        )
    if source.id is None:
        raise SettingsError(f"--id: name the column of the ids, by which the rows of {like} are found in {source.path}")
    check_columns(like, columns, [source.id])
    return tuple(columns)


def _refuse_names(ensemble: Ensemble, source: Source, options: PredictOptions) -> None:
    """Raise `SettingsError` where two columns of the output would have the same name, `TableError` where one that is
    kept is not there."""
    check_columns(source.path, read_column_names(source.path, options_of(source.settings)), options.keep)
    names = [source.id_name, *output_names(ensemble.kind, ensemble.labels), *options.keep]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"--output: two columns would be called {listed(twice, 3)}: that of the ids, those of the predictions and "
            "those of --keep need different names"
        )


def _refuse_other_texts(ensemble: Ensemble) -> None:
    """Raise `RunFolderError` where the runs were trained on columns of other names."""
    for member in ensemble.members:
        names = member.run.config.data.text
        if names != ensemble.text:
            raise RunFolderError(
                f"{member.run.folder}: reads the texts from {listed(names)}, and {ensemble.first.folder} from "
                f"{listed(ensemble.text)}; name the columns of this table with --text"
            )


def _model_names(prepared: PreparedFile) -> tuple[str, ...]:
    return tuple(member.name for member in prepared.ensemble.members) if prepared.options.per_model else ()


def parse_weights(text: str | None) -> Weights:
    """Parse the weights of runs, numbers with commas between them or `fitted`; else raises `SettingsError`."""
    if text is None:
        return None
    if text == "fitted":
        return "fitted"
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--weights: found {text!r}, expected a number for each run, such as 0.7,0.3, or fitted"
        ) from None


def as_metric_name(name: str | None) -> MetricName | None:
    """Return a metric by its name; raises `SettingsError` where there is none of that name."""
    if name is None:
        return None
    known: tuple[MetricName, ...] = get_args(MetricName)
    for metric in known:
        if name == metric:
            return metric
    raise SettingsError(f"--decide: found {name!r}, expected a metric such as f1, f1_macro or qwk")


def as_precision(name: str) -> Literal["auto"] | PrecisionName:
    """Return a precision by its name; raises `SettingsError` where there is none of that name."""
    for known in PRECISIONS:
        if name == known:
            return known
    raise SettingsError(f"--precision: found {name!r}, expected one of {listed(PRECISIONS)}")


def split_paths(paths: Iterable[Path]) -> tuple[list[Path], Path]:
    """Return the runs and the table that a command names; raises `SettingsError` where there are not both."""
    *runs, data = paths
    if not runs:
        raise SettingsError(f"found {data} alone, expected a run (or several) and then a table: RUN DATA")
    return runs, data
