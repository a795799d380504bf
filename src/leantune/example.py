"""The shipped example: 2,000 sentences of EmoBank and a small encoder, both without a network."""

from importlib.resources import files
from pathlib import Path
from typing import Any


def demo_experiment() -> dict[str, Any]:
    """Return the experiment of `leantune demo`: how pleasant is a sentence (valence, 1 to 5)?

    The article's baseline against two single tricks and leantune's defaults. It is small, so that eight runs take
    minutes on two cores.
    """
    return {
        "base": {
            "data": {
                "path": str(files("leantune") / "data" / "emobank_valence.csv"),
                "text": "text",
                "target": "V",
                "id": "id",
                "limit": 500,
            },
            "model": {"name": "demo"},
            # A small encoder learns faster than the default's BERT-base, and there are few steps.
            "optimizer": {"learning_rate": 2e-4, "epochs": 1},
            "evaluation": {"every": {"fraction": 0.25}},
        },
        "baseline": "plain",
        "recipes": {
            "plain": {
                "precision": "fp32",
                "batching": {"layout": "fixed", "micro_batch": {"rows": 32}},
                "tokens": {"truncation": "head"},
            },
            "mixed precision": {"from": "plain", "precision": "auto"},
            "dynamic padding": {"from": "plain", "batching": {"layout": "dynamic"}},
            "leantune": {},
        },
        "seeds": [0, 1],
        "folds": [0],
    }


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or the first of wanted-2, wanted-3, ... that does not exist."""
    number = 2
    folder = wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder
