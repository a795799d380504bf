"""Does `micro_batch: auto` come to what fits on this GPU?

    python benchmarks/synthetic.py FOLDER --shapes bert-base minilm
    python benchmarks/gpu_memory.py FOLDER --shapes bert-base minilm [--precisions fp32 bf16] [--output FILE.md]

For each encoder and number format: what a run says that it has measured, where an optimizer step is the whole table, so
that memory is what limits a micro-batch; then a real pass over so many tokens of the longest rows, with the gradients
and the optimizer's moments in memory, and its peak. Ends with exit code 1 where that pass does not fit. On a CPU, which
measures nothing, it only shows that the script works.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers

from leantune.advice.probe import prepare_quietly
from leantune.batches.batch import make_training_batch
from leantune.batches.plan import TokensPerMicroBatch
from leantune.runs.config import parse_config
from leantune.system.device import describe_device, forget_peak, peak_device_bytes, resolve_device
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision, supported_precisions
from leantune.training.step import DoesNotFitError, accumulate_gradients


def measure(folder: Path, shape: str, precision: str, device: str, rows: int) -> tuple[str, bool]:
    """Return a line of the table, and whether the pass fitted."""
    prepared, encoder = prepare_quietly(
        parse_config(
            {
                "data": {"path": str(folder / "long.csv"), "text": "text", "target": "target", "limit": rows},
                "model": {"name": str(folder / shape)},
                "batching": {"batch_size": rows},
                "precision": precision,
                "device": device,
            }
        )
    )
    said = next(note.text for note in prepared.notes if note.about == "batching").partition("micro-batches of ")[2]
    limit = prepared.batching.micro_batch
    assert isinstance(limit, TokensPerMicroBatch)
    lengths = prepared.rows.sequences.lengths.astype(np.int64)
    longest_first = np.argsort(-lengths)
    count = max(1, int(np.searchsorted(np.cumsum(lengths[longest_first]), limit.tokens, side="right")))
    computed = make_precision(prepared.precision.name, prepared.precision.device)
    optimizer = make_optimizer(encoder.model, prepared.optimizer)
    encoder.model.train()
    peak: int | None = None
    try:
        for numbers in (longest_first[:1], longest_first[:count]):  # the first makes gradients and moments
            forget_peak(computed.device)
            batch = make_training_batch(
                prepared.rows,
                numbers,
                pad_id=encoder.pad_id,
                padding=prepared.batching.padding,
                device=computed.device,
            )
            accumulate_gradients(encoder, [batch], total_weight=1.0, task=prepared.task, precision=computed)
            peak = peak_device_bytes(computed.device)
            optimizer.step()
    except DoesNotFitError:
        result = "did not fit"
    else:
        result = "–" if peak is None else f"{peak / 2**30:.2f} GiB"
    computed_tokens = int(lengths[longest_first[:count]].sum())
    return f"| {shape} | {precision} | {said} | {computed_tokens:,} | {result} |", result != "did not fit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", required=True)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "auto"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=4000, help="of the table, all of them in one optimizer step")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    device = resolve_device(options.device)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}. {describe_device(device)}, torch {torch.__version__}.",
        "",
        "| encoder | precision | the run says: micro-batches | tokens computed at once | peak |\n" + "|---" * 5 + "|",
    ]
    print("\n".join(lines), flush=True)
    fitted = True
    for shape in options.shapes:
        for name in options.precisions:
            precision = supported_precisions(device)[-1] if name == "auto" else name
            line, fits = measure(options.folder, shape, precision, str(device), options.rows)
            fitted &= fits
            print(line, flush=True)
            lines.append(line)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    raise SystemExit(int(not fitted))


if __name__ == "__main__":
    main()
