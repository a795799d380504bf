"""The peers' table (`peers.py`) for several data sets, one after the other.

    python benchmarks/sets.py                                  the shipped sentences: about 10 minutes on 2 cores
    python benchmarks/sets.py DATA --output FOLDER             the short set, short texts: about 15 minutes
    python benchmarks/sets.py DATA --full --output FOLDER      all: about 100 minutes

DATA holds `emobank/train.csv`, `banking77/train.csv`, `commonlit/train.csv` and `onestop/onestop.csv`, each with the
columns named below (docs/benchmarks.md says where they come from). A data set that is not there is left out.
Other options are handed on to `peers.py`.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A table to measure on, with timed steps a run: so many that a round takes one to four minutes on 2 cores."""

    path: str
    text: str
    target: str
    short_steps: int | None
    """None where the short set does without it."""
    full_steps: int
    warm_up: int = 2
    max_length: int = 512


SETS = {
    "emobank": DataSet(path="emobank/train.csv", text="text", target="V", short_steps=6, full_steps=20),
    "banking77": DataSet(path="banking77/train.csv", text="text", target="category", short_steps=6, full_steps=20),
    "commonlit": DataSet(
        path="commonlit/train.csv",
        text="excerpt",
        target="target",
        short_steps=None,
        full_steps=6,
        warm_up=1,
        max_length=256,  # cuts 7 rows in 100; padded to the longest, 387, the article's loop would look too slow
    ),
    "onestop": DataSet(
        path="onestop/onestop.csv", text="text", target="level", short_steps=None, full_steps=3, warm_up=1
    ),
}
SHIPPED = DataSet(path="emobank_mood.csv", text="text", target="mood", short_steps=8, full_steps=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the data sets; default the shipped sentences")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--output", type=Path, help="folder for the tables")
    options, for_peers = parser.parse_known_args()
    chosen = {name: SETS[name] for name in options.only} if options.data else {"shipped": SHIPPED}
    folder = options.data or Path(str(files("leantune"))) / "data"
    failed = []
    for name, data in chosen.items():
        steps = data.full_steps if options.full else data.short_steps
        if steps is None:
            continue
        path = folder / data.path
        if not path.exists():
            print(f"{name} is left out: there is no {path}", file=sys.stderr)
            continue
        command = [sys.executable, HERE / "peers.py", path, "--text", data.text, "--target", data.target]
        command += ["--steps", steps, "--warm-up", data.warm_up, "--max-length", data.max_length]
        command += ["--output", options.output / f"{name}.md"] if options.output else []
        done = subprocess.run([*map(str, command), *for_peers], check=False)
        failed += [name] if done.returncode else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
