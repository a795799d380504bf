"""Finished runs that the tests of inference share: to train one takes longer than all that is done with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leantune.tables.targets import TaskKind
from small_runs import LABELS, run_all, tiny_config, write_table


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> Callable[..., Path]:
    """Train a tiny encoder for a step on 60 rows, most of them cut; the same settings give the same run again.

    The table lies beside the run: `run.with_suffix(".csv")`.
    """
    folder, made = tmp_path_factory.mktemp("trained"), dict[str, Path]()

    def train(kind: TaskKind = "regression", encoder: str = "bert", **settings: Any) -> Path:
        key = repr((kind, encoder, sorted(settings.items())))
        if key not in made:
            target = ["label"] if kind in ("binary", "multiclass") else list(LABELS[kind])
            given = {"data__target": target, "data__task": kind, "tokens__max_length": 24}
            given |= {"optimizer__max_steps": 1, "optimizer__epochs": 1} | settings
            run = folder / f"run_{len(made)}"
            table = write_table(run.with_suffix(".csv"), kind=kind)
            run_all(tiny_config(table, tiny_encoder_dir(encoder), **given), run)
            made[key] = run
        return made[key]

    return train


@pytest.fixture(scope="session")
def run(trained: Callable[..., Path]) -> Path:
    return trained()


@pytest.fixture(scope="session")
def folds(trained: Callable[..., Path]) -> Path:
    return trained(fold="all", folds__count=2)


@pytest.fixture(scope="session")
def classes(trained: Callable[..., Path]) -> Path:
    return trained("multiclass")
