"""How fast and how large is a step of DeBERTa or MPNet with packed rows, against the stock model in a tuned Trainer?

    python benchmarks/relative_positions.py emobank/train.csv --text text --rounds 5
    python benchmarks/relative_positions.py commonlit/train.csv --text excerpt --max-length 256 --kind mpnet

The model has the size of DeBERTa-v3-base (or MPNet-base) and random weights, so that nothing is downloaded; the lengths
are those of the table's texts in the demo's tokenizer, and the tokens are random. Both ways train the same rows with
the same optimizer, dropout and type of products. The stock way pads micro-batches of rows of like length, of so many
rows as `--micro-batch` says; the packed way has micro-batches of the default size.

Each way runs in a process of its own, both stay, and they take their steps in turn, after one step each that does not
count. Prints a table: medians over the rounds, the range of the ratio within a round, and the largest memory of each
process. On a busy machine the seconds of the processor say more than those of the clock.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DebertaV2Config, MPNetConfig

from leantune.batches.batch import TrainingBatch, make_batch
from leantune.encoder.loading import load_encoder, model_path, train_rows_in_use
from leantune.encoder.model import ModelSettings
from leantune.tokens.truncation import Sequences
from leantune.training.optim import ResolvedOptimizer, make_optimizer
from leantune.training.precision import make_precision
from leantune.training.step import optimizer_step
from leantune.training.task import Task

CPU = torch.device("cpu")
MICRO_BATCH_TOKENS = 2048
"""What leantune takes on a CPU."""

CONFIGS: dict[str, Callable[[], Any]] = {
    "deberta": lambda: DebertaV2Config(
        vocab_size=128100,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pooler_hidden_size=768,
    ),
    "mpnet": lambda: MPNetConfig(max_position_embeddings=514),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--kind", choices=CONFIGS, default="deberta")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=32, help="rows a step")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=8, help="rows of the stock way")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--precision", choices=["fp32", "bf16", "auto"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=["packed", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def draw_rows(options: argparse.Namespace, vocabulary: int) -> list[np.ndarray]:
    """Token ids of the rows of one step, the longest first."""
    with options.data.open(newline="", encoding="utf-8") as file:
        texts = [row[options.text] for row in csv.DictReader(file)]
    draw = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path("demo"))
    chosen = [texts[row] for row in draw.choice(len(texts), options.rows, replace=False)]
    tokens = tokenizer(chosen, truncation=True, max_length=options.max_length)["input_ids"]
    return [draw.integers(5, vocabulary, length) for length in sorted(map(len, tokens), reverse=True)]


def packed_step(options: argparse.Namespace) -> Callable[[], None]:
    """Build leantune's step."""
    dropouts = {"dropout": options.dropout, "attention_dropout": options.dropout}
    settings = ModelSettings(name=str(options.folder), **dropouts)
    encoder = load_encoder(settings, labels=("y",), problem_type="regression", device=CPU, seed=0, packed=True)
    if encoder.pooling is None:
        raise SystemExit("packed rows were not proven for this model")
    rows = draw_rows(options, encoder.vocabulary_size)
    train_rows_in_use(encoder, np.unique(np.concatenate([*rows, [encoder.pad_id]])))
    optimizer = make_optimizer(encoder.model, ResolvedOptimizer(learning_rate=2e-5, epochs=1))
    precision = make_precision(options.precision, CPU)
    encoder.model.train()
    sequences = sequences_of(rows)
    parts, tokens = [[]], 0
    for number, row in enumerate(rows):
        if parts[-1] and tokens + len(row) > MICRO_BATCH_TOKENS:
            parts, tokens = [*parts, []], 0
        parts[-1].append(number)
        tokens += len(row)

    def step() -> None:
        batches = (
            TrainingBatch(
                inputs=make_batch(sequences, np.array(part), pad_id=encoder.pad_id, padding="none", device=CPU),
                targets=torch.zeros(len(part), 1),
                weights=torch.ones(len(part)),
            )
            for part in parts
        )
        optimizer_step(
            encoder,
            optimizer,
            batches,
            total_weight=options.rows,
            task=Task(kind="regression", labels=("y",)),
            precision=precision,
            learning_rate=2e-5,
            clip_norm=1.0,
        )

    return step


class RowSequences:
    """As much of `Sequences` as a batch reads."""

    def __init__(self, rows: list[np.ndarray]) -> None:
        self._rows = rows
        self.lengths = np.array([len(row) for row in rows])

    def ids(self, row: int, window: int) -> np.ndarray:
        """Return the tokens of a row."""
        return self._rows[row]

    def token_types(self, row: int) -> None:
        """Return none."""
        return


def sequences_of(rows: list[np.ndarray]) -> Sequences:
    return RowSequences(rows)  # type: ignore[return-value]


def stock_step(options: argparse.Namespace) -> Callable[[], None]:
    """Build a step of the stock model, as a tuned Trainer takes it."""
    dropouts = {"hidden_dropout_prob": options.dropout, "attention_probs_dropout_prob": options.dropout}
    model = AutoModelForSequenceClassification.from_pretrained(options.folder, num_labels=1, **dropouts).train()
    rows = draw_rows(options, model.config.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    is_bf16 = make_precision(options.precision, CPU).name == "bf16"

    def step() -> None:
        for begin in range(0, len(rows), options.micro_batch):
            part = rows[begin : begin + options.micro_batch]
            ids = torch.full((len(part), len(part[0])), model.config.pad_token_id)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(part):
                ids[place, : len(row)] = torch.from_numpy(row)
                mask[place, : len(row)] = 1
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                logits = model(input_ids=ids, attention_mask=mask).logits
            (logits.float().square().sum() / options.rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def serve(step: Callable[[], None]) -> None:
    """Take a step for each line that comes, and print what it took."""
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        step()
        took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        took["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(took), flush=True)


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    options = make_parser().parse_args()
    if options.way is not None:
        serve(packed_step(options) if options.way == "packed" else stock_step(options))
        return
    config = CONFIGS[options.kind]()
    config.num_hidden_layers, config.num_labels = options.layers, 1
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        command = [sys.executable, *sys.argv, "--folder", folder, "--way"]
        processes = {
            way: subprocess.Popen([*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for way in ("packed", "stock")
        }
        found: dict[str, list[dict[str, float]]] = {way: [] for way in processes}
        for number in range(options.rounds + 1):
            for way in sorted(processes, reverse=number % 2 == 1):
                process = processes[way]
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("step\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"the {way} way ended")
                found[way].append(json.loads(line))
                print(f"round {number}: {way}: {line.strip()}", file=sys.stderr, flush=True)
        for process in processes.values():
            process.communicate()
    print("| | seconds a step | of the processor | memory of the process |\n|---|---|---|---|")
    for way, took in found.items():
        cells = [middle([step[key] for step in took[1:]]) for key in ("wall", "processor")]
        print(f"| {way} | {cells[0]} | {cells[1]} | {took[-1]['bytes'] / 2**30:.2f} GiB |")
    cells = [
        middle(
            [stock[key] / packed[key] for packed, stock in zip(found["packed"][1:], found["stock"][1:], strict=True)]
        )
        for key in ("wall", "processor")
    ]
    share = found["packed"][-1]["bytes"] / found["stock"][-1]["bytes"]
    print(f"| packed is so many times as fast, with this share of the memory | {cells[0]} | {cells[1]} | {share:.2f} |")


if __name__ == "__main__":
    main()
