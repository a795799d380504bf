"""The losses of 100 steps, to the last bit: a change of what is learned, however small, is seen.

Rounding depends on the version of torch and on the processor, so there is a record for each. Two processors that can do
the same may differ, too: the library of matrix products chooses its kernels by the model. To record on yours, from the
commit before a change, or anew after a change that is meant:

    PYTHONPATH=tests:tests/training python tests/training/test_stored_losses.py
"""

import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import begin, make_fold, steps_of

from leantune.batches.plan import RowsPerMicroBatch
from small_runs import load_tiny, make_rows, make_task_of, optimizer_settings
from tiny_encoders import build_tiny_encoders, make_texts

STORED = Path(__file__).parents[1] / "stored_losses.json"
LAYOUTS: dict[str, Any] = {"packed": "none", "dynamic": "longest"}


def here() -> str:
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}, {processor()}"


def processor() -> str:
    """Name the processor's model: "GenuineIntel 6/143" where Linux tells, what Python knows elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return f"{told.get('vendor_id', platform.machine())} {told.get('cpu family', '?')}/{told.get('model', '?')}"


def losses_of(folder: Path, layout: str) -> list[str]:
    """The losses of 20 epochs of 5 steps, on one thread, in hexadecimal: every bit of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        encoder = load_tiny(folder, dropout=0.1, packed=layout == "packed")
        fold = make_fold(
            padding=LAYOUTS[layout],
            micro_batch=RowsPerMicroBatch(rows=3),
            optimizer=optimizer_settings(epochs=20, learning_rate=1e-3),
        )
        rows = make_rows(folder, texts=make_texts(50, most_words=20))
        torch.manual_seed(0)
        return [event.loss.hex() for event in steps_of(begin(encoder, rows, fold, task=make_task_of("regression")))]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_losses_of_100_steps_are_those_that_are_stored(
    tiny_encoder_dir: Callable[[str], Path], layout: str
) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    if here() not in stored:
        pytest.skip(f"no losses are stored for {here()}")
    losses = losses_of(tiny_encoder_dir("bert"), layout)
    assert len(losses) == 100
    assert float.fromhex(losses[-1]) < 0.9 * float.fromhex(losses[0])
    assert losses == stored[here()][layout]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        build_tiny_encoders(Path(folder))
        recorded = {layout: losses_of(Path(folder) / "bert", layout) for layout in LAYOUTS}
    known = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    STORED.write_text(json.dumps(known | {here(): recorded}, indent=1) + "\n", encoding="utf-8")
