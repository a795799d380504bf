"""What only a GPU can show: packed rows keep their laws in its kernels and number formats, and never wait for it.

With the variable GPU_TESTS_ON_CPU these tests run on a CPU (`sh benchmarks/gpu.sh --dry`): that shows nothing but that
the tests themselves are without a mistake.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interruptions import cut_off
from leantune.batches.batch import make_training_batch
from leantune.batches.packing import make_packing
from leantune.encoder.attention import packed_attention
from leantune.encoder.loading import load_encoder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.encoder.packed_kernels import TOLERANCES, Facts, choose_kernel, kernel_error
from leantune.runs.run import run
from leantune.system.device import compute_capability
from leantune.training.device_memory import bytes_per_token, measure_pass
from leantune.training.precision import Precision, PrecisionName, supported_precisions
from leantune.training.step import accumulate_gradients, optimizer_step
from leantune.training.task import Task
from small_runs import make_rows, make_task_of, run_all, tiny_config, write_table
from tiny_encoders import NAMES, make_texts

ON_CPU = "GPU_TESTS_ON_CPU" in os.environ
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
TEXTS = ["", "ba", *make_texts(10), " ".join(make_texts(4, most_words=60, seed=2))]
TASK: Task = make_task_of("regression")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (ON_CPU or torch.cuda.is_available()), reason="needs a CUDA device"),
]
only_on_a_gpu = pytest.mark.skipif(ON_CPU, reason="a CPU does not count its memory, and there is nothing to wait for")
every_precision = pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
every_architecture = pytest.mark.parametrize("name", NAMES)


def load(folder: Path, *, packed: bool, dropout: float) -> Encoder:
    settings = ModelSettings(name=str(folder), dropout=dropout, attention_dropout=dropout)
    return load_encoder(
        settings, labels=TASK.labels, problem_type=TASK.problem_type, device=DEVICE, seed=0, packed=packed
    )


def choose(name: PrecisionName) -> Precision:
    if name not in supported_precisions(DEVICE):
        pytest.skip(f"this device does not compute {name}")
    # A scale at which no gradient of these encoders overflows: a training would find one by itself.
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0) if name == "fp16" else None
    return Precision(name=name, device=DEVICE, scaler=scaler)


def batches(encoder: Encoder, rows: Any, *, packed: bool) -> list[Any]:
    """All rows in two micro-batches."""
    parts = (np.arange(4), np.arange(4, len(TEXTS)))
    padding: Any = "none" if packed else "longest"
    return [make_training_batch(rows, part, pad_id=encoder.pad_id, padding=padding, device=DEVICE) for part in parts]


def gradient_of(encoder: Encoder, rows: Any, precision: Precision, *, packed: bool) -> torch.Tensor:
    encoder.model.zero_grad()
    accumulate_gradients(
        encoder,
        batches(encoder, rows, packed=packed),
        total_weight=rows.weights.sum(),
        task=TASK,
        precision=precision,
    )
    found = torch.cat([p.grad.flatten() for p in encoder.model.parameters() if p.grad is not None])
    return found if precision.scaler is None else found / precision.scaler.get_scale()


def logits_of(
    encoder: Encoder, rows: Any, precision: Precision, *, seed: int = 0, changed: bool = False
) -> torch.Tensor:
    """[N, 1] of packed rows, with all words of row 5 replaced where it is `changed`."""
    first, second = batches(encoder, rows, packed=True)
    if changed:
        packing = second.inputs.packing
        begin, length = (int(number[1]) for number in (packing.starts, packing.lengths))
        second.inputs.input_ids[0, begin + 1 : begin + length - 1] = 7
    torch.manual_seed(seed)
    with torch.inference_mode(), precision.compute():
        return torch.cat([encoder.logits(batch.inputs).float() for batch in (first, second)])


@every_precision
@every_architecture
def test_packed_rows_give_the_gradient_of_float32_as_nearly_as_padded_ones(
    tiny_encoder_dir: Callable[[str], Path], name: str, precision: PrecisionName
) -> None:
    folder = tiny_encoder_dir(name)
    rows = make_rows(folder, texts=TEXTS)
    padded, packed = (load(folder, packed=packed, dropout=0.0) for packed in (False, True))
    assert packed.pooling is not None
    exact = gradient_of(padded, rows, choose("fp32"), packed=False)
    errors = [
        float((gradient_of(encoder, rows, choose(precision), packed=packed) - exact).norm() / exact.norm())
        for encoder, packed in ((padded, False), (packed, True))
    ]
    least = {"fp32": 1e-5, "tf32": 0.01, "fp16": 0.01, "bf16": 0.05}[precision]
    assert errors[1] < max(2 * errors[0], least)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@every_precision
@every_architecture
def test_changing_one_packed_row_moves_no_other(
    tiny_encoder_dir: Callable[[str], Path], name: str, precision: PrecisionName, dropout: float
) -> None:
    folder = tiny_encoder_dir(name)
    encoder = load(folder, packed=True, dropout=dropout)
    encoder.model.train()
    rows = make_rows(folder, texts=TEXTS)
    before = logits_of(encoder, rows, choose(precision))
    after = logits_of(encoder, rows, choose(precision), changed=True)
    others = [number for number in range(len(TEXTS)) if number != 5]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
    assert abs(float(after[5] - before[5])) > 1e-4
    if dropout:
        assert not torch.allclose(logits_of(encoder, rows, choose(precision), seed=1), before, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_dropped_attention_weights_change_nothing_on_average(dtype: torch.dtype) -> None:
    lengths, draws = [40, 33, 32, 9, 1], 300
    generator = torch.Generator(DEVICE).manual_seed(0)
    shape = (1, 4, sum(lengths), 32)
    query, key, value = (torch.randn(shape, device=DEVICE, generator=generator).to(dtype) for _ in range(3))
    packing = make_packing(lengths, DEVICE)

    def attend(dropout: float) -> torch.Tensor:
        return packed_attention(torch.nn.Module(), query, key, value, None, packing=packing, dropout=dropout)[0].float()

    torch.manual_seed(0)
    found = torch.stack([attend(0.1) for _ in range(draws)])
    expected, error = attend(0.0), found.std(dim=0) / draws**0.5
    assert float(error.mean()) > 1e-4  # something is dropped
    far = (found.mean(dim=0) - expected).abs() > 5 * error + 0.01
    assert float(far.float().mean()) < 1e-3


@pytest.mark.parametrize("window", [False, True], ids=["all", "window"])
@pytest.mark.parametrize("head_width", [8, 32, 64, 128, 256])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=["fp32", "fp16", "bf16"])
def test_the_chosen_kernel_computes_the_formula(dtype: torch.dtype, head_width: int, window: bool) -> None:
    facts = Facts(
        device=str(DEVICE),
        capability=compute_capability(DEVICE),
        dtype=dtype,
        head_width=head_width,
        dropout=False,
        window=window,
    )
    kernels = {choose_kernel(facts), choose_kernel(replace(facts, dropout=True))} - {"groups"}
    if not kernels:
        pytest.skip("this device computes it in groups")
    for kernel in kernels:
        assert kernel_error(kernel, facts, DEVICE) <= TOLERANCES[dtype], kernel


@only_on_a_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_packed_steps_never_wait_for_the_device(
    tiny_encoder_dir: Callable[[str], Path], precision: PrecisionName
) -> None:
    folder = tiny_encoder_dir("bert")
    encoder, rows = load(folder, packed=True, dropout=0.1), make_rows(folder, texts=TEXTS)
    encoder.model.train()
    optimizer = torch.optim.AdamW(encoder.model.parameters(), fused=True)
    chosen = choose(precision)
    for strictness in ("default", "error"):  # the first step may wait: kernels are chosen
        torch.cuda.set_sync_debug_mode(strictness)
        try:
            optimizer_step(
                encoder,
                optimizer,
                batches(encoder, rows, packed=True),
                total_weight=len(TEXTS),
                task=TASK,
                precision=chosen,
                learning_rate=1e-4,
                clip_norm=1.0,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")


@only_on_a_gpu
def test_a_whole_run_trains_packed_rows_on_the_gpu(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> None:
    table = write_table(tmp_path / "table.csv")
    config = tiny_config(table, tiny_encoder_dir("bert"), device=str(DEVICE), precision="auto", optimizer__epochs=5)
    metrics = run_all(config, tmp_path / "run")[-1].metrics["overall"]
    assert metrics["padding_fraction"] < 0.1  # a row is filled up to a multiple of 16 tokens
    assert metrics["peak_device_bytes"] > 0
    assert np.isfinite(metrics["best"]["rmse"])


def test_a_deterministic_run_repeats_itself_to_the_bit(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> None:
    weights = []
    for name in ("one", "other"):
        table = write_table(tmp_path / f"{name}.csv")
        config = tiny_config(table, tiny_encoder_dir("bert"), device=str(DEVICE), precision="auto", deterministic=True)
        run_all(config, tmp_path / name)
        weights.append((tmp_path / name / "fold_0" / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_deterministic_run_that_was_cut_off_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    table = write_table(tmp_path / "table.csv")
    checkpoint = {"every": {"steps": 1}}
    config = tiny_config(
        table, tiny_encoder_dir("bert"), device=str(DEVICE), precision="auto", deterministic=True, checkpoint=checkpoint
    )
    run_all(config, tmp_path / "whole")
    cut_off(config, tmp_path / "cut", 3)
    list(run(config, tmp_path / "cut", resume=True))
    weights = [(tmp_path / name / "fold_0" / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


@only_on_a_gpu
@every_precision
@pytest.mark.parametrize("padding", ["none", "longest"])
def test_memory_of_a_pass_is_a_line_through_two_others(
    tiny_encoder_dir: Callable[[str], Path], precision: PrecisionName, padding: Any
) -> None:
    """Of four times as many rows; `micro_batch: auto` goes by that. Measuring leaves the weights as they are."""
    folder = tiny_encoder_dir("bert")
    encoder = load(folder, packed=padding == "none", dropout=0.1)
    rows = make_rows(folder, texts=[" ".join(make_texts(4, most_words=60, seed=2))])
    before = [p.clone() for p in encoder.model.parameters()]
    passes = [
        measure_pass(encoder, rows, copies, padding, task=TASK, precision=choose(precision))
        for copies in (64, 64, 128, 512)
    ]
    line = bytes_per_token(passes[1], passes[2])
    expected = passes[1].peak_bytes + line * (passes[3].tokens - passes[1].tokens)
    assert passes[3].peak_bytes == pytest.approx(expected, rel=0.2)
    assert all(map(torch.equal, before, encoder.model.parameters()))
