"""A peer of `benchmarks/peers.py`: leantune with its defaults, by the loop that `leantune train` runs.

It adds what the others are held against: the tokens, the floating-point operations that cannot be avoided, and the rate
of matrix products on this device, measured after the training.
"""

from typing import Any, Literal, cast

import numpy as np

from leantune.runs.config import parse_config
from leantune.runs.preparation import prepare
from leantune.system.device import matrix_rate, resolve_device, synchronize
from leantune.training.clock import PhaseClock
from leantune.training.events import FoldStart, TrainStep
from leantune.training.loop import Fold, train_fold
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.state import TrainState
from workload import Meter, Workload, finish, run_peer, score


def train(workload: Workload, meter: Meter) -> dict[str, Any]:
    device = resolve_device(workload.device)
    precision = make_precision(cast(Literal["fp32", "fp16", "bf16"], workload.precision), device)
    text = ["text", "text_2"] if workload.pair else ["text"]
    config = parse_config(
        {
            "data": {
                "path": workload.table,
                "text": text,
                "target": "target",
                "fold": "fold",
                "task": workload.kind,
            },
            "model": {
                "name": workload.model,
                "dropout": workload.dropout,
                "attention_dropout": workload.dropout,
            },
            # As the others cut.
            "tokens": {"max_length": workload.max_length, "truncation": "head"},
            "batching": {"batch_size": workload.batch_size},
            "optimizer": {"learning_rate": workload.learning_rate, "epochs": workload.epochs},
            "precision": workload.precision,
            "device": workload.device,
            "seed": workload.seed,
        }
    )
    prepared, encoder = finish(prepare(config, precision))

    steps: list[TrainStep] = []
    for rows, epochs in workload.spans():
        fold = Fold(
            number=0,
            training_rows=np.array(rows),
            validation_rows=prepared.folds.validation_rows(0),
            batching=prepared.batching,
            optimizer=prepared.optimizer.model_copy(update={"epochs": epochs}),
            evaluation=config.evaluation.model_copy(update={"every": {"steps": 10**9}}),
            metric=prepared.metric,
            seed=workload.seed,
            checkpoint=config.checkpoint,
        )
        state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
        clock = PhaseClock(synchronize=lambda: synchronize(device))
        training = train_fold(encoder, prepared.rows, fold, state, task=prepared.task, precision=precision, clock=clock)
        steps.clear()
        for event in training:
            if isinstance(event, FoldStart):
                meter.start()
            if isinstance(event, TrainStep):
                steps.append(event)
                if event.step == fold.total_steps:  # the evaluation that follows is not wanted
                    break
        meter.positions = sum(step.computed_tokens for step in steps)
        meter.stop()
        training.close()
    result = {
        "steps": len(steps),
        "loss": float(np.mean([step.loss for step in steps])),
        "tokens": sum(step.tokens for step in steps),
        "useful_flops": sum(step.useful_flops for step in steps),
        "settings": f"layout {prepared.config.batching.layout}, precision {precision.name}",
    }
    with precision.compute():
        rate, rate_of = matrix_rate(device, precision.matrix_dtype)
    result |= {"matrix_rate": rate, "matrix_rate_of": rate_of}
    if workload.validate:
        encoder.model.set_attn_implementation("sdpa")  # which takes padded batches
        result["score"] = score(workload, encoder.model, prepared.tokenizer)
    return result


if __name__ == "__main__":
    run_peer(train)
