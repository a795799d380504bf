"""`leantune inspect`: the page of a table, with and without a model, and of a run, in each of its forms."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

import leantune
from leantune.advice import probe
from leantune.advice.inspection import Inspection
from leantune.advice.probe import Measured
from leantune.advice.run_parts import Answers, describe_calibration, describe_parts
from leantune.advice.settings_advice import Candidate, batching_lines
from leantune.inference.out_of_fold import OutOfFold, read_out_of_fold
from leantune.inference.trained_run import open_run
from leantune.inspection.catalogue import CHECKS
from leantune.runs.config import load_config, read_yaml
from leantune.system.errors import SettingsError
from leantune.tables.targets import TaskKind
from small_runs import LABELS, run_all, tiny_config, write_table
from tiny_encoders import make_texts

EVIL = "<script>alert(1)</script> | [link](http://planted.invalid/) `code` \x1b[2J"
KINDS: list[TaskKind] = ["regression", "binary", "multiclass", "multilabel", "soft"]
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """The elements of a page; an element that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def targets_of(kind: TaskKind) -> list[str]:
    return ["label"] if kind in ("binary", "multiclass") else list(LABELS[kind])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [*make_texts(58, most_words=20), EVIL, EVIL]
    return write_table(tmp_path_factory.mktemp("data") / "t.csv", texts=texts)


@pytest.fixture(scope="module")
def found(table: Path) -> Inspection:
    return leantune.inspect(table, text="text", target="score", settings={"data.id": "name"})


@pytest.fixture(scope="module")
def with_model(table: Path, tiny_encoder_dir: Callable[[str], Path]) -> Inspection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "SECONDS", 0.0)
        settings = {"data.id": "name", "batching.batch_size": 8, "precision": "fp32", "device": "cpu"}
        model = str(tiny_encoder_dir("bert"))
        return leantune.inspect(table, text="text", target="score", model=model, settings=settings)


def test_copies_are_found_and_the_gravest_finding_stands_first(found: Inspection) -> None:
    codes = [finding.code for finding in found.findings]
    assert "LT403" in codes
    assert "LT404" in codes
    order = ["error", "warning", "note"]
    places = [order.index(finding.severity) for finding in found.findings]
    assert places == sorted(places)


def test_without_a_model_what_needs_one_is_left_out_and_said(found: Inspection) -> None:
    assert "Left out, since they need a model" in str(found)
    assert found.settings == ""
    assert "advice" not in found.data


def test_an_ignored_code_is_left_out_and_named(table: Path) -> None:
    ignored = leantune.inspect(table, text="text", target="score", ignore=["LT403"])
    assert "LT403" not in [finding.code for finding in ignored.findings]
    assert "Ignored: LT403." in ignored.markdown()


def test_a_code_that_is_none_is_refused(table: Path) -> None:
    with pytest.raises(SettingsError, match=r"--ignore: found 'LT999', expected the code of a finding"):
        leantune.inspect(table, text="text", target="score", ignore=["LT999"])


