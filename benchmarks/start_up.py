"""How long from a command to its first training step, and to the first line of `predict` and `--help`?

    python benchmarks/start_up.py DATA --text excerpt --target target --model FOLDER --sources OTHER/src src --rounds 5

Each round starts every command once in a fresh process for each of the `--sources`, folders with a `leantune` package,
in turn, so that what else the machine does is the same for all. The cache of tokens is empty, and nothing validates.
Prints a line a round, then medians and ranges of seconds: of `train` on the first rows of DATA, a CSV file, until its
first optimizer step begins, and the parts of that from `metrics.json`; of `predict` on few rows and of `--help` until
their first line; and the processor's seconds of all of them until their end.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

Seconds = dict[str, float]
FEW = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--sources", nargs="+", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    columns = ["--text", options.text, "--target", options.target]
    found: dict[Path, list[Seconds]] = {source: [] for source in options.sources}
    for number in range(options.rounds + 1):  # the first warms the caches of the system
        for source in options.sources:
            with tempfile.TemporaryDirectory() as folder:
                table, few = write_rows(options.data, options.rows, folder), write_rows(options.data, FEW, folder)
                run, settings = f"{folder}/run", ["fold=none", "optimizer.max_steps=1"]
                assigned = [argument for setting in settings for argument in ("--set", setting)]
                commands = {
                    "train": ["train", table, *columns, "--model", options.model, *assigned, "--output", run],
                    "predict": ["predict", run, few, "--output", f"{folder}/predictions.csv"],
                    "help": ["--help"],
                }
                seconds: Seconds = {}
                for name, command in commands.items():
                    times = start(source, folder, *command)
                    if name == "train":
                        seconds |= of_training(Path(run))
                    else:
                        seconds[f"{name}: first line"] = times["first line"]
                    seconds[f"{name}: processor"] = times["processor"]
                print(number, source, {name: round(value, 2) for name, value in seconds.items()}, flush=True)
                if number:
                    found[source].append(seconds)
    for source, rounds in found.items():
        print(source)
        for name in rounds[0]:
            values = [seconds[name] for seconds in rounds]
            print(f"  {name:32} {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")


def write_rows(data: Path, count: int, folder: str) -> str:
    """Write the first rows of a CSV file to a file of its own."""
    path = Path(folder) / f"{count}.csv"
    with data.open(newline="", encoding="utf-8") as file, path.open("w", newline="", encoding="utf-8") as few:
        csv.writer(few).writerows(itertools.islice(csv.reader(file), 1 + count))
    return str(path)


def start(source: Path, folder: str, *arguments: str) -> Seconds:
    """Run a command of leantune; return the seconds until its first line, and the processor's until its end."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve()), "LEANTUNE_CACHE": f"{folder}/cache"}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        [sys.executable, "-m", "leantune", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - began
        said = process.stdout.read()
    if process.returncode:
        sys.exit(f"{arguments}: {said.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"first line": first, "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def of_training(run: Path) -> Seconds:
    """Return the seconds of a run until its first optimizer step begins."""
    metrics = json.loads((run / "metrics.json").read_text())["overall"]
    rest = metrics["startup_seconds"] - sum(metrics["startup"].values())
    parts = {"until its first step": metrics["startup_seconds"], **metrics["startup"], "rest of the start": rest}
    return {f"train: {name}": seconds for name, seconds in parts.items()}


if __name__ == "__main__":
    main()
