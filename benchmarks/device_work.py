"""How many operations does a GPU get from an optimizer step, and does the step ever wait for it? Without a GPU.

    python benchmarks/device_work.py [--shapes bert-base minilm ...] [--dropout 0.1] [--most 20]

Runs whole steps on tensors that have a shape and no values: on the meta device with any build of torch, or, with a CUDA
build of torch, on fake CUDA tensors (FakeTensorMode), which know autocast and the device's own kernels and need no GPU
either. A dispatch mode sees every operation: it counts those that start work on a device, and raises `WaitError` at
those that must read a value from it, for which the processor would wait.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leantune.batches.batch import Batch, TrainingBatch
from leantune.batches.packing import make_packing
from leantune.encoder.head import compute_head_in_float32
from leantune.encoder.model import Encoder
from leantune.encoder.proof import let_packed_rows_through
from leantune.training.optim import ResolvedOptimizer, make_optimizer
from leantune.training.precision import Precision
from leantune.training.step import optimizer_step
from leantune.training.task import Task

aten = torch.ops.aten

# What a GPU must have finished before the processor knows the result, or the shape of the result.
WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "unique_dim"),
    *("_unique", "_unique2", "unique_consecutive", "repeat_interleave"),
}
# These make a tensor, or look at one in another way, without work on the device.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "alias"}
SHAPES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "tiny": (
        transformers.BertConfig,
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    ),
    "minilm": (
        transformers.BertConfig,
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    ),
    "bert-base": (transformers.BertConfig, {}),
    "distilbert": (transformers.DistilBertConfig, {}),
    "modernbert-base": (transformers.ModernBertConfig, {"vocab_size": 30522, "pad_token_id": 0}),
    "deberta-v3-base": (
        transformers.DebertaV2Config,
        {
            "vocab_size": 30522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": 768,
        },
    ),
    "mpnet-base": (transformers.MPNetConfig, {"pad_token_id": 1}),
}
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout"),
    *("embedding_dropout", "mlp_dropout", "seq_classif_dropout", "pooler_dropout"),
)


class WaitError(Exception):
    """A step would wait for its device."""


class DeviceWork(TorchDispatchMode):
    """Counts the operations that start work on a device, and raises `WaitError` at those that read a value from it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.raises = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operation, then compute it."""
        named = kwargs or {}
        packet = function.overloadpacket.__name__
        given = [x for x in tree_leaves((args, named)) if isinstance(x, torch.Tensor)]
        there = any(x.device.type == self.device for x in given)
        if there and self._waits(packet, args, named):
            self.waits[packet] += 1
            if self.raises:
                raise WaitError(f"{function} waits for the device")
        if packet == "_efficient_attention_backward":
            result: Any = _efficient_backward(*args, **named)  # torch 2.13's, without values, lacks the argument `out`
        else:
            result = function(*args, **named)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in function._schema.returns)
        if (
            function.namespace != "prim"
            and not is_view
            and packet not in FREE
            and (there or any(x.device.type == self.device for x in made))
        ):
            self.counts[packet] += 1
        return result

    def _waits(self, packet: str, args: Any, named: Any) -> bool:
        if packet in WAITING:
            return True
        if packet in ("index", "index_put", "index_put_", "_index_put_impl_"):  # a mask is turned into numbers
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        if packet == "_to_copy":
            to = named.get("device")
            return to is not None and torch.device(to).type == "cpu" and args[0].device.type == self.device
        if packet == "copy_":
            return args[0].device.type == "cpu" and args[1].device.type == self.device
        return False


def _efficient_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), query.new_empty(())


def make_encoder(
    shape: str, *, device: torch.device, dropout: float, packed: bool, layers: int | None = None
) -> Encoder:
    """Make an encoder of a shape on a device, with weights that are nothing but shapes; `layers`: fewer than it has."""
    make_config, arguments = SHAPES[shape]
    config = make_config(**arguments, num_labels=1, problem_type="regression")
    if layers is not None:
        config.num_hidden_layers = layers
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types[:layers]
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    for module in model.modules():  # what `to_empty` does, which cannot make fake tensors of others
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    tensors[name] = torch.nn.Parameter(made) if tensors is module._parameters else made
    compute_head_in_float32(model)
    pooling = let_packed_rows_through(model) if packed else None
    model.train()
    return Encoder(
        model=model,
        position_limit=512,
        vocabulary_size=config.vocab_size,
        pad_id=config.pad_token_id,
        training_flops=None,
        takes_token_types=False,
        takes_ready_mask=shape in ("tiny", "minilm", "bert-base", "distilbert"),
        new_weights=(),
        output_layer=None,
        head_is_new=True,
        head_reason="",
        pooling=pooling,
        takes_padding=True,
    )


def make_batches(lengths: Sequence[Sequence[int]], *, device: torch.device, packed: bool) -> Iterator[TrainingBatch]:
    """Make the micro-batches of texts of these lengths, as `make_training_batch` does."""
    for texts in lengths:
        count, most = len(texts), max(texts)
        row = -(-sum(texts) // 16) * 16
        shape = (1, row) if packed else (count, most)
        ids = torch.full(shape, 7).to(device)
        yield TrainingBatch(
            inputs=Batch(
                input_ids=ids,
                attention_mask=None if packed else torch.ones(shape, dtype=torch.int64).to(device),
                token_types=None,
                packing=make_packing(list(texts), device, row=row) if packed else None,
                places=torch.zeros(shape, dtype=torch.int64).to(device) if packed else None,
            ),
            targets=torch.zeros(count, 1).to(device),
            weights=torch.ones(count).to(device),
        )


@contextmanager
def autocast_of(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Let the meta device's steps compute in 16 bits, as a GPU's do: torch has no autocast for it."""
    if device.type != "meta" or dtype is torch.float32:
        yield
        return
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def count_step(
    shape: str,
    *,
    device: str = "meta",
    precision: str = "bf16",
    dropout: float = 0.1,
    packed: bool = True,
    lengths: Sequence[Sequence[int]] = ((25, 24, 20, 9), (8, 7, 3)),
    layers: int | None = None,
    raises: bool = True,
) -> tuple[list[Counter[str]], Counter[str]]:
    """Return the operations of the second optimizer step for one and for two micro-batches, and what would wait."""
    where = torch.device(device)
    found, waits = [], Counter[str]()
    for micro_batches in (lengths[:1], lengths):
        encoder = make_encoder(shape, device=where, dropout=dropout, packed=packed, layers=layers)
        settings = ResolvedOptimizer(learning_rate=1e-5, epochs=1)
        # The fused step is for real devices only.
        optimizer = (
            torch.optim.AdamW(encoder.model.parameters(), foreach=True)
            if device == "meta"
            else make_optimizer(encoder.model, settings)
        )
        scaler = torch.amp.GradScaler("cuda") if precision == "fp16" and device == "cuda" else None
        chosen = Precision(name=precision, device=where, scaler=scaler)  # type: ignore[arg-type]
        for _ in range(2):
            work = DeviceWork(device)
            work.raises = raises
            batches = list(make_batches(micro_batches, device=where, packed=packed))
            with work, autocast_of(where, chosen.matrix_dtype):
                optimizer_step(
                    encoder,
                    optimizer,
                    batches,
                    total_weight=float(sum(map(len, micro_batches))),
                    task=Task(kind="regression", labels=("score",)),
                    precision=chosen if device != "meta" else Precision(name="fp32", device=torch.device("cpu")),
                    learning_rate=1e-5,
                    clip_norm=1.0,
                )
        found.append(work.counts)
        waits += work.waits
    return found, waits


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let CUDA tensors be fake during a block: they have a shape, a type and a device, and no GPU is asked for."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415  slow to import

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["meta", "cuda"], default="meta")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["minilm", "bert-base", "modernbert-base"])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--layout", choices=["packed", "dynamic"], default="packed")
    parser.add_argument("--most", type=int, default=0, help="list so many of the most frequent operations")
    options = parser.parse_args()
    print("| encoder | operations a micro-batch | a step beside | waits |\n|---|---|---|---|")
    for shape in options.shapes:
        (one, two), waits = count_step(
            shape,
            device=options.device,
            precision=options.precision,
            dropout=options.dropout,
            packed=options.layout == "packed",
            raises=False,
        )
        each = two.total() - one.total()
        print(f"| {shape} | {each} | {one.total() - each} | {dict(waits) or 'none'} |")
        if options.most:
            print("\n".join(f"    {count:5} {name}" for name, count in (two - one).most_common(options.most)))


if __name__ == "__main__":
    main()
