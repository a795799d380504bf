"""How fast does a trained run predict, beside what a user would take instead?

    python benchmarks/predict_speed.py RUN DATA --text excerpt --rows 500 --rounds 5

Peers, on the same texts, cut to the run's own length: transformers' pipeline at each of --batch-sizes (its best one
counts), a hand-written loop over batches of like length, and sentence-transformers' CrossEncoder where that is
installed. leantune tokenizes, plans, computes and puts the rows back in order, as `leantune.load(RUN).predict` does.
The peers take turns in every round; the first round warms up. Prints the median of seconds (and the range), tokens a
second, and the median over the rounds of each one's time over leantune's float32 time. Exported forms (ONNX, int8):
benchmarks/export_formats.py.
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

from leantune.inference.predictor import load
from leantune.inference.trained_run import open_run
from leantune.system.device import processor_name
from leantune.tables.table import DataSettings, read_table
from leantune.training.precision import supported_precisions

OURS = "leantune fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128])
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    texts = read_table(DataSettings(path=options.data, text=(options.text,), limit=options.rows)).texts[0].to_pylist()
    run = open_run(options.run)
    folder, longest = run.folds[0].model, run.config.tokens.max_length
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=longest)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]
    print(f"{date.today()}, {processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, {platform.system()}")
    print(f"{len(texts):,} rows of {sum(lengths) / len(lengths):.0f} tokens on average, {max(lengths)} at most")

    peers = _peers(folder, longest, tokenizer, texts=texts, lengths=lengths, batch_sizes=options.batch_sizes)
    for name in ["fp32", *(["bf16"] if "bf16" in supported_precisions(torch.device("cpu")) else [])]:
        predictor = load(options.run, device="cpu", precision=name)
        peers[f"leantune {name}"] = lambda predictor=predictor: predictor.predict(texts)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(options.rounds + 1):
        for name, predict in peers.items():
            start = time.perf_counter()
            predict()
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        kept = taken[1:]
        ratios = [own / ours for own, ours in zip(kept, seconds[OURS][1:], strict=True)]
        print(
            f"{name:<28}{statistics.median(kept):7.2f} s ({min(kept):.2f} to {max(kept):.2f})"
            f"{sum(lengths) / statistics.median(kept):10,.0f} tokens/s   x {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _peers(
    folder: Path, longest: int, tokenizer: Any, *, texts: list[str], lengths: list[int], batch_sizes: list[int]
) -> dict[str, Callable[[], Any]]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def by_pipeline(size: int) -> Callable[[], Any]:
        return lambda: classify(texts, batch_size=size, truncation=True, max_length=longest, top_k=None)

    def by_loop() -> list[Any]:
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        logits: list[Any] = [None] * len(texts)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                rows = order[start : start + 32]
                batch = [texts[row] for row in rows]
                encoded = tokenizer(batch, truncation=True, max_length=longest, padding=True, return_tensors="pt")
                for row, values in zip(rows, model(**encoded).logits, strict=True):
                    logits[row] = values
        return logits

    peers: dict[str, Callable[[], Any]] = {f"pipeline, {size} rows": by_pipeline(size) for size in batch_sizes}
    peers["sorted loop, 32 rows"] = by_loop
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import CrossEncoder  # noqa: PLC0415 - an extra of the benchmarks

        cross = CrossEncoder(str(folder), device="cpu", max_length=longest)
        pairs = [(text, "") for text in texts]
        peers["CrossEncoder, 32 rows"] = lambda: cross.predict(pairs, batch_size=32, show_progress_bar=False)
    return peers


if __name__ == "__main__":
    main()
