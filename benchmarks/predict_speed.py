"""How fast does a trained run predict, beside what a user would take instead?

    python benchmarks/predict_speed.py RUN DATA --text excerpt --rows 500 --rounds 5
    python benchmarks/predict_speed.py RUN DATA --text text --rows 5000 --rounds 20 --new-rows --onnx EXPORTED

Peers, on the same texts, cut to the run's own length: transformers' pipeline at each of --batch-sizes (its best one
counts), a hand-written loop over batches of like length, sentence-transformers' CrossEncoder where that is installed,
and with --onnx what `leantune export --format onnx --quantize int8` has written of the same run, in onnxruntime and in
batches of like length. leantune tokenizes, plans, computes and puts the rows back in order, as
`leantune.load(RUN).predict` does, and so do the peers.
The peers take turns in every round; the first round warms up. Each round prints its line of seconds. With --new-rows
each round predicts the next rows of the table, so that all rounds together are one long table. Prints the median of
seconds (and the range), tokens a second, and the median over the rounds of each one's time over leantune's float32
time.
"""

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from leantune.inference import cut
from leantune.inference.onnx_export import OnnxModel
from leantune.inference.predictor import load
from leantune.inference.trained_run import open_run
from leantune.system.device import processor_name
from leantune.tables.table import DataSettings, read_table
from leantune.training.precision import supported_precisions

OURS = "leantune fp32"
BATCH = 32
"""Texts of like length in a batch of the peers other than the pipeline."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--rows", type=int, default=500, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-rows", action="store_true", help="each round predicts other rows")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128], help="of the pipeline")
    parser.add_argument("--onnx", type=Path, help="an export of the run, in ONNX and int8")
    parser.add_argument("--without", nargs="*", default=[], help="peers that are left out, by their first word")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    rows, rounds = options.rows, options.rounds
    needed = rows * rounds if options.new_rows else rows
    table = read_table(DataSettings(path=options.data, text=(options.text,), limit=needed))
    every = table.texts[0].to_pylist()
    run = open_run(options.run)
    folder, longest = run.folds[0].model, run.config.tokens.max_length
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=longest)
    lengths = [len(ids) for ids in tokenizer(every, truncation=True, max_length=longest)["input_ids"]]
    print(f"{date.today()}, {processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, {platform.system()}")
    print(f"{len(every):,} rows of {sum(lengths) / len(lengths):.0f} tokens on average, {max(lengths)} at most")

    peers = _peers(folder, longest, tokenizer, batch_sizes=options.batch_sizes, exported=options.onnx)
    for name in ["fp32", *(["bf16"] if "bf16" in supported_precisions(torch.device("cpu")) else [])]:
        peers[f"leantune {name}"] = load(options.run, device="cpu", precision=name).predict
    peers = {name: predict for name, predict in peers.items() if name.split()[0] not in options.without}
    parts = [every[start : start + rows] for start in range(0, len(every), rows)] if options.new_rows else [every]
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for part in [parts[0], *(parts[number % len(parts)] for number in range(rounds))]:
        for name, predict in peers.items():
            start = time.perf_counter()
            predict(part)
            seconds[name].append(time.perf_counter() - start)
        print("round", *(f"{taken[-1]:.2f}" for taken in seconds.values()), flush=True)
    tokens = sum(lengths) / len(parts)
    for name, taken in seconds.items():
        kept = taken[1:]
        ratios = [own / ours for own, ours in zip(kept, seconds[OURS][1:], strict=True)]
        print(
            f"{name:<28}{statistics.median(kept):7.2f} s ({min(kept):.2f} to {max(kept):.2f})"
            f"{tokens / statistics.mean(kept):10,.0f} tokens/s   x {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


Predict = Callable[[list[str]], Any]


def _peers(
    folder: Path, longest: int, tokenizer: Any, *, batch_sizes: list[int], exported: Path | None
) -> dict[str, Predict]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def by_pipeline(size: int) -> Predict:
        return lambda texts: classify(texts, batch_size=size, truncation=True, max_length=longest, top_k=None)

    def by_loop(texts: list[str]) -> list[Any]:
        encoded = tokenizer(texts, truncation=True, max_length=longest)
        rows = [{name: values[row] for name, values in encoded.items()} for row in range(len(texts))]
        logits: list[Any] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: len(rows[row]["input_ids"]))
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                some = order[start : start + BATCH]
                batch = tokenizer.pad([rows[row] for row in some], return_tensors="pt")
                for row, values in zip(some, model(**batch).logits, strict=True):
                    logits[row] = values
        return logits

    peers: dict[str, Predict] = {f"pipeline, {size} rows": by_pipeline(size) for size in batch_sizes}
    peers[f"loop by length, {BATCH} rows"] = by_loop
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import CrossEncoder  # noqa: PLC0415 - an extra of the benchmarks

        cross = CrossEncoder(str(folder), device="cpu", max_length=longest)
        peers[f"CrossEncoder, {BATCH} rows"] = lambda texts: cross.predict(
            [(text, "") for text in texts], batch_size=BATCH, show_progress_bar=False
        )
    if exported is not None:
        for name, file in (("float32", "model.onnx"), ("int8", "model_quantized.onnx")):
            peers[f"onnxruntime {name}"] = _by_onnx(exported, exported / "onnx" / file)
    return peers


def _by_onnx(exported: Path, file: Path) -> Predict:
    model, tokenizer = OnnxModel(file), AutoTokenizer.from_pretrained(exported)
    settings = cut.read_settings(exported)

    def predict(texts: list[str]) -> list[Any]:
        ids = cut.tokens(tokenizer, texts)
        logits: list[Any] = [None] * len(ids)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            for row, values in zip(some, model.logits(cut.batch(settings, [ids[row] for row in some])), strict=True):
                logits[row] = values
        return logits

    return predict


if __name__ == "__main__":
    main()
