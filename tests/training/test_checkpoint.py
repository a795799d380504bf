"""Checkpoints: complete or not there, and every damage is noticed."""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import leantune.runs.fold_run
import leantune.runs.record
import leantune.runs.run
from fork_server import Process, Server
from interruptions import cut_off, differing, outcome
from leantune.encoder.saving import save_model
from leantune.runs.config import dump_config
from leantune.runs.record import RunFolder
from leantune.runs.run import run
from leantune.system.errors import ModelError, RunFolderError, SavingError, TrainingError
from leantune.system.files import write_yaml
from leantune.tokens.tokens import load_tokenizer
from leantune.training.checkpoint import (
    BYTES_PER_SECOND,
    CheckpointSettings,
    SaveEverySeconds,
    Timer,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)
from leantune.training.events import Note
from small_runs import load_tiny, run_all, tiny_config, write_table

TENSORS = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5), "half": torch.ones(3).bfloat16()},
    "random": {"cpu": torch.get_rng_state(), "wide": torch.ones(2, 1, dtype=torch.float64)},
}


def write(place: Path, number: int, **changes: Any) -> Path:
    options: dict[str, Any] = {"tensors": TENSORS, "copies": {}, "state": {"step": number}}
    name = f"step_{number:08d}"
    write_checkpoint(place, name, **(options | changes))
    return place / name


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def test_what_is_written_reads_back_bit_for_bit_also_with_safetensors(place: Path, tmp_path: Path) -> None:
    (tmp_path / "best").write_bytes(b"weights")
    folder = write(place, 3, copies={"best/model.safetensors": tmp_path / "best"})
    saved = read_checkpoint(folder)
    assert saved.state == {"step": 3}
    for name, tensors in TENSORS.items():
        assert saved.tensors(name).keys() == tensors.keys()
        for key, tensor in tensors.items():
            found = load_file(folder / f"{name}.safetensors")[key]
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)
    assert (folder / "best" / "model.safetensors").read_bytes() == b"weights"


def test_the_last_two_are_kept_and_nothing_half_written(place: Path) -> None:
    place.mkdir()
    (place / ".step_00000009.new").mkdir()
    for number in (1, 2, 3, 10):
        write(place, number)
    assert sorted(path.name for path in place.iterdir()) == ["step_00000003", "step_00000010"]
    newest, warnings = read_newest(place)
    assert newest is not None
    assert newest.state["step"] == 10
    assert warnings == []


def test_numbers_that_are_not_finite_never_become_a_checkpoint(place: Path) -> None:
    write(place, 1)
    with pytest.raises(TrainingError, match=r"a \(weights\) has numbers that are not finite"):
        write(place, 2, tensors={"weights": {"a": torch.tensor([1.0, float("nan")])}})
    assert read_newest(place)[0] == read_checkpoint(place / "step_00000001")


