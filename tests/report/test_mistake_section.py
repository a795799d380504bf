"""Where recipes disagree, in the page, in Markdown and in JSON."""

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from comparisons import make_comparison
from leantune.comparison import Comparison, compare_runs
from leantune.report import wording
from leantune.report.mistake_section import MOST_CLASSES, draw_mistakes, tell_mistakes
from leantune.report.pages import report_html, report_json, report_md, write_report
from synthetic_experiments import write_experiment

ROWS = list(range(60))
EVIL = "<script>alert(1)</script> a|b [x](http://planted.invalid/)"
RECIPES: dict[str, dict[str, Any]] = {"plain": {}, "another": {"precision": "bf16"}}


def classes(folder: Path, labels: Sequence[str], recipes: dict[str, dict[str, Any]] | None = None) -> Comparison:
    draw = np.random.default_rng(0)
    truth = draw.integers(len(labels), size=len(ROWS))

    def predict(recipe: str, fold: int, seed: int) -> list[list[float]]:
        own = np.random.default_rng([len(recipe), seed])
        scores = np.exp(own.normal(size=(len(ROWS), len(labels))) + 2 * np.eye(len(labels))[truth])
        values: list[list[float]] = (scores / scores.sum(axis=1, keepdims=True)).tolist()
        return values

    write_experiment(
        folder,
        recipes=recipes or RECIPES,
        task="multiclass",
        metric="log_loss",
        rows=lambda *_: ROWS,
        targets=lambda *_: [labels[place] for place in truth],
        labels=list(labels),
        predictions=predict,
    )
    return compare_runs(folder)


def labels_of(folder: Path) -> Comparison:
    targets = (np.random.default_rng(0).uniform(size=(len(ROWS), 3)) < 0.4).astype(float)

    def predict(recipe: str, fold: int, seed: int) -> list[list[float]]:
        own = np.random.default_rng([len(recipe), seed])
        values: list[list[float]] = (0.2 + 0.6 * targets + own.uniform(-0.2, 0.2, targets.shape)).tolist()
        return values

    write_experiment(
        folder,
        recipes=RECIPES,
        task="multilabel",
        metric="log_loss",
        rows=lambda *_: ROWS,
        targets=lambda *_: targets.tolist(),
        labels=["joy", "awe", EVIL],
        predictions=predict,
    )
    return compare_runs(folder)


def numbers(folder: Path) -> Comparison:
    def predict(recipe: str, fold: int, seed: int) -> list[float]:
        own = np.random.default_rng([len(recipe), seed])
        values: list[float] = (np.array(ROWS) / 10 + own.normal(0, 0.3, len(ROWS))).tolist()
        return values

    targets = [row / 10 for row in ROWS]
    write_experiment(
        folder, recipes=RECIPES, rows=lambda *_: ROWS, targets=lambda *_: targets, labels=["score"], predictions=predict
    )
    return compare_runs(folder)


