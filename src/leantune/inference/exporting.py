"""A trained run as folders that other programs load: `leantune export`.

1. `_choose`: which models are exported: a run's, those of several, or the mean of their weights
2. `_write`: each into a folder: the model, its tokenizer, `cut.py` with `cut.json`, and README.md
3. `Trial`: what lies there is computed as a user would, and held against the run's own predictions on real rows
4. The folder appears under its name when all of that is done
"""

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from leantune.inference.averaging import average_models, refuse_other_recipe
from leantune.inference.cut_settings import CUT_FILE, make_cut_settings
from leantune.inference.ensemble import open_ensemble
from leantune.inference.model import TrainedModel
from leantune.inference.model_card import Format, ensemble_card, model_card
from leantune.inference.onnx_export import OnnxModel, quantize_int8, require_onnx, write_onnx
from leantune.inference.quantization_loss import QuantizationLoss, measure_loss
from leantune.inference.trained_run import TrainedFold, TrainedRun
from leantune.inference.trial import TorchModel, Trial
from leantune.inference.validation_rows import RowSource, ValidationRows
from leantune.system.errors import InputError, ModelError, RunFolderError, SettingsError
from leantune.system.files import read_json, saving, sync_tree, write_json, write_text
from leantune.system.formatting import figure
from leantune.tokens.tokens import load_tokenizer
from leantune.training.metrics import default_metric, is_better, metric_names
from leantune.training.scoring import compute_metrics

WEIGHTS = "model.safetensors"
ONNX, ONNX_INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
TOLERANCE = 0.02
"""Most of the gain over the constant answer that may be lost in 8 bits."""
AGAIN = "give the same command again"
QUALITY_ROWS = 2000
"""Most rows on which the loss of quality is measured."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    notes: tuple[str, ...]
    """What was found on the way, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    format: Format
    int8: bool
    tolerance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """A model to export."""

    run: TrainedRun
    fold: TrainedFold
    rows: ValidationRows | None
    """Real rows to try it on; None where the table is gone, and none was given."""
    scores: Mapping[str, Any]
    """Metrics by column of the page."""
    seeds: tuple[int, ...]


def export(
    runs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    format: str = "huggingface",  # noqa: A002 - the option's own name
    fold: int | str | None = None,
    average: bool = False,
    quantize: str | None = None,
    tolerance: float | None = None,
    data: str | Path | None = None,
) -> Exported:
    """Write a finished run's model for other programs into the new folder `output`; the same as `leantune export`.

    One model lies in the folder itself. Those of several folds, or of several runs, lie in `member_0/`, `member_1/` and
    so on, with a page on how to average their answers; `fold` picks the one of one fold. With `average` the weights of
    runs that differ in the seed only become one model, where that is at least as good on the validation rows as the
    runs are on average.

    `format` is huggingface or onnx (extra `onnx`). `quantize="int8"` adds an ONNX file in 8 bits; it is refused where
    it loses more than `tolerance` (default 0.02) of what the model gains over the constant answer. `data` is the table
    with the validation rows where it is no longer where the run has read it, or another table with the same columns.

    Raises `InputError` for what the caller must change; then nothing is written.
    """
    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    options = _check_options(format, quantize, tolerance)
    folder = Path(output).expanduser()
    if folder.exists() or folder.is_symlink():
        raise RunFolderError(f"{folder}: there already; give another --output, or move it away")
    if options.format == "onnx":
        require_onnx()
    given = None if data is None else Path(data)
    runs_opened = _open(paths)
    notes: list[str] = []
    with _appearing(folder) as beside:
        sources = _choose(
            runs_opened,
            None if fold is None else str(fold),
            given,
            averages=beside / "averages" if average else None,
            notes=notes,
            options=options,
        )
        if len(sources) == 1:
            _write(sources[0], beside, options, notes)
        else:
            names = [f"member_{number}" for number in range(len(sources))]
            for name, source in zip(names, sources, strict=True):
                _write(source, beside / name, options, notes, name=name)
            told = [(name, source.run, source.fold) for name, source in zip(names, sources, strict=True)]
            write_text(beside / "README.md", ensemble_card(sources[0].run, told, options.format))
        shutil.rmtree(beside / "averages", ignore_errors=True)
    return Exported(folder=folder, notes=tuple(notes))


def _check_options(form: str, quantize: str | None, tolerance: float | None) -> _Options:
    if form not in get_args(Format):
        raise SettingsError(f"--format: found {form!r}, expected {' or '.join(get_args(Format))}")
    if quantize not in (None, "int8"):
        raise SettingsError(f"--quantize: found {quantize!r}, expected int8")
    if quantize is not None and form != "onnx":
        raise SettingsError("--quantize: used only with --format onnx; add that, or remove it")
    if tolerance is not None and quantize is None:
        raise SettingsError("--tolerance: used only with --quantize int8; add that, or remove it")
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise SettingsError(f"--tolerance: found {tolerance}, expected a share from 0 to 1, such as 0.02")
    return _Options(
        format="onnx" if form == "onnx" else "huggingface",
        int8=quantize is not None,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )


def _open(paths: Sequence[Path]) -> list[TrainedRun]:
    """Open the runs; raises `RunFolderError` where they do not predict the same outputs in the same order."""
    members = open_ensemble(paths).members
    for member in members:
        if (member.order != np.arange(len(member.order))).any():
            raise RunFolderError(
                f"{member.run.folder}: its outputs stand in another order than those of {members[0].run.folder}; "
                "export each run by itself"
            )
    return [member.run for member in members if member.fold is member.run.folds[0]]


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give a new folder to write to, which takes the name `folder` at the end of the block, or goes where it fails."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with saving(folder, 0, then=AGAIN):
            beside.mkdir(parents=True)
        yield beside
        with saving(folder, 0, then=AGAIN):
            sync_tree(beside)
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _choose(
    runs: Sequence[TrainedRun],
    fold: str | None,
    data: Path | None,
    *,
    averages: Path | None,
    notes: list[str],
    options: _Options,
) -> list[_Source]:
    """Return the models to export; `averages` is where those are written whose weights are the mean of several."""
    if averages is not None:
        refuse_other_recipe(runs)
        return _average(runs, fold, data, averages, notes)
    sources = []
    for run in runs:
        source = _rows_of(run, data, notes, needed=options.format == "onnx")
        for chosen in _folds(run, fold):
            rows = None if source is None else source.rows(chosen)
            if options.int8 and (rows is None or rows.targets is None):
                raise SettingsError(
                    f"--quantize: {run.folder} has no validation rows (all rows trained it), so that nothing shows "
                    "what int8 loses; name another table with the same columns with --data FILE"
                )
            own = run.metrics["folds"][str(chosen.number)]
            yardsticks = own.get("yardsticks") or {}
            scores = {"best": own["best"], "last": own["last"]}
            scores |= {name: yardsticks.get(name) for name in ("linear", "constant")}
            sources.append(
                _Source(
                    run=run,
                    fold=chosen,
                    rows=rows,
                    scores=scores,
                    seeds=(run.config.seed,),
                )
            )
    return sources


def _folds(run: TrainedRun, name: str | None) -> list[TrainedFold]:
    if name is None:
        return list(run.folds)
    found = [fold for fold in run.folds if str(fold.number) == name]
    if not found:
        known = ", ".join(str(fold.number) for fold in run.folds)
        raise SettingsError(f"--fold: found {name}, and {run.folder} has the folds: {known}")
    return found


def _rows_of(run: TrainedRun, data: Path | None, notes: list[str], *, needed: bool) -> RowSource | None:
    """Return where a run's rows come from; None, with a note, where they are not there and can be done without."""
    try:
        return RowSource(run, data)
    except InputError as error:
        if needed or data is not None:
            raise
        notes.append(f"not tried on real rows: {error}")
        return None


def _average(
    runs: Sequence[TrainedRun], fold: str | None, data: Path | None, averages: Path, notes: list[str]
) -> list[_Source]:
    """Return one model a fold, whose weights are the mean of those of all runs.

    Raises `ModelError` where they are worse on the validation rows than the runs are on average.
    """
    first, kind = runs[0], runs[0].task.kind
    metric = first.metrics["metric"] if first.metrics["metric"] in metric_names(kind) else default_metric(kind)
    row_sources = [RowSource(run, data) for run in runs]
    made: list[_Source] = []
    for chosen in _folds(first, fold):
        same = [next(own for own in run.folds if own.number == chosen.number) for run in runs]
        folder = averages / f"fold_{chosen.number}" / "model"
        folder.parent.mkdir(parents=True)
        average_models([own.model for own in same], folder)
        mean = TrainedFold(number=chosen.number, model=folder)
        rows = row_sources[0].rows(chosen)
        if rows.targets is None:
            raise SettingsError(
                f"--average: {first.folder} has no validation rows (all rows trained it), so that nothing shows "
                "whether the mean of the weights is any good; name a table with the same columns with --data FILE"
            )
        singles = []
        for run, own, source in zip(runs, same, row_sources, strict=True):
            known = source.rows(own)
            values = _predict(run, own, known) if known.predictions is None else known.predictions
            singles.append(compute_metrics(kind, rows.targets, values))
        averaged = _predict(first, mean, rows)
        scores = compute_metrics(kind, rows.targets, averaged)
        single = {name: _mean([values[name] for values in singles]) for name in singles[0]}
        figures = (
            f"{'' if len(first.folds) == 1 else f'fold {chosen.number}: '}{metric} {_shown(scores[metric])} with the "
            f"mean of the weights, {_shown(single[metric])} on average of the {len(runs)} models, on {len(rows):,} "
            "validation rows"
        )
        if scores[metric] is None or is_better(metric, single[metric], scores[metric]):
            raise ModelError(
                f"--average: {figures}: the mean of the weights is worse, so nothing is written. Without --average, "
                "the models are exported as an ensemble"
            )
        notes.append(figures)
        made.append(
            _Source(
                run=first,
                fold=mean,
                rows=replace(rows, predictions=averaged),
                scores={"average": scores, "single": single},
                seeds=tuple(run.config.seed for run in runs),
            )
        )
    return made


