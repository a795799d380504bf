"""How does the reader of tables do on HPI's Pollock suite: 2,289 CSV files, each with one pollution?

    git clone https://github.com/HPI-Information-Systems/Pollock
    python benchmarks/pollock.py Pollock

For each file of polluted_files/csv: *right* where all cells are those of the suite's clean version, *refused* where the
reader gives an error, *told* where cells differ and the reader said something about the file, and *wrong in silence*.
The suite's own parameters for a file (delimiter, encoding) are given to the reader where it has a setting for them.
Ends with status 1 where a file was wrong in silence.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from pathlib import Path

from leantune.system.errors import TableError
from leantune.tables.readers import ReadOptions, read_cells, read_column_names


def clean_cells(path: Path) -> list[list[str]]:
    """Return the records of a clean version, which Python's reader reads as they are meant."""
    with path.open(encoding="utf-8", newline="") as file:
        return [record for record in csv.reader(file) if record]


def judge(polluted: Path, clean: Path, parameters: Path) -> tuple[str, str]:
    """Return the verdict for one file, and what the reader said."""
    known = json.loads(parameters.read_text(encoding="utf-8"))
    delimiter = known.get("delimiter") or ","
    told: list[str] = []
    options = ReadOptions(
        encoding=known.get("encoding") or "utf-8",
        delimiter=delimiter if len(delimiter) == 1 and delimiter != "," else None,
        tell=told.append,
    )
    try:
        names = read_column_names(polluted, options)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            return "refused", f"columns that stand twice: {twice}"
        cells = read_cells(polluted, names, options)
    except TableError as error:
        return "refused", str(error)
    columns = [cells[name].to_pylist() for name in names]
    read = [names, *(list(row) for row in zip(*columns, strict=True))]
    if read == clean_cells(clean):
        return "right", ""
    return ("told", told[0]) if told else ("wrong in silence", "")


def main() -> int:
    """Judge all files, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the suite's folder")
    parser.add_argument("--list", action="store_true", help="print each file that was not refused")
    options = parser.parse_args()
    folder = options.checkout / "polluted_files"
    counts: Counter[str] = Counter()
    for polluted in sorted((folder / "csv").glob("*.csv")):
        clean = folder / "clean" / polluted.name
        parameters = folder / "parameters" / f"{polluted.name}_parameters.json"
        if not clean.is_file() or not parameters.is_file():
            continue
        verdict, said = judge(polluted, clean, parameters)
        counts[verdict] += 1
        if verdict == "wrong in silence" or (options.list and verdict != "refused"):
            print(f"{verdict:<18}{polluted.name}  {said[:160]}")
    for verdict in ("right", "refused", "told", "wrong in silence"):
        print(f"{verdict:<18}{counts[verdict]:>6,}")
    return int(counts["wrong in silence"] > 0)


if __name__ == "__main__":
    sys.exit(main())
