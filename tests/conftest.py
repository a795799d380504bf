"""What all tests share: no network, a cache of their own, nine tiny encoders, and a server of processes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from fork_server import Server, serve

os.environ["HF_HUB_OFFLINE"] = "1"  # both are read when the library is imported
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tiny encoders have no work for two threads, and threads of several test processes wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes depends on the machine; no test says anything about time.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs that several tests share are made before a test has its own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANTUNE_CACHE", str(tmp_path_factory.mktemp("shared_cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny encoders, a subfolder each; made once, also where several processes share the tests."""
    from tiny_encoders import build_tiny_encoders  # noqa: PLC0415 - imports torch, seconds that most tests do not need

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny_encoders"
    if not shared.exists():
        made = tmp_path_factory.mktemp("made") / "tiny_encoders"
        build_tiny_encoders(made)
        try:
            made.rename(shared)
        except OSError:  # another process was faster
            assert shared.exists()
    return shared


@pytest.fixture(scope="session")
def tiny_encoder_dir(tiny_encoders: Path) -> Callable[[str], Path]:
    """Name of an architecture -> its folder."""
    return tiny_encoders.joinpath


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """What begins commands without the seconds of their imports."""
    with serve() as served:
        yield served