def _predict(run: TrainedRun, fold: TrainedFold, rows: ValidationRows) -> NDArray[np.float64]:
    return TrainedModel(run, fold, device="auto").predict(rows.texts, rows.describe_place)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _shown(value: float | None) -> str:
    return "undefined" if value is None else figure(value, 4)


def _write(source: _Source, folder: Path, options: _Options, notes: list[str], *, name: str = "") -> None:
    """Write one model into `folder`, and try it."""
    folder.mkdir(exist_ok=True)
    run, model_folder = source.run, source.fold.model
    settings = make_cut_settings(run, load_tokenizer(str(model_folder)), run.load(source.fold, "cpu"))
    size = (model_folder / WEIGHTS).stat().st_size
    with saving(folder, size, then=AGAIN):
        for file in sorted(model_folder.iterdir()):
            if file.is_file() and (options.format == "huggingface" or file.name != WEIGHTS):
                shutil.copyfile(file, folder / file.name)
    write_json(folder / "config.json", read_json(model_folder / "config.json") | _for_cross_encoders(run))
    write_json(folder / "cut.json", settings)
    shutil.copyfile(CUT_FILE, folder / CUT_FILE.name)

    checks, told = ["It was not tried on real rows: the run's table was not there."], None
    if source.rows is not None:
        trial = Trial(source.rows, folder, settings, run.task)
        plain = TorchModel(folder if options.format == "huggingface" else model_folder)
        checks = [trial.repeats_the_run(plain)]
        if options.format == "onnx":
            names = (
                "input_ids",
                "attention_mask",
                *(["token_type_ids"] if settings["token_types"] is not None else []),
            )
            (folder / ONNX).parent.mkdir()
            with saving(folder / ONNX, size, then=AGAIN):
                write_onnx(plain.model, names, folder / ONNX)
            exact = OnnxModel(folder / ONNX)
            checks.append(trial.equals(exact, plain))
            if options.int8:
                with saving(folder / ONNX_INT8, size // 4, then=AGAIN):
                    quantize_int8(folder / ONNX, folder / ONNX_INT8)
                told = _describe(_loss_of_int8(trial, source, exact, OnnxModel(folder / ONNX_INT8), options.tolerance))
        found = checks if told is None else [*checks, told]
        notes += [f"{name}: {text}" if name else text for text in found]
    page = model_card(
        run,
        source.fold,
        form=options.format,
        cut=settings,
        scores=source.scores,
        seeds=source.seeds,
        checks=checks,
        quantized=told,
    )
    write_text(folder / "README.md", page)


def _loss_of_int8(
    trial: Trial, source: _Source, exact: OnnxModel, quantized: OnnxModel, tolerance: float
) -> QuantizationLoss:
    """Measure what 8 bits lose; raises `ModelError` where it is more than the tolerance."""
    rows = source.rows
    assert rows is not None
    if len(rows) > QUALITY_ROWS:
        rows = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:QUALITY_ROWS]))
    assert rows.targets is not None
    known = trial.predict(exact, rows) if rows.predictions is None else rows.predictions
    loss = measure_loss(source.run.task.kind, rows.targets, known, trial.predict(quantized, rows))
    if not loss.share <= tolerance:
        gains = "the model gains nothing over the constant answer" if np.isinf(loss.share) else _describe(loss)
        raise ModelError(
            f"--quantize int8: {gains}, and at most {100 * tolerance:.3g}% may be lost (--tolerance {tolerance:g}), so "
            "nothing is written; export it without --quantize"
        )
    return loss


def _for_cross_encoders(run: TrainedRun) -> dict[str, Any]:
    """Return what sentence-transformers' CrossEncoder reads in config.json: by itself it puts a sigmoid on one output,
    and nothing on several."""
    activation = {"regression": "linear.Identity", "multilabel": "activation.Sigmoid"}.get(run.task.kind)
    return {} if activation is None else {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{activation}"}}


def _describe(loss: QuantizationLoss) -> str:
    low, high = (f"{100 * value:.2g}%" for value in loss.interval)
    interval = f"{low} to {high}" if np.isfinite(loss.interval[1]) else f"{low} or more"
    return (
        f"int8 loses {100 * loss.share:.2g}% of what the model gains over the constant answer "
        f"(95% interval {interval}, {loss.rows:,} rows)"
    )
