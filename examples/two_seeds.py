"""Join two runs that differ in the seed: do their models together predict better than each alone?

    python examples/two_seeds.py train.csv test.csv --text excerpt --target target --model demo

Trains every fold twice, fits the weights of the two runs by their predictions for train.csv, and writes
submission.csv. The weights and the score on rows that did not choose them are shown while it predicts.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import leantune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--text", action="append", required=True, help="column of the texts; twice for pairs")
    parser.add_argument("--target", action="append", required=True, help="column to learn; several are possible")
    parser.add_argument("--id", default="id", help="column that names the rows")
    parser.add_argument("--model", default="demo", help="a folder, a hub name, or demo")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the two runs")
    parser.add_argument("--output", type=Path, default=Path("submission.csv"))
    parser.add_argument("--epochs", type=int, help="fewer epochs for a first try")
    options = parser.parse_args()

    folders = []
    for seed in (0, 1):
        settings = {"data.id": options.id, "seed": seed}
        if options.epochs is not None:
            settings["optimizer.epochs"] = options.epochs
        run = leantune.train(
            options.train,
            text=options.text,
            target=options.target,
            model=options.model,
            fold="all",
            settings=settings,
            output=options.runs / f"seed_{seed}",
            resume=True,
        )
        print(run)
        folders.append(run.folder)

    predict = ["predict", *folders, options.test, "--weights", "fitted", "--output", options.output, "--force"]
    subprocess.run([sys.executable, "-m", "leantune", *map(str, predict)], check=True)


if __name__ == "__main__":
    main()
