"""What every peer of `benchmarks/peers.py` is given, and how it is measured: the same for all.

A peer is a script that trains twice: on the warm-up rows, then on the timed rows, of which only the second counts. It
reads a workload (JSON), and prints one line of JSON with what was measured.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from leantune.training.clock import peak_process_bytes, process_started_at

# What the configurations of BERT's kind call their dropouts.
DROPOUT_NAMES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    *("dropout", "attention_dropout", "seq_classif_dropout", "embedding_dropout", "mlp_dropout"),
)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Which rows are learned, by which model, and how."""

    table: str
    """CSV file with the columns text (and text_2 for pairs), target and fold: fold 1 trains, fold 0 validates."""
    model: str
    """A folder or a hub name."""
    kind: str
    """regression, binary or multiclass."""
    texts: list[list[str]]
    """The rows of the table in its order, each with one text or two: first those of the warm-up, then those that are
    timed, then those that validate."""
    targets: list[float]
    """A number or the number of a class."""
    outputs: int
    warm_up_rows: int
    timed_rows: int
    epochs: int
    """Passes over the timed rows."""
    validate: bool
    """True where predictions for the validation rows are scored in the end."""
    batch_size: int
    max_length: int
    """Most tokens of a row."""
    longest: int
    """Tokens of the longest row of the whole data set, at most `max_length`."""
    dropout: float | None
    """Of hidden values and attention weights; None is the model's own."""
    learning_rate: float
    precision: str
    """Number format of a peer that is tuned: fp32, fp16 or bf16."""
    device: str
    seed: int
    variant: dict[str, Any]
    """What a peer can be told beside that, such as its micro-batch."""

    @property
    def timed_steps(self) -> int:
        """Optimizer steps that are timed."""
        return self.timed_rows // self.batch_size * self.epochs

    @property
    def pair(self) -> bool:
        """True where a row has two texts."""
        return len(self.texts[0]) == 2

    @property
    def is_regression(self) -> bool:
        """True where the target is a number."""
        return self.kind == "regression"

    def spans(self) -> list[tuple[range, int]]:
        """Return the two trainings: rows and epochs of the warm-up, then of what is timed."""
        timed = range(self.warm_up_rows, self.warm_up_rows + self.timed_rows)
        return [(range(self.warm_up_rows), 1), (timed, self.epochs)]

    def columns(self) -> list[list[str]]:
        """Return the texts as a tokenizer takes them: one list, or two for pairs."""
        return [list(column) for column in zip(*self.texts, strict=True)]

    def target_tensor(self) -> torch.Tensor:
        """Return the targets, float32 or int64 classes."""
        return torch.tensor(self.targets, dtype=torch.float32 if self.is_regression else torch.int64)

    def write(self, path: Path) -> None:
        """Write the workload for a peer to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class Meter:
    """Measures a training: its seconds, the positions that it computes, the memory of the process until its end."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._process_started_at = process_started_at()
        self._startup_seconds: float | None = None
        self.positions: int | None = 0
        """Rows x padded length, summed over all batches; None where they are not counted."""
        self.result: dict[str, Any] = {}

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self) -> None:
        """Begin a training; the first begin ends the start-up."""
        if self._startup_seconds is None:
            self._startup_seconds = time.time() - self._process_started_at
        self.positions = None if self.positions is None else 0
        self._began = self._now()

    def stop(self) -> None:
        """End a training; what was measured of the last one is the result."""
        seconds = self._now() - self._began
        self.result = {
            "seconds": seconds,
            "startup_seconds": self._startup_seconds,
            "positions": self.positions,
            "peak_process_bytes": peak_process_bytes(),
            "peak_device_bytes": torch.cuda.max_memory_allocated() if self._device.startswith("cuda") else None,
        }

    def count_positions_of(self, model: Any) -> None:
        """Count what `model` (of transformers) embeds from now on; adds some microseconds a batch."""

        def count(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self.positions = (self.positions or 0) + arguments[0].numel()

        # Not on the model itself: sentence-transformers calls its `forward` past all hooks.
        model.get_input_embeddings().register_forward_pre_hook(count)


def finish(stage: Generator[Any, None, Any]) -> Any:
    """Run a stage that tells of its progress to its end; return what it made."""
    while True:
        try:
            next(stage)
        except StopIteration as end:
            return end.value


def load_model(workload: Workload) -> tuple[Any, Any]:
    """Load model and tokenizer as anybody would, in float32, with the workload's dropout."""
    torch.manual_seed(workload.seed)
    config = AutoConfig.from_pretrained(workload.model, **dropouts(workload))
    config.num_labels = workload.outputs
    config.problem_type = "regression" if workload.is_regression else "single_label_classification"
    model = AutoModelForSequenceClassification.from_pretrained(workload.model, config=config, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(workload.model)


def dropouts(workload: Workload) -> dict[str, float]:
    """Return what the model's configuration must say so that it has the workload's dropout."""
    if workload.dropout is None:
        return {}
    config = AutoConfig.from_pretrained(workload.model)
    return {name: workload.dropout for name in DROPOUT_NAMES if hasattr(config, name)}


def score(workload: Workload, model: Any, tokenizer: Any, *, second_text: str | None = None) -> float:
    """Return the RMSE or log loss of float32 predictions for the validation rows; `second_text` makes pairs of them."""
    first = workload.warm_up_rows + workload.timed_rows
    texts = [[*row, *([] if second_text is None else [second_text])] for row in workload.texts[first:]]
    targets = workload.target_tensor()[first:].to(model.device)
    losses = []
    model.eval()
    with torch.inference_mode():
        for begin in range(0, len(texts), 32):
            columns = [list(column) for column in zip(*texts[begin : begin + 32], strict=True)]
            tokens = tokenizer(
                *columns, padding=True, truncation=True, max_length=workload.max_length, return_tensors="pt"
            )
            logits = model(**tokens.to(model.device)).logits.float()
            target = targets[begin : begin + 32]
            if workload.is_regression:
                losses.append((logits[:, 0] - target).square())
            else:
                losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    mean = torch.cat(losses).mean().item()
    return math.sqrt(mean) if workload.is_regression else mean


def run_peer(train: Callable[[Workload, Meter], dict[str, Any]]) -> None:
    """Let a peer train on the workload that the command line names, and print what was measured.

    `train` returns what it has to add to that. Where a package that it needs is not there, the reason is printed.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    workload = Workload(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    meter = Meter(workload.device)
    try:
        added = train(workload, meter)
    except ImportError as error:
        print(json.dumps({"skipped": " ".join(str(error).split())}))
        return
    print(json.dumps(meter.result | added))
