"""Turn the CLEAR corpus file into the columns of Kaggle's CommonLit competition.

    pip install openpyxl
    python experiments/commonlit/clear_to_kaggle.py CLEAR_corpus_final.xlsx train.csv [--split train]

Writes id, url_legal, license, excerpt, target and standard_error: all 4,724 excerpts of the corpus, or with `--split`
only those that Kaggle used for training or for testing.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from openpyxl import load_workbook
except ModuleNotFoundError:
    sys.exit("this script reads an Excel file and needs openpyxl: pip install openpyxl")

COLUMNS = {
    "ID": "id",
    "URL": "url_legal",
    "License": "license",
    "Excerpt": "excerpt",
    "BT Easiness": "target",
    "BT s.e.": "standard_error",
}
SPLIT = "Kaggle split"


def read_rows(path: Path, split: str) -> Iterator[list[str]]:
    """Yield the cells of each wanted row, in the order of `COLUMNS`; exits with a message where a column is missing."""
    sheet = load_workbook(path, read_only=True, data_only=True).active
    lines = sheet.iter_rows(values_only=True)
    # Some headings of the corpus have line breaks in them.
    header = [" ".join(str(cell or "").split()) for cell in next(lines, ())]
    wanted = [*COLUMNS, *([SPLIT] if split != "all" else [])]
    missing = [name for name in wanted if name not in header]
    if missing:
        sys.exit(f"{path}: has no column {', '.join(missing)}; expected CLEAR_corpus_final.xlsx; it has: {header}")
    places = [header.index(name) for name in COLUMNS]
    for line in lines:
        if line[places[0]] is None:  # below the last row there may be empty ones
            continue
        if split == "all" or str(line[header.index(SPLIT)]).strip().lower() == split:
            yield [text_of(line[place]) for place in places]


def text_of(cell: Any) -> str:
    """Return a cell as text: an id that Excel took for a number without its `.0`."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description="CLEAR corpus to the columns of Kaggle's CommonLit competition")
    parser.add_argument("corpus", type=Path, help="CLEAR_corpus_final.xlsx")
    parser.add_argument("output", type=Path, help="CSV file to write")
    parser.add_argument("--split", choices=["all", "train", "test"], default="all")
    options = parser.parse_args()
    rows = list(read_rows(options.corpus, options.split))
    with options.output.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(COLUMNS.values()), *rows])
    print(f"{options.output}: {len(rows):,} rows")


if __name__ == "__main__":
    main()
