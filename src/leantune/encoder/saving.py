"""A model and its tokenizer in the folder that plain transformers loads, and back."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model as load_safetensors
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from leantune.encoder.embedding import whole_embedding
from leantune.encoder.model import Encoder


def save_model(encoder: Encoder, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as transformers' Auto classes load them; the folder appears complete or not at all."""
    beside, before = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for left_over in (beside, before):
        shutil.rmtree(left_over, ignore_errors=True)
    # Under the names that the model has now, not those that an old checkpoint had: `load_weights` finds every one.
    with whole_embedding(encoder.model):
        encoder.model.save_pretrained(beside, save_original_format=False)
    try:
        tokenizer.save_pretrained(beside)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from None  # what tokenizers' Rust part raises where the disk is full
    for weights in beside.glob("*.safetensors"):  # which safetensors lets nobody but the owner read
        shutil.copymode(beside / "config.json", weights)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def read_saved(folder: Path, texts: tuple[list[str], ...], device: torch.device) -> Tensor:
    """Return the logits [n, outputs] that plain transformers gives for texts with the model in `folder`.

    `texts` has a list [n] for each text of a row. Every row is computed by itself, as it is.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model.to(device).eval()
    logits = []
    with torch.inference_mode():
        for row in zip(*texts, strict=True):
            encoded = tokenizer(*row, truncation=False, return_tensors="pt").to(device)
            logits.append(model(**encoded).logits)
    return torch.cat(logits)


def load_weights(encoder: Encoder, folder: Path) -> None:
    """Put the weights that `save_model` wrote into `encoder`."""
    with whole_embedding(encoder.model):
        load_safetensors(encoder.model, folder / "model.safetensors")  # strict: nothing may be missing or left over
