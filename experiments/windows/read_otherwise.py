"""How much of what windows bring is the training, and how much the reading? Models of finished runs read otherwise.

    python experiments/windows/read_otherwise.py RUN [RUN ...]

Each run's model of fold 0 predicts its validation rows in several ways, whatever it was trained with, in the run's
precision and at most as many tokens long. Prints a line for each run and way.
"""

import argparse
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from leantune.batches.plan import TokensPerMicroBatch
from leantune.inference.trained_run import open_run
from leantune.system.device import resolve_device
from leantune.tables.folds import fold_table
from leantune.tokens.sequences import make_sequences
from leantune.tokens.tokens import load_tokenizer
from leantune.tokens.truncation import TokenSettings
from leantune.training.precision import make_precision
from leantune.training.prediction import predict_rows
from leantune.training.scoring import compute_metrics

WAYS: tuple[dict[str, Any], ...] = (
    {"truncation": "head"},
    {"truncation": "head_tail"},
    {"truncation": "windows"},
    {"truncation": "windows", "window_pooling": "max"},
)


def finish(generator: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    for folder in parser.parse_args().runs:
        run = open_run(folder)
        encoder, tokenizer = run.load(run.folds[0]), load_tokenizer(str(run.folds[0].model))
        table, targets, folds = fold_table(run.config.data, run.config.folds)
        rows = folds.validation_rows(0)
        for way in WAYS:
            sequences = finish(
                make_sequences(
                    table.texts,
                    tokenizer,
                    TokenSettings(max_length=run.config.tokens.max_length, **way),
                    vocabulary_size=encoder.vocabulary_size,
                    position_limit=encoder.position_limit,
                    describe_place=table.describe_place,
                )
            )
            predicted = predict_rows(
                encoder,
                sequences,
                rows,
                task=run.task,
                micro_batch=TokensPerMicroBatch(tokens=2048),
                padding="longest" if encoder.pooling is None else "none",
                precision=make_precision(run.config.precision, resolve_device("auto")),
            )
            metrics = compute_metrics(run.task.kind, targets.values[rows], predicted.values)
            told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
            print(f"{folder.name}: {way}, {np.sum(sequences.windows[rows])} windows: {told}", flush=True)


if __name__ == "__main__":
    main()
