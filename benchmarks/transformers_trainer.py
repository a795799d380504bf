"""Two peers of `benchmarks/peers.py`: transformers.Trainer, as it comes and tuned.

As it comes: what transformers' guide to text classification shows, at 32 rows a step: tokens cut at the limit, each
batch padded to its longest text (what Trainer does when it is given the tokenizer), every other setting untouched:
float32, fused AdamW, rows in random order.

Tuned (`variant`): bf16, no logging, rows sorted by length, 32 rows a step in micro-batches of so many rows.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from workload import Meter, Workload, load_model, run_peer, score


class Timer(TrainerCallback):
    """Starts the meter when the first batch is there, and stops it after the last step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start at the first step."""
        if state.global_step == 0:
            self._meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop at the last step."""
        if state.global_step == state.max_steps:
            self._meter.stop()


class WholePools(LengthGroupedSampler):
    """Trainer's grouping by length in its full pools of 50 batches.

    It sorts in smaller pools where a data set is small, as the part of one is that is timed here, and would pad more
    than it does on the whole.
    """

    def __iter__(self) -> Iterator[int]:
        """Iterate over the rows of an epoch."""
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, 50, generator=self.generator))


class GroupingTrainer(Trainer):
    """Trainer with `group_by_length` as it is on a large data set."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return WholePools(size, lengths=[len(row["input_ids"]) for row in rows])


def precision_arguments(workload: Workload) -> dict[str, Any]:
    """The settings of a trainer that is tuned, as far as they follow from the precision and the device."""
    return {"bf16": workload.precision == "bf16", "fp16": workload.precision == "fp16"}


def common_arguments(workload: Workload, folder: str, epochs: int) -> dict[str, Any]:
    """The settings that say what is learned, and that nothing is saved or reported."""
    return {
        "output_dir": folder,
        "num_train_epochs": epochs,
        "learning_rate": workload.learning_rate,
        "weight_decay": 0.01,
        "seed": workload.seed,
        "use_cpu": workload.device == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(workload: Workload, meter: Meter) -> dict[str, Any]:
    model, tokenizer = load_model(workload)
    tokens = tokenizer(*workload.columns(), truncation=True, max_length=workload.max_length)
    labels = workload.target_tensor()
    dataset = [
        {name: tokens[name][row] for name in tokens} | {"labels": labels[row].item()} for row in range(len(labels))
    ]
    variant = workload.variant
    tuned: dict[str, Any] = {}
    if variant:
        tuned = precision_arguments(workload) | {
            "gradient_accumulation_steps": workload.batch_size // variant["micro_batch"],
            "train_sampling_strategy": variant["sampling"],
            "torch_compile": variant.get("compile", False),
            "logging_strategy": "no",
            "logging_nan_inf_filter": False,  # asks the device after every step
        }
    if variant.get("compile"):
        meter.positions = None  # counting would break the compiled graph
    else:
        meter.count_positions_of(model)
    with tempfile.TemporaryDirectory() as folder:
        for rows, epochs in workload.spans():
            arguments = common_arguments(workload, folder, epochs) | tuned
            arguments["per_device_train_batch_size"] = variant.get("micro_batch", workload.batch_size)
            trainer = GroupingTrainer(
                model=model,
                args=TrainingArguments(**arguments),
                train_dataset=dataset[rows.start : rows.stop],
                processing_class=tokenizer,
                callbacks=[Timer(meter)],
            )
            done = trainer.train()
    result = {"steps": done.global_step, "loss": done.training_loss}
    return result | ({"score": score(workload, model, tokenizer)} if workload.validate else {})


if __name__ == "__main__":
    run_peer(train)
