"""In which number format the matrix products are computed; weights and optimizer state are always float32."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from leantune.system.errors import DeviceError

PrecisionName = Literal["fp32", "tf32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A number format on a device, with the loss scaler that fp16 needs."""

    name: PrecisionName
    device: torch.device
    scaler: torch.amp.GradScaler | None = None
    """Multiplies the loss so that small fp16 gradients do not vanish; None in every other format."""

    @property
    def matrix_dtype(self) -> torch.dtype:
        """The type of the matrices that are multiplied."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.name, torch.float32)

    @contextmanager
    def compute(self) -> Iterator[None]:
        """Run a block's forward and backward passes in this precision, then go back to the precision before.

        Autocast keeps each weight's 16-bit copy until the block ends, so one block around all micro-batches of a step
        casts every weight once a step instead of once a micro-batch.
        """
        matmul = torch.backends.cuda.matmul
        before = matmul.fp32_precision
        matmul.fp32_precision = "tf32" if self.name == "tf32" else "ieee"
        try:
            with torch.autocast(
                self.device.type, dtype=self.matrix_dtype, enabled=self.matrix_dtype is not torch.float32
            ):
                yield
        finally:
            matmul.fp32_precision = before


def supported_precisions(device: torch.device) -> tuple[PrecisionName, ...]:
    """Return the formats that `device` computes in natively, the fastest last."""
    if device.type == "cuda":
        # Tensor cores know bf16 and TF32 from compute capability 8.0 (Ampere) on, fp16 from 7.0; Pascal's fp16 works
        # too.
        ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return ("fp32", "tf32", "fp16", "bf16") if ampere else ("fp32", "fp16")
    if device.type == "cpu" and _cpu_computes_bf16():
        return ("fp32", "bf16")
    return ("fp32",)


def _cpu_computes_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # not in every torch that is allowed
        return False
    features = torch.cpu.get_capabilities()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(features.get("bf16"))
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def make_precision(name: PrecisionName | Literal["auto"], device: torch.device) -> Precision:
    """Return the precision called `name` on `device`.

    `auto` is bf16 where the hardware computes in it, else fp16 on CUDA, else fp32. Raises `DeviceError` where the
    hardware does not compute in the format: it would be emulated, slowly.
    """
    supported = supported_precisions(device)
    if name == "auto":
        name = supported[-1]
    if name not in supported:
        raise DeviceError(
            f"precision: {name} is not computed by this device ({device}), which has {', '.join(supported)}; "
            "choose one of these, or auto"
        )
    return Precision(name=name, device=device, scaler=torch.amp.GradScaler(device.type) if name == "fp16" else None)
