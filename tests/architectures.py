"""A tiny random model of every type that transformers classifies sequences with, and what becomes of a run with it.

PYTHONPATH=tests python tests/architectures.py [TYPE ...]     one line a type; without types, all of them
"""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from leantune.runs.run import run
from leantune.system.errors import LeantuneError
from leantune.training.events import RunEnd
from small_runs import tiny_config, write_table
from tiny_encoders import build_tiny_encoders

TYPES = tuple(sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES))

SMALL = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "dim", "n_embd", "embedding_size", "emb_dim", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("pooler_hidden_size", "input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "num_decoder_layers"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "n_inner", "d_ff", "ffn_dim"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "intermediate_hidden_size"), 64),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 130),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "moe_intermediate_size", "qk_head_dim"), 16),
    **dict.fromkeys(("entity_vocab_size", "num_latents", "d_latents"), 16),
    "initializer_range": 0.1,  # at 0.02 a tiny random model gives nearly the same whatever it reads
}
TOKENS = {"pad_token_id": "pad", "bos_token_id": "cls", "cls_token_id": "cls", "eos_token_id": "sep"}


def tiny_model(kind: str, tokenizer: Any, folder: Path) -> None:
    """Write a tiny random model of a type, with two layers of width 32, into `folder`."""
    config = CONFIG_MAPPING[kind]()
    _shrink(config, tokenizer)
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _shrink(config: Any, tokenizer: Any) -> None:
    for name in list(vars(config)):
        if isinstance(inner := getattr(config, name, None), transformers.PretrainedConfig):
            _shrink(inner, tokenizer)
    values: dict[str, Any] = SMALL | {"vocab_size": len(tokenizer), "sep_token_id": tokenizer.sep_token_id}
    values |= {name: getattr(tokenizer, f"{token}_token_id") for name, token in TOKENS.items()}
    for name, value in values.items():
        found = getattr(config, name, None)
        if (isinstance(found, int | float) and not isinstance(found, bool)) or name.endswith("_token_id"):
            with suppress(Exception):
                setattr(config, name, value)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:2]


def outcome(kind: str, tokenizer: Any, place: Path) -> str:
    """Train a tiny model of a type for a few steps: how its rows lay, or the message that refused it.

    "not tried" where this script cannot make a tiny model of the type; the run itself raises what it raises.
    """
    folder = place / kind
    try:
        with torch.random.fork_rng():
            tiny_model(kind, tokenizer, folder)
    except Exception as error:
        return f"not tried: {type(error).__name__}"
    config = tiny_config(write_table(place / "table.csv", rows=24), folder, optimizer__epochs=1)
    try:
        events = list(run(config, place / f"{kind}-run"))
    except LeantuneError as error:
        return f"refused: {error}".replace(str(folder), kind)
    assert isinstance(events[-1], RunEnd)
    (batching,) = (event.text for event in events if getattr(event, "about", "") == "batching")
    layouts = ("equal length", "dynamic padding", "packed rows")  # "dynamic padding (... cannot take packed rows)"
    return next(layout for layout in layouts if layout in batching)


def _main() -> None:
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as place:
        build_tiny_encoders(Path(place) / "tiny")
        tokenizer = AutoTokenizer.from_pretrained(Path(place) / "tiny" / "bert")
        for kind in sys.argv[1:] or TYPES:
            try:
                found = outcome(kind, tokenizer, Path(place))
            except Exception as error:
                found = f"CRASHED: {type(error).__name__}: {str(error)[:300]}"
            print(f"{kind}\t{' '.join(found.split())}", flush=True)


if __name__ == "__main__":
    _main()
