"""Does `leantune predict` need more memory for more rows, and does it end right however often it is killed?

    python benchmarks/predict_many.py DATA --text text --model FOLDER --rows 10000 100000 1000000

A model is trained for a few steps to tell how long a text is: what it predicts is of no interest here. The texts of
DATA, with random words behind them so that no two are alike, make tables of each size, which are predicted by one
command each, in a process of its own: prints its peak of resident memory, its seconds and its rows a second. The
largest is predicted once more by a command that is killed (SIGKILL) `--kills` times and given again, until it ends;
then every row must be there once, in the table's order, with the prediction of the command that was not killed.
"""

import argparse
import csv
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import psutil

from leantune.system.device import processor_name

WORDS = ("apple", "river", "stone", "cloud", "seven", "paper", "green", "table", "light", "music", "north", "glass")


def read_texts(path: Path, column: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def write_table(path: Path, texts: list[str], rows: int) -> None:
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["id", "text"])
        for number, text in zip(range(rows), cycle(texts), strict=False):
            write.writerow([f"r{number:08d}", f"{text} {' '.join(draw.choices(WORDS, k=3))} {draw.getrandbits(40)}"])


def command(run: Path, table: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "leantune", "predict", str(run), str(table), "--id", "id", "--output", str(output)]


def predict(run: Path, table: Path, output: Path) -> tuple[float, int]:
    """Seconds and peak resident memory in bytes of one command."""
    began = time.monotonic()
    process = subprocess.Popen(command(run, table, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"leantune predict ended with status {status}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def predict_killed(run: Path, table: Path, output: Path, seconds: float, kills: int) -> list[int]:
    """Kill the command `kills` times, each time after it has worked a while; the finished blocks at each kill."""
    folder = output.with_name(f".{output.name}.parts")
    blocks = []
    for _ in range(kills):
        before = len(list(folder.rglob("*.npy")))
        process = subprocess.Popen(command(run, table, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(folder.rglob("*.npy"))) <= before:  # it must have come further than the one before
            if process.poll() is not None:
                raise SystemExit(f"leantune predict ended by itself with {process.returncode}")
            time.sleep(0.05)
        time.sleep(random.uniform(0, seconds / (kills + 2)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
        blocks.append(len(list(folder.rglob("*.npy"))))
    predict(run, table, output)
    assert not folder.exists()
    return blocks


def check_rows(output: Path, expected: Path, rows: int) -> float:
    """Check that every row is there once and in order; the largest difference from the expected values."""
    largest = 0.0
    count = 0
    with output.open(newline="") as one, expected.open(newline="") as two:
        for number, (own, other) in enumerate(zip(csv.reader(one), csv.reader(two), strict=True)):
            count += 1
            if number:
                assert own[0] == other[0] == f"r{number - 1:08d}", (number, own[0])
                largest = max(largest, *(abs(float(a) - float(b)) for a, b in zip(own[1:], other[1:], strict=True)))
    assert count == rows + 1, count
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{processor_name()}, {psutil.cpu_count()} cores; Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = read_texts(arguments.data, arguments.text)
        with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "length"), *((text, f"{len(text)}.0") for text in texts[:1000])])
        train = [sys.executable, "-m", "leantune", "train", str(folder / "train.csv"), "--text", "text"]
        train += ["--target", "length", "--model", arguments.model, "--output", str(folder / "run")]
        train += ["--set", "optimizer.max_steps=5", "--set", "optimizer.epochs=1"]
        subprocess.run(train, check=True, capture_output=True)
        print(f"{'rows':>9}  {'peak MiB':>8}  {'seconds':>8}  {'rows/s':>8}", flush=True)
        for rows in arguments.rows:
            table, output = folder / f"{rows}.csv", folder / f"{rows}.out.csv"
            write_table(table, texts, rows)
            seconds, peak = predict(folder / "run", table, output)
            print(f"{rows:>9,}  {peak / 2**20:>8,.0f}  {seconds:>8.1f}  {rows / seconds:>8,.0f}", flush=True)
        rows = arguments.rows[-1]
        again = folder / "killed.csv"
        blocks = predict_killed(folder / "run", folder / f"{rows}.csv", again, seconds, arguments.kills)
        largest = check_rows(again, folder / f"{rows}.out.csv", rows)
        print(
            f"killed {arguments.kills} times, with {blocks} blocks finished; then {rows:,} rows, each once, in order;"
        )
        print(f"largest difference from the command that was not killed: {largest:g}")


if __name__ == "__main__":
    main()
