"""What does an optimizer step cost in each layout, and what does dropout cost in it?

    python benchmarks/layout.py DATA --text excerpt --target target --model FOLDER --max-length 256

Times the first steps of an epoch of 32 rows each, the same in every layout, in turn: all layouts of a round follow each
other, so that a drifting machine hurts all alike. Prints a table: median and range of seconds a step after the first
round, the median over the rounds of the ratio to `dynamic`, and the share of computed positions that is padding.
With `--profile`, one more round of the last layout is profiled: where its time goes, operation by operation.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from leantune.batches.batch import make_training_batch
from leantune.batches.plan import plan_epoch
from leantune.encoder.model import Encoder
from leantune.runs.config import parse_config
from leantune.runs.preparation import Prepared, prepare
from leantune.system.device import resolve_device, synchronize
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.step import optimizer_step
from workload import finish


@dataclass
class Runner:
    """One layout, ready to take steps."""

    prepared: Prepared
    encoder: Encoder
    optimizer: Any
    seconds: list[float]
    rounds: int = 0
    padding: float = 0.0


def load(options: argparse.Namespace, layout: str) -> Runner:
    config = parse_config(
        {
            "data": {"path": options.data, "text": options.text, "target": options.target, "limit": options.rows},
            "model": {"name": options.model, "dropout": options.dropout, "attention_dropout": options.dropout},
            "tokens": {"max_length": options.max_length or "auto"},
            "batching": {"layout": layout},
            "precision": options.precision,
        }
    )
    precision = make_precision(config.precision, resolve_device("auto"))
    prepared, encoder = finish(prepare(config, precision))
    encoder.model.train()
    return Runner(prepared, encoder, make_optimizer(encoder.model, prepared.optimizer), [])


def take_steps(runner: Runner, steps: int) -> None:
    """Take the first steps of the epoch, and note the seconds of each."""
    prepared, encoder = runner.prepared, runner.encoder
    rows, batching, device = prepared.rows, prepared.batching, prepared.precision.device
    plan = plan_epoch(
        rows.sequences.lengths,
        batch_size=32,
        micro_batch=batching.micro_batch,
        order="random",
        padding=batching.padding,
        seed=0,
        epoch=runner.rounds,
    )
    synchronize(device)
    start, tokens, computed = time.perf_counter(), 0, 0
    for index in range(steps):
        step = plan.step(index)
        batches = [
            make_training_batch(rows, micro, pad_id=encoder.pad_id, padding=batching.padding, device=device)
            for micro in step.micro_batches
        ]
        computed += sum(batch.inputs.input_ids.numel() for batch in batches)
        tokens += int(rows.sequences.lengths[step.rows].sum())
        optimizer_step(
            encoder,
            runner.optimizer,
            batches,
            total_weight=float(len(step.rows)),
            task=prepared.task,
            precision=prepared.precision,
            learning_rate=1e-6,
            clip_norm=1.0,
        )
    synchronize(device)
    runner.seconds.append((time.perf_counter() - start) / steps)
    runner.padding = 1 - tokens / computed
    runner.rounds += 1


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
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--layouts", nargs="+", default=["fixed", "dynamic", "packed"])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    runners = {layout: load(options, layout) for layout in options.layouts}
    for _ in range(options.rounds):
        for runner in runners.values():
            take_steps(runner, options.steps)
    print("| layout | seconds a step | range | against dynamic | padding |\n|---|---|---|---|---|")
    for layout, runner in runners.items():
        own = runner.seconds[1:]
        ratio = "-"
        if "dynamic" in runners:
            ratios = [b / a for a, b in zip(own, runners["dynamic"].seconds[1:], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast"
        print(
            f"| {layout} | {statistics.median(own):.3f} | {min(own):.3f} to {max(own):.3f} | {ratio} "
            f"| {runner.padding:.1%} |"
        )
    if options.profile:
        with torch.profiler.profile() as profile:
            take_steps(runners[options.layouts[-1]], options.steps)
        averages = profile.key_averages()
        print(averages.table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=50))


if __name__ == "__main__":
    main()
