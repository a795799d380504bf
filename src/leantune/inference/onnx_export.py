"""A model as an ONNX graph: written by torch's exporter, computed by onnxruntime, and with its weights in 8 bits.

torch's own exporter is called directly. What transformers 5.23 puts around it (`transformers.exporters`, experimental)
changes torch while it traces, and none of the encoders that leantune trains needs that: docs/design/0010-export.md.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leantune.system.errors import ModelError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
MOST_BYTES_IN_ONE_FILE = 1_900_000_000
"""A graph is one protobuf message, which ends at 2 GiB; larger weights go into a second file, `model.onnx_data`."""
TRACED_ROWS, TRACED_LENGTH = 2, 16
"""Of the rows that are traced; a dimension of 1 would become a constant."""


def require_onnx() -> None:
    """Raise `ModelError`, which says what to install, where the extra `onnx` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"--format onnx needs the extra `onnx` ({', '.join(missing)} not found): pip install 'leantune[onnx]'"
        )


class _Logits(nn.Module):
    """A model whose inputs stand in a fixed order, and which returns nothing but the logits."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def write_onnx(model: Any, names: tuple[str, ...], path: Path) -> None:
    """Write a transformers model for sequence classification as ONNX: inputs `names` [batch, sequence], int64, and
    the output `logits` [batch, outputs].

    The file is the same each time, and holds neither paths nor lines of the code. Raises `ModelError` where torch
    cannot export the model.
    """
    import onnx_ir  # noqa: PLC0415 - of the extra `onnx`

    shape = (TRACED_ROWS, TRACED_LENGTH)
    own = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ones = torch.ones(shape, dtype=torch.int64)
    ids = torch.randint(1, vocabulary, shape, generator=own)
    inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": torch.zeros_like(ones)}
    axes = {0: "batch", 1: "sequence"}
    with _quiet():
        try:
            program = torch.onnx.export(
                _Logits(model, names).eval(),
                tuple(inputs[name] for name in names),
                dynamo=True,
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in names),),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # whatever stage of the exporter fails
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"--format onnx: torch cannot export {model.config.model_type} ({reason}); use --format huggingface"
            ) from error
    assert program is not None
    graph = program.model
    _forget_origin(graph)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    onnx_ir.save(graph, path, external_data=f"{path.name}_data" if size > MOST_BYTES_IN_ONE_FILE else None)


def _forget_origin(model: Any) -> None:
    """Remove what the exporter notes about where each node comes from: files of this machine and lines in them."""
    model.metadata_props.clear()
    model.doc_string = None
    parts = [model.graph, *model.functions.values()]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
        values = [*part.inputs, *part.outputs, *getattr(part, "initializers", {}).values()]
        for node in part.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None


def quantize_int8(source: Path, path: Path) -> None:
    """Write a copy of an ONNX file with matrices and embeddings in 8 bits, a scale for each output channel; what goes
    through the matrices is quantized while it is computed (dynamically).

    Weights use 7 of the 8 bits: processors without VNNI add the products of bytes in 16 bits, which would overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    with _quiet():
        quantize_dynamic(
            source,
            path,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(f"{source.name}_data").exists(),
        )


class OnnxModel:
    """An ONNX file in onnxruntime, on the processor."""

    def __init__(self, path: Path) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logits(self, inputs: dict[str, list[list[int]]]) -> NDArray[np.float32]:
        """Return the logits [n, outputs] for rows that `cut.batch` has put together."""
        feed = {name: np.array(values, np.int64) for name, values in inputs.items()}
        logits: NDArray[np.float32] = self._session.run(["logits"], feed)[0]
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch, onnxscript and onnxruntime from telling about their insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
