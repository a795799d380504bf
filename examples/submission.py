"""From train.csv to submission.csv: train a model on each fold, predict test.csv with their mean.

    python examples/submission.py train.csv test.csv sample_submission.csv --text excerpt --target target --model demo

Writes submission.csv, with the columns and the rows of sample_submission.csv, and the run's folder `run`. An
interrupted script continues where it stopped.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import leantune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "sample"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--text", action="append", required=True, help="column of the texts; twice for pairs")
    parser.add_argument("--target", action="append", required=True, help="column to learn; several are possible")
    parser.add_argument("--id", default="id", help="column that names the rows")
    parser.add_argument("--model", default="demo", help="a folder, a hub name, or demo")
    parser.add_argument("--run", type=Path, default=Path("run"), help="folder of the run")
    parser.add_argument("--output", type=Path, default=Path("submission.csv"))
    parser.add_argument("--epochs", type=int, help="fewer epochs for a first try")
    options = parser.parse_args()

    settings = {"data.id": options.id}
    if options.epochs is not None:
        settings["optimizer.epochs"] = options.epochs
    run = leantune.train(
        options.train,
        text=options.text,
        target=options.target,
        model=options.model,
        fold="all",
        settings=settings,
        output=options.run,
        resume=True,
    )
    print(run)

    # The command streams the table and continues after an interruption; leantune.load(run) does it in memory.
    predict = ["predict", options.run, options.test, "--like", options.sample, "--output", options.output, "--force"]
    subprocess.run([sys.executable, "-m", "leantune", *map(str, predict)], check=True)


if __name__ == "__main__":
    main()
