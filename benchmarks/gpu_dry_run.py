"""Whole optimizer steps on fake CUDA tensors, with a CUDA build of torch and without a GPU: `make gpu-dry-run`.

For each card, encoder, number format and dropout: shapes, types and devices of a step, forward and backward, the kernel
of attention that was chosen, the operations that a micro-batch gives to the GPU, and whether anything would wait for
it. What it cannot show is what a kernel computes, and how fast: that is `sh benchmarks/gpu.sh`.
"""

import argparse
import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from device_work import SHAPES, count_step, fake_cuda
from leantune.encoder import packed_kernels
from leantune.system import device as devices

CARDS = {"T4": (7, 5), "A100": (8, 0)}
# DeBERTa is left out: transformers' function of its distances makes constants for which torch asks the driver.
DEFAULT = ["minilm", "bert-base", "distilbert", "modernbert-base", "mpnet-base"]
# In both micro-batches a text is longer than ModernBERT's window.
LENGTHS = ((150, 24, 20, 9), (140, 7, 3))
KERNELS = {
    "_flash_attention_forward": "flash",
    "_varlen_attn": "varlen",
    "_efficient_attention_forward": "efficient",
    "_scaled_dot_product_flash_attention": "PyTorch's flash",
    "_scaled_dot_product_efficient_attention": "PyTorch's efficient",
    "_scaled_dot_product_cudnn_attention": "PyTorch's cuDNN",
    "_scaled_dot_product_attention_math": "PyTorch's plain",
}


def pretend(capability: tuple[int, int]) -> None:
    """Let torch and leantune take this machine for one with such a card."""
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_bf16_supported = lambda *_: capability >= (8, 0)
    torch.cuda.get_device_capability = lambda *_: capability
    torch._subclasses.fake_tensor.init_gpu_context = lambda *_: None
    devices.compute_capability.cache_clear()
    # A fake tensor has no values that a kernel could be held against.
    packed_kernels.proves = lambda *_: True
    torch.Tensor.pin_memory = lambda self, *_: self


def used_kernels(counts: Counter[str]) -> str:
    """Name the kernels of attention among the operations of a step."""
    return ", ".join(f"{counts[name]} {words}" for name, words in KERNELS.items() if counts[name]) or "its own"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=DEFAULT)
    parser.add_argument("--cards", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if torch.version.cuda is None:
        raise SystemExit("this torch has no CUDA: `make gpu-dry-run` makes an environment whose torch has it")
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}. torch {torch.__version__}, transformers {transformers.__version__}; no GPU.",
        "",
        "| card | encoder | layout | precision | dropout | operations a micro-batch | a step beside | attention "
        "| waits |\n" + "|---" * 9 + "|",
    ]
    print("\n".join(lines), flush=True)
    for card in options.cards:
        pretend(CARDS[card])
        precisions = ["fp16"] if CARDS[card] < (8, 0) else ["bf16", "fp32"]
        for shape in options.shapes:
            packed = shape != "deberta-v3-base"
            for precision in precisions:
                for dropout in (0.0, 0.1):
                    line = f"| {card} | {shape} | {'packed' if packed else 'dynamic'} | {precision} | {dropout} | "
                    try:
                        with fake_cuda():
                            (one, two), waits = count_step(
                                shape,
                                device="cuda",
                                precision=precision,
                                dropout=dropout,
                                packed=packed,
                                lengths=LENGTHS,
                                raises=False,
                            )
                    except Exception as error:
                        line += f"failed: {type(error).__name__}: {str(error).splitlines()[0][:150]} | | | |"
                    else:
                        each = two.total() - one.total()
                        said = ", ".join(f"{name} {count}" for name, count in waits.items()) or "none"
                        line += f"{each} | {one.total() - each} | {used_kernels(two - one)} | {said} |"
                    print(line, flush=True)
                    lines.append(line)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if any("failed" in line for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
