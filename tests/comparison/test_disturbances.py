import dataclasses

from comparisons import make_run
from leantune.comparison.disturbances import find_disturbed
from leantune.comparison.results import RunResult


def run_at(rate: float | None, product: str = "float32 2048 x 2048 x 2048") -> RunResult:
    run = make_run(fold=0, seed=0, number=0)
    measured = None if rate is None else {"flops_per_second": rate, "measured_on": product}
    return dataclasses.replace(run, overall=run.overall | {"matrix_rate": measured})


def test_runs_more_than_a_fifth_away_from_the_median_are_disturbed_on_either_side() -> None:
    rates = {"a": 100.0, "b": 101.0, "c": 99.0, "d": 119.0, "slow": 80.0, "fast": 125.0}
    assert sorted(find_disturbed({name: run_at(rate) for name, rate in rates.items()})) == ["fast", "slow"]


def test_products_of_different_kinds_are_not_held_against_each_other() -> None:
    runs = {"a": run_at(100.0), "b": run_at(101.0), "c": run_at(900.0, "bfloat16 2048 x 2048 x 2048")}
    assert find_disturbed(runs) == []


def test_runs_that_measured_no_rate_are_not_disturbed() -> None:
    assert find_disturbed({"a": run_at(None), "b": run_at(100.0), "c": run_at(100.0)}) == []
