"""Devices: only those that are there, and measured without a trace."""

import re

import pytest
import torch

from leantune.system.device import (
    describe_device,
    device_bytes,
    device_key,
    matrix_rate,
    peak_device_bytes,
    processor_name,
    resolve_device,
    synchronize,
)
from leantune.system.errors import DeviceError

CPU = torch.device("cpu")


@pytest.fixture
def only_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def a_mac(monkeypatch: pytest.MonkeyPatch, only_a_cpu: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("only_a_cpu")
@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0"])
def test_without_a_gpu_the_processor_computes(name):
    assert resolve_device(name) == CPU


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one_and_has_a_number(name, expected):
    assert str(resolve_device(name)) == expected


@pytest.mark.usefixtures("a_mac")
@pytest.mark.parametrize(("name", "expected"), [("auto", "mps"), ("mps", "mps"), ("mps:0", "mps"), ("cpu", "cpu")])
def test_a_macs_gpu_is_taken_where_there_is_no_other(name, expected):
    assert str(resolve_device(name)) == expected


@pytest.mark.usefixtures("only_a_cpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta", "cpu:1", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name):
    message = f"device: {name!r} is not on this machine, which has cpu"
    with pytest.raises(DeviceError, match=f"^{re.escape(message)}$"):
        resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_too_many_is_refused_with_those_that_are_there():
    with pytest.raises(DeviceError, match=r"'cuda:2' is not on this machine, which has cpu, cuda:0, cuda:1$"):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("only_a_cpu")
@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:-1", "cuda:x", "cuda:99999999999999", "cpu "])
def test_a_name_that_no_device_has_is_refused_with_the_devices_that_are_there(name):
    with pytest.raises(DeviceError, match=f"^device: found {re.escape(repr(name))}; this machine has cpu$"):
        resolve_device(name)


def test_a_processor_is_described_by_its_name_and_threads():
    described = describe_device(CPU)
    assert described == {"type": "cpu", "name": processor_name(), "threads": torch.get_num_threads()}
    assert processor_name().strip()


def test_a_processor_has_no_memory_of_its_own_to_count():
    assert (peak_device_bytes(CPU), device_bytes(CPU)) == (None, None)


def test_waiting_for_a_processor_is_nothing():
    synchronize(CPU)


@pytest.mark.parametrize(
    ("dtype", "size", "multiplied"),
    [
        (torch.float32, None, "float32 2048 x 2048 x 2048"),
        (torch.bfloat16, 64, "bfloat16 64 x 64 x 64"),  # emulated by most processors: minutes at full size
    ],
)
def test_the_matrix_rate_is_positive_and_says_what_was_multiplied(
    dtype: torch.dtype, size: int | None, multiplied: str
) -> None:
    rate, measured_on = matrix_rate(CPU, dtype, size=size)
    assert rate > 0
    assert measured_on == multiplied


def test_measuring_the_matrix_rate_does_not_change_what_is_drawn_next():
    torch.manual_seed(7)
    expected = torch.rand(5)
    torch.manual_seed(7)
    matrix_rate(CPU, torch.float32, size=64)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_gpu_is_counted():
    device = resolve_device("cuda")
    before = device_bytes(device)
    block = torch.zeros(2**20, dtype=torch.uint8, device=device)
    assert device_bytes(device) == before + block.numel()
    assert peak_device_bytes(device) >= before + block.numel()
    assert describe_device(device)["name"] == torch.cuda.get_device_name(device)


@pytest.mark.parametrize(
    ("name", "visible", "key"),
    [
        ("cuda", None, "cuda:0"),
        ("cuda:1", None, "cuda:1"),
        ("cuda", "3", "cuda:3"),
        ("cuda:1", "2,5", "cuda:5"),
        ("cpu", "3", "cpu"),
        ("cuda:x", None, "cuda:0"),
    ],
)
def test_a_lock_on_a_device_has_the_same_name_whatever_the_device_is_called_here(
    monkeypatch: pytest.MonkeyPatch, name: str, visible: str | None, key: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_key(name) == key
