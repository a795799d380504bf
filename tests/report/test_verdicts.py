"""What is shown agrees with what is said: everywhere, the verdict follows from the interval beside it (law 6)."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leantune.comparison import Comparison, Effect, compare_runs
from leantune.comparison.effects import judge, make_measures
from leantune.comparison.words import effect_text
from leantune.report import show_comparison
from leantune.report.pages import report_html, report_json, report_md
from synthetic_experiments import write_experiment

MEASURES = {measure.name: measure for metric in ("rmse",) for measure in make_measures(metric)}
INTERVAL = re.compile(
    r"(?:×\s*)?([−+\d.,]+)(?:\s+points)?\s+\[(under )?([−+\d.,]+(?:e[-+]\d+)?),\s*(over )?([−+\d.,]+)\]"
)
VERDICT = re.compile(r"[▲▼◆○] (better|worse|as good|inconclusive)")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def implied(low: float, high: float, *, ratio: bool, lower_is_better: bool, tolerance: float | None) -> str:
    """The verdict that a reader draws from an interval."""
    none = 1.0 if ratio else 0.0
    if tolerance is not None and -tolerance <= low and high <= tolerance:
        return "as good"
    if low <= none <= high:
        return "inconclusive"
    return "better" if (high < none) == lower_is_better else "worse"


def read_interval(text: str) -> tuple[float, float]:
    found = INTERVAL.search(text.replace("\N{NO-BREAK SPACE}", " "))
    assert found, text
    return number(found[3]), number(found[5])


def implied_by_text(effect: Effect) -> str:
    low, high = read_interval(effect_text(effect))
    scale = 100 if effect.measure.unit == "share" else 1
    measure = effect.measure
    return implied(
        low / scale,
        high / scale,
        ratio=measure.kind == "ratio",
        lower_is_better=measure.lower_is_better,
        tolerance=effect.tolerance,
    )


@given(
    st.sampled_from(["quality_best", "train_seconds", "tokens_per_second", "padding_fraction", "time_to_quality"]),
    # In thousandths: no run measures differences that 16 places cannot show.
    st.lists(st.integers(-1_000, 1_000).map(lambda n: n / 1e3), min_size=2, max_size=5),
    st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 30.0]),
    st.integers(-3_000, 3_000).map(lambda n: n / 1e3),
    st.sampled_from([None, 0.01, 0.5]),
)
def test_the_shown_interval_implies_the_verdict(
    name: str, noise: list[float], scatter: float, shift: float, tolerance: float | None
) -> None:
    d = scatter * np.array([noise]) + shift * scatter
    measure = MEASURES[name]
    pairs = np.stack([np.ones_like(d), np.exp(d)] if measure.kind == "ratio" else [np.zeros_like(d), d], axis=-1)
    tolerance = tolerance if measure.unit == "" else None
    effect = judge(measure, {"other": pairs}, rows_ratio=0.25, tolerance=tolerance)["other"]
    if effect.estimate is not None and effect.estimate.low is not None:
        assert implied_by_text(effect) == effect.verdict


@pytest.mark.parametrize("shift", [-4e-8, 0.0, 4e-8])
def test_a_difference_far_below_the_tolerance_is_shown_no_finer_than_the_tolerance(shift: float) -> None:
    d = np.array([[1e-9, 2e-9, 0.0]]) + shift
    effect = judge(MEASURES["quality_best"], {"a": np.stack([0 * d, d], axis=-1)}, rows_ratio=0.25, tolerance=0.022)
    text = effect_text(effect["a"]).replace("\N{NO-BREAK SPACE}", " ")
    assert text in ("0.0000 [−0.0001, +0.0001]", "0.0000 [0.0000, +0.0001]", "0.0000 [−0.0001, 0.0000]")
    assert implied_by_text(effect["a"]) == effect["a"].verdict == "as good"


def test_a_tiny_difference_keeps_its_digits_where_the_verdict_is_that_there_is_one() -> None:
    d = np.array([[3.9e-8, 4e-8, 4.1e-8]])
    effect = judge(MEASURES["quality_best"], {"a": np.stack([0 * d, d], axis=-1)}, rows_ratio=0.25)["a"]
    assert effect.verdict == "worse"
    assert implied_by_text(effect) == "worse"


@pytest.mark.parametrize("edge", [1e-9, 1e-6, 3e-4])
@pytest.mark.parametrize("side", [-1, 1])
def test_an_interval_that_ends_just_beside_no_difference_shows_on_which_side(edge: float, side: int) -> None:
    first = np.array([[-0.1, 0.0, 0.1]])
    low = judge(MEASURES["quality_best"], {"a": np.stack([0 * first, first], axis=-1)}, rows_ratio=0.25)["a"].estimate
    assert low is not None
    assert low.low is not None
    moved = first - low.low + side * edge
    effect = judge(MEASURES["quality_best"], {"a": np.stack([0 * first, moved], axis=-1)}, rows_ratio=0.25)["a"]
    assert effect.verdict == ("worse" if side > 0 else "inconclusive")
    assert implied_by_text(effect) == effect.verdict


@pytest.fixture(scope="module", params=[0, 1, 2])
def comparison(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Runs with better, worse, as good and inconclusive recipes among them."""
    draw = np.random.default_rng(request.param)
    quality = 0.5 + np.array([0.0, 0.0, 0.1, -0.1, 0.002])[:, None, None] + draw.normal(0, 0.003, (5, 1, 3))
    seconds = np.array([9.0, 9.0, 4.0, 11.0, 3.0])[:, None, None] * draw.normal(1, 0.03, (5, 1, 3))
    names = {name: {"x": name} for name in ("plain", "alike", "bad", "good", "quick")}
    folder: Path = tmp_path_factory.mktemp("verdicts")
    write_experiment(
        folder,
        recipes=names,
        quality=quality,
        quality_last=quality + 0.001,
        train_seconds=seconds,
        padding_fraction=quality / 2,
    )
    plan = folder / "plan.json"
    plan.write_text(plan.read_text("utf-8").replace('"format": 1', '"format": 1, "tolerance": 0.03'), "utf-8")
    return compare_runs(folder)


def shown_verdicts(text: str) -> list[tuple[float, float, str]]:
    """Each interval of a text with the verdict that follows it."""
    text = re.sub(r"<[^>]*>", " ", text).replace("\N{NO-BREAK SPACE}", " ")
    found = []
    for interval in INTERVAL.finditer(text):
        verdict = VERDICT.search(text, interval.end())
        assert verdict, text[interval.start() : interval.end() + 80]
        found.append((number(interval[3]), number(interval[5]), verdict[1]))
    return found


def table(comparison: Comparison) -> list[tuple[float, float, str]]:
    """Bounds as they are, and verdicts, of every effect of every recipe."""
    return [
        (effect.estimate.low, effect.estimate.high, effect.verdict)
        for recipe in comparison.recipes
        for effect in recipe.effects.values()
        if effect.estimate is not None and effect.estimate.low is not None and effect.estimate.high is not None
    ]


def test_page_and_markdown_show_each_interval_with_the_verdict_that_it_implies(comparison: Comparison) -> None:
    for text in (report_html(comparison), report_md(comparison)):
        tables = text[text.index("Quality, time and memory") :].replace("\N{NO-BREAK SPACE}", " ")
        pairs = re.findall(r"(×\s*|)([−+\d.,]+(?: points)? \[[^\]]+\])(.*?)([▲▼◆○] [a-z ]+[a-z])", tables, re.DOTALL)
        shown = [(is_ratio, *read_interval(interval), verdict[2:]) for is_ratio, interval, _, verdict in pairs]
        tables_only = [entry for entry in shown if entry[3] in ("better", "worse", "as good", "inconclusive")]
        assert len(tables_only) >= len(table(comparison)) > 20
        for is_ratio, low, high, verdict in tables_only:
            none = 1.0 if is_ratio.strip() else 0.0
            if verdict in ("better", "worse"):
                assert not low <= none <= high
            elif verdict == "as good":
                assert -0.03 <= low <= high <= 0.03
            else:
                assert low <= none <= high


def test_the_table_of_a_notebook_implies_its_verdicts_and_names_every_recipe(comparison: Comparison) -> None:
    html = comparison._repr_html_().replace("\N{NO-BREAK SPACE}", " ")
    assert all(f">{recipe.name}</th>" in html for recipe in comparison.recipes)
    cells = re.findall(r"<br>(× )?([−+\d.,]+ \[[^\]]+\])<br>[▲▼◆○] ([a-z ]+)</td>", html)
    assert len(cells) == 3 * (len(comparison.recipes) - 1)  # memory is equal in every pair
    for is_ratio, interval, verdict in cells:
        low, high = read_interval(interval)
        tolerance = None if is_ratio else 0.03
        assert verdict == implied(low, high, ratio=bool(is_ratio), lower_is_better=True, tolerance=tolerance)


def test_the_table_of_a_notebook_escapes_the_names_of_recipes(comparison: Comparison) -> None:
    evil = dataclasses.replace(comparison.recipes[1], name="<script>alert(1)</script>")
    html = dataclasses.replace(comparison, recipes=(comparison.recipes[0], evil))._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_the_json_implies_its_verdicts(comparison: Comparison) -> None:
    record = report_json(comparison)
    seen = set()
    for recipe in record["recipes"].values():
        for name, effect in recipe["effects"].items():
            if effect["low"] is None:
                continue
            measure = record["measures"][name]
            expected = implied(
                effect["low"],
                effect["high"],
                ratio=measure["kind"] == "ratio",
                lower_is_better=measure["lower_is_better"],
                tolerance=record["tolerance"] if measure["unit"] == "" else None,
            )
            assert effect["verdict"] == expected
            assert (effect["adjusted_p"] < 0.05) is not (
                effect["low"] <= (measure["kind"] == "ratio") <= effect["high"]
            )
            seen.add(expected)
    assert seen == {"better", "worse", "as good", "inconclusive"}


def test_the_terminal_implies_its_verdicts(comparison: Comparison) -> None:
    out = io.StringIO()
    show_comparison(comparison, Console(file=out, width=400, highlight=False))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    seen = 0
    for place, line in enumerate(lines):
        columns = re.findall(r"(×\s*)?([−+\d.,]+ \[[^\]]+\])", line.replace("\N{NO-BREAK SPACE}", " "))
        below = lines[place + 1].replace("\N{NO-BREAK SPACE}", " ") if place + 1 < len(lines) else ""
        verdicts = VERDICT.findall(below) if columns else []
        for (is_ratio, interval), verdict in zip(columns, verdicts, strict=False):
            low, high = read_interval(interval)
            expected = implied(
                low, high, ratio=bool(is_ratio), lower_is_better=True, tolerance=None if is_ratio else 0.03
            )
            assert verdict == expected
            seen += 1
    assert seen >= 8


def test_no_verdict_is_taken_back_in_words(comparison: Comparison) -> None:
    for text in (report_html(comparison), report_md(comparison)):
        assert "leaves out a ratio" not in text
        assert "is not enough" not in text
