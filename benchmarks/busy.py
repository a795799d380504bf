"""What does a training step cost on a machine that does something else, too, and which settings of OpenMP help?

    python benchmarks/synthetic.py FOLDER && python benchmarks/busy.py FOLDER/short.csv FOLDER/minilm

Between two pieces of parallel work, OpenMP's threads wait by spinning: the wait is short where each has a processor of
its own, and holds up the others where not. Each setting is tried in two processes of its own, which train packed rows:
the first alone, both at once, and the first beside a process that only computes, on one thread. The settings take
turns, several rounds. Prints for each the median and range of seconds a step, and the median over the rounds of the
ratio to the first setting alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import IO

SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
WAYS = ("alone", "two at once", "beside one thread")
NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
COMPUTE = "while True: sum(range(1_000_000))"


class Trainer:
    """A process that trains when it is told to."""

    def __init__(self, options: argparse.Namespace, setting: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in NAMES}
        command = [sys.executable, __file__, options.data, options.model, "--train", f"--steps={options.steps}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | setting
        )
        self.input: IO[str] = self.process.stdin  # type: ignore[assignment]
        self.output: IO[str] = self.process.stdout  # type: ignore[assignment]
        self.wait()  # until it is ready

    def begin(self) -> None:
        """Let it train."""
        print("go", file=self.input, flush=True)

    def wait(self) -> float:
        """Return the seconds a step that it has needed."""
        return float(json.loads(self.output.readline()))


def train(options: argparse.Namespace) -> None:
    """Take some steps whenever a line comes in, and print the seconds a step."""
    from layout import load, take_steps  # noqa: PLC0415 - torch, which the process that measures does without

    options.text, options.target, options.rows, options.max_length = "text", "target", 400, None
    options.dropout, options.precision = None, "auto"
    runner = load(options, "packed")
    take_steps(runner, options.steps)
    print(0, flush=True)
    for _ in sys.stdin:
        take_steps(runner, options.steps)
        print(runner.seconds[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a table with the columns text and target")
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="`alone` is always among them")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options)
        return
    pairs = {name: [Trainer(options, SETTINGS[name]) for _ in range(2)] for name in options.settings}
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in options.ways} for name in pairs}
    for _ in range(options.rounds):
        for name, (first, second) in pairs.items():
            first.begin()
            seconds[name]["alone"].append(first.wait())
            if "two at once" in options.ways:
                first.begin()
                second.begin()
                seconds[name]["two at once"].append(max(first.wait(), second.wait()))
            if "beside one thread" in options.ways:
                with subprocess.Popen([sys.executable, "-c", COMPUTE]) as other:
                    first.begin()
                    seconds[name]["beside one thread"].append(first.wait())
                    other.kill()
    print("| setting | beside it | seconds a step | range | against the first setting alone |\n|---|---|---|---|---|")
    base = seconds[options.settings[0]]["alone"]
    for name, by_way in seconds.items():
        for way, own in by_way.items():
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            print(f"| {name} | {way} | {statistics.median(own):.3f} | {min(own):.3f}-{max(own):.3f} | {ratio:.2f} |")
    for trainer in (trainer for pair in pairs.values() for trainer in pair):
        trainer.input.close()
        trainer.process.wait()


if __name__ == "__main__":
    main()
