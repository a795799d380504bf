"""Does `leantune inspect` predict how long training takes? A probe, some training, and so on in turn.

    python benchmarks/inspect_time.py DATA --text text --target V --model FOLDER --rounds 3 --steps 60

Each round probes as `leantune inspect` does (about 8 seconds), then trains for `--steps` optimizer steps, or a whole
epoch where none are given, and compares the seconds that the probe predicts for so many steps of the epoch's mean
length with the `train_seconds` that were measured. Prints a line a round, and the ratios' range. In turn, so that what
else the machine does is the same for both, as far as it can be; on an idle machine the ratio should be 0.8 to 1.2.
"""

import argparse
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from leantune.advice.probe import measure, prepare_quietly
from leantune.runs.config import parse_config
from leantune.runs.lesson import begin_head, make_lesson
from leantune.system.device import describe_device, synchronize
from leantune.training.clock import PhaseClock
from leantune.training.events import TrainStep
from leantune.training.loop import train_fold
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.state import TrainState


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    settings = {
        "data": {"path": options.data, "text": options.text, "target": options.target},
        "model": {"name": options.model},
        "optimizer": {"epochs": 1} | ({} if options.steps is None else {"max_steps": options.steps}),
    }
    config = parse_config(settings)
    ratios = []
    for number in range(options.rounds):
        prepared, encoder = prepare_quietly(config)
        if number == 0:
            print(describe_device(prepared.precision.device), prepared.precision.name, prepared.config.batching)
        predicted = measure(prepared, encoder)
        took, processor, share = train(config)
        expected = predicted.seconds_per_epoch * share
        busy = (predicted.processor_seconds_per_epoch or 0) * share
        ratios.append(expected / took)
        print(
            f"round {number}: predicted {expected:.1f} s ({predicted.steps} steps measured), took {took:.1f} s, ratio "
            f"{ratios[-1]:.3f}; processor time: predicted {busy:.1f} s, took {processor:.1f} s, ratio "
            f"{busy / processor:.3f}",
            flush=True,
        )
    print(f"ratio: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def train(config) -> tuple[float, float, float]:
    """Train as `leantune train` does; return seconds, processor seconds, and the share of an epoch's rows."""
    prepared, encoder = prepare_quietly(config)
    device = prepared.precision.device
    lesson = make_lesson(prepared.fold_numbers[0], prepared, encoder)
    begin_head(encoder, lesson)
    fold = replace(lesson.fold, validation_rows=np.empty(0, dtype=np.int64))
    state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
    clock = PhaseClock(None, partial(synchronize, device))
    precision = make_precision(prepared.precision.name, device)
    seconds, rows, began = 0.0, 0, time.process_time()
    for event in train_fold(encoder, lesson.rows, fold, state, task=lesson.task, precision=precision, clock=clock):
        if isinstance(event, TrainStep):
            seconds, rows = event.train_seconds, rows + event.rows
    return seconds, time.process_time() - began, rows / len(fold.training_rows)


if __name__ == "__main__":
    main()