def faults(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each file removed, cut, made longer, and with one bit flipped in several places: (file, damage)."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        name = file.relative_to(folder).as_posix()
        yield name, file.unlink
        yield name, lambda file=file, content=content: file.write_bytes(content[: len(content) // 2])
        yield name, lambda file=file, content=content: file.write_bytes(content[:-1])
        yield name, lambda file=file: file.write_bytes(b"")
        yield name, lambda file=file, content=content: file.write_bytes(content + b"\0")
        for place in sorted({0, len(content) // 3, len(content) - 1}):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            yield name, lambda file=file, flipped=bytes(flipped): file.write_bytes(flipped)


def test_every_damage_of_every_file_is_noticed_and_named_and_the_one_before_is_used(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "best").write_bytes(b"weights")
    for number in (1, 2):
        write(place, number, copies={"best/model.safetensors": tmp_path / "best"})
    newest = place / "step_00000002"
    whole = shutil.copytree(newest, tmp_path / "whole")
    tried = 0
    for name, damage in faults(newest):
        damage()
        saved, (warning,) = read_newest(place)
        assert saved is not None
        assert saved.state == {"step": 1}
        assert f"{newest / name}: " in warning
        assert "damaged" in warning
        assert "goes on from step_00000001" in warning
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
        tried += 1
    assert tried == 5 * 8
    assert read_newest(place)[1] == []


def test_every_bit_of_the_manifest_counts(place: Path) -> None:
    folder = write(place, 1)
    content = (folder / "manifest.json").read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / "manifest.json").write_bytes(flipped)
        with pytest.raises(RunFolderError, match=r"damaged"):
            read_checkpoint(folder)


def test_where_no_checkpoint_is_whole_that_is_said_of_each(place: Path) -> None:
    for number in (1, 2):
        (write(place, number) / "state.json").unlink()
    with pytest.raises(RunFolderError) as caught:
        read_newest(place)
    for text in ("step_00000001/state.json", "step_00000002/state.json", "no checkpoint is whole"):
        assert text in str(caught.value)


def limited(most_bytes: int, action: Callable[[], None]) -> None:
    """Do something while no file may grow beyond a size, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        action()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_at_any_file_is_one_error_with_path_and_bytes_and_leaves_the_checkpoint_before(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "best").write_bytes(bytes(20_000))
    copies = {"best/model.safetensors": tmp_path / "best"}
    sizes = {"weights": 3_000, "random": 9_000, "optimizer": 15_000}
    tensors = {name: {"x": torch.zeros(size // 4)} for name, size in sizes.items()}
    state = {"step": 2, "fill": "x" * 30_000}
    write(place, 1)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for limit, name in (
        (1_000, "weights.safetensors"),
        (5_000, "random.safetensors"),
        (12_000, "optimizer.safetensors"),
        (18_000, "best/model.safetensors"),
        (25_000, "state.json"),
    ):
        with pytest.raises(SavingError) as caught:
            limited(limit, lambda: write(place, 2, tensors=tensors, copies=copies, state=state) and None)
        said = str(caught.value)
        assert f"{name}: cannot be written, {limit:,} bytes were: File too large" in said
        assert "the checkpoint step_00000001 is as it was: make room, then go on with --resume" in said
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_checkpoints_by_time_are_rarer_where_they_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("leantune.training.checkpoint.time.monotonic", lambda: now)
    timer = Timer(CheckpointSettings(every=SaveEverySeconds(seconds=10)), expected_bytes=int(BYTES_PER_SECOND))
    now = 49.0
    assert not timer.is_due()  # a second of writing, expected, is 2 percent of 50
    now = 51.0
    assert timer.is_due()
    timer.saved(0.1)
    now = 60.0
    assert not timer.is_due()
    now = 62.0
    assert timer.is_due()
    timer.saved(3.0)
    now = 62.0 + 149.0
    assert not timer.is_due()
    assert not Timer(CheckpointSettings(every="epoch"), expected_bytes=0).is_due()


# Whole runs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> Any:
    data = write_table(tmp_path_factory.mktemp("data") / "train.csv", rows=45)
    return tiny_config(data, tiny_encoder_dir("bert"), checkpoint={"every": {"steps": 1}, "keep": True})


@pytest.fixture(scope="module")
def expected(config: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nothing disturbs ends with."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    run_all(config, folder)
    return outcome(folder)


def test_a_run_goes_on_from_the_older_checkpoint_with_a_warning_to_the_same_end(
    config: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    cut_off(config, tmp_path / "run", 7)
    (tmp_path / "run" / "fold_0" / "checkpoint" / "step_00000007" / "optimizer.safetensors").unlink()
    events = list(run(config, tmp_path / "run", resume=True))
    (said,) = [
        event.text
        for event in events
        if isinstance(event, Note) and event.event == "warning" and event.about == "resume"
    ]
    assert "step_00000007/optimizer.safetensors: damaged" in said
    assert "goes on from step_00000006" in said
    assert differing(outcome(tmp_path / "run"), expected) == []


def test_best_weights_that_are_gone_or_newer_come_back_from_the_checkpoint(
    config: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("gone", "newer"):
        cut_off(config, tmp_path / name, 7)
    shutil.rmtree(tmp_path / "gone" / "fold_0" / "model")
    (tmp_path / "newer" / "fold_0" / "model" / "model.safetensors").write_bytes(b"half")
    for name in ("gone", "newer"):
        list(run(config, tmp_path / name, resume=True))
        assert differing(outcome(tmp_path / name), expected) == []


@pytest.mark.parametrize(
    ("name", "limit"),
    [("fold_0/model", 40_000), ("fold_0/predictions.parquet", 500), ("metrics.json", 500), ("events.jsonl", 500)],
)
def test_a_full_disk_at_any_other_file_is_one_error_too_and_the_run_goes_on_once_there_is_room(
    config: Any, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    """The limit holds from the moment at which that file is about to be written."""
    moments: dict[str, tuple[Any, str]] = {
        "fold_0/model": (leantune.runs.fold_run, "save_model"),
        "fold_0/predictions.parquet": (leantune.runs.record.pq, "write_table"),
        "metrics.json": (RunFolder, "write_metrics"),
        "events.jsonl": (RunFolder, "write_event"),
    }
    place, function = moments[name]
    original, calls = getattr(place, function), [0]

    def in_want(*arguments: Any, **options: Any) -> None:
        calls[0] += 1
        if name == "events.jsonl" and calls[0] < 20:
            original(*arguments, **options)
        else:
            limited(limit, lambda: original(*arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(place, function, in_want)
        with pytest.raises(SavingError) as caught:
            run_all(config, tmp_path / "run")
    assert str(caught.value).startswith(f"{tmp_path / 'run' / name}: cannot be written (")
    assert "File too large" in str(caught.value)
    list(run(config, tmp_path / "run", resume=True))
    assert differing(outcome(tmp_path / "run"), expected) == []


def test_a_disk_that_is_full_when_a_run_goes_on_is_no_fault_of_the_folder(config: Any, tmp_path: Path) -> None:
    cut_off(config, tmp_path / "run", 3)
    events = (tmp_path / "run" / "events.jsonl").read_bytes()
    with pytest.raises(SavingError, match="run: cannot be written: File too large; make room"):
        limited(100, lambda: list(run(config, tmp_path / "run", resume=True)) and None)
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == events
    assert not list((tmp_path / "run").glob(".events*"))


def test_a_tokenizer_that_does_not_fit_is_told_as_any_other_file(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    """tokenizers' own writer raises an error without a type."""
    folder = tiny_encoder_dir("bert")
    encoder, tokenizer = load_tiny(folder), load_tokenizer(str(folder))
    tokenizer.add_tokens([f"{number}{'x' * 500}" for number in range(2000)])
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    with pytest.raises(OSError, match="File too large"):
        limited(2 * size, lambda: save_model(encoder, tokenizer, tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names open files by /proc")
def test_results_are_on_the_disk_before_the_checkpoints_go(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the power go a moment later, nothing is there to make them from again."""
    synced: set[str] = set()
    sync, remove = os.fsync, leantune.runs.run.remove_checkpoints
    before: list[set[str]] = []

    def watched(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def remembered(folder: Path, folds: list[int]) -> None:
        before.append(set(synced))
        remove(folder, folds)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(leantune.runs.run, "remove_checkpoints", remembered)
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"keep": False})})
    run_all(config, tmp_path / "run")
    (synced_before,) = before
    written = [path for path in (tmp_path / "run").rglob("*") if path.name != ".lock"]
    assert len(written) > 8
    # A file that takes another's place was synced under its name until then.
    lost = [p for p in written if not {str(p), str(p.with_name(f".{p.name}.tmp"))} & synced_before]
    assert lost == []


@pytest.mark.parametrize(
    ("share", "name"),
    [(0.5, "weights.safetensors"), pytest.param(1.5, "optimizer.safetensors", marks=pytest.mark.slow)],
)
def test_a_run_that_meets_a_quota_says_where_leaves_1_and_goes_on_once_there_is_room(
    server: Server, config: Any, expected: dict[str, Any], tmp_path: Path, share: float, name: str
) -> None:
    cut_off(config, tmp_path / "run", 3)
    weights = (tmp_path / "run/fold_0/checkpoint/step_00000003/weights.safetensors").stat().st_size
    limit = int(share * weights)
    write_yaml(tmp_path / "run.yaml", dump_config(config))
    arguments = ("train", "--config", "run.yaml", "--output", "run", "--resume")
    process: list[Process] = []
    limited(limit, lambda: process.append(server.begin(*arguments, folder=tmp_path)))
    code, said = process[0].wait(), (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert code == 1, said
    assert f"{name}: cannot be written, {limit:,} bytes were: File too large" in said
    assert "Traceback" not in said
    list(run(config, tmp_path / "run", resume=True))
    assert differing(outcome(tmp_path / "run"), expected) == []


@pytest.mark.parametrize(
    "name",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)],
)
def test_buffers_of_any_type_of_numbers_that_safetensors_has_come_back(place: Path, name: str) -> None:
    numbers = torch.tensor([0, 1, 2, 100]).to(getattr(torch, name))
    content = {"numbers": numbers, "one": numbers[3].clone(), "none": numbers[:0].clone()}
    write(place, 1, tensors={"weights": content})
    saved = read_checkpoint(place / "step_00000001").tensors("weights")
    assert {key: (tensor.dtype, tensor.tolist()) for key, tensor in saved.items()} == {
        key: (tensor.dtype, tensor.tolist()) for key, tensor in content.items()
    }


def test_a_buffer_of_another_type_is_one_error_that_names_it_and_leaves_the_checkpoint_before(place: Path) -> None:
    write(place, 1)
    with pytest.raises(ModelError, match=r"wide \(weights\) holds numbers of type complex128.* choose another model"):
        write(place, 2, tensors={"weights": {"wide": torch.ones(2, dtype=torch.complex128)}})
    assert read_newest(place)[0] == read_checkpoint(place / "step_00000001")


@pytest.mark.parametrize("name", ["float16", "float8_e4m3fn", "complex64"])
def test_a_number_that_is_not_finite_is_found_in_any_type(place: Path, name: str) -> None:
    numbers = torch.tensor([1.0, float("nan")]).to(getattr(torch, name))
    with pytest.raises(TrainingError, match="not finite"):
        write(place, 1, tensors={"weights": {"a": numbers}})
