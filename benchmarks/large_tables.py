"""How much memory and time do large tables of short texts take, stage after stage?

    python benchmarks/large_tables.py MODEL [ROWS ...]

Writes a CSV file of ROWS short rows (10,000, 100,000, 1,000,000 and 2,000,000), and in a new process for each reads it,
deals it into folds, tokenizes it with the tokenizer of MODEL, and plans an epoch. Peak memory (RSS) is shown after each
stage; the last column is what a row takes beyond an empty process, beside the bytes of its text.
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = (10_000, 100_000, 1_000_000, 2_000_000)


def write(path: Path, rows: int) -> int:
    """Write rows of 8 to 24 words; return the bytes of the texts."""
    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in ("", "n", "r", "st")]
    draw, total = random.Random(0), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("text,target\n")
        for row in range(rows):
            text = " ".join(draw.choices(words, k=draw.randint(8, 24))) + f" {row}"
            total += len(text)
            file.write(f"{text},{draw.randint(0, 1)}\n")
    return total


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(path: Path, model: str, text_bytes: int) -> None:
    """Read, fold, tokenize and plan one table, and print each stage's figures."""
    import numpy as np  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    from leantune.batches.plan import RowsPerMicroBatch, plan_epoch  # noqa: PLC0415
    from leantune.tables.folds import FoldSettings, make_folds  # noqa: PLC0415
    from leantune.tables.table import DataSettings, read_table  # noqa: PLC0415
    from leantune.tables.targets import parse_targets  # noqa: PLC0415
    from leantune.tokens.sequences import TokenSettings, make_sequences  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model)
    empty = peak_bytes()
    began = time.perf_counter()
    rows = 0

    def show(stage: str) -> None:
        peak = peak_bytes()
        print(
            f"{rows:>10,} {stage:<10} {time.perf_counter() - began:7.1f} s  peak {peak / 2**20:8.0f} MiB  "
            f"{(peak - empty) / max(rows, 1):6.0f} bytes a row ({text_bytes / max(rows, 1):.0f} of text)",
            flush=True,
        )

    table = read_table(DataSettings(path=path, text=("text",), target=("target",)))
    rows = len(table)
    show("read")
    targets = parse_targets(table, "auto")
    folds = make_folds(targets, table.groups, FoldSettings())
    show("folded")
    progress = make_sequences(
        table.texts,
        tokenizer,
        TokenSettings(),
        vocabulary_size=len(tokenizer),
        position_limit=512,
        describe_place=table.describe_place,
    )
    while True:
        try:
            next(progress)
        except StopIteration as end:
            sequences = end.value
            break
    show("tokenized")
    plan_epoch(
        np.asarray(sequences.lengths)[folds.training_rows(0)],
        batch_size=32,
        micro_batch=RowsPerMicroBatch(rows=32),
        order="random",
        padding="none",
        seed=0,
        epoch=0,
    )
    show("planned")


def main() -> None:
    """Measure each number of rows in a process of its own."""
    if sys.argv[1] == "--one":
        measure(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
        return
    model, counts = sys.argv[1], [int(rows) for rows in sys.argv[2:]] or ROWS
    with tempfile.TemporaryDirectory() as folder:
        for rows in counts:
            path = Path(folder) / "rows.csv"
            text_bytes = write(path, rows)
            environment = {**os.environ, "LEANTUNE_CACHE": str(Path(folder) / "cache")}
            command = [sys.executable, __file__, "--one", str(path), model, str(text_bytes)]
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
