import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
import pandas as pd
import pytest

from comparisons import MEASURES, RECIPES, make_comparison
from leantune.comparison import Comparison
from leantune.comparison.paired import Estimate
from leantune.report import drawing, figures

SVG = "{http://www.w3.org/2000/svg}"
FIGURES: dict[str, Callable[[Comparison], str]] = {
    "quality": lambda c: figures.effects(c, "quality_best"),
    "time": lambda c: figures.effects(c, "train_seconds"),
    "training times": figures.training_times,
    "qualities": figures.qualities,
    "padding effect": lambda c: figures.effects(c, "padding_fraction"),
    "step curve": lambda c: figures.learning_curve(c, "step"),
    "time curve": lambda c: figures.learning_curve(c, "train_seconds"),
    "loss": figures.training_loss,
    "memory": figures.memory_over_time,
    "time parts": figures.time_parts,
    "padding": figures.padding,
    "quality and time": figures.quality_and_time,
}
TWO = {name: RECIPES[name] for name in ("plain", "mixed")}
MACHADO = {  # Machado et al. 2009: how linear RGB looks without one kind of cone
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


TYPICAL = make_comparison()


@functools.cache
def typical(name: str) -> str:
    """One of the figures of a typical comparison."""
    return FIGURES[name](TYPICAL)


def lines(svg: str, colour: str) -> list[np.ndarray]:
    """Every open line that is drawn in a colour, as corners [n, (x, y)] in units of the SVG."""
    root = ET.fromstring(svg)
    markers = {path for defs in root.iter(f"{SVG}defs") for path in defs.iter(f"{SVG}path")}
    paths = [path for path in root.iter(f"{SVG}path") if path not in markers]
    drawn = [path.get("d", "") for path in paths if f"stroke: var(--{colour}," in path.get("style", "")]
    corners = [np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path), float) for path in drawn]
    return [points for points in corners if len(points) > 1]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{SVG}text")]


