"""Draw rows of a CSV, TSV or JSON lines table at random, for experiments on small tables.

python experiments/defaults/sample.py train.csv sample.csv --rows 1000
"""

import argparse
import csv
import json
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("output", type=Path, help="CSV, or JSON lines where the table is that")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.table.suffix == ".jsonl":
        lines = options.table.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    else:
        with options.table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if options.table.suffix == ".tsv" else ","))
    drawn = random.Random(options.seed).sample(rows, min(options.rows, len(rows)))
    with options.output.open("w", newline="", encoding="utf-8") as file:
        if options.output.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn)
        else:
            writer = csv.DictWriter(file, list(drawn[0]))
            writer.writeheader()
            writer.writerows(drawn)


if __name__ == "__main__":
    main()
