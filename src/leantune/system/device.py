"""The device that computes: which one, what it is called, how fast it multiplies, how much memory it took."""

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

import psutil
import torch

from leantune.system.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: `auto` (CUDA, else Apple's MPS, else the CPU), or any name that torch knows.

    Raises `DeviceError` where it does not exist on this machine.
    """
    if name == "auto" or name.startswith("cuda"):
        _let_segments_grow()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    have += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device: found {name!r}; this machine has {', '.join(have)}") from None
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    elif device.type != "cuda" and device.index == 0:  # cpu:0 and mps:0 are the only ones
        device = torch.device(device.type)
    if str(device) not in have:
        raise DeviceError(f"device: {name!r} is not on this machine, which has {', '.join(have)}")
    if device.type == "cuda":
        _refuse_without_kernels(device)
    return device


def _let_segments_grow() -> None:
    """Let CUDA's allocator grow its segments of memory instead of adding new ones, unless the user has set it up or it
    is in use already.

    Micro-batches of texts differ in size, and what one leaves free in a segment of fixed size may be too small for the
    next. torch reads the variable when CUDA starts. Windows and AMD do not have such segments.
    """
    is_set = any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    is_running: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if sys.platform == "linux" and torch.version.cuda is not None and not (is_set or is_running):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def _refuse_without_kernels(device: torch.device) -> None:
    """Refuse a GPU for which this torch was not built: its first operation would fail, in the middle of loading."""
    capability, built = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if torch.version.hip is None and not has_kernels(capability, built):
        raise DeviceError(
            f"device: {torch.cuda.get_device_name(device)} ({device}) has compute capability {capability[0]}."
            f"{capability[1]}, and torch {torch.__version__} was built for {', '.join(built)}; install a build of "
            "torch for this GPU (pytorch.org, Get started), or set device: cpu"
        )


def has_kernels(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Tell whether kernels for `built` (`sm_80`, `compute_90`) run on a GPU of a compute capability.

    Those for sm_80 run on 8.0 and on later ones of the same generation; what is `compute` is compiled for later
    generations, too. An empty list tells nothing.
    """
    if not built:
        return True
    for name in built:
        kind, _, number = name.partition("_")
        digits = "".join(filter(str.isdigit, number))  # sm_90a, sm_120f
        major, minor = int(digits[:-1]), int(digits[-1])
        if (kind == "compute" and (major, minor) <= capability) or (major == capability[0] and minor <= capability[1]):
            return True
    return False


def count_gpus() -> int:
    """Return how many NVIDIA or AMD GPUs this process sees."""
    return torch.cuda.device_count()


def device_key(name: str) -> str:
    """Return what `resolve_device(name)` will come to, without touching the device: a name for a lock on it."""
    if name == "auto":
        name = "cuda" if torch.cuda.device_count() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not name.startswith("cuda"):
        return name
    text = name.partition(":")[2] or "0"
    number = int(text) if text.isdecimal() else 0  # what is no device is refused when it is resolved
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    return f"cuda:{visible[number] if number < len(visible) else number}"


def describe_device(device: torch.device) -> dict[str, object]:
    """Name, and memory or cores, of a device: what a reader needs in order to judge a time."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"type": "cuda", "name": properties.name, "memory_bytes": properties.total_memory}
    return {"type": device.type, "name": processor_name(), "threads": torch.get_num_threads()}


def processor_name() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kernels_of(device: torch.device) -> str:
    """Return whose kernels compute on a device: its type, and `cuda` for the meta device, on which a GPU's steps are
    counted without one."""
    return "cuda" if device.type == "meta" else device.type


@cache
def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Return NVIDIA's compute capability, an Ampere's for the meta device; None for every other device."""
    if device.type == "meta":
        return (8, 0)
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def send(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the system's memory to the device, without waiting for the device."""
    if device.type != "cuda":
        return host.to(device)
    # Pinned memory lets the copy run beside the computation; without it every copy waits for the device. It is pinned
    # through the current device: through another one, that would make a context there, of some hundred megabytes.
    with torch.cuda.device(device):
        return host.pin_memory().to(device, non_blocking=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def counts_memory(device: torch.device) -> bool:
    """Tell whether the device's allocator counts what it holds at most and what is free: on a GPU of NVIDIA or AMD."""
    return device.type == "cuda"


def free_device_bytes(device: torch.device) -> int:
    """Return how many bytes of the device this process may still take; the device must count its memory."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_device_bytes(device: torch.device) -> int | None:
    """Peak of the device's allocator in bytes since `forget_peak`; None where there is no such count (CPU, MPS)."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Begin to measure the peak of the device's allocator anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def device_bytes(device: torch.device) -> int | None:
    """Bytes that tensors take on the device now, without waiting for it; None on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return torch.mps.current_allocated_memory() if device.type == "mps" else None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """During a block, where `wanted`, let torch use only operations that repeat themselves to the bit.

    An operation that has no such form raises RuntimeError. To be entered before the first matrix product on a GPU.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or else cuBLAS may not repeat itself
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there was no memory for a tensor, on a device or in the system."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The allocators of CPUs and of MPS have no error of their own.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def give_back_memory(device: torch.device) -> None:
    """Let go of what the allocator keeps for tensors to come: it may be in pieces that are too small."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def available_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process may still take: what is free, and within its container's limits.

    A container limits memory by Linux's control groups, of version 1 or 2. Each group that this process is in counts,
    from its own up to the root: the smallest room decides. `root` is the folder that holds `proc` and `sys`.
    """
    return max(0, min([psutil.virtual_memory().available, *_rooms_of_groups(root)]))


def _rooms_of_groups(root: Path) -> list[int]:
    """Return the bytes left in each control group that limits this process's memory; none where there are no groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not on Linux
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2 has one tree for everything
            top, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        if ".." in own.parts:  # the group lies outside of what this container sees, which is the top only
            own = PurePosixPath()
        # In a container, the path may be that of the host: the groups that are not found here are passed over.
        for group in (own, *own.parents):
            room = _room(top / group, limit, usage, cache)
            rooms += [] if room is None else [room]
    return rooms


def _room(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return the bytes left in one control group, whose files are called `limit` and `usage`; None without a limit.

    Usage includes the cache of files that were read. The system gives the inactive part of it, the line `cache` of
    memory.stat, to whoever asks for memory, so it counts as free.
    """
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        if not most.isdecimal():  # "max"
            return None
        used = int((group / usage).read_text(encoding="ascii"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or without a limit to memory
        return None
    return int(most) - max(0, used - int(counts.get(cache, 0)))


def matrix_rate(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> tuple[float, str]:
    """Measure the matrix products of this device: floating-point operations a second, and what was multiplied.

    The fastest of several products of two square matrices: what the hardware can do, against which a training run is
    held as model FLOP utilization. Takes about a tenth of a second, but minutes where the processor only emulates
    `dtype`. `size`: rows of the matrices; None for what keeps the device busy.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    own = torch.Generator(device).manual_seed(0)  # the global one draws the head and the dropout
    left, right = (torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds), f"{str(dtype).removeprefix('torch.')} {size} x {size} x {size}"
