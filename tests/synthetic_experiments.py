"""Folders as `leantune compare` leaves them, with numbers that a test has chosen and no training behind them.

python tests/synthetic_experiments.py DIR writes one to look at: three recipes, one of whose runs failed.
"""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Value = float | Sequence[Any] | np.ndarray | Callable[[str, int, int], Any] | None
"""A number for every run, an array that broadcasts to [recipes, folds, seeds], or a function of recipe, fold, seed."""
Place = tuple[str, int, int]
"""Recipe, fold, seed."""

METRICS = {
    "regression": ("mse", "rmse", "mae", "r2", "pearson", "spearman"),
    "binary": ("accuracy", "f1_macro", "log_loss", "roc_auc", "mcc"),
    "multiclass": ("accuracy", "f1_macro", "log_loss", "roc_auc", "mcc"),
    "multilabel": ("accuracy", "f1_macro", "log_loss", "roc_auc", "mcc"),
}
LOWER_IS_BETTER = ("mse", "rmse", "mae", "log_loss")
STARTED = 1_790_000_000.0  # 2026-09-21
ROWS, FOLDS = 25, 5
CONFIG: dict[str, Any] = {
    "data": {"path": "/data/train.csv", "text": ["excerpt"], "target": ["target"], "limit": None},
    "folds": {"count": FOLDS, "seed": 0, "kind": "sturges"},
    "batching": {"batch_size": 4, "micro_batch": {"tokens": 2048}, "order": "random", "layout": "fixed"},
    "model": {"name": "demo", "revision": None},
    "precision": "fp32",
    "optimizer": {"learning_rate": 2e-5, "epochs": 3},
    "evaluation": {"every": "epoch", "metric": "rmse"},
    "fold": 0,
    "seed": 0,
    "device": "cpu",
}
ENVIRONMENT: dict[str, Any] = {
    "started": "2026-09-21T13:33:20+00:00",
    "versions": {"python": "3.12.1", "leantune": "0.2.0", "torch": "2.13.0"},
    "platform": "Linux-6.12-x86_64",
    "processor": "AMD EPYC",
    "device": {"type": "cpu", "name": "AMD EPYC", "threads": 2},
    "code_revision": None,
    "data_sha256": "ab" * 32,
    "tokenizer_sha256": "cd" * 32,
    "model_sha256": "12" * 32,
}


def run_folder(folder: Path, recipe: str, fold: int, seed: int) -> Path:
    """Where an experiment in `folder` has that run."""
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    return folder / plan["recipes"][recipe]["folder"] / f"fold_{fold}-seed_{seed}"


def write_experiment(
    folder: Path,
    *,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    folds: Sequence[int] = (0,),
    seeds: Sequence[int] = (0, 1, 2),
    failed: Mapping[Place, str] | None = None,
    half_written: Collection[Place] = (),
    not_made: Collection[Place] = (),
    **values: Value,
) -> Path:
    """Write an experiment; the first recipe is the baseline.

    `recipes`: name -> settings that differ, sections nested. `failed`: run -> its message. `values`: any argument of
    `write_run`, for every run or by run, such as `quality=[[[0.5, 0.6, 0.7]], [[0.4, 0.5, 0.6]]]`.
    """
    recipes = {"plain": {}, "other": {"precision": "bf16"}} if recipes is None else recipes
    folders = {name: f"runs/{name}-{number:08x}" for number, name in enumerate(recipes)}
    folder.mkdir(parents=True, exist_ok=True)
    command = f"leantune compare experiment.yaml --output {folder.name}"
    plan = {
        "format": 1,
        "title": "experiment",
        "command": command,
        "baseline": next(iter(recipes)),
        "seeds": list(seeds),
        "folds": list(folds),
        "data": "train.csv",
        "model": "demo",
        "recipes": {name: {"folder": place} for name, place in folders.items()},
    }
    _write_json(folder / "plan.json", plan)
    experiment = {"base": {}, "baseline": plan["baseline"], "recipes": dict(recipes)}
    experiment |= {"seeds": plan["seeds"], "folds": plan["folds"]}
    _write_yaml(folder / "experiment.yaml", json.loads(json.dumps(experiment)))
    for r, (name, settings) in enumerate(recipes.items()):
        for f, fold in enumerate(folds):
            for s, seed in enumerate(seeds):
                run = folder / folders[name] / f"fold_{fold}-seed_{seed}"
                run.parent.mkdir(parents=True, exist_ok=True)
                place = name, fold, seed
                if place in not_made:
                    continue
                run.with_name(f"{run.name}.log").write_text("what the run printed\n")
                if failed and place in failed:
                    _write_json(run.with_name(f"{run.name}.failed.json"), {"exit_code": 1, "message": failed[place]})
                    continue
                shape = len(recipes), len(folds), len(seeds)
                own = {key: _at(value, shape, (r, f, s), place) for key, value in values.items()}
                write_run(run, fold=fold, seed=seed, **({"settings": settings} | own))
                if place in half_written:
                    (run / "metrics.json").unlink()
    return folder


