"""What an exported folder says about cutting: the content of `cut.json`, which `cut.py` reads."""

from pathlib import Path
from typing import Any

from leantune.encoder.model import Encoder
from leantune.inference import cut
from leantune.inference.trained_run import TrainedRun
from leantune.tokens.truncation import discover_template, share_of_head

CUT_FILE = Path(cut.__file__)
"""The module that is shipped as it is."""


def make_cut_settings(run: TrainedRun, tokenizer: Any, encoder: Encoder) -> dict[str, Any]:
    """Return how a run cuts, joins and pads the tokens of a row, as plain values for JSON."""
    tokens = run.config.tokens
    template = discover_template(tokenizer, pair=len(run.config.data.text) == 2)
    types = template.token_types if encoder.takes_token_types else None
    windows: dict[str, Any] = {}
    if tokens.truncation == "windows":
        windows = {
            "stride": tokens.stride,
            "pooling": tokens.window_pooling,
            "one_class": run.task.problem_type == "single_label_classification",
        }
    return {
        "truncation": tokens.truncation,
        **windows,
        "max_length": tokens.max_length,
        "head": list(share_of_head(tokens).as_integer_ratio()),
        "special_ids": [part.tolist() for part in template.specials],
        "token_types": None if types is None else types.tolist(),
        "pad_id": encoder.pad_id if encoder.takes_padding else None,
    }