@pytest.mark.parametrize("fixture", ["found", "with_model"])
def test_the_page_is_whole_has_no_script_and_loads_nothing(fixture: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(fixture).html()
    page = Page(text)
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert "http://planted.invalid/" in text  # as text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("fixture", ["found", "with_model"])
def test_every_figure_is_told_in_numbers_too(fixture: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(fixture).html()
    says = re.findall(r"<desc[^>]*>([^<]*)</desc>", page)
    assert len(says) == page.count('role="img"') > 0
    for text in says:
        assert len(re.findall(r"\d", text)) > 4


def test_a_page_names_no_absolute_path_and_the_settings_have_them_whole(
    with_model: Inspection, table: Path, tmp_path: Path
) -> None:
    for text in (with_model.html(), with_model.markdown()):
        assert str(table.parent) not in text
        assert "only the last name is shown" in text
    assert f"{table.name}, row" in with_model.html()
    with_model.write(tmp_path / "train.yaml")
    assert f"path: {table}" in (tmp_path / "train.yaml").read_text()


def test_what_was_found_is_a_sentence_and_figures_that_follow_each_other_stand_together(
    with_model: Inspection, runs: dict[TaskKind, Path]
) -> None:
    page = leantune.inspect(runs["regression"]).html()
    assert re.search(r'<div class="figures">\s*<figure>.*?</figure>\s*<figure>', page, re.DOTALL)
    found = re.findall(r"<div><p>(.*?)</p>", with_model.html())
    assert len(found) == len(with_model.findings) > 1
    assert all(text[0] == text[0].upper() and text.endswith(".") and not text.endswith("....") for text in found)


@pytest.mark.parametrize("seed", [2, 3])  # the linear model is better by chance, and worse
def test_an_encoder_must_beat_the_better_of_the_two_simple_answers(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=80).round(3)
    page = leantune.inspect({"text": make_texts(80, most_words=6), "target": noise}, text="text", target="target")
    values = {
        name: page.data["yardsticks"][name.replace(" ", "_")]["value"] for name in ("constant answer", "linear model")
    }
    assert f"({min(values, key=values.__getitem__)}) on these rows" in " ".join(str(page).split())


def test_only_what_was_changed_is_said_to_have_been_measured_faster() -> None:
    def tried(name: str, seconds: float, changes: dict[str, Any]) -> Candidate:
        measured = Measured(
            seconds_per_epoch=seconds, steps_per_epoch=5, epochs=2, total_steps=10, steps=8, scatter=0.0,
            processor_seconds_per_epoch=None, peak_bytes=1, memory_of="process",
        )  # fmt: skip
        return Candidate(name=name, changes=changes, learns_the_same=True, measured=measured)

    default = tried("default", 10.0, {})
    larger = tried("larger", 7.0, {"batching": {"layout": "packed", "micro_batch": {"tokens": 4096}}})
    other = tried("other", 5.0, {"batching": {"layout": "dynamic", "micro_batch": "auto"}})
    assert "\n".join(batching_lines("packed", default, larger)).splitlines() == [
        "  # the fastest of those that were measured and learn the same",
        "  layout: packed",
        "  # measured: 0.70 times the time of the default, and learns the same",
        "  micro_batch: {tokens: 4096}",
    ]
    assert "\n".join(batching_lines("packed", default, other)).splitlines() == [
        "  # measured: 0.50 times the time of the default, and learns the same",
        "  layout: dynamic",
    ]


@pytest.mark.parametrize("fixture", ["found", "with_model"])
def test_the_terminals_page_has_80_columns_and_no_commands(fixture: str, request: pytest.FixtureRequest) -> None:
    lines = str(request.getfixturevalue(fixture)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)


def test_markdown_has_the_texts_as_they_are_and_its_tables_whole(found: Inspection) -> None:
    parser = MarkdownIt().enable("table")
    tokens = parser.parse(found.markdown())
    assert "link_open" not in [child.type for token in tokens for child in token.children or ()]
    rows = parser.render(found.markdown()).split("<tr>")[1:]
    assert len(rows) > 10


def test_json_has_everything_as_strict_values(with_model: Inspection) -> None:
    record = json.loads(with_model.json(), parse_constant=pytest.fail)
    assert {"table", "targets", "tokens", "copies", "yardsticks", "advice", "findings"} <= set(record)
    assert {finding["code"] for finding in record["findings"]} <= {check.code for check in CHECKS}
    assert record["yardsticks"]["curve"][-1]["rows"] == 48


def test_padding_is_that_of_the_real_plan(with_model: Inspection) -> None:
    padding = {line["layout"]: line["padding_fraction"] for line in with_model.data["tokens"]["padding"]}
    assert padding["fixed"] > padding["dynamic"] > padding["packed"] >= 0


def test_an_epoch_of_windows_reads_about_what_cutting_keeps(with_model: Inspection) -> None:
    shortest = with_model.data["tokens"]["cut_by_max_length"][0]
    assert shortest["tokens_cut"] > 0.1
    read = re.search(r"an epoch reads ([\d.]+)% of all tokens", shortest["said"])
    assert read is not None
    assert float(read[1]) / 100 == pytest.approx(1 - shortest["tokens_cut"], abs=0.08)


def test_the_settings_train_as_they_stand_and_each_has_a_reason(with_model: Inspection, tmp_path: Path) -> None:
    with_model.write(tmp_path / "train.yaml")
    config = load_config(tmp_path / "train.yaml", {})
    assert config.data.text == ("text",)
    assert config.optimizer.epochs == 20  # small tables are read more often
    lines = (tmp_path / "train.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            assert before.lstrip().startswith("#"), line


def test_what_is_advised_for_speed_learns_the_same(with_model: Inspection) -> None:
    advice = with_model.data["advice"]
    (advised,) = [c for c in advice["candidates"] if c["name"] == advice["advised"]]
    assert advised["learns_the_same"]
    assert advice["candidates"][0]["name"] == "default"


def test_the_measured_seconds_are_those_of_the_epoch_by_its_positions(
    table: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    config = tiny_config(table, tiny_encoder_dir("bert"), optimizer__epochs=3)
    prepared, encoder = probe.prepare_quietly(config)
    measured = probe.measure(prepared, encoder, seconds=0.0)
    assert (measured.steps_per_epoch, measured.epochs, measured.total_steps) == (6, 3, 18)
    assert measured.train_seconds == pytest.approx(3 * measured.seconds_per_epoch)
    assert measured.peak_bytes > 0


def test_a_file_of_another_kind_and_settings_without_a_model_are_refused(found: Inspection, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected a name that ends with \.html, \.md, \.json, \.yaml"):
        found.write(tmp_path / "page.pdf")
    with pytest.raises(SettingsError, match="give --model MODEL"):
        found.write(tmp_path / "train.yaml")
    with pytest.raises(SettingsError, match="found no folder"):
        found.write(tmp_path / "none" / "page.html")


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> dict[TaskKind, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made: dict[TaskKind, Path] = {}
    for kind in KINDS:
        path = write_table(folder / f"{kind}.csv", kind=kind)
        given = {"data__target": targets_of(kind), "data__task": kind, "optimizer__max_steps": 1}
        run_all(tiny_config(path, tiny_encoder_dir("bert"), **given), folder / kind)
        made[kind] = folder / kind
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_task_has_a_page(runs: dict[TaskKind, Path], kind: TaskKind) -> None:
    page = leantune.inspect(runs[kind])
    assert [section.title for section in page.sections] == [
        "How good the run is",
        "Where it errs",
        "Calibration",
        "Rows that are probably labelled wrongly",
        "Error by length and by group",
    ]
    Page(page.html())
    json.loads(page.json(), parse_constant=pytest.fail)
    assert max(map(len, str(page).splitlines())) <= 80


def test_probabilities_that_are_too_low_are_not_to_be_trained_lower(runs: dict[TaskKind, Path]) -> None:
    def advice(predictions: NDArray[np.float64]) -> str:
        found = replace(read_out_of_fold(run), predictions=predictions)
        part = describe_calibration(Answers(run=run, found=found, texts=None, columns={}))
        return part.findings[0].advice

    run = open_run(runs["multiclass"])
    right = np.eye(3)[read_out_of_fold(run).targets]
    low, high = 0.4 * right + 0.2, np.roll(0.97 * right + 0.01, 1, axis=1)
    assert "train more epochs" in advice(low)
    assert "train fewer epochs" in advice(high)


def test_parts_by_length_hold_all_rows_and_do_not_overlap(runs: dict[TaskKind, Path]) -> None:
    run = open_run(runs["regression"])
    targets = np.zeros((100, 1))
    ids = tuple(map(str, range(100)))
    found = OutOfFold(rows=np.arange(100), ids=ids, targets=targets, predictions=targets, folds=np.zeros(100, int))
    lengths = np.arange(100) // 3  # with equal ones
    part = describe_parts(Answers(run=run, found=found, texts=None, columns={}), lengths)
    told = part.data["by_length"]
    assert sum(line["rows"] for line in told.values()) == len(found.rows)
    ends = [int(end) for label in told for end in label.split(" to ")]
    assert ends == sorted(set(ends))


def test_the_confusion_matrix_is_that_of_scikit_learn(runs: dict[TaskKind, Path]) -> None:
    found = read_out_of_fold(open_run(runs["multiclass"]))
    expected = confusion_matrix(found.targets, found.predictions.argmax(axis=1), labels=range(3))
    assert leantune.inspect(runs["multiclass"]).data["errors"]["confusion"]["matrix"] == expected.tolist()


def test_without_its_table_a_run_is_shown_without_texts_and_with_it_elsewhere_with_them(
    runs: dict[TaskKind, Path], tmp_path: Path
) -> None:
    from leantune.advice.inspecting import inspect_any  # noqa: PLC0415

    moved = tmp_path / "moved.csv"
    run = runs["binary"]
    moved.write_bytes(run.with_suffix(".csv").read_bytes())
    settings = read_yaml(run / "config.yaml")
    settings["data"]["path"] = str(tmp_path / "gone.csv")
    copy = tmp_path / "run"
    copy.mkdir()
    for part in run.iterdir():
        (copy / part.name).symlink_to(part)
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "Texts and columns are not shown" in str(leantune.inspect(copy))
    assert "Texts and columns are not shown" not in str(
        inspect_any(None, {"data.path": copy}, [f"data.path={moved}"], ignore=())
    )
    write_table(moved, kind="binary", rows=40)
    other = str(inspect_any(None, {"data.path": copy}, [f"data.path={moved}"], ignore=()))
    assert "Texts and columns are not shown" in other


def test_settings_beside_a_run_are_refused(runs: dict[TaskKind, Path]) -> None:
    with pytest.raises(SettingsError, match=r"is inspected as a run, expected no settings beside it"):
        leantune.inspect(runs["binary"], text="text")


def test_the_settings_of_an_inspection_are_checked_as_those_of_train() -> None:
    with pytest.raises(SettingsError, match="data"):
        leantune.inspect("nowhere.csv", text="text", target="y", settings={"data.nothing": 1})


def test_the_page_of_documentation_lists_every_code_once() -> None:
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    listed = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| LT")]
    assert [[cell.strip() for cell in line] for line in listed] == [
        [check.code, check.about, check.finds, check.how, check.why] for check in CHECKS
    ]
    assert len({check.code for check in CHECKS}) == len(CHECKS)


def test_a_folder_of_parts_is_a_table_where_columns_are_named_and_patterns_are_targets(
    table: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(table)
    folder = tmp_path / "parts"
    folder.mkdir()
    frame[:30].to_parquet(folder / "a.parquet")
    frame[30:].to_parquet(folder / "b.parquet")
    found = leantune.inspect(folder, text="text", target="sco*")
    assert "60 rows" in str(found)
    assert "score" in str(found)
