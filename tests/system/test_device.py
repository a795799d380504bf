"""Devices: only those that are there, and measured without a trace."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import psutil
import pytest
import torch

from leantune.system.device import (
    available_bytes,
    counts_memory,
    describe_device,
    device_bytes,
    device_key,
    free_device_bytes,
    has_kernels,
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
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def a_mac(monkeypatch: pytest.MonkeyPatch, only_a_cpu: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "before", "version", "platform", "is_running", "expected"),
    [
        ("auto", {}, "13.0", "linux", False, "expandable_segments:True"),
        ("cuda", {}, "13.0", "linux", False, "expandable_segments:True"),
        ("cpu", {}, "13.0", "linux", False, None),
        ("auto", {"PYTORCH_ALLOC_CONF": ""}, "13.0", "linux", False, ""),
        ("auto", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "13.0", "linux", False, None),
        ("auto", {}, "13.0", "linux", True, None),
        ("auto", {}, "13.0", "win32", False, None),
        ("auto", {}, None, "linux", False, None),
    ],
)
def test_segments_of_a_gpus_memory_grow_where_nobody_has_set_up_its_allocator(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    before: dict[str, str],
    version: str | None,
    platform: str,
    is_running: bool,
    expected: str | None,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_running)
    with patch.dict(os.environ):
        for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            os.environ.pop(variable, None)
        os.environ.update(before)
        resolve_device(name)
        assert os.environ.get("PYTORCH_ALLOC_CONF") == expected


def test_what_the_allocator_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 120)
    assert free_device_bytes(torch.device("cuda", 0)) == 1180


def test_only_a_gpu_of_torchs_cuda_counts_its_memory() -> None:
    assert [counts_memory(torch.device(name)) for name in ("cpu", "mps", "cuda")] == [False, False, True]


@pytest.mark.usefixtures("only_a_cpu")
@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0"])
def test_without_a_gpu_the_processor_computes(name):
    assert resolve_device(name) == CPU


@pytest.mark.parametrize(
    ("capability", "built", "expected"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 9), ["sm_75", "sm_80"], True),
        ((6, 0), ["sm_75", "sm_80"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_80", "sm_90a"], False),
        ((12, 0), ["sm_80", "sm_120f"], True),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((8, 0), ["compute_90"], False),
        ((8, 0), [], True),
    ],
)
def test_kernels_run_on_their_own_generation_and_compiled_ones_on_later_ones(capability, built, expected):
    assert has_kernels(capability, built) == expected


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_for_which_this_torch_has_no_kernels_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 0))
    with pytest.raises(
        DeviceError, match=r"a card \(cuda:0\) has compute capability 6\.0, .* was built for sm_75, sm_80"
    ):
        resolve_device("cuda:0")


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
    assert 0 < free_device_bytes(device) < describe_device(device)["memory_bytes"]
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


# Memory in containers

GIB = 2**30
NO_LIMIT_V1 = 9223372036854771712
V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64 GiB free, as an empty folder for `proc` and `sys`."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def in_group(machine: Path, lines: str) -> None:
    (machine / "proc/self/cgroup").write_text(lines)


def add_group(
    machine: Path, version: tuple[str, str, str, str], path: str, *, limit: object, used: int, cache: int = 0
) -> None:
    top, limit_file, usage_file, cache_line = version
    group = machine / top / path
    group.mkdir(parents=True, exist_ok=True)
    (group / limit_file).write_text(f"{limit}\n")
    (group / usage_file).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cache}\nactive_file 0\n{cache_line} {cache}\n")


@pytest.mark.parametrize(("version", "line"), [(V2, "0::/\n"), (V1, "4:memory:/\n")])
def test_in_a_container_the_cache_of_files_counts_as_free(
    machine: Path, version: tuple[str, str, str, str], line: str
) -> None:
    in_group(machine, line)
    add_group(machine, version, ".", limit=8 * GIB, used=int(7.5 * GIB), cache=7 * GIB)
    assert available_bytes(machine) == 8 * GIB - GIB // 2


@pytest.mark.parametrize(
    ("version", "line", "none"),
    [(V2, "0::/jobs/job_7/step\n", "max"), (V1, "9:pids:/\n4:cpu,memory:/jobs/job_7/step\n0::/\n", NO_LIMIT_V1)],
)
def test_the_smallest_room_of_a_processs_group_and_those_above_it_counts(
    machine: Path, version: tuple[str, str, str, str], line: str, none: object
) -> None:
    in_group(machine, line)
    add_group(machine, version, "jobs/job_7/step", limit=none, used=GIB)
    add_group(machine, version, "jobs/job_7", limit=10 * GIB, used=GIB)
    assert available_bytes(machine) == 9 * GIB
    add_group(machine, version, "jobs", limit=20 * GIB, used=15 * GIB, cache=2 * GIB)
    assert available_bytes(machine) == 7 * GIB
    add_group(machine, version, "jobs/job_7/step", limit=4 * GIB, used=GIB)
    assert available_bytes(machine) == 3 * GIB
    add_group(machine, version, "elsewhere", limit=GIB, used=GIB)
    assert available_bytes(machine) == 3 * GIB


@pytest.mark.parametrize("path", ["/docker/0a1b2c", "/../../user.slice"])
def test_a_group_whose_path_is_the_hosts_is_limited_as_the_top_of_the_container_is(machine: Path, path: str) -> None:
    in_group(machine, f"0::{path}\n")
    add_group(machine, V2, ".", limit=8 * GIB, used=GIB)
    (machine / "sys/user.slice").mkdir()
    assert available_bytes(machine) == 7 * GIB


def test_a_group_that_is_beyond_its_limit_has_no_room(machine: Path) -> None:
    in_group(machine, "0::/\n")
    add_group(machine, V2, ".", limit=GIB, used=2 * GIB)
    assert available_bytes(machine) == 0


def test_without_control_groups_all_free_memory_is_available(machine: Path) -> None:
    assert available_bytes(machine) == 64 * GIB
    in_group(machine, "0::/\n")
    assert available_bytes(machine) == 64 * GIB
