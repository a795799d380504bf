"""Precision: computed in the format that was asked for, and in none that the hardware only imitates."""

import platform
from typing import Any

import pytest
import torch

from leantune.system.errors import DeviceError
from leantune.training.precision import Precision, make_precision, supported_precisions

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda:0"), torch.device("mps")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the processor one of a machine type that has some features."""

    def pretend(machine: str, **features: bool) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)

    return pretend


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the GPU one of a compute capability."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return lambda *capability: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", {"avx512_bf16": True}, ("fp32", "bf16")),
        ("AMD64", {"amx_bf16": True, "avx512_bf16": False}, ("fp32", "bf16")),
        ("x86_64", {"avx512_bf16": False, "amx_bf16": False, "avx2": True}, ("fp32",)),
        ("x86_64", {"bf16": True}, ("fp32",)),
        ("aarch64", {"bf16": True}, ("fp32", "bf16")),
        ("arm64", {"bf16": False}, ("fp32",)),
        ("arm64", {}, ("fp32",)),
    ],
)
def test_a_processor_computes_bf16_where_it_has_instructions_for_it(processor, machine, features, expected):
    processor(machine, **features)
    assert supported_precisions(CPU) == expected


def test_a_processor_that_torch_cannot_ask_computes_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert supported_precisions(CPU) == ("fp32",)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 0), ("fp32", "fp16")),
        ((7, 5), ("fp32", "fp16")),
        ((8, 0), ("fp32", "tf32", "fp16", "bf16")),
        ((12, 0), ("fp32", "tf32", "fp16", "bf16")),
    ],
)
def test_a_gpu_computes_bf16_and_tf32_from_ampere_on(gpu, capability, expected):
    gpu(*capability)
    assert supported_precisions(CUDA) == expected


def test_auto_is_bf16_on_a_processor_that_computes_it_and_fp32_on_others(processor):
    processor("x86_64", avx512_bf16=True)
    assert make_precision("auto", CPU).name == "bf16"
    processor("x86_64", avx512_bf16=False)
    assert make_precision("auto", CPU).name == "fp32"


def test_auto_is_bf16_on_a_new_gpu_and_fp16_on_an_old_one(gpu):
    gpu(9, 0)
    assert make_precision("auto", CUDA).name == "bf16"
    gpu(7, 5)
    assert make_precision("auto", CUDA).name == "fp16"


def test_auto_is_fp32_on_a_macs_gpu():
    assert make_precision("auto", MPS).name == "fp32"


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_a_processor_refuses_fp16_and_tf32_and_names_what_it_computes(processor, name):
    processor("x86_64", avx512_bf16=True)
    with pytest.raises(DeviceError) as caught:
        make_precision(name, CPU)
    assert str(caught.value) == (
        f"precision: {name} is not computed by this device (cpu), which has fp32, bf16; choose one of these, or auto"
    )


def test_a_processor_without_bf16_refuses_it(processor):
    processor("x86_64")
    with pytest.raises(DeviceError, match=r"bf16 is not computed by this device \(cpu\), which has fp32;"):
        make_precision("bf16", CPU)


def test_only_fp16_scales_the_loss(gpu):
    gpu(8, 0)
    scaled = [name for name in ("fp32", "tf32", "fp16", "bf16") if make_precision(name, CUDA).scaler is not None]
    assert scaled == ["fp16"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_matrices_have_the_type_of_the_precision(name, expected):
    assert Precision(name=name, device=CUDA).matrix_dtype is expected


@pytest.mark.parametrize(("name", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_matrices_are_multiplied_in_the_precision_and_only_inside_the_block(name, expected):
    left = torch.randn(8, 8)
    with Precision(name=name, device=CPU).compute():
        inside = left @ left
    assert inside.dtype is expected
    assert (left @ left).dtype is torch.float32
    assert torch.equal(inside, (left.to(expected) @ left.to(expected)))


def test_weights_and_their_gradients_stay_float32():
    layer = torch.nn.Linear(8, 8)
    with Precision(name="bf16", device=CPU).compute():
        layer(torch.randn(4, 8)).float().sum().backward()
    assert layer.weight.dtype is layer.weight.grad.dtype is torch.float32


def test_an_error_in_the_block_ends_the_precision_too():
    with pytest.raises(ZeroDivisionError), Precision(name="bf16", device=CPU).compute():
        raise ZeroDivisionError
    assert not torch.is_autocast_enabled("cpu")


def test_float32_is_float32_inside_of_another_autocast_too():
    left = torch.randn(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16), Precision(name="fp32", device=CPU).compute():
        assert (left @ left).dtype is torch.float32


@pytest.mark.parametrize(("name", "inside"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_tf32_is_on_for_tf32_only_and_the_callers_choice_comes_back(name, inside):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for outside in ("tf32", "ieee"):
            matmul.fp32_precision = outside
            with Precision(name=name, device=CPU).compute():
                assert matmul.fp32_precision == inside
            assert matmul.fp32_precision == outside
    finally:
        matmul.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "worst"), [("fp32", 1e-5), ("tf32", 1e-2), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_a_gpu_multiplies_as_exactly_as_the_precision_allows(name, worst):
    device = torch.device("cuda", torch.cuda.current_device())
    if name not in supported_precisions(device):
        pytest.skip(f"this device does not compute {name}")
    left = torch.randn(512, 512, device=device)
    exact = left.double() @ left.double()
    with make_precision(name, device).compute():
        error = ((left @ left).double() - exact).norm() / exact.norm()
    assert worst / 1000 < error < worst
