"""The least memory of training, against what autograd keeps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from leantune.batches.batch import make_batch
from leantune.encoder.loading import ModelSettings, load_encoder, train_rows_in_use
from leantune.encoder.memory import least_training_bytes
from leantune.encoder.model import Encoder
from leantune.training.precision import Precision
from small_runs import CPU, FP32, make_rows
from tiny_encoders import NAMES, make_texts

BF16 = Precision(name="bf16", device=CPU)
LONGEST = " ".join(make_texts(4, most_words=60, seed=2))


def load_six_layers(
    tiny: Path, folder: Path, *, dropout: float, packed: bool = False, checkpointing: bool = False
) -> Encoder:
    """A tiny encoder with six layers instead of two, so that layers are most of what is kept."""
    config = AutoConfig.from_pretrained(tiny)
    config.num_hidden_layers = 6
    if config.model_type == "modernbert":
        config.layer_types = config.layer_types * 3
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    settings = ModelSettings(
        name=str(folder), dropout=dropout, attention_dropout=dropout, gradient_checkpointing=checkpointing
    )
    encoder = load_encoder(settings, labels=("score",), problem_type="regression", device=CPU, seed=0, packed=packed)
    encoder.model.train()
    return encoder


def bytes_kept(encoder: Encoder, folder: Path, precision: Precision) -> tuple[int, int]:
    """Bytes that autograd keeps of a row, each storage once, weights and their 16-bit copies left out; its tokens."""
    rows = make_rows(folder, texts=[LONGEST])
    padding = "none" if encoder.pooling is not None else "longest"
    batch = make_batch(rows.sequences, np.array([0]), pad_id=encoder.pad_id, padding=padding, device=CPU)
    shapes = {shape for p in encoder.model.parameters() for shape in (p.shape, p.t().shape if p.ndim == 2 else p.shape)}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision.compute():
        encoder.logits(batch)
    return sum(t.untyped_storage().nbytes() for t in kept.values()), int(rows.sequences.lengths[0])


def least_activation_bytes(encoder: Encoder, tokens: int, precision: Precision) -> int:
    least = (
        least_training_bytes(encoder, tokens=n, packed=encoder.pooling is not None, dtype=precision.matrix_dtype)
        for n in (tokens, 0)
    )
    return next(least) - next(least)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_keeps_at_least_what_is_counted_and_not_many_times_more(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, name: str, packed: bool
) -> None:
    for dropout in (0.0, 0.1):
        encoder = load_six_layers(tiny_encoder_dir(name), tmp_path / name, dropout=dropout, packed=packed)
        if packed and encoder.pooling is None:
            return
        for precision in (FP32, BF16):
            kept, tokens = bytes_kept(encoder, tmp_path / name, precision)
            least = least_activation_bytes(encoder, tokens, precision)
            assert kept / 6 < least <= kept


def test_a_gradient_and_two_moments_are_counted_for_the_weights_that_are_trained(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = load_six_layers(tiny_encoder_dir("bert"), tmp_path, dropout=0.0)
    embedding = encoder.model.get_input_embeddings().weight
    before = least_training_bytes(encoder, tokens=0, packed=False, dtype=torch.float32)
    assert before == 3 * 4 * encoder.model.num_parameters()
    train_rows_in_use(encoder, np.arange(10))
    after = least_training_bytes(encoder, tokens=0, packed=False, dtype=torch.float32)
    assert before - after == 3 * 4 * (embedding.numel() - 10 * embedding.shape[1])


def test_activations_that_are_computed_again_are_not_counted(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_encoder_dir("bert")
    kept = load_six_layers(folder, tmp_path, dropout=0.1)
    again = load_six_layers(folder, tmp_path, dropout=0.1, checkpointing=True)
    each = least_activation_bytes(kept, 96, FP32) / 5  # all layers but the last
    assert least_activation_bytes(again, 96, FP32) == each + 5 * 96 * 32 * 4  # one, and the inputs of all


def test_the_weights_of_attention_count_where_they_are_kept(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    for name, dropout, packed, kept in (
        ("bert", 0.1, False, True),
        ("bert", 0.0, False, False),
        ("bert", 0.1, True, False),
        ("deberta-v2", 0.0, False, True),
    ):
        folder = tmp_path / f"{name}_{dropout}_{packed}"
        encoder = load_six_layers(tiny_encoder_dir(name), folder, dropout=dropout, packed=packed)
        short, long = (least_activation_bytes(encoder, tokens, FP32) for tokens in (1000, 2000))
        assert long - 2 * short == (5 * 4 * 4 * (2000**2 - 2 * 1000**2) if kept else 0)
