"""A peer of `benchmarks/peers.py`: CrossEncoderTrainer of sentence-transformers, tuned like transformers.Trainer.

Mean squared error for numbers, cross-entropy for classes, bf16, 32 rows a step in micro-batches of `variant` rows. It
groups no rows by length, and its losses take pairs of texts only: a single text is given with an empty second one,
which costs one more special token a row. Tokens are made within the step, which is how the library works.
"""

import tempfile
from typing import Any

import torch

from transformers_trainer import Timer, common_arguments, precision_arguments
from workload import Meter, Workload, dropouts, run_peer, score


def train(workload: Workload, meter: Meter) -> dict[str, Any]:
    # Here and not above, so that it is told where the package is not there.
    from datasets import Dataset  # noqa: PLC0415
    from sentence_transformers.cross_encoder import (  # noqa: PLC0415
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )

    torch.manual_seed(workload.seed)
    model = CrossEncoder(
        workload.model,
        num_labels=workload.outputs,
        max_length=workload.max_length,
        device=workload.device,
        config_kwargs=dropouts(workload),
        model_kwargs={"dtype": torch.float32},
    )
    meter.count_positions_of(model.model)
    loss_of = losses.MSELoss if workload.is_regression else losses.CrossEntropyLoss
    labels = workload.target_tensor().tolist()
    with tempfile.TemporaryDirectory() as folder:
        for rows, epochs in workload.spans():
            dataset = Dataset.from_dict(
                {
                    "text": [workload.texts[row][0] for row in rows],
                    "text_2": [workload.texts[row][1] if workload.pair else "" for row in rows],
                    "label": [labels[row] for row in rows],
                }
            )
            micro_batch = workload.variant["micro_batch"]
            trainer = CrossEncoderTrainer(
                model=model,
                args=CrossEncoderTrainingArguments(
                    **common_arguments(workload, folder, epochs),
                    **precision_arguments(workload),
                    per_device_train_batch_size=micro_batch,
                    gradient_accumulation_steps=workload.batch_size // micro_batch,
                    logging_strategy="no",
                    logging_nan_inf_filter=False,
                ),
                train_dataset=dataset,
                loss=loss_of(model),
                callbacks=[Timer(meter)],
            )
            done = trainer.train()
    result: dict[str, Any] = {"steps": done.global_step, "loss": done.training_loss}
    if workload.validate:
        second_text = None if workload.pair else ""
        result["score"] = score(workload, model.model, model.tokenizer, second_text=second_text)
    return result


if __name__ == "__main__":
    run_peer(train)
