"""How rows lie in a micro-batch and how many fit into one, where the settings leave it open: training and prediction
choose alike."""

from dataclasses import dataclass
from typing import Literal

import torch

from leantune.batches.plan import BatchingSettings, MicroBatch, Padding, TokensPerMicroBatch
from leantune.encoder.model import Encoder

# Positions that are computed at once where micro_batch is auto. On a CPU few of them stay in the cache, and where rows
# are padded fewer pad less (benchmarks/micro_batch.py, docs/design/0002-micro-batches.md). On CUDA this is for
# predictions; how many positions training has at once is measured (device_memory.py).
AUTO_TOKENS = {
    "packed": {"cpu": 2048, "mps": 8192, "cuda": 16384},
    "padded": {"cpu": 1024, "mps": 8192, "cuda": 16384},
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout with nothing left to choose."""

    name: Literal["fixed", "dynamic", "packed"]
    padding: Padding
    micro_batch: MicroBatch


def choose_layout(settings: BatchingSettings, encoder: Encoder, device: torch.device, longest: int) -> Layout:
    """Return the layout for `encoder` on `device`, as far as `settings` do not say; `longest` row, in tokens."""
    name = settings.layout
    if name == "auto":
        name = "packed" if encoder.pooling is not None else "dynamic"
    paddings: dict[str, Padding] = {
        "fixed": longest,
        "dynamic": "longest" if encoder.takes_padding else "equal",
        "packed": "none",
    }
    limit = settings.micro_batch
    if limit == "auto":
        limit = TokensPerMicroBatch(tokens=AUTO_TOKENS["packed" if name == "packed" else "padded"][device.type])
    return Layout(name=name, padding=paddings[name], micro_batch=limit)
