"""What does a checkpoint cost on this machine? Seconds, bytes, and the share of a run at the default interval.

    python benchmarks/checkpoint.py --model FOLDER

Trains two steps on made-up texts, then writes checkpoints as a run does, the best weights copied along: to the disk,
with SHA-256 and fsync. Also times what going on from one costs: checking every byte, and loading.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from leantune.encoder.loading import load_encoder
from leantune.encoder.model import ModelSettings
from leantune.encoder.saving import save_model
from leantune.tokens.tokens import load_tokenizer
from leantune.training.checkpoint import LARGEST_SHARE, CheckpointSettings, read_checkpoint, write_checkpoint
from leantune.training.optim import ResolvedOptimizer, make_optimizer
from leantune.training.precision import Precision
from leantune.training.state import TrainState, pack_state, unpack_state, weights_digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; else the temporary folder")
    arguments = parser.parse_args()
    device = torch.device("cpu")
    encoder = load_encoder(
        ModelSettings(name=arguments.model), labels=("y",), problem_type="regression", device=device, seed=0
    )
    precision = Precision(name="fp32", device=device)
    state = TrainState(optimizer=make_optimizer(encoder.model, ResolvedOptimizer(learning_rate=2e-5, epochs=3)))
    for parameter in encoder.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    state.optimizer.step()
    count = sum(parameter.numel() for parameter in encoder.model.parameters())
    begin = time.perf_counter()
    weights_digest(encoder)
    print(f"{count / 1e6:.1f} million weights; digest of the pretrained ones {time.perf_counter() - begin:.3f} s")

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        place, model = Path(name) / "checkpoint", Path(name) / "model"
        save_model(encoder, load_tokenizer(arguments.model), model)
        copies = {"best/model.safetensors": model / "model.safetensors"}
        written, read = [], []
        for step in range(1, arguments.rounds + 1):
            state.step = step
            begin = time.perf_counter()
            tensors, values = pack_state(state, encoder, precision)
            write_checkpoint(place, f"step_{step:08d}", tensors=tensors, copies=copies, state=values)
            written.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            saved = read_checkpoint(place / f"step_{step:08d}")
            unpack_state(
                saved,
                encoder,
                make_optimizer(encoder.model, ResolvedOptimizer(learning_rate=2e-5, epochs=3)),
                precision,
            )
            read.append(time.perf_counter() - begin)
        size = sum(path.stat().st_size for path in saved.path.rglob("*") if path.is_file())
        shutil.rmtree(place)
    for what, seconds in (("written", written), ("checked and loaded", read)):
        median = statistics.median(seconds)
        print(
            f"{what}: median {median:.2f} s, {min(seconds):.2f} to {max(seconds):.2f}, {size / median / 1e6:.0f} MB/s"
        )
    every = CheckpointSettings().every.seconds  # type: ignore[union-attr]
    cost = statistics.median(written)
    interval = max(every, cost / LARGEST_SHARE)
    print(f"{size / 1e6:.0f} MB each; one every {interval:.0f} s costs {cost / (interval + cost):.2%} of the time")


if __name__ == "__main__":
    main()
