"""What do the operations of a packed step cost on this CPU, in the forms that were chosen and in those that were not?

    python benchmarks/cpu_operations.py

At the shape of one micro-batch and layer of MiniLM: 5 texts of 205 tokens, 12 heads, bf16. Prints the median and the
range of 30 times each, in milliseconds; docs/design/0005-the-step-on-a-cpu.md rests on it.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from leantune.encoder.dropout import draw_kept, drop

TEXTS, HEADS, TOKENS, HIDDEN = 5, 12, 205, 384


def milliseconds(do: Callable[[], object], times: int = 30) -> list[float]:
    do()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        do()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


def show(name: str, taken: list[float]) -> None:
    print(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} to {max(taken):.2f} |", flush=True)


def main() -> None:
    torch.manual_seed(0)
    print("| operation | ms | range |\n|---|---|---|")
    scores = torch.randn(TEXTS, HEADS, TOKENS, TOKENS).bfloat16()
    kept = draw_kept(scores.shape, 0.1)
    as_bool, as_bf16 = kept.bool(), kept.bfloat16()
    row = torch.zeros(TEXTS, 1, 1, TOKENS, dtype=torch.bfloat16)
    hidden = torch.zeros(TEXTS, 1, 1, TOKENS, dtype=torch.bool)
    words = torch.empty(-(-scores.numel() // 4), dtype=torch.int64)
    show("scores x bool", milliseconds(lambda: scores * as_bool))
    show("scores x bf16", milliseconds(lambda: scores * as_bf16))
    show("drop: scores x int16, bit patterns", milliseconds(lambda: drop(scores, kept)))
    show("scores filled by a mask", milliseconds(lambda: scores.masked_fill_(hidden, 0.0)))
    show("scores plus a mask", milliseconds(lambda: scores.add_(row)))
    show("torch's random bits", milliseconds(lambda: words.random_(-(2**63), None)))
    show("draw_kept: SplitMix64 and the comparison", milliseconds(lambda: draw_kept(scores.shape, 0.1)))

    matrix = torch.randn(3 * HIDDEN, HIDDEN).bfloat16()

    def product(tokens: int) -> float:
        x = torch.randn(tokens, HIDDEN).bfloat16()
        start = time.perf_counter()
        F.linear(x, matrix)
        return 1e3 * (time.perf_counter() - start)

    product(TEXTS * TOKENS)
    lengths = range(TEXTS * TOKENS - 100, TEXTS * TOKENS)
    show("product of a new length", [product(tokens) for tokens in lengths])
    show("product of a length seen before", [product(tokens) for tokens in lengths])


if __name__ == "__main__":
    main()