def linear(hex_colour: str) -> np.ndarray:
    channels = np.array([int(hex_colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(matrix @ np.clip(rgb, 0, 1) / (0.9505, 1, 1.089), 0.0089, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def with_runs(comparison: Comparison, change: Callable[[Any], dict[str, Any]]) -> Comparison:
    """The same comparison with fields of every run changed."""
    recipes = []
    for recipe in comparison.recipes:
        cells = [
            dataclasses.replace(cell, result=cell.result and dataclasses.replace(cell.result, **change(cell.result)))
            for cell in recipe.cells
        ]
        recipes.append(dataclasses.replace(recipe, cells=tuple(cells)))
    return dataclasses.replace(comparison, recipes=tuple(recipes))


def assert_affine(drawn: np.ndarray, expected: np.ndarray, within: float = 1e-3) -> None:
    """What is drawn is what is expected, up to the axis's scale and offset."""
    slope, offset = np.polyfit(expected, drawn, 1)
    np.testing.assert_allclose(slope * expected + offset, drawn, atol=within)
    assert np.ptp(drawn) > 50


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_well_formed_and_says_what_it_shows(name: str) -> None:
    root = ET.fromstring(typical(name))
    title, says = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert title is not None
    assert says is not None
    assert title.text
    assert root.get("aria-labelledby") == f"{title.get('id')} {says.get('id')}"
    recipes = list(RECIPES)[1:] if root.get("aria-labelledby", "").startswith("effect") else RECIPES
    for recipe in recipes:
        assert re.search(rf"(^|; ){recipe} [^;]*\d", says.text or ""), recipe
    assert "DejaVu" not in typical(name)  # texts have the page's font
    assert float(root.get("viewBox", "").split()[2]) == drawing.WIDTH


@pytest.mark.parametrize("name", FIGURES)
def test_every_colour_is_one_of_the_page_s_variables(name: str) -> None:
    svg = typical(name)
    left = re.sub(r"var\(--([\w-]+), (#[0-9a-f]{6})\)", lambda m: "" if drawing.LIGHT[m[1]] == m[2] else m[0], svg)
    assert re.findall(r"#[0-9a-fA-F]{3,6}\b(?![^<]*</text>)|(?:fill|stroke): (?:black|white|rgb)", left) == []
    assert "var(--ink" in svg


@pytest.mark.parametrize("name", FIGURES)
def test_equal_comparisons_give_equal_bytes_whatever_was_drawn_before(name: str) -> None:
    first = typical(name)
    figures.training_loss(make_comparison(TWO))
    assert FIGURES[name](make_comparison()) == first


@pytest.mark.parametrize("name", FIGURES)
def test_a_user_s_matplotlib_settings_change_nothing_and_stay(name: str) -> None:
    own = {
        "font.size": 30.0,
        "text.usetex": True,
        "svg.fonttype": "path",
        "axes.facecolor": "red",
        "lines.linewidth": 9,
    }
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        assert FIGURES[name](TYPICAL) == typical(name)
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("evil", ["<script>&", "$x^2$", "{0}", "混合精度", "\ud800 a", "two\nlines"])
def test_names_are_written_as_they_are(evil: str) -> None:
    comparison = make_comparison({"plain": {}, evil: RECIPES["mixed"]})
    for draw in (FIGURES["quality"], figures.time_parts, figures.padding):
        svg = draw(comparison).replace("\ud800", "?")  # which XML has no place for, and a file is written without
        assert " ".join(evil.replace("\ud800", "?").split()) in texts(svg)


def test_a_figure_is_told_in_the_numbers_that_it_shows() -> None:
    def says(name: str) -> str:
        found = ET.fromstring(typical(name)).find(f"{SVG}desc")
        assert found is not None
        return (found.text or "").replace("\N{NO-BREAK SPACE}", " ")

    runs = [cell.result for cell in TYPICAL.recipes[0].cells if cell.result]
    first, last = (np.mean([run.evaluations[place].value for run in runs]) for place in (0, -1))
    assert f"plain from {first:.4f} at step 25 to {last:.4f} at step 150; " in says("step curve")
    assert says("step curve").endswith("linear model 0.7100; constant answer 1.6300")
    seconds = np.mean([run.overall["total_seconds"] for run in runs])
    assert f"plain {int(seconds // 60)} min" in says("time parts")
    assert "evaluation 22.0 s, checkpoints 1.4 s" in says("time parts")
    assert "47.0% padding" in says("padding")
    assert "on the front" in says("quality and time")


def test_a_long_name_is_cut_in_the_middle() -> None:
    comparison = make_comparison({"plain": {}, "a" * 5000 + "b" * 5000: RECIPES["mixed"]})
    [name] = [text for text in texts(FIGURES["quality"](comparison)) if "…" in text]
    assert re.fullmatch("a+…b+", name)
    assert len(name) <= 20


def test_a_learning_curve_is_the_mean_of_the_runs_at_each_evaluation() -> None:
    comparison = TYPICAL
    runs = [cell.result.evaluations for cell in comparison.recipes[3].cells if cell.result]
    mean = np.mean([[point.value for point in points] for points in runs], axis=0)
    for against in ("step", "train_seconds"):
        [curve] = lines(figures.learning_curve(comparison, against), "series-3")  # type: ignore[arg-type]
        assert_affine(curve[:, 1], mean)
        assert_affine(curve[:, 0], np.mean([[getattr(p, against) for p in points] for points in runs], axis=0))


def test_the_linear_model_is_a_line_in_the_learning_curves_and_what_is_far_off_is_named() -> None:
    for against in ("step", "train_seconds"):
        drawn = figures.learning_curve(TYPICAL, against)  # type: ignore[arg-type]
        level = [line for line in lines(drawn, "muted") if np.ptp(line[:, 1]) == 0 and np.ptp(line[:, 0]) > 300]
        assert len(level) == 1
        [curve] = lines(drawn, "series-3")
        mean = [
            np.mean([cell.result.evaluations[i].value for cell in TYPICAL.recipes[3].cells if cell.result])
            for i in range(len(curve))
        ]
        slope, offset = np.polyfit(mean, curve[:, 1], 1)
        assert level[0][0, 1] == pytest.approx(slope * 0.71 + offset, abs=0.01)
        assert {"linear model 0.7100", "▴ constant answer 1.6300"} <= set(texts(drawn))


def test_yardsticks_below_and_within_the_curves_are_told_apart() -> None:
    changed = dataclasses.replace(TYPICAL, yardsticks={"linear": -9.0, "constant": 0.6})
    assert {"▾ linear model −9.0000", "constant answer 0.6000"} <= set(texts(figures.learning_curve(changed, "step")))
    older = dataclasses.replace(TYPICAL, yardsticks={})
    assert not any("linear" in text for text in texts(figures.learning_curve(older, "step")))


def test_an_evaluation_without_a_value_leaves_the_mean_to_the_others() -> None:
    comparison = make_comparison(TWO, folds=(0,), seeds=(0, 1))
    run = comparison.recipes[1].cells[0].result
    assert run is not None
    kept = comparison.recipes[1].cells[1].result.evaluations  # type: ignore[union-attr]
    undefined = tuple(dataclasses.replace(point, value=None) for point in run.evaluations)
    changed = with_runs(comparison, lambda r: {"evaluations": undefined} if r.evaluations == run.evaluations else {})
    [curve] = lines(figures.learning_curve(changed, "step"), "series-1")
    assert_affine(curve[:, 1], np.array([point.value for point in kept], float))


def test_one_evaluation_a_run_is_a_point_with_its_range() -> None:
    svg = figures.learning_curve(make_comparison({"plain": {"evaluations": 1}, "mixed": {"evaluations": 1}}), "step")
    assert re.search(r'style="fill: none; stroke: var\(--series-1, #\w+\); stroke-opacity: 0.5', svg)
    assert "nan" not in svg


def test_the_training_loss_is_a_centred_running_mean() -> None:
    comparison = make_comparison(TWO, folds=(0,), seeds=(0,))
    run = comparison.recipes[1].cells[0].result
    assert run is not None
    losses = run.losses.copy()
    losses[[3, 70, 71]] = np.nan
    changed = with_runs(comparison, lambda _: {"losses": losses})
    width = len(losses) // figures.SMOOTHING
    expected = pd.Series(losses).rolling(width, center=True, min_periods=1).mean()
    [curve] = lines(figures.training_loss(changed), "series-1")
    at = np.linspace(curve[0, 0], curve[-1, 0], len(losses))  # matplotlib leaves out corners that nobody would see
    assert_affine(np.interp(at, curve[:, 0], curve[:, 1]), np.log(expected.to_numpy()), within=0.25)


def test_a_short_peak_of_memory_is_seen_however_many_steps_there_are() -> None:
    memory = np.full(5000, 2.0 * 2**30)
    memory[3333] = 8.0 * 2**30
    seconds = np.linspace(10, 1000, 5000)
    changed = with_runs(make_comparison(TWO), lambda _: {"memory_bytes": memory, "memory_seconds": seconds})
    [curve] = lines(figures.memory_over_time(changed), "series-1")
    assert len(curve) <= figures.POINTS
    bottom = 230 - 40  # of the axes, where memory is 0
    np.testing.assert_allclose((bottom - curve[:, 1].min()) / (bottom - np.median(curve[:, 1])), 4, atol=0.01)


def test_parts_of_the_time_are_drawn_to_scale() -> None:
    comparison = make_comparison(TWO)
    svg = figures.time_parts(comparison)
    runs = [cell.result.overall for cell in comparison.recipes[0].cells if cell.result]
    expected = [np.mean([run[f"{part}_seconds"] for run in runs]) for part in figures.PARTS]
    drawn = []
    for number in range(1, 5):
        bars = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if f"fill: var(--part-{number}," in p.get("style", "")]
        x = [float(value) for value in re.findall(r"[ML] ([-\d.]+)", bars[0].get("d", ""))]
        drawn.append(max(x) - min(x))
    np.testing.assert_allclose(np.array(drawn) / sum(drawn), np.array(expected) / sum(expected), atol=1e-4)


def test_an_inconclusive_point_is_hollow() -> None:
    verdicts = [recipe.effects["quality_best"].verdict for recipe in TYPICAL.recipes[1:]]
    assert set(verdicts) == {"as good", "worse"}
    assert FIGURES["quality"](TYPICAL).count("fill: var(--page") == 0
    unsure = dataclasses.replace(TYPICAL.recipes[1].effects["quality_best"], verdict="inconclusive")
    recipe = dataclasses.replace(TYPICAL.recipes[1], effects={"quality_best": unsure})
    comparison = dataclasses.replace(TYPICAL, recipes=(TYPICAL.recipes[0], recipe, *TYPICAL.recipes[2:]))
    assert FIGURES["quality"](comparison).count("fill: var(--page") == 1


def with_intervals(*intervals: tuple[float, float | None, float | None]) -> Comparison:
    """A comparison whose recipes have these values and bounds as differences in best rmse."""
    comparison = make_comparison({"plain": {}} | {f"r{i}": {} for i in range(len(intervals))}, seeds=(0,))
    recipes = [comparison.recipes[0]]
    for recipe, (value, low, high) in zip(comparison.recipes[1:], intervals, strict=True):
        estimate = Estimate(value=value, low=low, high=high, p_value=None, pairs=2)
        effect = dataclasses.replace(recipe.effects["quality_best"], estimate=estimate, verdict="inconclusive")
        recipes.append(dataclasses.replace(recipe, effects={"quality_best": effect}))
    return dataclasses.replace(comparison, recipes=tuple(recipes))


def test_one_huge_interval_does_not_squeeze_the_others() -> None:
    comparison = with_intervals((0.01, 0.005, 0.015), (-0.01, -0.015, -0.005), (0.0, -5.0, 5.0))
    [normal], [huge] = (lines(FIGURES["quality"](comparison), f"series-{n}") for n in (1, 3))
    assert np.ptp(normal[:, 0]) > 20
    assert 0 <= huge[:, 0].min() < huge[:, 0].max() <= drawing.WIDTH


def test_estimates_without_intervals_or_without_a_difference_are_drawn() -> None:
    svg = FIGURES["quality"](with_intervals((0.0, None, None), (0.0, None, None)))
    assert texts(svg).count("0 ○") == 2


def test_a_metric_that_should_be_high_has_better_at_the_right() -> None:
    comparison = with_intervals((0.01, 0.005, 0.015))
    lower = texts(FIGURES["quality"](comparison))
    assert lower.index("◂ better") < lower.index("worse ▸")
    effect = comparison.recipes[1].effects["quality_best"]
    turned = dataclasses.replace(effect, measure=dataclasses.replace(MEASURES[0], lower_is_better=False))
    recipe = dataclasses.replace(comparison.recipes[1], effects={"quality_best": turned})
    higher = texts(FIGURES["quality"](dataclasses.replace(comparison, recipes=(comparison.recipes[0], recipe))))
    assert higher.index("◂ worse") < higher.index("better ▸")


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_front_has_every_recipe_that_no_other_beats_in_both(lower_is_better: bool) -> None:
    draw = np.random.default_rng(0)
    base = make_comparison({f"r{i}": {} for i in range(9)}, folds=(0,), seeds=(0,))
    for _ in range(50):
        points = draw.permuted(np.array([np.arange(9), np.arange(9)], float), axis=1).T  # no ties
        recipes = tuple(
            dataclasses.replace(recipe, means={"train_seconds": seconds, "quality_best": quality})
            for recipe, (seconds, quality) in zip(base.recipes, points.tolist(), strict=True)
        )
        signed = points * (1, 1 if lower_is_better else -1)
        expected = {i for i in range(9) if not any((signed[j] < signed[i]).all() for j in range(9))}
        front = figures.pareto_front(dataclasses.replace(base, recipes=recipes, lower_is_better=lower_is_better))
        assert set(front) == expected
        assert [points[i, 0] for i in front] == sorted(points[i, 0] for i in front)


def test_where_nothing_was_measured_there_is_no_figure() -> None:
    nothing = make_comparison(failed={(name, f, s): "" for name in RECIPES for f in (0, 1) for s in (0, 1, 2)})
    assert {name: draw(nothing) for name, draw in FIGURES.items()} == dict.fromkeys(FIGURES, "")
    unmeasured = with_runs(
        TYPICAL,
        lambda run: {
            "losses": run.losses * np.nan,
            "memory_bytes": run.memory_bytes * np.nan,
            "evaluations": (),
        },
    )
    assert figures.training_loss(unmeasured) == figures.memory_over_time(unmeasured) == ""
    assert figures.learning_curve(unmeasured, "step") == ""


def test_nine_recipes_have_nine_lines_and_markers() -> None:
    looks = {(drawing.colour_of(i), str(drawing.line_style(i)["linestyle"]), drawing.marker(i)) for i in range(9)}
    assert len({look[0] for look in looks}) == 9
    assert len({look[2] for look in looks}) == 9
    assert len({re.sub(r"swatch-\d", "", drawing.swatch(i)) for i in range(9)}) == 9


@pytest.mark.parametrize("palette", [drawing.LIGHT, drawing.DARK], ids=["light", "dark"])
def test_colours_stand_out_from_the_page_and_keep_apart_for_every_eye(palette: dict[str, str]) -> None:
    def luminance(name: str) -> float:
        return float(linear(palette[name]) @ (0.2126, 0.7152, 0.0722)) + 0.05

    for name in palette.keys() - {"page", "rule"}:
        ratio = luminance(name) / luminance("page")
        floor = 4.5 if name in {"ink", "muted", "better", "worse"} else 3  # WCAG 2.2: text, and graphics
        assert max(ratio, 1 / ratio) >= floor, name
    for eye in (np.eye(3), *map(np.array, MACHADO.values())):
        seen = [lab(eye @ linear(palette[name])) for name in palette if name.startswith(("series", "ink"))]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 12


@pytest.mark.parametrize(("seconds", "unit"), [(0, "seconds"), (179, "seconds"), (181, "minutes"), (11_000, "hours")])
def test_a_time_axis_has_the_unit_that_suits_it(seconds: float, unit: str) -> None:
    assert figures.time_unit([0.5, seconds])[1] == unit
