"""Recipes against a baseline: known effects are found, none are made up, and unlike runs are not compared."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from leantune.comparison import Comparison, Effect, compare_runs
from leantune.comparison.effects import judge, make_measures
from leantune.comparison.tolerance import make_tolerance
from leantune.system.errors import RunFolderError
from synthetic_experiments import run_folder, write_example, write_experiment, write_run

RMSE, ACCURACY = ({m.name: m for m in make_measures(metric)} for metric in ("rmse", "accuracy"))
NAMES = (
    "quality_best",
    "quality_last",
    "train_seconds",
    "total_seconds",
    "peak_bytes",
    "tokens_per_second",
    "padding_fraction",
    "time_to_quality",
    "quality_at_equal_time",
)


def change_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def change_config(file: Path, **changes: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text("utf-8")) | changes), "utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(RunFolderError) as caught:
        compare_runs(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def effect(comparison: Comparison, measure: str, recipe: str = "other") -> Effect:
    return comparison.recipe(recipe).effects[measure]


def notes_of(comparison: Comparison) -> str:
    return "\n".join(comparison.notes)


def judged(baseline: Any, **recipes: Any) -> dict[str, Effect]:
    """Judge best rmse; values are [folds, seeds]."""
    pairs = {name: np.stack([np.broadcast_to(baseline, np.shape(v)), v], axis=-1) for name, v in recipes.items()}
    return judge(RMSE["quality_best"], pairs, rows_ratio=0.25)


# What is told


def test_the_measures_come_in_the_order_of_the_report_with_their_units_and_directions(tmp_path):
    measures = compare_runs(write_experiment(tmp_path)).measures
    assert tuple(m.name for m in measures) == NAMES
    assert [m.label for m in measures][:3] == ["best rmse", "last rmse", "training time"]
    assert {m.name for m in measures if m.kind == "ratio"} == {
        "train_seconds",
        "total_seconds",
        "peak_bytes",
        "tokens_per_second",
        "time_to_quality",
    }
    assert [m.unit for m in measures] == ["", "", "s", "s", "bytes", "tokens/s", "share", "s", ""]
    assert [m.name for m in measures if not m.lower_is_better] == ["tokens_per_second"]
    higher = [m.name for m in make_measures("accuracy") if not m.lower_is_better]
    assert higher == ["quality_best", "quality_last", "tokens_per_second", "quality_at_equal_time"]


def test_the_experiment_is_described(tmp_path):
    comparison = compare_runs(write_experiment(tmp_path / "dir", folds=(2, 0), seeds=(5, 3)))
    assert (comparison.title, comparison.baseline, comparison.data) == ("experiment", "plain", "train.csv")
    assert (comparison.task, comparison.metric, comparison.model) == ("regression", "rmse", "demo")
    assert (comparison.folds, comparison.seeds, comparison.lower_is_better) == ((2, 0), (5, 3), True)
    assert comparison.rows == {"training": 20, "validation": 5, "total": 25}
    assert comparison.command == "leantune compare experiment.yaml --output dir"
    assert comparison.environment["device"] == {"type": "cpu", "name": "AMD EPYC", "threads": 2}
    assert comparison.notes == ()


def test_yardsticks_are_the_mean_over_the_folds_however_many_runs_a_fold_has(tmp_path):
    folder = write_experiment(tmp_path / "dir", folds=(0, 1), seeds=(0, 1))
    assert compare_runs(folder).yardsticks == {}  # runs of an older version
    files = sorted(folder.glob("runs/*/*/metrics.json"))
    for file in files:
        number = int("fold_1" in str(file))
        told = {"linear": {"rmse": 1.0 + number}, "constant": {"rmse": 3.0} if number else None}
        change_json(file, lambda metrics, told=told, fold=str(number): metrics["folds"][fold].update(yardsticks=told))
    assert compare_runs(folder).yardsticks == {"linear": 1.5}
    for file in files[1:]:
        if "fold_1" in str(file) and "seed_1" in str(file):
            change_json(file, lambda metrics: metrics["folds"]["1"].update(yardsticks=None))
    assert compare_runs(folder).yardsticks == {"linear": 1.5}


def test_the_baseline_comes_first_and_the_others_stay_in_the_files_order(tmp_path):
    folder = write_experiment(tmp_path, recipes={"c": {}, "a": {"precision": "bf16"}, "b": {"precision": "fp16"}})
    change_json(folder / "plan.json", lambda plan: plan.update(baseline="b"))
    comparison = compare_runs(folder)
    assert [recipe.name for recipe in comparison.recipes] == ["b", "c", "a"]
    assert comparison.recipe("b").effects == {}
    assert set(comparison.recipe("c").effects) == set(NAMES)
    assert (comparison.recipe("b").reached, comparison.recipe("c").reached) == ((0, 0), (3, 3))


def test_it_began_when_the_earliest_run_began(tmp_path):
    folder = write_experiment(
        tmp_path, environment=lambda recipe, fold, seed: {"started": f"2026-09-2{3 - seed}T00:00:00+00:00"}
    )
    assert compare_runs(folder).started == "2026-09-21T00:00:00+00:00"


def test_cells_are_told_fold_by_fold_with_their_folders(tmp_path):
    cells = compare_runs(write_experiment(tmp_path, folds=(0, 1), seeds=(0, 1))).recipe("other").cells
    assert [(cell.fold, cell.seed) for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert cells[1].folder == "runs/other-00000001/fold_0-seed_1"
    assert all(cell.state == "done" and cell.result is not None and cell.error == "" for cell in cells)


def test_a_plan_may_have_more_keys_than_are_needed(tmp_path):
    folder = write_experiment(tmp_path)
    change_json(folder / "plan.json", lambda plan: plan.update(weather="fine"))
    assert compare_runs(folder).title == "experiment"


def test_differences_are_those_of_the_effective_settings_by_their_dotted_names(tmp_path):
    folder = write_experiment(
        tmp_path,
        recipes={
            "plain": {
                "data": {"path": "/here.csv", "validation": "/mine.csv"},
                "device": "cuda:0",
                "evaluation": {"every": "epoch"},
            },
            "other": {
                "data": {"path": "/there.csv", "validation": "/yours.csv"},
                "device": "cuda:1",
                "evaluation": {"every": {"steps": 5}},
                "precision": "bf16",
                "new": None,
                "empty": {},
            },
        },
    )
    comparison = compare_runs(folder)
    assert comparison.recipe("plain").differs == {}
    assert comparison.recipe("other").differs == {
        "evaluation.every": ("epoch", None),
        "evaluation.every.steps": (None, 5),
        "precision": ("fp32", "bf16"),
        "new": (None, None),
        "empty": (None, {}),
    }


def test_differences_are_taken_within_a_fold_and_seed_where_both_are_finished(tmp_path):
    micro = [1024, 2048, 4096]
    folder = write_experiment(
        tmp_path,
        settings=lambda recipe, fold, seed: {
            "batching": {"micro_batch": {"tokens": micro[seed]}},
            "precision": "fp32" if recipe == "plain" else "bf16",
        },
        not_made={("plain", 0, 0)},
    )
    assert compare_runs(folder).recipe("other").differs == {"precision": ("fp32", "bf16")}


def test_means_and_spreads_are_over_the_finished_runs(tmp_path):
    folder = write_experiment(
        tmp_path,
        quality=[[[0.5, 0.6, 0.7]], [[0.1, 0.3, 9.0]]],
        failed={("other", 0, 2): "no memory"},
    )
    comparison = compare_runs(folder)
    plain, other = comparison.recipe("plain"), comparison.recipe("other")
    assert (plain.means["quality_best"], plain.spreads["quality_best"]) == pytest.approx((0.6, 0.1))
    assert (other.means["quality_best"], other.spreads["quality_best"]) == pytest.approx((0.2, 0.02**0.5))
    for name in ("time_to_quality", "quality_at_equal_time"):
        assert plain.means[name] is plain.spreads[name] is None
    one = compare_runs(write_experiment(tmp_path / "one", seeds=(0,)))
    assert (one.recipe("plain").means["train_seconds"], one.recipe("plain").spreads["train_seconds"]) == (12.0, None)


# Effects


def test_a_difference_is_recipe_less_baseline_in_pairs_of_the_same_fold_and_seed(tmp_path):
    plain = [[0.50, 0.90], [0.70, 0.60]]
    other = [[0.40, 0.82], [0.59, 0.51]]
    comparison = compare_runs(
        write_experiment(tmp_path, folds=(0, 1), seeds=(0, 1), quality=[plain, other], quality_last=[other, plain])
    )
    best, last = effect(comparison, "quality_best"), effect(comparison, "quality_last")
    assert (best.estimate.value, best.estimate.pairs) == pytest.approx((-0.095, 4))
    assert last.estimate.value == pytest.approx(0.095)


def test_times_memory_and_speed_are_ratios_and_padding_is_a_difference(tmp_path):
    by_recipe = np.array([1.0, 4.0])[:, None, None]
    jitter = np.array([1.0, 1.02, 0.99])
    comparison = compare_runs(
        write_experiment(
            tmp_path,
            train_seconds=10 * by_recipe * np.stack([[jitter], [np.ones(3)]]),
            total_seconds=50 * by_recipe * jitter,
            tokens=[[[800]], [[1600]]],
            peak_process_bytes=[[[2**30] * 3], [[2**31, 2**31 + 2**20, 2**31]]],
            padding_fraction=[[[0.5, 0.5, 0.52]], [[0.1, 0.1, 0.1]]],
        )
    )
    values = {name: effect(comparison, name).estimate.value for name in NAMES[2:7]}
    mean = float(np.exp(np.log(jitter).mean()))
    assert values["train_seconds"] == pytest.approx(4.0 / mean)
    assert values["total_seconds"] == pytest.approx(4.0)
    assert values["peak_bytes"] == pytest.approx(2.0, rel=1e-3)
    assert values["tokens_per_second"] == pytest.approx(2.0 * mean / 4.0)
    assert values["padding_fraction"] == pytest.approx(0.1 - (0.5 + 0.5 + 0.52) / 3)
    assert effect(comparison, "train_seconds").verdict == "worse"
    assert effect(comparison, "tokens_per_second").verdict == "worse"
    assert effect(comparison, "padding_fraction").verdict == "better"
    assert comparison.memory_of == "process"


def test_memory_is_that_of_the_device_where_every_run_has_it(tmp_path):
    arguments: dict[str, Any] = {"peak_process_bytes": 2**33, "seeds": (0, 1)}
    folder = write_experiment(tmp_path / "all", peak_device_bytes=[[[2**30]], [[2**29]]], **arguments)
    assert compare_runs(folder).memory_of == "device"
    assert effect(compare_runs(folder), "peak_bytes").estimate.value == 0.5
    assert compare_runs(folder).recipe("other").means["peak_bytes"] == 2**29
    change_json(
        run_folder(folder, "other", 0, 1) / "metrics.json", lambda m: m["overall"].update(peak_device_bytes=None)
    )
    assert compare_runs(folder).memory_of == "process"
    assert effect(compare_runs(folder), "peak_bytes").estimate.value == 1.0


@pytest.mark.parametrize(("metric", "task"), [("rmse", "regression"), ("accuracy", "binary")])
def test_the_metric_decides_whether_lower_is_better(tmp_path, metric, task):
    quality = [[[0.50, 0.60, 0.70]], [[0.40, 0.51, 0.60]]]
    comparison = compare_runs(write_experiment(tmp_path, quality=quality, metric=metric, task=task))
    verdict = effect(comparison, "quality_best").verdict
    assert verdict == ("better" if metric == "rmse" else "worse")
    assert comparison.lower_is_better is (metric == "rmse")


def test_a_difference_that_is_not_sure_is_inconclusive_without_a_reason():
    found = judged([[0.5, 0.6, 0.7]], other=[[0.4, 0.7, 0.65]])["other"]
    assert (found.verdict, found.reason) == ("inconclusive", "")
    assert found.estimate.low < 0 < found.estimate.high


def test_one_pair_has_no_interval_and_no_verdict():
    found = judged([[0.5]], other=[[0.1]])["other"]
    assert (found.verdict, found.reason) == ("inconclusive", "one pair has no interval")
    assert (found.estimate.value, found.estimate.low) == (pytest.approx(-0.4), None)


def test_pairs_that_all_differ_by_the_same_have_no_verdict():
    found = judged([[0.5, 0.75]], other=[[0.25, 0.5]])["other"]
    assert found.reason == "all pairs differ by the same amount: no spread to judge by"
    assert (found.verdict, found.estimate.p_value, found.estimate.value) == ("inconclusive", None, -0.25)


@pytest.mark.parametrize(("name", "verdict"), [("peak_bytes", "better"), ("padding_fraction", "better")])
def test_what_is_the_same_to_the_byte_in_all_pairs_needs_no_interval(name, verdict):
    pairs = np.stack([np.full((1, 3), 0.5), np.full((1, 3), 0.25)], axis=-1)
    found = judge(RMSE[name], {"other": pairs, "same": pairs[..., [0, 0]]}, rows_ratio=0.25)
    assert (found["other"].verdict, found["other"].reason) == (verdict, "the same in all 3 pairs")
    assert found["other"].estimate.low is None
    assert found["same"].verdict == "inconclusive"


def test_intervals_hold_for_all_recipes_that_have_one_together():
    baseline = np.zeros((1, 4))
    sure, almost = [[-1.0, -1.01, -1.02, -0.99]], [[-1.0, -0.6, -0.4, -0.2]]
    alone = judged(baseline, almost=almost, one=[[-1.0, np.nan, np.nan, np.nan]])
    assert alone["almost"].estimate.p_value == pytest.approx(0.0486, abs=1e-4)
    assert alone["almost"].verdict == "better"

    found = judged(baseline, almost=almost, sure=sure, same=almost, one=[[-1.0, np.nan, np.nan, np.nan]])
    assert found["almost"].estimate.p_value == pytest.approx(3 * alone["almost"].estimate.p_value)
    assert found["sure"].verdict == "better"
    assert found["almost"].estimate.low < 0 < found["almost"].estimate.high
    assert (found["almost"].verdict, found["almost"].reason) == ("inconclusive", "")


# As good


@pytest.mark.parametrize(
    ("differences", "verdict", "reason"),
    [
        ([[0.001, -0.002, 0.002, 0.0]], "as good", ""),
        ([[-0.005, -0.0051, -0.0049, -0.005]], "as good", "it is better, by less than the tolerance"),
        ([[0.005, 0.0051, 0.0049, 0.005]], "as good", "it is worse, by less than the tolerance"),
        ([[0.02, 0.0201, 0.0199, 0.02]], "worse", ""),
        ([[0.0, 0.01, -0.01, 0.02]], "inconclusive", ""),
    ],
)
def test_as_good_means_that_the_whole_interval_lies_within_the_tolerance(differences, verdict, reason):
    pairs = np.stack([np.zeros((1, 4)), differences], axis=-1)
    found = judge(RMSE["quality_best"], {"other": pairs}, rows_ratio=0.25, tolerance=0.01)["other"]
    assert (found.verdict, found.reason, found.tolerance) == (verdict, reason, 0.01)


def test_without_a_tolerance_nothing_is_as_good():
    assert judged([[0.0] * 4], other=[[0.001, -0.002, 0.002, 0.0]])["other"].verdict == "inconclusive"


def with_yardstick(folder: Path, constant: float | None) -> Path:
    for file in folder.glob("runs/*/*/metrics.json"):
        told = {"linear": None, "constant": None if constant is None else {"rmse": constant}}
        change_json(file, lambda metrics, told=told: metrics["folds"]["0"].update(yardsticks=told))
    return folder


QUALITY = [[[0.50, 0.60, 0.70]], [[0.501, 0.60, 0.699]]]


@pytest.mark.parametrize(
    ("given", "constant", "value", "said"),
    [
        ("auto", 1.1, 0.01, "within 0.01 of rmse: 2% of what plain gains over the constant answer (1.1000 to 0.6000)."),
        ("10%", 1.1, 0.05, "within 0.05 of rmse: 10% of what plain gains"),
        (0.03, None, 0.03, "within 0.03 of rmse, as the experiment says."),
        (None, 1.1, None, "the experiment sets no tolerance"),
        ("auto", None, None, "the runs have no rmse of the constant answer"),
        ("auto", 0.55, None, "plain gains nothing over the constant answer (rmse 0.6000, constant 0.5500)"),
    ],
)
def test_the_tolerance_is_the_experiments_or_a_share_of_what_the_baseline_gains(tmp_path, given, constant, value, said):
    folder = with_yardstick(write_experiment(tmp_path, quality=QUALITY), constant)
    change_json(folder / "plan.json", lambda plan: plan.update(tolerance=given))
    comparison = compare_runs(folder)
    assert comparison.tolerance.value == value
    assert said in comparison.tolerance.said
    assert comparison.tolerance.said in comparison.method
    assert effect(comparison, "quality_best").tolerance == value
    assert effect(comparison, "train_seconds").tolerance is None
    assert effect(comparison, "quality_best").verdict == ("as good" if value else "inconclusive")


@pytest.mark.parametrize("given", ["some", "0%", "200%", -1, 0, True, [1]])
def test_a_tolerance_that_is_none_is_refused(tmp_path, given):
    folder = write_experiment(tmp_path)
    change_json(folder / "plan.json", lambda plan: plan.update(tolerance=given))
    assert refusal(folder).startswith(f"{folder / 'plan.json'}: tolerance: found {given!r}, expected auto, null, a num")


def test_a_metric_that_should_be_high_gains_upwards():
    said = {"metric": "accuracy", "lower_is_better": False, "baseline": "plain"}
    assert make_tolerance("auto", quality=0.9, yardsticks={"constant": 0.5}, **said).value == 0.008
    assert make_tolerance("auto", quality=0.4, yardsticks={"constant": 0.5}, **said).value is None


# How many more seeds


@pytest.mark.parametrize("name", ["quality_best", "train_seconds"])
@pytest.mark.parametrize("folds", [1, 3])
def test_so_many_more_seeds_of_the_same_scatter_settle_it_and_one_fewer_does_not(name, folds):
    draw = np.random.default_rng(4)
    noise = draw.normal(0, 1, (2, folds, 3))
    noise -= noise.mean()
    noise[1] += (3.0 if (folds, name) == (3, "quality_best") else 0.35) - noise[1].mean() + noise[0].mean()
    values = np.exp(0.05 * noise) if name == "train_seconds" else noise
    pairs = np.stack([values[0], values[1]], axis=-1)
    found = judge(RMSE[name], {"other": pairs}, rows_ratio=0.25)["other"]
    assert found.verdict == "inconclusive"
    assert found.more_seeds is not None
    again = [
        judge(RMSE[name], {"other": stretched(pairs, found.more_seeds + extra)}, rows_ratio=0.25)["other"].verdict
        for extra in (-1, 0)
    ]
    assert again == ["inconclusive", "worse"]


def stretched(pairs: np.ndarray, more: int) -> np.ndarray:
    """Pairs with more seeds, the same mean difference, and the same mean squares of folds (a seed), seeds and rest."""
    ratio = (pairs > 0).all()
    d = np.log(pairs[..., 1] / pairs[..., 0]) if ratio else pairs[..., 1] - pairs[..., 0]
    folds, seeds, total = *d.shape, d.shape[1] + more
    rest = d - d.mean(axis=1, keepdims=True) - d.mean(axis=0) + d.mean()
    of_seeds = d.mean(axis=0) - d.mean()
    wide = np.zeros((folds, total))
    if ratio or folds == 1:  # one variance: of all pairs
        flat = np.resize([1.0, -1.0], folds * total)
        flat -= flat.mean()
        return_d = d.mean() + flat.reshape(folds, total) * d.std(ddof=1) / flat.std(ddof=1)
    else:
        squares = (np.square(rest).sum() / ((folds - 1) * (seeds - 1)), folds * of_seeds.var(ddof=1))
        fold = d.mean(axis=1) - d.mean()
        own = max(0.0, seeds * fold.var(ddof=1) - squares[0]) / seeds
        draw = np.random.default_rng(0).normal(size=(folds, total))
        draw += -draw.mean(axis=1, keepdims=True) - draw.mean(axis=0) + draw.mean()
        draw *= (squares[0] * (folds - 1) * (total - 1) / np.square(draw).sum()) ** 0.5
        by_seed = np.random.default_rng(1).normal(size=total)
        by_seed -= by_seed.mean()
        by_seed *= (squares[1] / folds) ** 0.5 / by_seed.std(ddof=1)
        return_d = d.mean() + draw + by_seed + (fold / fold.std(ddof=1) * (own + squares[0] / total) ** 0.5)[:, None]
    recipe = np.exp(return_d) if ratio else return_d
    return np.stack([np.ones_like(wide) if ratio else wide, recipe], axis=-1)


def test_the_tolerance_counts_among_what_more_seeds_would_settle():
    pairs = np.stack([np.zeros((1, 3)), [[0.01, -0.01, 0.0]]], axis=-1)
    without, within = (
        judge(RMSE["quality_best"], {"other": pairs}, rows_ratio=0.25, tolerance=tolerance)["other"].more_seeds
        for tolerance in (None, 0.01)
    )
    assert without is None
    assert within in range(2, 8)


def test_one_seed_does_not_tell_how_many_more_are_needed():
    found = judged(np.zeros((3, 1)), other=[[0.01], [-0.01], [0.02]])["other"]
    assert (found.verdict, found.more_seeds) == ("inconclusive", None)


def test_a_ratio_is_judged_against_one():
    ones, more = np.ones((1, 4)), np.array([[1.20, 1.21, 1.19, 1.22]])
    for name, verdict in (("train_seconds", "worse"), ("tokens_per_second", "better")):
        found = judge(RMSE[name], {"other": np.stack([ones, more], axis=-1)}, rows_ratio=0.25)["other"]
        assert found.verdict == verdict
        assert found.estimate.low > 1
    found = judge(RMSE["train_seconds"], {"other": np.stack([more, ones], axis=-1)}, rows_ratio=0.25)["other"]
    assert found.verdict == "better"


def test_intervals_over_folds_know_the_share_of_rows_that_validate(tmp_path):
    widths = []
    for rows in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]):
        folder = write_experiment(
            tmp_path / str(len(rows)),
            folds=(0, 1, 2),
            seeds=(0,),
            quality=[[[0.5]] * 3, [[0.4], [0.5], [0.45]]],
            rows=lambda recipe, fold, seed, rows=rows: rows,
        )
        found = effect(compare_runs(folder), "quality_best").estimate
        widths.append(found.high - found.low)
    ratios = (5 / 20, 12 / 13)
    assert widths[1] / widths[0] == pytest.approx(((1 / 3 + ratios[1]) / (1 / 3 + ratios[0])) ** 0.5)


# Time to quality, and quality at equal time


def test_time_to_quality_ends_at_the_first_evaluation_as_good_as_the_baselines_last(tmp_path):
    curves = {
        # The baseline ends at 0.6, and was as good once before: at 6 of its 12 seconds.
        "plain": [(3.0, 0.9), (6.0, 0.6), (9.0, 0.7), (12.0, 0.6)],
        "other": [(1.0, 0.8), (3.0, 0.6), (9.0, 0.1)],
        "slow": [(4.0, 0.8), (12.0, 0.59)],
    }
    folder = write_experiment(
        tmp_path,
        recipes={"plain": {}, "other": {"precision": "bf16"}, "slow": {"precision": "fp16"}},
        curve=lambda recipe, fold, seed: [(seconds * (1 + 0.01 * seed), value) for seconds, value in curves[recipe]],
    )
    comparison = compare_runs(folder)
    assert effect(comparison, "time_to_quality").estimate.value == pytest.approx(0.5)
    assert effect(comparison, "time_to_quality", "slow").estimate.value == pytest.approx(2.0)
    assert comparison.recipe("other").reached == comparison.recipe("slow").reached == (3, 3)


def test_a_higher_metric_is_reached_from_below(tmp_path):
    curves = {"plain": [(6.0, 0.6), (12.0, 0.8)], "other": [(3.0, 0.5), (4.0, 0.9), (12.0, 0.8)]}
    folder = write_experiment(
        tmp_path, metric="accuracy", task="binary", seeds=(0,), curve=lambda recipe, fold, seed: curves[recipe]
    )
    assert effect(compare_runs(folder), "time_to_quality").estimate.value == pytest.approx(1 / 3)


def test_a_goal_that_is_not_reached_in_every_pair_gives_no_ratio(tmp_path):
    worse = [(4.0, 0.9), (8.0, 0.8)]
    curves = {"plain": [[(12.0, 0.6)]] * 3, "other": [[(6.0, 0.5)], worse, worse]}
    folder = write_experiment(tmp_path, curve=lambda recipe, fold, seed: curves[recipe][seed])
    comparison = compare_runs(folder)
    found = effect(comparison, "time_to_quality")
    assert (found.estimate, found.verdict, found.reason) == (None, "inconclusive", "reached in 1 of 3 pairs")
    assert comparison.recipe("other").reached == (1, 3)


def test_a_goal_that_is_not_defined_is_no_goal(tmp_path):
    curves = {"plain": [[(12.0, None)], [(12.0, 0.6)], [(12.0, 0.6)]], "other": [[(6.0, 0.5)]] * 3}
    comparison = compare_runs(write_experiment(tmp_path, curve=lambda recipe, fold, seed: curves[recipe][seed]))
    found = effect(comparison, "time_to_quality")
    assert (found.estimate.value, found.estimate.pairs) == (pytest.approx(0.5), 2)
    assert found.reason.startswith("defined in 2 of 3 pairs; ")
    assert comparison.recipe("other").reached == (2, 2)


def test_quality_at_equal_time_is_read_when_the_faster_run_ends(tmp_path):
    curves = {
        "plain": [(4.0, 0.9), (8.0, 0.7), (12.0, 0.5)],
        "other": [(2.0, 0.8), (4.0, 0.65), (8.5, 0.6)],  # ends at 8.5: the baseline is at 0.7 then
        "slow": [(10.0, 0.75), (12.0, 0.4), (20.0, 0.3)],  # the baseline ends at 12, where this one just is at 0.4
    }
    folder = write_experiment(
        tmp_path,
        recipes={"plain": {}, "other": {"precision": "bf16"}, "slow": {"precision": "fp16"}},
        seeds=(0,),
        train_seconds=[[[12.0]], [[8.5]], [[20.0]]],
        curve=lambda recipe, fold, seed: curves[recipe],
    )
    comparison = compare_runs(folder)
    assert effect(comparison, "quality_at_equal_time").estimate.value == pytest.approx(0.6 - 0.7)
    assert effect(comparison, "quality_at_equal_time", "slow").estimate.value == pytest.approx(0.4 - 0.5)


def test_a_run_without_an_evaluation_by_then_makes_the_pair_missing(tmp_path):
    curves = {"plain": [(4.0, 0.9), (6.0, 0.5)], "other": [(5.0, 0.7), (10.0, 0.4)]}
    folder = write_experiment(
        tmp_path,
        train_seconds=[[[6.0]], [[10.0]]],
        curve=lambda recipe, fold, seed: [(12.0, 0.3)] if (recipe, seed) == ("other", 1) else curves[recipe],
    )
    found = effect(compare_runs(folder), "quality_at_equal_time")
    assert (found.estimate.value, found.estimate.pairs) == (pytest.approx(0.2), 2)
    assert found.reason.startswith("no evaluation by then in 1 of 3 pairs; ")


# Runs that are not there


def test_a_failed_run_is_named_with_its_message_and_left_out(tmp_path):
    folder = write_experiment(tmp_path, failed={("other", 0, 1): "out of memory:\nbuy more"})
    comparison = compare_runs(folder)
    cell = comparison.recipe("other").cells[1]
    assert (cell.state, cell.error, cell.result) == ("failed", "out of memory:\nbuy more", None)
    assert effect(comparison, "train_seconds").estimate.pairs == 2
    assert comparison.notes == (
        "other fold 0 seed 1 failed and is left out: out of memory: buy more "
        "(runs/other-00000001/fold_0-seed_1.log has more).",
        "other has 2 of 3 pairs with plain; missing: fold 0 seed 1.",
        "For other: Intervals of a metric's differences: paired t over 2 seeds, at 95%.",
    )


def test_a_run_that_succeeded_after_it_had_failed_counts(tmp_path):
    folder = write_experiment(tmp_path)
    run = run_folder(folder, "other", 0, 1)
    run.with_name(f"{run.name}.failed.json").write_text('{"exit_code": 1, "message": "no memory"}')
    assert compare_runs(folder).recipe("other").cells[1].state == "done"


def test_a_half_written_run_is_named_and_left_out_and_the_report_is_made(tmp_path):
    folder = write_experiment(tmp_path / "dir", half_written={("other", 0, 1)})
    comparison = compare_runs(folder)
    assert comparison.recipe("other").cells[1].state == "unfinished"
    assert comparison.notes[0] == (
        "runs/other-00000001/fold_0-seed_1 has no metrics.json, since its run was stopped or still goes on, and is "
        "left out; `leantune compare experiment.yaml --output dir` finishes it."
    )
    assert effect(comparison, "train_seconds").estimate.pairs == 2


def test_runs_that_have_not_begun_are_counted(tmp_path):
    places = {("other", 0, seed) for seed in (0, 1)} | {("plain", 0, 2)}
    folder = write_experiment(tmp_path / "dir", seeds=range(6), not_made=places)
    (run_folder(folder, "plain", 0, 2)).mkdir()  # an empty folder is no more than none
    comparison = compare_runs(folder)
    assert comparison.notes == (
        "3 of 12 runs have not been made yet; `leantune compare experiment.yaml --output dir` makes them.",
        "other has 3 of 6 pairs with plain; missing: fold 0 seed 0, fold 0 seed 1, fold 0 seed 2.",
        "For other: Intervals of a metric's differences: paired t over 3 seeds, at 95%.",
    )


def test_missing_pairs_are_named_up_to_six(tmp_path):
    folder = write_experiment(tmp_path, seeds=range(9), not_made={("other", 0, seed) for seed in range(8)})
    assert "missing: fold 0 seed 0," in notes_of(compare_runs(folder))
    assert "fold 0 seed 5 and 2 more." in notes_of(compare_runs(folder))


def test_pairs_outside_the_whole_grid_are_told(tmp_path):
    folder = write_experiment(tmp_path, folds=(0, 1), not_made={("other", 1, 2)})
    comparison = compare_runs(folder)
    assert effect(comparison, "quality_best").estimate.pairs == 4
    assert effect(comparison, "train_seconds").estimate.pairs == 5
    assert (
        "For other: Intervals of a metric's differences: corrected resampled t (Nadeau and Bengio 2003) for 2 folds "
        "crossed with 2 seeds" in comparison.notes[-1]
    )
    assert comparison.notes[-3:-1] == (
        "other has 5 of 6 pairs with plain; missing: fold 1 seed 2.",
        "4 of the 5 pairs of other are used for the metric: the largest whole grid of folds and seeds, which its "
        "intervals need.",
    )


def test_a_baseline_without_a_finished_run_leaves_a_report_without_effects(tmp_path):
    folder = write_experiment(tmp_path, not_made={("plain", 0, seed) for seed in range(3)})
    comparison = compare_runs(folder)
    other = comparison.recipe("other")
    assert all(e.estimate is None and e.reason == "no pair of finished runs" for e in other.effects.values())
    assert (other.means["quality_best"], other.differs, other.reached) == (0.5, {}, (0, 0))
    assert comparison.recipe("plain").means["quality_best"] is None
    assert comparison.notes[-1] == (
        "The baseline plain has no finished run: there is nothing to hold the recipes against."
    )


def test_a_recipe_without_a_finished_run_has_no_effects(tmp_path):
    folder = write_experiment(
        tmp_path,
        recipes={"plain": {}, "other": {"precision": "bf16"}, "third": {"precision": "fp16"}},
        quality=[[[0.5, 0.6, 0.7]], [[0.4, 0.51, 0.6]], [[0.0, 0.0, 0.0]]],
        failed={("third", 0, seed): "no fp16 here" for seed in range(3)},
    )
    comparison = compare_runs(folder)
    assert effect(comparison, "quality_best", "third").estimate is None
    alone = judged([[0.5, 0.6, 0.7]], other=[[0.4, 0.51, 0.6]])["other"]
    assert effect(comparison, "quality_best").estimate == alone.estimate
    assert "third has 0 of 3 pairs with plain" in notes_of(comparison)


def test_a_metric_that_is_not_defined_in_a_run_makes_its_pair_missing(tmp_path):
    quality = [[[0.5, 0.6, 0.7]], [[0.4, None, 0.61]]]
    folder = write_experiment(tmp_path, metric="pearson", quality=lambda r, f, s: quality[r == "other"][0][s])
    comparison = compare_runs(folder)
    found = effect(comparison, "quality_best")
    assert (found.estimate.pairs, found.reason) == (2, "defined in 2 of 3 pairs")
    assert effect(comparison, "train_seconds").estimate.pairs == 3
    assert comparison.notes == (
        "best pearson is not defined in other fold 0 seed 1: left out of means and pairs.",
        "last pearson is not defined in other fold 0 seed 1: left out of means and pairs.",
    )


def test_without_any_finished_run_there_is_nothing_to_compare(tmp_path):
    places = [(recipe, 0, seed) for recipe in ("plain", "other") for seed in range(3)]
    failed = {places[0]: "no such column 'text'", places[1]: "another"}
    folder = write_experiment(tmp_path / "dir", not_made=places[2:], failed=failed)
    assert refusal(folder) == (
        f"{folder}: found no finished run among 6 (2 failed, the first with: no such column 'text'); `leantune compare "
        "experiment.yaml --output dir` makes them"
    )


# What is said beside the numbers


def test_one_fold_is_named_and_the_intervals_speak_about_it_alone(tmp_path):
    method = compare_runs(write_experiment(tmp_path / "one", folds=(3,))).method
    assert "All runs validate on fold 3." in method
    assert any("this one fold" in sentence for sentence in method)
    method = compare_runs(write_experiment(tmp_path / "two", folds=(3, 1))).method
    assert "Runs validate on folds 3, 1." in method
    assert not any("this one fold" in sentence for sentence in method)


def test_the_method_says_that_a_slower_runs_schedule_is_not_finished_at_equal_time(tmp_path):
    method = " ".join(compare_runs(write_experiment(tmp_path)).method)
    assert "the slower run's schedule is not finished at that moment" in method
    assert "read at evaluations only" in method


def test_unlike_numbers_of_evaluations_are_told_since_the_best_of_many_flatters(tmp_path):
    def curve(recipe: str, fold: int, seed: int) -> list[tuple[float, float]]:
        count = {"plain": 2, "other": 4 + seed}[recipe]
        return [(12.0 * (i + 1) / count, 0.5) for i in range(count)]

    assert compare_runs(write_experiment(tmp_path, curve=curve)).notes == (
        "Recipes were not evaluated equally often (plain 2, other 4 to 6): the best of more evaluations flatters, so "
        "look at the last.",
    )


@pytest.mark.parametrize(("rate", "is_told"), [(8.4e11, False), (4.5e11, True)])
def test_a_machine_that_computed_slower_before_a_run_is_told(tmp_path, rate, is_told):
    folder = write_experiment(tmp_path)
    file = run_folder(folder, "other", 0, 1) / "metrics.json"
    change_json(file, lambda metrics: metrics["overall"]["matrix_rate"].update(flops_per_second=rate))
    assert (
        "reached 450 GFLOP/s before other fold 0 seed 1 and 1,000 before plain" in notes_of(compare_runs(folder))
    ) is (is_told)


def test_rates_of_other_products_are_not_held_against_each_other(tmp_path):
    folder = write_experiment(tmp_path)
    file = run_folder(folder, "other", 0, 1) / "metrics.json"
    rate = {"flops_per_second": 4e12, "measured_on": "bfloat16 2048 x 2048 x 2048"}
    change_json(file, lambda metrics: metrics["overall"].update(matrix_rate=rate))
    assert compare_runs(folder).notes == ()


def test_every_metric_of_the_task_has_a_mean_and_the_chosen_one_is_first(tmp_path):
    metrics = (
        compare_runs(write_experiment(tmp_path, quality=[[[0.5, 0.6, 0.7]], [[0.4, 0.5, 0.6]]])).recipes[1].metrics
    )
    assert next(iter(metrics)) == "rmse"
    assert metrics["rmse"] == pytest.approx(0.5)
    assert set(metrics) == {"rmse", "mse", "mae", "r2", "pearson", "spearman"}


def test_unlike_versions_and_revisions_are_told_and_do_not_stop_the_report(tmp_path):
    def environment(recipe: str, fold: int, seed: int) -> dict[str, Any]:
        if (recipe, seed) == ("plain", 0):
            return {}
        return {"versions": {"torch": "2.14.0"}, "code_revision": "abc", "started": "2027", "platform": "Linux-7"}

    comparison = compare_runs(write_experiment(tmp_path, environment=environment))
    assert comparison.notes == (
        "torch is 2.13.0 in plain fold 0 seed 0, 2.14.0 in plain fold 0 seed 1 and 4 more.",
        "platform is Linux-6.12-x86_64 in plain fold 0 seed 0, Linux-7 in plain fold 0 seed 1 and 4 more.",
        "code_revision is None in plain fold 0 seed 0, abc in plain fold 0 seed 1 and 4 more.",
    )


def test_settings_that_are_not_the_same_in_all_runs_of_a_recipe_are_told(tmp_path):
    folder = write_experiment(tmp_path, seeds=(0, 1))
    change_config(run_folder(folder, "plain", 0, 1) / "config.yaml", precision="fp16")
    assert compare_runs(folder).notes == ("precision is fp32 in plain fold 0 seed 0, fp16 in plain fold 0 seed 1.",)


# What is refused


def test_a_folder_without_a_plan_holds_no_experiment(tmp_path):
    expected = "holds no experiment (no plan.json): expected a folder that `leantune compare` wrote"
    assert refusal(tmp_path) == f"{tmp_path}: {expected}"
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: {expected}"
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file") == f"{tmp_path / 'file'}: {expected}"


def test_a_single_run_is_told_from_an_experiment(tmp_path):
    run = write_run(tmp_path / "run")
    assert refusal(run) == (
        f"{run}: is the folder of one run (metrics.json, no plan.json): expected a folder that `leantune compare` wrote"
    )


PLAN_KEYS = ("format", "title", "command", "baseline", "seeds", "folds", "data", "model", "recipes")


@pytest.mark.parametrize("key", PLAN_KEYS)
def test_a_plan_without_a_key_is_refused_with_its_name(tmp_path, key):
    folder = write_experiment(tmp_path, seeds=(0,))
    change_json(folder / "plan.json", lambda plan: plan.pop(key))
    assert refusal(folder).startswith(f"{folder / 'plan.json'}: found no {key}, expected a ")
    assert refusal(folder).endswith("; run the same `leantune compare` again, which writes the file anew")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("baseline", "plane", "baseline: found 'plane', expected one of the recipes: plain, other;"),
        ("seeds", [], "seeds: found [], expected different whole numbers, at least one;"),
        ("seeds", [0, 0], "seeds: found [0, 0], expected different whole numbers, at least one;"),
        ("folds", ["all"], "folds: found ['all'], expected different whole numbers, at least one;"),
        ("folds", "all", "folds: found 'all', expected a list;"),
        ("recipes", {"plain": {}}, "found no recipes.plain.folder, expected a text there;"),
        ("recipes", {"plain": None}, "found no recipes.plain.folder, expected a text there;"),
        ("format", 2, "format: found 2, expected 1; read it with the leantune that wrote it"),
    ],
)
def test_a_plan_with_a_wrong_value_is_refused_with_its_key(tmp_path, key, value, expected):
    folder = write_experiment(tmp_path, seeds=(0,))
    change_json(folder / "plan.json", lambda plan: plan.update({key: value}))
    assert refusal(folder).startswith(f"{folder / 'plan.json'}: {expected}")


def test_a_damaged_plan_is_refused(tmp_path):
    folder = write_experiment(tmp_path, seeds=(0,))
    (folder / "plan.json").write_text("{")
    assert refusal(folder).startswith(f"{folder / 'plan.json'}: found no whole JSON")


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "environment.json", "events.jsonl"])
def test_a_damaged_run_is_refused_with_what_to_do(tmp_path, name):
    folder = write_experiment(tmp_path, seeds=(0, 1))
    run = run_folder(folder, "other", 0, 1)
    (run / name).write_text("{", "utf-8")
    assert refusal(folder).startswith(str(run / name))
    assert refusal(folder).endswith(f"; move {run} away and run the same `leantune compare` again")


def test_a_damaged_account_of_a_failure_is_refused_with_what_to_do(tmp_path):
    folder = write_experiment(tmp_path, failed={("other", 0, 1): "no memory"})
    run = run_folder(folder, "other", 0, 1)
    file = run.with_name(f"{run.name}.failed.json")
    file.write_text("{}")
    assert refusal(folder) == (
        f"{file}: found no message, expected a text there; move {file} away and run the same `leantune compare` again"
    )


@pytest.mark.parametrize(("setting", "value", "found"), [("seed", 3, "fold 0 and seed 3"), ("fold", "all", "fold all")])
def test_a_run_with_another_seed_or_fold_than_its_place_is_refused(tmp_path, setting, value, found):
    folder = write_experiment(tmp_path)
    run = run_folder(folder, "other", 0, 1)
    change_config(run / "config.yaml", **{setting: value})
    assert refusal(folder).startswith(f"{run / 'config.yaml'}: found {found}")
    assert "expected fold 0 and seed 1 in a folder of this name" in refusal(folder)


def test_a_metric_that_is_not_known_is_refused(tmp_path):
    folder = write_experiment(tmp_path, metric="bleu")
    file = run_folder(folder, "plain", 0, 0) / "metrics.json"
    assert refusal(folder).startswith(f"{file}: metric: found 'bleu', expected one of mse, rmse, ")


def other_rows(run: Path) -> None:
    shutil.rmtree(run)
    write_run(run, fold=0, seed=1, rows=[0, 5, 10, 15, 21])


def more_rows(run: Path) -> None:
    file = run / "fold_0" / "predictions.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), file)
    change_json(run / "metrics.json", lambda metrics: metrics["folds"]["0"].update(validation_rows=6))


def other_targets(run: Path) -> None:
    shutil.rmtree(run)
    write_run(run, fold=0, seed=1, targets=[0.0, 0.625, 1.0, 1.875, 2.5])


def other_environment(**changes: Any) -> Callable[[Path], None]:
    return lambda run: change_json(run / "environment.json", lambda environment: environment.update(changes))


def other_device(**changes: Any) -> Callable[[Path], None]:
    return lambda run: change_json(run / "environment.json", lambda environment: environment["device"].update(changes))


def other_metrics(**changes: Any) -> Callable[[Path], None]:
    return lambda run: change_json(run / "metrics.json", lambda metrics: metrics.update(changes))


def fewer_training_rows(run: Path) -> None:
    change_json(run / "metrics.json", lambda metrics: metrics["folds"]["0"].update(training_rows=19))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (other_rows, "row 20 and row 21 among the validation rows of fold 0, expected the same rows"),
        (more_rows, "5 and 6 validation rows of fold 0, expected the same rows"),
        (fewer_training_rows, "20 and 19 training rows of fold 0, expected the same rows"),
        (other_targets, "the targets 1.25 and 1.0 of row 10, expected the same targets"),
        (other_metrics(metric="mae"), "the metric rmse and mae, expected one metric"),
        (other_metrics(task="ranking"), "the task regression and ranking, expected one task"),
        (other_environment(data_sha256="ef" * 32), f"the data_sha256 {'ab' * 32} and {'ef' * 32}, expected one"),
        (
            other_environment(model_sha256="ef" * 32),
            f"the model_sha256 {'12' * 32} and {'ef' * 32} of one model.name, ",
        ),
        (other_environment(tokenizer_sha256="ef" * 32), f"the tokenizer_sha256 {'cd' * 32} and {'ef' * 32} of one "),
        (
            other_device(name="Xeon"),
            "the device (type cpu, threads 2, name AMD EPYC) and (type cpu, threads 2, name Xeon), expected one device",
        ),
        (other_device(type="cuda"), "the device (type cpu, threads 2, name AMD EPYC) and (type cuda, "),
        (other_device(threads=4), "the device (type cpu, threads 2, name AMD EPYC) and (type cpu, threads 4, "),
    ],
)
def test_unlike_runs_are_refused_and_both_are_named(tmp_path, change, found):
    folder = write_experiment(tmp_path)
    run = run_folder(folder, "other", 0, 1)
    change(run)
    message = refusal(folder)
    assert message.startswith(f"{run_folder(folder, 'plain', 0, 0)} and {run}: found {found}")
    assert message.endswith("move the one that is wrong away and run the same `leantune compare` again")


def test_a_row_is_held_against_the_same_fold_only(tmp_path):
    folder = write_experiment(tmp_path, folds=(0, 1), seeds=(0,))
    shutil.rmtree(run := run_folder(folder, "other", 1, 0))
    write_run(run, fold=1, rows=[0, 5, 10, 15, 20])
    assert refusal(folder).startswith(f"{run_folder(folder, 'plain', 1, 0)} and {run}: found row 1 and row 0 among ")


def test_a_table_may_lie_elsewhere_as_long_as_it_is_the_same(tmp_path):
    folder = write_experiment(tmp_path, settings=lambda r, f, s: {"data": {"path": f"/{s}.csv"}}, seeds=(0, 1))
    assert compare_runs(folder).notes == ()


def test_a_card_may_have_a_little_more_memory_but_not_twice_as_much(tmp_path):
    def environment(recipe: str, fold: int, seed: int) -> dict[str, Any]:
        size = 16_000 if recipe == "plain" else 15_900
        return {"device": {"type": "cuda", "name": "T4", "memory_bytes": size}}

    folder = write_experiment(tmp_path, environment=environment)
    compare_runs(folder)
    run = run_folder(folder, "other", 0, 1)
    other_device(memory_bytes=32_000)(run)
    assert "found devices with 16000 and 32000 bytes of memory, expected one device" in refusal(folder)


def test_a_report_needs_neither_torch_nor_transformers():
    code = "import sys, leantune.comparison; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


# Many experiments: what is there is found, and what is not is not made up


def test_the_example_that_people_look_at_can_be_compared(tmp_path):
    comparison = compare_runs(write_example(tmp_path))
    assert [recipe.name for recipe in comparison.recipes] == ["plain", "mixed", "packed", "long"]
    assert [cell.state for cell in comparison.recipe("mixed").cells].count("failed") == 1


def test_in_folders_a_planted_difference_is_covered_and_none_is_seldom_made_up(tmp_path):
    draw = np.random.default_rng(1)
    covered = made_up = 0
    recipes = {"plain": {}, "planted": {"precision": "bf16"}, "nothing": {"optimizer": {"weight_decay": 0.1}}}
    for number in range(40):
        shared = 0.5 + draw.normal(0, 0.05, (1, 1, 4))  # what a seed does to all recipes cancels in pairs
        quality = shared + draw.normal(0, 0.01, (3, 1, 4))
        quality[1] -= 0.02
        folder = write_experiment(tmp_path / str(number), recipes=recipes, seeds=range(4), quality=quality, steps=2)
        comparison = compare_runs(folder)
        planted = effect(comparison, "quality_best", "planted").estimate
        covered += planted.low <= -0.02 <= planted.high
        made_up += effect(comparison, "quality_best", "nothing").verdict != "inconclusive"
    assert covered >= 35
    assert made_up <= 5


def simulate(
    draws: int,
    difference: float,
    *,
    folds: int,
    seeds: int,
    by_fold: float = 0.0,
    by_seed: float = 0.0,
    shared: float = 0.0,
) -> list[Effect]:
    """Effects of experiments whose pairs differ by `difference`, moved together within a fold, a seed, or all of them.

    Folds share training rows: `shared` is the variance of what moves all pairs, as a share of what moves one alone.
    """
    draw = np.random.default_rng(2)
    effects = []
    for _ in range(draws):
        noise = draw.normal(0, 1, (folds, seeds))
        noise += by_fold * draw.normal(0, 1, (folds, 1)) + by_seed * draw.normal(0, 1, (1, seeds))
        noise += (shared * (1 + by_fold**2 + by_seed**2)) ** 0.5 * draw.normal(0, 1)
        effects.append(judged(np.zeros((folds, seeds)), other=difference + noise)["other"])
    return effects


def test_a_planted_difference_is_covered_in_about_95_of_100():
    effects = simulate(2000, -0.7, folds=1, seeds=5)
    covered = np.mean([e.estimate.low <= -0.7 <= e.estimate.high for e in effects])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(
    ("seeds", "by_fold", "by_seed"), [(1, 0.0, 0.0), (3, 0.0, 0.0), (3, 2.0, 0.0), (3, 0.0, 2.0), (3, 1.0, 1.0)]
)
def test_no_difference_is_seldom_called_one_also_where_pairs_move_together(seeds, by_fold, by_seed):
    effects = simulate(1000, 0.0, folds=3, seeds=seeds, by_fold=by_fold, by_seed=by_seed, shared=0.25)
    assert np.mean([e.verdict != "inconclusive" for e in effects]) <= 0.07


def test_a_large_difference_is_found_and_on_the_right_side():
    effects = simulate(200, -8.0, folds=3, seeds=3, by_fold=0.5, by_seed=0.5)
    assert np.mean([e.verdict == "better" for e in effects]) >= 0.95
    assert not any(e.verdict == "worse" for e in effects)


def test_of_many_recipes_without_a_difference_seldom_any_is_called_one():
    draw = np.random.default_rng(3)
    families = 0
    for _ in range(600):
        values = draw.normal(0, 1, (7, 1, 4))
        effects = judged(values[0], **{f"recipe {i}": values[i] for i in range(1, 7)})
        families += any(e.verdict != "inconclusive" for e in effects.values())
    assert families / 600 <= 0.07


def test_a_comparison_is_printed_as_what_was_compared(tmp_path):
    write_experiment(tmp_path, recipes={"plain": {}, "\x1b[2Jbad": {"precision": "bf16"}}, seeds=(0, 1))
    assert repr(compare_runs(tmp_path)) == (
        "Comparison(title='experiment', metric='rmse', baseline='plain', recipes=['plain', '\\x1b[2Jbad'], folds=(0,), "
        "seeds=(0, 1))"
    )


def test_a_metric_that_is_equal_in_every_pair_is_as_good_where_there_is_a_tolerance() -> None:
    measure = make_measures("rmse")[0]
    pairs = {"same": np.full((1, 3, 2), 0.5)}
    assert judge(measure, pairs, rows_ratio=0.25, tolerance=0.01)["same"].verdict == "as good"
    assert judge(measure, pairs, rows_ratio=0.25, tolerance=None)["same"].verdict == "inconclusive"
    assert judge(measure, {"one": pairs["same"][:, :1]}, rows_ratio=0.25, tolerance=0.01)["one"].verdict != "as good"


def test_an_effect_has_the_difference_or_ratio_of_each_whole_pair() -> None:
    values = np.array([[[2.0, 1.0], [np.nan, 3.0], [4.0, 6.0]]])
    measures = {measure.name: measure for measure in make_measures("rmse")}
    assert judge(measures["quality_best"], {"a": values}, rows_ratio=0.25)["a"].each == (-1.0, 2.0)
    assert judge(measures["train_seconds"], {"a": values}, rows_ratio=0.25)["a"].each == (0.5, 1.5)
