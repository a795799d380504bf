"""What does it save to train only the rows of the embedding that the texts use?

    python benchmarks/vocabulary.py DATA --text text --target V --model FOLDER --max-length 128

Trains the first steps of an epoch with the rows in use and with all rows, each run in a process of its own, in turn.
Prints a table: median and range over the rounds of seconds a step, of seconds for clipping and the optimizer alone,
the memory of the process, and the bytes of a checkpoint's tensors (weights and moments). Worth running on a model with
a multilingual vocabulary, of 250,000 rows.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from leantune.batches.batch import make_training_batch
from leantune.batches.plan import plan_epoch
from leantune.encoder.embedding import whole_embedding
from leantune.runs.config import parse_config
from leantune.runs.preparation import prepare
from leantune.system.device import resolve_device, synchronize
from leantune.training.clock import peak_process_bytes
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.state import TrainState, pack_state
from leantune.training.step import accumulate_gradients, apply_gradients
from workload import finish

VARIANTS = ("rows in use", "all rows")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process; return what it took."""
    device = resolve_device("auto")
    config = parse_config(
        {
            "data": {"path": options.data, "text": options.text, "target": options.target},
            "model": {"name": options.model},
            "tokens": {"max_length": options.max_length or "auto"},
        }
    )
    precision = make_precision("auto", device)
    prepared, encoder = finish(prepare(config, precision))
    rows, batching = prepared.rows, prepared.batching
    plan = plan_epoch(
        rows.sequences.lengths,
        batch_size=32,
        micro_batch=batching.micro_batch,
        order="random",
        padding=batching.padding,
        seed=0,
        epoch=0,
    )
    steps, updates = [], []
    whole = whole_embedding(encoder.model) if options.variant == "all rows" else contextlib.nullcontext()
    with whole:
        optimizer = make_optimizer(encoder.model, prepared.optimizer)
        encoder.model.train()
        parameters = list(encoder.model.parameters())
        for index in range(options.steps):
            step = plan.step(index)
            batches = [
                make_training_batch(rows, micro, pad_id=encoder.pad_id, padding=batching.padding, device=device)
                for micro in step.micro_batches
            ]
            synchronize(device)
            begin = time.perf_counter()
            accumulate_gradients(
                encoder, batches, total_weight=float(len(step.rows)), task=prepared.task, precision=precision
            )
            synchronize(device)
            reached = time.perf_counter()
            apply_gradients(parameters, optimizer, learning_rate=1e-6, clip_norm=1.0, precision=precision)
            synchronize(device)
            steps.append(time.perf_counter() - begin)
            updates.append(time.perf_counter() - reached)
        peak = peak_process_bytes()
        tensors, _ = pack_state(TrainState(optimizer=optimizer), encoder, precision)
        table = encoder.model.get_input_embeddings().weight
    warm = options.steps // 4
    return {
        "rows of the embedding": len(table),
        "seconds a step": statistics.median(steps[warm:]),
        "of these, clipping and optimizer": statistics.median(updates[warm:]),
        "memory of the process, GiB": peak / 2**30,
        "a checkpoint's tensors, MB": sum(t.numel() * t.element_size() for ts in tensors.values() for t in ts.values())
        / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--steps", type=int, default=12, help="the first quarter is not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process; print JSON")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        return
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            command = [sys.executable, *sys.argv, "--variant", variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rounds[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{variant}: {rounds[variant][-1]}", file=sys.stderr, flush=True)
    print(f"| | {' | '.join(VARIANTS)} |\n|---|---|---|")
    for what in rounds[VARIANTS[0]][0]:
        cells = []
        for variant in VARIANTS:
            values = [result[what] for result in rounds[variant]]
            cells.append(f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})")
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
