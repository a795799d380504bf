"""The shipped example: sentences of EmoBank and a small encoder, both without a network."""

from importlib.resources import files
from pathlib import Path
from typing import Any


def demo_experiment(*, mixed_precision: bool = True) -> dict[str, Any]:
    """Return the experiment of `leantune demo`: is a sentence pleasant or unpleasant?

    The article's baseline against two single tricks and leantune's defaults. It is small, so that twelve runs take
    minutes on two cores. Without `mixed_precision` that trick is left out: this machine computes in float32 only, and
    nothing would differ.
    """
    experiment: dict[str, Any] = {
        "base": {
            "data": {
                "path": str(files("leantune") / "data" / "emobank_mood.csv"),
                "text": "text",
                "target": "mood",
                "id": "id",
                "limit": 320,
            },
            "model": {"name": "demo"},
            "tokens": {"max_length": 64},
            "batching": {"batch_size": 16},
            # The defaults would train for 200 steps and more; these 32 are enough to see what each trick buys.
            "optimizer": {"epochs": 2},
            "evaluation": {"every": {"fraction": 0.5}},
        },
        "baseline": "plain",
        "recipes": {
            "plain": {
                "precision": "fp32",
                "batching": {"layout": "fixed", "micro_batch": {"rows": 16}},
                "tokens": {"truncation": "head"},
            },
            "mixed precision": {"from": "plain", "precision": "auto"},
            "dynamic padding": {"from": "plain", "batching": {"layout": "dynamic"}},
            "leantune": {},
        },
        "seeds": [0, 1, 2],
        "folds": [0],
    }
    if not mixed_precision:
        del experiment["recipes"]["mixed precision"]
    return experiment


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or the first of wanted-2, wanted-3, ... that does not exist."""
    number = 2
    folder = wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder
