"""What the benchmark against other trainers makes of its measurements."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import peers
import synthetic
from small_runs import write_table


def result(seconds: float, **others: Any) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "startup_seconds": 5.0,
        "positions": 1000,
        "peak_process_bytes": 2**30,
        "peak_device_bytes": None,
    } | others


def leantune(seconds: float, **others: Any) -> dict[str, Any]:
    return result(seconds, tokens=800, useful_flops=1e9, matrix_rate=2e9, positions=800) | others


def cells(table: str, title: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_are_of_two_runs_of_the_same_round() -> None:
    # The second round was disturbed: each alone is slower, their ratio is not.
    rounds = [
        {"leantune": leantune(1.0), "article": result(3.0)},
        {"leantune": leantune(4.0), "article": result(12.0)},
        {"leantune": leantune(1.0)},
    ]
    assert peers.ratios(rounds, "article") == [3.0, 3.0]


def test_the_table_counts_tokens_and_work_of_the_rows_and_not_of_the_padding() -> None:
    rounds = [
        {"leantune": leantune(seconds), "article": result(4 * seconds), "trainer": result(seconds, positions=None)}
        for seconds in (1.0, 2.0, 3.0)
    ]
    table = peers.make_table(rounds, steps=10)
    assert cells(table, "leantune")[1:6] == ["0.2 (0.1 to 0.3)", "–", "400", "0.0%", "25.0%"]
    assert cells(table, "the article's loop, float32")[1:6] == [
        "0.8 (0.4 to 1.2)",
        "4 (4 to 4)",
        "100",
        "20.0%",
        "6.2%",
    ]
    assert cells(table, "transformers.Trainer as it comes")[4] == "–"  # positions that were not counted
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_table_has_columns_for_what_was_measured_only() -> None:
    plain = [{"leantune": leantune(1.0)}]
    assert "device" not in peers.make_table(plain, 1)
    assert "score" not in peers.make_table(plain, 1)
    full = [{"leantune": leantune(1.0, peak_device_bytes=3 * 2**30, score=0.5)}]
    assert cells(peers.make_table(full, 1), "leantune")[-3:] == ["3.00 GiB", "5.0 s", "0.5 (0.5 to 0.5)"]


def test_a_peer_that_is_tuned_gets_its_fastest_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    options = peers.make_parser().parse_args(["x.csv", "--text", "t", "--target", "y"])
    seconds = {8: 3.0, 16: 2.0, 32: 4.0}

    def run(_: peers.Peer, workload: Any) -> dict[str, Any]:
        variant = workload.variant
        if variant["micro_batch"] == 8:
            return {"skipped": "failed"}
        return result(seconds[variant["micro_batch"]] + (variant["sampling"] == "batch_rebalance"))

    monkeypatch.setattr(peers, "run_peer", run)
    monkeypatch.setattr(peers, "replace", lambda workload, **changes: type(workload)(**changes))

    class Stub:
        timed_steps = 1

        def __init__(self, variant: Any = None) -> None:
            self.variant = variant

    workload: Any = Stub()
    variant, note = peers.choose_variant(peers.PEERS["trainer-tuned"], workload, options)
    assert variant == {"micro_batch": 16, "sampling": "group_by_length"}
    assert "8 rows, group_by_length: failed" in note
    assert peers.choose_variant(peers.PEERS["article"], workload, options) == ({}, "")


def test_made_up_texts_have_the_lengths_that_they_are_made_for(tmp_path: Path) -> None:
    for name, mean in (("long", 218), ("short", 21.5)):
        synthetic.make_table(tmp_path / "table.csv", synthetic.LENGTHS[name])
        lines = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[1:]
        lengths = np.array([len(line.split()) + 2 for line in lines])
        assert lengths.mean() == pytest.approx(mean, rel=0.05)
        assert lengths.max() <= synthetic.LENGTHS[name][-1]


def test_peers_are_measured_and_those_without_their_package_are_left_out(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "table.csv", rows=40)
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "datasets.py").write_text("raise ImportError('no datasets here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"), prepend=":")
    command = [sys.executable, Path(peers.__file__), table, "--text", "text", "--target", "score"]
    command += ["--model", tiny_encoder_dir("bert"), "--max-length", 64, "--batch-size", 8, "--steps", 3]
    command += ["--warm-up", 1, "--rounds", 1, "--validation", 8, "--peers", "article", "cross-encoder"]
    command += ["--device", "cpu", "--precision", "fp32", "--micro-batches", 8, "--output", tmp_path / "table.md"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    ours, article = cells(page, "leantune"), cells(page, "the article's loop, float32")
    assert float(ours[4].rstrip("%")) < 10
    assert 0 < float(article[4].rstrip("%")) < 100
    assert float(ours[-1].split()[0]) == pytest.approx(float(article[-1].split()[0]), rel=0.2)
    left_out = next(line for line in page.splitlines() if line.startswith("- CrossEncoderTrainer is left out: "))
    assert left_out.endswith("no datasets here.")
