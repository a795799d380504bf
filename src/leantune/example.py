"""The shipped example: 2,000 sentences of EmoBank and a small encoder, both without a network."""

from importlib.resources import files
from pathlib import Path

from leantune.config import Config, parse_config


def demo_config() -> Config:
    """Return the settings of `leantune demo`: how pleasant is a sentence (valence, 1 to 5)?"""
    return parse_config(
        {
            "data": {
                "path": str(files("leantune") / "data" / "emobank_valence.csv"),
                "text": "text",
                "target": "V",
                "id": "id",
            },
            "model": {"name": "demo"},
            # A small encoder learns faster than the default's BERT-base, and 150 steps are few.
            "optimizer": {"learning_rate": 1e-4},
        }
    )


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or the first of wanted-2, wanted-3, ... that does not exist."""
    number = 2
    folder = wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder
