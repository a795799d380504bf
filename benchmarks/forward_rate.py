"""Do evaluation and prediction read tokens at least as fast as the forward passes of training?

    python benchmarks/forward_rate.py train.csv --text excerpt --target target --model FOLDER --max-length 256

The rows of the table are read in both ways, in turn, by one encoder: as training reads them before each backward pass
(its steps, micro-batches, dropout, what is kept for going back), and as an evaluation does (`predict_rows`: sorted by
length, nothing kept). In the run's precision, and in float32, in which the kept predictions are computed. Prints a
table: tokens a second, and the ratio of two readings of the same round, medians with their range.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from layout import Runner, load
from leantune.batches.batch import make_training_batch
from leantune.batches.plan import plan_epoch
from leantune.system.device import synchronize
from leantune.training.precision import Precision, make_precision
from leantune.training.prediction import predict_rows


def read_as_training(runner: Runner, precision: Precision) -> None:
    """Take the forward passes of an epoch."""
    prepared, encoder = runner.prepared, runner.encoder
    batching, device = prepared.batching, precision.device
    fixed = {"micro_batch": batching.micro_batch, "padding": batching.padding}
    plan = plan_epoch(prepared.rows.sequences.lengths, batch_size=32, order="random", seed=0, epoch=0, **fixed)
    encoder.model.train()
    with precision.compute():
        for index in range(len(plan)):
            for micro in plan.step(index).micro_batches:
                batch = make_training_batch(
                    prepared.rows, micro, pad_id=encoder.pad_id, padding=batching.padding, device=device
                )
                prepared.task.loss_sums(encoder.logits(batch.inputs), batch.targets, batch.weights)


def read_as_evaluation(runner: Runner, precision: Precision) -> None:
    """Predict all rows."""
    prepared, batching = runner.prepared, runner.prepared.batching
    fixed = {"micro_batch": batching.micro_batch, "padding": batching.padding}
    numbers = np.arange(len(prepared.rows.sequences.lengths))
    predict_rows(runner.encoder, prepared.rows.sequences, numbers, task=prepared.task, precision=precision, **fixed)


WAYS: dict[str, Callable[[Runner, Precision], None]] = {
    "training's forward passes": read_as_training,
    "evaluation": read_as_evaluation,
}


def middle(values: list[float], digits: str) -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--dropout", type=float, help="of hidden values and attention weights; default the model's own")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runner = load(options, "packed")
    device = runner.prepared.precision.device
    formats = list(dict.fromkeys([runner.prepared.precision.name, "fp32"]))
    tokens = int(runner.prepared.rows.sequences.lengths.sum())
    print(f"{len(runner.prepared.rows.sequences.lengths)} rows, {tokens} tokens, {device}", flush=True)
    rates: dict[tuple[str, str], list[float]] = {(name, way): [] for name in formats for way in WAYS}
    for number in range(options.rounds + 1):  # the first makes kernels for new shapes, and does not count
        for name, way in rates if number % 2 else reversed(rates):
            precision = make_precision(name, device)
            began = time.perf_counter()
            WAYS[way](runner, precision)
            synchronize(device)
            rate = tokens / (time.perf_counter() - began)
            print(f"round {number}: {name}, {way}: {rate:,.0f} tokens a second", flush=True)
            if number:
                rates[name, way].append(rate)
    print("| precision | | tokens a second | against training's forward passes |\n|---|---|---|---|")
    for (name, way), own in rates.items():
        ratios = [rate / base for rate, base in zip(own, rates[name, next(iter(WAYS))], strict=True)]
        ratio = "–" if way == next(iter(WAYS)) else middle(ratios, ".2f")
        print(f"| {name} | {way} | {middle(own, ',.0f')} | {ratio} |")


if __name__ == "__main__":
    main()
