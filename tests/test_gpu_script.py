"""`benchmarks/gpu.sh`, without a GPU: a mistake in it must not cost the time that somebody has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"


def run_script(*arguments: str, output: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(output), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["sh", SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=1200
    )


def test_without_a_gpu_it_says_so_and_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = run_script(output=tmp_path)
    assert (done.returncode, "torch finds none here" in done.stderr) == (1, True)
    done = run_script("kernel", output=tmp_path)
    assert (done.returncode, "there is no part kernel" in done.stderr) == (2, True)


def test_a_part_that_fails_is_told_at_the_end_and_not_done(tmp_path: Path) -> None:
    (tmp_path / "kernels.md").mkdir()  # cannot be written
    done = run_script("--dry", "kernels", output=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "failed: kernels")


@pytest.mark.slow
def test_all_of_it_goes_through_at_tiny_size_and_only_once(tmp_path: Path) -> None:
    done = run_script("--dry", output=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in tmp_path.glob("*.md")}
    tables = {f"{name}-long" for name in ("base", "minilm", "modernbert", "deberta", "fp16")}
    assert pages == {"kernels", "compiled", "memory", "gpu", "base-short", "minilm-short"} | tables
    rows = (tmp_path / "memory.md").read_text(encoding="utf-8").splitlines()[4:]
    shapes = ["bert-base", "minilm", "modernbert-base", "deberta-v3-base"]
    assert [row.split("|")[1].strip() for row in rows] == [shape for shape in shapes for _ in range(2)]
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert " passed, " in (tmp_path / "tests.log").read_text(encoding="utf-8")
    again = run_script("--dry", output=tmp_path)
    assert again.returncode == 0
    assert "exit code" not in again.stdout
