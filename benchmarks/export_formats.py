"""Which exported form predicts fastest on this processor, and what does it lose? Torch, onnxruntime and OpenVINO.

    leantune export RUN --output EXPORTED --format onnx --quantize int8 --tolerance 1
    python benchmarks/export_formats.py RUN EXPORTED --rows 300 --batch-sizes 1 32
    python benchmarks/export_formats.py RUN EXPORTED --texts train.csv --text excerpt --max-length 256 --rows 60

Every form predicts the same rows, texts of like length in a batch, in turn and several rounds; the first round warms
up. Prints medians of seconds, their ratio to plain transformers, and, on the run's own validation rows, the share of
the gain over the constant answer that is lost. OpenVINO's forms need `openvino` and `nncf`, and are left out where
they are not installed: docs/design/0010-export.md says why leantune does not export them.
"""

import argparse
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from leantune.batches.plan import RowsPerMicroBatch
from leantune.inference import cut
from leantune.inference.onnx_export import OnnxModel
from leantune.inference.quantization_loss import measure_loss
from leantune.inference.trained_run import open_run
from leantune.inference.trial import TorchModel, spread
from leantune.inference.validation_rows import RowSource
from leantune.tables.table import DataSettings, read_table
from leantune.tokens.sequences import make_sequences
from leantune.tokens.tokens import load_tokenizer
from leantune.training.precision import make_precision
from leantune.training.prediction import predict_rows
from workload import finish

Inputs = dict[str, list[list[int]]]
CALIBRATION_ROWS = 200


def openvino_forms(folder: Path, calibration: list[Inputs]) -> dict[str, Callable[[Inputs], Any]]:
    if importlib.util.find_spec("openvino") is None:
        return {}
    os.environ["OPENVINO_TELEMETRY_DISABLE"] = "1"
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    def form(model: Any, hint: str) -> Callable[[Inputs], Any]:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return lambda inputs: compiled({name: np.array(values) for name, values in inputs.items()})[0]

    model = core.read_model(folder / "onnx/model.onnx")
    data = nncf.Dataset([{name: np.array(values) for name, values in inputs.items()} for inputs in calibration])
    static = nncf.quantize(core.read_model(folder / "onnx/model.onnx"), data, model_type=nncf.ModelType.TRANSFORMER)
    return {
        "OpenVINO float32": form(model, "f32"),
        "OpenVINO bf16": form(model, "bf16"),
        "OpenVINO int8, static": form(static, "f32"),
    }


def main() -> None:  # noqa: PLR0915 - one thing after the other
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("exported", type=Path, help="of the same run: --format onnx --quantize int8")
    parser.add_argument("--texts", type=Path, help="another table to read texts from: times only")
    parser.add_argument("--text", default="text")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()

    run = open_run(options.run)
    fold = run.folds[0]
    settings = cut.read_settings(options.exported)
    settings["max_length"] = options.max_length or settings["max_length"]
    rows = RowSource(run, None).rows(fold)
    calibrating = np.sort(np.random.default_rng(1).permutation(len(rows)))[:CALIBRATION_ROWS]
    tokenizer = AutoTokenizer.from_pretrained(options.exported)
    if options.texts is None:
        chosen = rows.take(spread(rows, options.rows))
        texts = chosen.texts
    else:
        table = read_table(DataSettings(path=options.texts, text=(options.text,), limit=options.rows))
        chosen, texts = None, table.texts

    columns = [cut.tokens(tokenizer, column.to_pylist()) for column in texts]
    by_length = sorted(range(len(columns[0])), key=lambda row: sum(len(column[row]) for column in columns))

    def batches(size: int) -> list[Inputs]:
        parts = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        return [cut.batch(settings, *([column[row] for row in part] for column in columns)) for part in parts]

    calibration = [
        cut.encode(tokenizer, settings, *([column[row].as_py()] for column in rows.texts)) for row in calibrating
    ]
    plain = TorchModel(fold.model)
    forms: dict[str, Callable[[Inputs], Any]] = {
        "transformers": plain.logits,
        "onnxruntime float32": OnnxModel(options.exported / "onnx/model.onnx").logits,
        "onnxruntime int8": OnnxModel(options.exported / "onnx/model_quantized.onnx").logits,
    } | openvino_forms(options.exported, calibration)

    encoder = run.load(fold, "cpu")
    tokens = run.config.tokens.model_copy(update={"max_length": settings["max_length"]})
    sequences = finish(
        make_sequences(
            texts,
            load_tokenizer(str(fold.model)),
            tokens,
            vocabulary_size=encoder.vocabulary_size,
            position_limit=encoder.position_limit,
            describe_place=str,
            cached=False,
        )
    )
    own = {f"leantune {name}": make_precision(name, torch.device("cpu")) for name in ("fp32", "bf16")}

    def predict_own(name: str, size: int) -> Any:
        return predict_rows(
            encoder,
            sequences,
            np.arange(len(by_length)),
            task=run.task,
            micro_batch=RowsPerMicroBatch(rows=size),
            padding="none" if encoder.pooling is not None else "longest",
            precision=own[name],
        ).values

    lengths = sequences.lengths
    print(f"{len(lengths)} rows, {lengths.mean():.0f} tokens on average, {lengths.max()} at most", flush=True)
    for size in options.batch_sizes:
        made = batches(size)
        seconds: dict[str, list[float]] = {name: [] for name in (*forms, *own)}
        for _, name in itertools.product(range(options.rounds), seconds):
            began = time.perf_counter()
            if name in forms:
                for inputs in made:
                    forms[name](inputs)
            else:
                predict_own(name, size)
            seconds[name].append(time.perf_counter() - began)
        base = statistics.median(seconds["transformers"][1:])
        print(f"\nbatches of {size}")
        for name, values in seconds.items():
            kept = values[1:]
            median = statistics.median(kept)
            print(f"{name:24} {median:8.2f} s ({min(kept):.2f} to {max(kept):.2f})  {base / median:5.2f} x", flush=True)

    if chosen is not None and chosen.targets is not None and chosen.predictions is not None:
        print()
        for name, compute in forms.items():
            logits = np.empty((len(by_length), run.task.outputs), np.float32)
            logits[by_length] = np.concatenate([compute(inputs) for inputs in batches(32)])
            values = run.task.predictions(torch.from_numpy(logits)).numpy()
            loss = measure_loss(run.task.kind, chosen.targets, chosen.predictions, values)
            low, high = (100 * value for value in loss.interval)
            print(f"{name:24} loses {100 * loss.share:6.2f}% ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
