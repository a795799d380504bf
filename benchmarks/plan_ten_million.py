"""How long does it take to plan an epoch of ten million rows, and how much memory?

    python benchmarks/plan_ten_million.py [ROWS]

Lengths are log-normal, median 90 and at most 512 tokens; 32 rows a step, padded to the longest of a micro-batch. Each
case runs in three fresh processes: the seconds are their median (and range), the memory is the most that a process ever
held: interpreter, numpy and the lengths (76 MiB) included.

2026-11-22, one core of an AMD EPYC with AVX512-BF16 (2 cores, otherwise idle), Python 3.11.7, numpy 2.4.6:

    case                                            seconds    MiB  padding
    epoch, random, 8 rows                  1.72 (1.64-1.97)    511    28.3%
    epoch, random, 4096 tokens             1.41 (1.23-2.01)    587    42.4%
    epoch, random, row by row              2.47 (2.44-3.10)    587     0.0%
    epoch, uniform_length, 8 rows          2.71 (2.69-2.72)    511     1.0%
    epoch, uniform_length, 4096 tokens     2.89 (2.52-3.17)    587     2.3%
    epoch, uniform_length, row by row      3.70 (3.45-4.51)    587     0.0%
    evaluation, 8 rows                     1.60 (1.42-1.80)    389     0.0%
    evaluation, 4096 tokens                1.56 (1.54-1.62)    427     0.0%

So the plan needs no cleverer cutting than a plain loop over micro-batches, even where every row is one.
"""

import platform
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from leantune.batches.plan import (
    MicroBatch,
    Order,
    RowsPerMicroBatch,
    TokensPerMicroBatch,
    padded_tokens,
    plan_epoch,
    plan_evaluation,
)

RUNS = 3
ROWS = RowsPerMicroBatch(rows=8)
TOKENS = TokensPerMicroBatch(tokens=4096)
ONE_BY_ONE = TokensPerMicroBatch(tokens=1)
"""The worst case of the cutting loop: as many micro-batches as rows."""

CASES: dict[str, tuple[Order | None, MicroBatch]] = {
    "epoch, random, 8 rows": ("random", ROWS),
    "epoch, random, 4096 tokens": ("random", TOKENS),
    "epoch, random, row by row": ("random", ONE_BY_ONE),
    "epoch, uniform_length, 8 rows": ("uniform_length", ROWS),
    "epoch, uniform_length, 4096 tokens": ("uniform_length", TOKENS),
    "epoch, uniform_length, row by row": ("uniform_length", ONE_BY_ONE),
    "evaluation, 8 rows": (None, ROWS),
    "evaluation, 4096 tokens": (None, TOKENS),
}


def measure(row_count: int, order: Order | None, micro_batch: MicroBatch) -> tuple[float, int, float]:
    """Return the seconds to plan, the peak memory of this process in MiB, and the share of padding in the plan."""
    lengths = np.random.RandomState(0).lognormal(np.log(90), 0.6, row_count).clip(4, 512).astype(np.int64)
    started = time.perf_counter()
    if order is None:
        micro_batches = plan_evaluation(lengths, micro_batch=micro_batch, padding="longest")
    else:
        micro_batches = plan_epoch(
            lengths, batch_size=32, micro_batch=micro_batch, order=order, padding="longest", seed=0, epoch=0
        ).micro_batches
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)
    return seconds, peak, 1 - lengths.sum() / sum(padded_tokens(lengths[rows], "longest") for rows in micro_batches)


def main() -> None:
    row_count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    print(
        f"{row_count:,} rows; {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )
    print(f"{'case':36} {'seconds':>18} {'MiB':>6} {'padding':>8}")
    fresh = get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh, max_tasks_per_child=1) as one_at_a_time:
        for name, case in CASES.items():
            runs = list(one_at_a_time.map(measure, *zip(*[(row_count, *case)] * RUNS, strict=True)))
            seconds = [run[0] for run in runs]
            spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
            print(f"{name:36} {spread:>18} {max(run[1] for run in runs):>6} {runs[0][2]:>8.1%}")


if __name__ == "__main__":
    main()
