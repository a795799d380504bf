"""AdamW and its learning rate."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.autograd.graph import increment_version

from leantune.system.settings import Section

Schedule = Literal["linear", "cosine", "constant"]


class OptimizerSettings(Section):
    """How long and how fast to learn."""

    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Largest learning rate, reached at the end of the warm-up. auto depends on the size of the encoder: 2e-4 for
    MiniLM, 3e-5 for BERT-base, 1e-5 for BERT-large."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW. It applies to the matrices of the layers, and not to biases, norms and embeddings."""
    epochs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Passes over the training rows. auto is at least 3 and at most 20: as many as give 200 optimizer steps, and 3
    steps more for each class or label beyond two."""
    max_steps: int | None = Field(default=None, ge=1)
    """Largest number of optimizer steps; the training ends there. Null trains all epochs."""
    schedule: Schedule = "linear"
    """How the learning rate falls after the warm-up: to zero along a line or a half cosine, or not at all
    (`constant`)."""
    warmup_fraction: float = Field(default=0.06, ge=0, le=1)
    """Share of all steps that are warm-up, in which the learning rate rises along a line."""
    gradient_clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of a step's gradient; a larger one is scaled down to it. Null does not clip."""


class ResolvedOptimizer(OptimizerSettings):
    """The same with every `auto` resolved."""

    learning_rate: float
    epochs: int


def make_optimizer(model: nn.Module, settings: ResolvedOptimizer) -> torch.optim.AdamW:
    """Return fused AdamW over the model's parameters.

    Only matrices of layers decay (Loshchilov and Hutter, 2019, arXiv 1711.05101). Biases and norms are vectors; the
    rows of an embedding are excepted too, since a decay would move the rows of words that the training texts do not
    have.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and id(parameter) not in embeddings else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    # The fused step changes weights without counting it; whoever keeps casts of them goes by the count.
    optimizer.register_step_post_hook(lambda *_: increment_version([*decayed, *kept]))
    return optimizer


def learning_rate_at(step: int, total_steps: int, settings: ResolvedOptimizer) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0, of `total_steps`.

    The warm-up's first step already learns, and the last step's rate is above zero: no step is wasted.
    """
    warmup_steps = round(settings.warmup_fraction * total_steps)
    if step < warmup_steps:
        return settings.learning_rate * ((step + 1) / warmup_steps)
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return settings.learning_rate * (
        1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    )