class Texts(HTMLParser):
    """The elements of a page, and the text of its section on disagreement."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_without_predictions_a_report_does_not_speak_of_disagreement() -> None:
    comparison = make_comparison()
    assert "Where recipes disagree" not in report_html(comparison) + report_md(comparison)
    assert report_json(comparison)["mistakes"] is None


def test_numbers_have_residuals_with_the_mean_deviation_and_slope_of_each_recipe(tmp_path: Path) -> None:
    comparison = numbers(tmp_path)
    assert [svg.name for svg, _ in draw_mistakes(comparison)] == ["residuals-0", "means-0"]  # type: ignore[attr-defined]
    record = report_json(comparison)["mistakes"]["recipes"]["another"]
    found = comparison.disagreement
    assert found is not None
    rest = (found.recipes["another"].targets - found.recipes["another"].values)[:, 0]
    assert record["residual_mean"] == pytest.approx([rest.mean()])
    assert record["residual_deviation"] == pytest.approx([rest.std()])
    told = tell_mistakes(comparison)
    assert told is not None
    assert [line[0] for line in told.tables[0].lines] == ["plain", "another"]
    assert told.tables[0].head[-1] == "slope"


def test_few_classes_have_a_confusion_matrix_for_each_recipe_and_many_the_most_frequent_confusions(
    tmp_path: Path,
) -> None:
    few = classes(tmp_path / "few", ["ant", "bee", "cat"])
    names = [svg.name for svg, _ in draw_mistakes(few)]  # type: ignore[attr-defined]
    assert names == ["calibration", "confusion-0", "confusion-1"]
    matrix = np.array(report_json(few)["mistakes"]["recipes"]["plain"]["confusion"])
    assert matrix.sum() == 3 * len(ROWS)  # three seeds

    many = classes(tmp_path / "many", [f"class {number}" for number in range(MOST_CLASSES + 1)])
    assert [svg.name for svg, _ in draw_mistakes(many)] == ["calibration"]  # type: ignore[attr-defined]
    told = tell_mistakes(many)
    assert told is not None
    assert told.tables[1].head == ("target, predicted as", "plain", "another")


def test_labels_have_calibration_and_the_precision_and_recall_of_each(tmp_path: Path) -> None:
    comparison = labels_of(tmp_path)
    told = tell_mistakes(comparison)
    assert told is not None
    assert {line[0] for line in told.tables[1].lines} == {"joy", "awe", EVIL}
    assert told.tables[1].lines[0][1:] == ("100% / 100%", "100% / 100%")
    assert report_json(comparison)["mistakes"]["recipes"]["plain"]["calibration_error"] > 0.1


def test_names_of_classes_are_escaped_in_the_page_the_figures_and_markdown(tmp_path: Path) -> None:
    for comparison in (classes(tmp_path / "classes", ["ant", EVIL, "cat"]), labels_of(tmp_path / "labels")):
        page = Texts(report_html(comparison))
        assert "script" not in page.tags
        assert EVIL in page.text
        markdown = report_md(comparison)
        assert "<script" not in markdown
        blocks = MarkdownIt("commonmark").enable("table").parse(markdown[markdown.index("## Where recipes") :])
        assert not [child for block in blocks for child in block.children or [] if child.type == "link_open"]


def test_the_page_stays_light_with_many_recipes(tmp_path: Path) -> None:
    recipes = {f"recipe {number}": {"x": number} for number in range(12)}
    comparison = classes(tmp_path, ["ant", "bee"], recipes)
    told = tell_mistakes(comparison)
    assert told is not None
    assert len(told.rows) <= 12
    assert len(told.tables[0].lines) == 6
    assert len(draw_mistakes(comparison)) == 7
    assert any("6 more recipes are not shown" in note for note in told.notes)
    assert len(report_json(comparison)["mistakes"]["recipes"]) == 12


def test_the_figures_can_be_taken_away_and_the_json_is_strict(tmp_path: Path) -> None:
    comparison = classes(tmp_path, ["ant", "bee"])
    write_report(comparison, tmp_path)
    assert {"calibration.png", "calibration.svg", "confusion-1.svg"} <= {
        path.name for path in (tmp_path / "report-files").iterdir()
    }
    rows = json.loads((tmp_path / "report.json").read_text("utf-8"))["mistakes"]["rows"]
    assert set(rows[0]) == {"recipe", "row", "id", "target", "baseline", "prediction"}


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("one two", "one two"),
        ("one  two\nthree", "one two…"),
        ("a" * 30, "a" * 11 + "…"),
        ("基準レシピ、混合精度、基準レシピ", "基準レシピ、混合精度、…"),
    ],
)
def test_an_excerpt_ends_between_words_where_there_are_any(text: str, short: str) -> None:
    assert wording.excerpt(text, 12) == short


@pytest.mark.parametrize("make", [numbers, labels_of, lambda folder: classes(folder, ["red", "green", "blue"])])
def test_every_figure_is_told_in_numbers_too(tmp_path: Path, make: Callable[[Path], Comparison]) -> None:
    drawn = draw_mistakes(make(tmp_path))
    assert drawn
    for svg, _ in drawn:
        says = re.search(r"<desc[^>]*>([^<]+)</desc>", svg)
        assert says is not None
        assert len(re.findall(r"\d", says[1])) > 4