def write_run(
    folder: Path,
    *,
    fold: int = 0,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    task: str = "regression",
    metric: str = "rmse",
    quality: float | None = 0.5,
    quality_last: float | None = None,
    curve: Sequence[tuple[float, float | None]] | None = None,
    train_seconds: float = 12.0,
    total_seconds: float | None = None,
    startup_seconds: float = 5.0,
    tokens: int = 6000,
    padding_fraction: float = 0.25,
    peak_device_bytes: int | None = None,
    peak_process_bytes: int = 2**30,
    steps: int = 6,
    targets: Sequence[Any] | None = None,
    rows: Sequence[int] | None = None,
    predictions: Sequence[Any] | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write a whole run folder; a run of `train_seconds` in `steps` equal steps.

    `quality`: the metric at the best evaluation; `quality_last` at the last one, by default the same. `curve`:
    (train_seconds, metric) of each evaluation, by default three that come closer to `quality_last`.
    """
    quality_last = quality if quality_last is None else quality_last
    if curve is None:
        worse = (1.5, 1.2, 1.0) if metric in LOWER_IS_BETTER else (0.5, 0.8, 1.0)
        curve = [
            (train_seconds * (i + 1) / 3, None if quality_last is None else quality_last * factor)
            for i, factor in enumerate(worse)
        ]
    total_seconds = startup_seconds + train_seconds + 3.0 if total_seconds is None else total_seconds
    rows = list(range(fold, ROWS, FOLDS)) if rows is None else list(rows)
    targets = [row / 8 for row in rows] if targets is None else list(targets)
    (folder / f"fold_{fold}").mkdir(parents=True)
    config = _merge(CONFIG, {"fold": fold, "seed": seed, "evaluation": {"metric": metric}})
    _write_yaml(folder / "config.yaml", _merge(config, settings or {}))
    _write_json(folder / "environment.json", _merge(ENVIRONMENT, environment or {}))
    table = pa.table(
        {
            "row": pa.array(rows),
            "id": [f"id {row}" for row in rows],
            "target": targets,
            "prediction": [0.5] * len(rows) if predictions is None else list(predictions),
        }
    )
    if labels is not None:
        table = table.replace_schema_metadata({"labels": json.dumps(list(labels))})
    pq.write_table(table, folder / f"fold_{fold}" / "predictions.parquet", compression="none")

    def metrics(value: float | None) -> dict[str, float | None]:
        return dict.fromkeys(METRICS[task], 0.25) | {metric: value}

    counts = {
        "optimizer_steps": steps,
        "skipped_steps": 0,
        "rows": 60,
        "tokens": tokens,
        "padding_fraction": padding_fraction,
        "tokens_per_second": tokens / train_seconds,
        "model_flops_utilization": 0.5,
        "train_seconds": train_seconds,
        "evaluation_seconds": 2.0,
        "checkpoint_seconds": 1.0,
    }
    best_step, last_step = {"step": steps - 2}, {"step": steps}
    scores = {
        "best": best_step | metrics(quality),
        "last": last_step | metrics(quality_last),
        "training_rows": max(1, ROWS - len(rows)),
        "validation_rows": len(rows),
    } | counts
    overall = {
        "best": metrics(quality),
        "last": metrics(quality_last),
        **counts,
        "startup_seconds": startup_seconds,
        "total_seconds": total_seconds,
        "peak_device_bytes": peak_device_bytes,
        "peak_process_bytes": peak_process_bytes,
        "matrix_rate": {"flops_per_second": 1e12, "measured_on": "float32 2048 x 2048 x 2048"},
    }
    began = STARTED + startup_seconds
    events: list[tuple[float, dict[str, Any]]] = []
    for step in range(1, steps + 1):
        seconds = train_seconds * step / steps
        event = {"event": "step", "fold": fold, "step": step, "epoch": 3 * step / steps, "loss": 1 / step}
        event |= {"rows": 10, "tokens": tokens // steps, "memory": 2**29 + step * 2**20, "train_seconds": seconds}
        events.append((seconds, event))
    for seconds, value in curve:
        event = {"event": "evaluation", "fold": fold, "step": max(1, round(steps * seconds / train_seconds))}
        event |= {"metrics": metrics(value), "is_best": True, "rows": len(rows), "train_seconds": seconds}
        events.append((seconds, event))
    events.sort(key=lambda pair: pair[0])
    lines = [
        {"event": "note", "time": began, "about": "data", "text": "25 rows\u2028of /data/train.csv"},
        {"event": "fold", "time": began, "fold": fold, "training_rows": 20, "validation_rows": 5, "total_steps": steps},
        *({"event": event["event"], "time": began + seconds} | event for seconds, event in events),
        {"event": "fold_end", "time": STARTED + total_seconds, "fold": fold, "metrics": scores},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "events.jsonl").write_text(text, encoding="utf-8", newline="")
    _write_json(
        folder / "metrics.json", {"task": task, "metric": metric, "folds": {str(fold): scores}, "overall": overall}
    )
    return folder


def _at(value: Value, shape: tuple[int, int, int], index: tuple[int, int, int], place: Place) -> Any:
    if callable(value):
        return value(*place)
    if isinstance(value, list | tuple) and any(isinstance(entry, str) for entry in value):
        return value  # names
    if isinstance(value, list | tuple | np.ndarray):
        return np.broadcast_to(np.asarray(value), shape)[index].item()
    return value


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    path.write_text(yaml.dump(dict(content), Dumper=dumper, sort_keys=False), encoding="utf-8")


def write_example(folder: Path) -> Path:
    """Write an experiment as people make them: three recipes, two folds, three seeds, one run failed, one stopped."""
    draw = np.random.default_rng(0)
    quality = 0.5 + draw.normal(0, 0.02, (1, 2, 3)) + draw.normal(0, 0.004, (4, 2, 3))
    quality[3] -= 0.03
    seconds = np.array([120.0, 50.0, 45.0, 130.0])[:, None, None] * draw.normal(1, 0.03, (4, 2, 3))
    return write_experiment(
        folder,
        recipes={
            "plain": {},
            "mixed": {"precision": "bf16"},
            "packed": {"precision": "bf16", "batching": {"layout": "packed", "micro_batch": {"tokens": 8192}}},
            "long": {"optimizer": {"epochs": 4, "learning_rate": 1e-4}},
        },
        folds=(0, 1),
        quality=quality,
        quality_last=quality + np.abs(draw.normal(0, 0.003, quality.shape)),
        train_seconds=seconds,
        tokens=lambda recipe, fold, seed: 80_000 if recipe == "long" else 60_000,
        padding_fraction=np.array([0.6, 0.6, 0.0, 0.6])[:, None, None],
        peak_process_bytes=(np.array([4.0, 3.0, 2.5, 4.0])[:, None, None] * 2**30).astype(np.int64),
        steps=150,
        failed={("mixed", 1, 2): "the loss of step 7 (fold 1) is nan; training stopped"},
        half_written={("packed", 1, 2)},
    )


if __name__ == "__main__":
    print(write_example(Path(sys.argv[1])))
