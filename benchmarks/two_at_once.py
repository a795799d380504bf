"""How much longer does a training take beside another one on the same processors?

    python benchmarks/two_at_once.py emobank/train.csv --text text --target V --model FOLDER --rows 2400

Runs `leantune train` alone, then twice at once, round after round: started together, and with `--apart` the second so
many seconds after the first. The commands choose by themselves how their threads wait (docs/design/0005). Prints the
seconds of the whole commands, and medians and ranges of the ratio to the one alone of the same round.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(options: argparse.Namespace, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a training in a folder of its own."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir()
    command = [sys.executable, "-m", "leantune", "train", options.data, "--text", options.text]
    command += ["--target", options.target, "--model", options.model, "--output", str(folder / name / "run")]
    command += ["--set", f"data.limit={options.rows}", "--set", "optimizer.epochs=1"]
    return subprocess.Popen(command, env=os.environ | {"TMPDIR": str(folder / name)}, stdout=subprocess.DEVNULL)


def wait(processes: dict[subprocess.Popen[bytes], float]) -> list[float]:
    """Return the seconds of each process since it was started."""
    seconds: dict[subprocess.Popen[bytes], float] = {}
    while len(seconds) < len(processes):
        for process, began in processes.items():
            if process not in seconds and process.poll() is not None:
                seconds[process] = time.monotonic() - began
                if process.returncode:
                    raise SystemExit(f"a training ended with exit code {process.returncode}")
        time.sleep(0.02)
    return [seconds[process] for process in processes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--apart", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.rounds):
            (alone,) = wait({start(options, folder, "alone"): time.monotonic()})
            both = {start(options, folder, "first"): time.monotonic()}
            time.sleep(options.apart)
            both[start(options, folder, "second")] = time.monotonic()
            together = wait(both)
            ratios.append([seconds / alone for seconds in together])
            print(
                f"round {number + 1}: alone {alone:.1f} s, at once {together[0]:.1f} and {together[1]:.1f} s",
                flush=True,
            )
    for which, own in zip(("first", "second"), zip(*ratios, strict=True), strict=True):
        print(
            f"the {which} takes {statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f}) times as long as alone"
        )


if __name__ == "__main__":
    main()
