"""Does each attention kernel for packed rows compute the formula on this GPU, and how fast is it?

    python benchmarks/kernel_parity.py [--dry] [--output FILE.md]

For each kernel, number format, head width and window: the largest error of outputs and gradients against the formula in
float64, relative to the largest value, and the time of a forward and backward pass over CommonLit-like lengths with
attention dropout 0.1 (varlen: 0), beside that of PyTorch's attention: in padded groups, or for a window in blocks of
the row. Ends with exit code 1 where an error is too large. `--dry` runs groups and blocks alone on a CPU, so that the
script is known to work.
"""

import argparse
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from leantune.batches.packing import Packing, make_packing
from leantune.encoder import attention, packed_kernels
from leantune.encoder.local_attention import attend_locally
from leantune.encoder.packed_kernels import TOLERANCES, Facts, Kernel, choose_kernel, kernel_error
from leantune.system.device import compute_capability, describe_device, synchronize

ROUNDS = 10


def attend(kernel: Kernel, q: Any, k: Any, v: Any, packing: Packing, *, window: int | None, **options: Any) -> Any:
    """Attend by a kernel, or by PyTorch's attention in groups or blocks."""
    if kernel != "groups":
        return ATTEND_PACKED(kernel, q, k, v, packing, window=window, **options)
    if window is not None:
        return attend_locally(q, k, v, packing, window=window, scale=options["scale"], dropout=options["dropout"])
    with patch.object(attention, "kernel_of", lambda *_, **__: "groups"):
        found, _ = attention.packed_attention(
            *(torch.nn.Module(), *(x.transpose(0, 1)[None] for x in (q, k, v)), None),
            packing=packing,
            scaling=options["scale"],
            dropout=options["dropout"],
        )
    return found[0]


ATTEND_PACKED = packed_kernels.attend_packed


def milliseconds(kernel: Kernel, facts: Facts, device: torch.device, lengths: list[int]) -> float:
    """Measure a forward and backward pass; the median of some, after one that is not counted."""
    packing = make_packing(lengths, device)
    shape = (sum(lengths), 12, facts.head_width)
    q, k, v = (torch.randn(shape, device=device).to(facts.dtype).requires_grad_() for _ in range(3))
    seconds = []
    for _ in range(ROUNDS + 1):
        synchronize(device)
        start = time.perf_counter()
        dropout = 0.0 if kernel == "varlen" else 0.1
        out = attend(kernel, q, k, v, packing, window=65 if facts.window else None, scale=0.1, dropout=dropout)
        out.sum().backward()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        raise SystemExit("this needs a CUDA device, and there is none; --dry runs a part of it on the CPU")
    device = torch.device("cpu" if options.dry else "cuda:0")
    lengths = [40, 33, 9] if options.dry else [256, 251, 240, 232, 225, 218, 211, 204, 195, 184, 153] * 3
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}. {describe_device(device)['name']}, torch {torch.__version__}.",
        "",
        "| format | head width | window | kernel | chosen | error | milliseconds | groups or blocks |\n"
        + "|---" * 8
        + "|",
    ]
    wrong = False
    for dtype in TOLERANCES:
        for width in (64,) if options.dry else (32, 64, 128):
            for window in (False, True):
                facts = Facts(
                    device=device.type,
                    capability=compute_capability(device),
                    dtype=dtype,
                    head_width=width,
                    dropout=True,
                    window=window,
                )
                groups = milliseconds("groups", facts, device, lengths)
                chosen = choose_kernel(facts)
                kernels: list[Kernel] = ["groups"]
                if not options.dry:
                    kernels += {"flash": ["flash"] if window else ["varlen", "flash", "efficient"]}.get(chosen, [])
                    kernels += ["efficient"] if chosen == "efficient" else []
                for kernel in kernels:
                    try:
                        with patch.object(packed_kernels, "attend_packed", attend):
                            error = kernel_error(kernel, facts, device)
                        taken = milliseconds(kernel, facts, device, lengths)
                    except RuntimeError as failure:
                        wrong = True
                        said = f"failed: {str(failure).splitlines()[0][:120]} | |"
                    else:
                        wrong |= error > TOLERANCES[dtype]
                        said = f"{error:.1e} | {taken:.3f} |"
                    names = [name.replace("groups", "blocks" if window else "groups") for name in (kernel, chosen)]
                    line = f"| {str(dtype)[6:]} | {width} | {window} | {names[0]} | {names[1]} | {said} {groups:.3f} |"
                    print(line, flush=True)
                    lines.append(line)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    raise SystemExit(int(wrong))


if __name__ == "__main__":
    main()
