"""Is leantune as good as the article's plain loop, and how much faster?

    python benchmarks/against_article.py DATA --text excerpt --target target --model FOLDER --rows 1000 --seeds 3

For each seed one run of each, in turn and each in a fresh process: the same rows, fold 0, steps, batch size, learning
rate and tokens (the first max_length). leantune computes in bf16 where the machine has it, and pads a micro-batch to
its longest text; the plain loop computes in float32 and pads everything to max_length. Prints a table: best validation
RMSE of each seed, the mean and the spread over seeds, and the ratio of `train_seconds`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from article_loop import make_parser

HERE = Path(__file__).parent


def run_article(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One run of the plain loop in a fresh process."""
    command = [sys.executable, HERE / "article_loop.py", options.data, "--model", options.model, "--seed", seed]
    command += ["--text", options.text, "--target", options.target, "--max-length", options.max_length]
    command += ["--epochs", options.epochs, "--learning-rate", options.learning_rate]
    command += ["--rows", options.rows] if options.rows else []
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_leantune(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One run of `leantune train` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "leantune", "train", options.data, "--model", options.model, "--output", run]
        command += ["--text", options.text, "--target", options.target, "--fold", 0]
        settings = {
            "seed": seed,
            "tokens.max_length": options.max_length,
            "tokens.truncation": "head",
            "optimizer.epochs": options.epochs,
            "optimizer.learning_rate": options.learning_rate,
        }
        if options.rows:
            settings["data.limit"] = options.rows
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["overall"]
    return metrics | {"rmse": metrics["best"]["rmse"], "steps": metrics["optimizer_steps"]}


def main() -> None:
    parser = make_parser()
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    article, leantune = [], []
    print("| seed | steps | article's loop: RMSE | seconds | leantune: RMSE | seconds | ratio |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        # Each goes first in turn: a machine that drifts hurts both alike.
        for name in ("article", "leantune") if seed % 2 == 0 else ("leantune", "article"):
            if name == "article":
                article.append(run_article(options, seed))
            else:
                leantune.append(run_leantune(options, seed))
        a, b = article[-1], leantune[-1]
        assert a["steps"] == b["steps"], "not the same training"
        print(
            f"| {seed} | {a['steps']} | {a['rmse']:.4f} | {a['train_seconds']:.0f} "
            f"| {b['rmse']:.4f} | {b['train_seconds']:.0f} | {a['train_seconds'] / b['train_seconds']:.2f} |",
            flush=True,
        )
    for name, runs in (("article's loop", article), ("leantune", leantune)):
        scores = [run["rmse"] for run in runs]
        spread = f", standard deviation {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
        peak = statistics.median(run["peak_process_bytes"] for run in runs) / 2**30
        extent = f"mean {statistics.mean(scores):.4f}, {min(scores):.4f} to {max(scores):.4f}{spread}"
        print(f"{name}: RMSE {extent}; peak memory {peak:.1f} GiB")
    ratios = [a["train_seconds"] / b["train_seconds"] for a, b in zip(article, leantune, strict=True)]
    print(
        f"train_seconds: {statistics.median(ratios):.2f} times faster (median; {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
