"""How large should a micro-batch be on this device? Seconds an optimizer step for several limits, interleaved.

    python benchmarks/micro_batch.py DATA --text text --target V --model FOLDER --rows 2000 --max-length 128

Every limit trains on the same steps of 32 rows, in turn, several rounds; the first round warms up. Prints the median
and the range of seconds a step, and the share of computed positions that is padding. `AUTO_TOKENS` in
`leantune.training.layout` rests on it.
"""

import argparse
import statistics
import time
from pathlib import Path

from leantune.batches.batch import Rows, make_training_batch
from leantune.batches.plan import MicroBatch, RowsPerMicroBatch, TokensPerMicroBatch, padded_tokens, plan_epoch
from leantune.runs.config import parse_config
from leantune.runs.preparation import prepare
from leantune.system.device import resolve_device, synchronize
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.step import optimizer_step
from workload import finish


def parse_limit(text: str) -> MicroBatch:
    """`rows:8` or `tokens:1024`."""
    kind, _, number = text.partition(":")
    return RowsPerMicroBatch(rows=int(number)) if kind == "rows" else TokensPerMicroBatch(tokens=int(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--layout", default="auto", choices=["auto", "fixed", "dynamic", "packed"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--limits", nargs="+", default=["rows:4", "rows:8", "rows:16", "rows:32", "tokens:1024", "tokens:2048"]
    )
    options = parser.parse_args()

    device = resolve_device("auto")
    precision = make_precision("auto", device)
    config = parse_config(
        {
            "data": {"path": options.data, "text": options.text, "target": options.target, "limit": options.rows},
            "model": {"name": options.model},
            "tokens": {"max_length": options.max_length or "auto"},
            "batching": {"layout": options.layout},
        }
    )
    prepared, encoder = finish(prepare(config, precision))
    rows: Rows = prepared.rows
    optimizer = make_optimizer(encoder.model, prepared.optimizer)
    encoder.model.train()
    lengths, padding = rows.sequences.lengths, prepared.batching.padding
    limits = {text: parse_limit(text) for text in options.limits}
    plans = {
        text: plan_epoch(lengths, batch_size=32, micro_batch=limit, order="random", padding=padding, seed=0, epoch=0)
        for text, limit in limits.items()
    }
    seconds: dict[str, list[float]] = {text: [] for text in limits}
    for _ in range(options.rounds):
        for text, plan in plans.items():
            synchronize(device)
            start = time.perf_counter()
            for index in range(options.steps):
                step = plan.step(index)
                optimizer_step(
                    encoder,
                    optimizer,
                    (
                        make_training_batch(rows, micro, pad_id=encoder.pad_id, padding=padding, device=device)
                        for micro in step.micro_batches
                    ),
                    total_weight=float(len(step.rows)),
                    task=prepared.task,
                    precision=precision,
                    learning_rate=1e-6,
                    clip_norm=1.0,
                )
            synchronize(device)
            seconds[text].append((time.perf_counter() - start) / options.steps)
    print("| micro-batch | seconds a step | range | padding |\n|---|---|---|---|")
    for text, plan in plans.items():
        counted = seconds[text][1:]
        share = 1 - lengths.sum() / sum(padded_tokens(lengths[rows], padding) for rows in plan.micro_batches)
        print(f"| {text} | {statistics.median(counted):.3f} | {min(counted):.3f} to {max(counted):.3f} | {share:.1%} |")


if __name__ == "__main__":
    main()
