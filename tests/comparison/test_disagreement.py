import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from leantune.comparison import Comparison, compare_runs
from leantune.comparison.disagreement import MOST_RECIPES, Disagreement
from synthetic_experiments import write_experiment

ROWS = list(range(40))
TARGETS = [row / 10 for row in ROWS]


def compared(folder: Path, **values: Any) -> Comparison:
    write_experiment(folder, **values)
    return compare_runs(folder)


def found_in(comparison: Comparison) -> Disagreement:
    found = comparison.disagreement
    assert found is not None
    return found


def numbers(recipe: str, fold: int, seed: int) -> list[float]:
    """The baseline is right but for its seed; the other recipe is wrong in rows 7 and 30, more in row 30."""
    values = [target + 0.02 * seed for target in TARGETS]
    if recipe == "other":
        values[7] += 0.8
        values[30] -= 1.5
    return values


def regression(folder: Path, **changes: Any) -> Comparison:
    given: dict[str, Any] = {"rows": ROWS, "targets": TARGETS, "labels": ["target"], "predictions": numbers}
    given = {name: value if name == "labels" else _for_all(value) for name, value in (given | changes).items()}
    return compared(folder, **given)


def _for_all(value: Any) -> Any:
    return value if callable(value) or isinstance(value, Mapping | tuple) else lambda *_: value


def with_table(folder: Path) -> dict[str, Any]:
    """Write a table for runs to have read; return the recipes and the environment of such runs."""
    table = folder / "train.csv"
    lines = [f'"text of row {row}, with <b>marks</b>",{target}' for row, target in enumerate(TARGETS)]
    table.write_text("\n".join(["excerpt,target", *lines]) + "\n", encoding="utf-8")
    data = {"path": str(table), "text": ["excerpt"], "target": ["target"], "limit": None}
    sha256 = hashlib.sha256(table.read_bytes()).hexdigest()
    return {
        "recipes": {"plain": {"data": data}, "other": {"data": data, "precision": "bf16"}},
        "environment": {"data_sha256": sha256},
    }


def test_the_rows_that_differ_most_come_first_with_the_mean_over_the_seeds(tmp_path: Path) -> None:
    found = found_in(regression(tmp_path))
    assert [(row.recipe, row.row, row.id) for row in found.rows] == [("other", 30, "id 30"), ("other", 7, "id 7")]
    assert found.rows[0].target == pytest.approx([3.0])
    assert found.rows[0].baseline == pytest.approx([3.02])  # seeds 0, 1 and 2
    assert found.rows[0].other == pytest.approx([1.52])


def test_two_seeds_of_the_baseline_say_how_far_chance_alone_goes(tmp_path: Path) -> None:
    found = found_in(regression(tmp_path))
    assert found.recipes["plain"].apart == pytest.approx(0.02)
    assert found.recipes["other"].apart == pytest.approx((0.8 + 1.5) / 40)


def test_recipes_that_predict_the_same_have_no_rows(tmp_path: Path) -> None:
    assert found_in(regression(tmp_path, predictions=TARGETS)).rows == ()


def test_rows_of_several_folds_are_all_looked_at(tmp_path: Path) -> None:
    def values(recipe: str, fold: int, seed: int) -> list[float]:
        return [target + (fold + 1) * (recipe == "other" and place == 3) for place, target in enumerate(TARGETS[:20])]

    comparison = compared(
        tmp_path,
        folds=(0, 1),
        rows=lambda recipe, fold, seed: ROWS[fold::2],
        targets=lambda *_: TARGETS[:20],
        labels=["target"],
        predictions=values,
    )
    assert [row.row for row in found_in(comparison).rows] == [7, 6]


def test_texts_come_from_the_table_that_the_runs_read(tmp_path: Path) -> None:
    given = with_table(tmp_path)
    comparison = regression(tmp_path / "out", **given)
    assert [row.texts for row in found_in(comparison).rows] == [
        ("text of row 30, with <b>marks</b>",),
        ("text of row 7, with <b>marks</b>",),
    ]


@pytest.mark.parametrize("change", ["other bytes", "gone"])
def test_a_table_that_has_changed_or_is_gone_gives_ids_alone(tmp_path: Path, change: str) -> None:
    given = with_table(tmp_path)
    table = tmp_path / "train.csv"
    if change == "gone":
        table.unlink()
    else:
        table.write_text(table.read_text("utf-8").replace("row 30", "row 03"), encoding="utf-8")
    rows = found_in(regression(tmp_path / "out", **given)).rows
    assert [row.texts for row in rows] == [(), ()]


def test_classes_differ_by_the_probability_that_moved(tmp_path: Path) -> None:
    classes = ("ant", "bee", "cat")
    draw = np.random.default_rng(0)
    plain = draw.dirichlet([1, 1, 1], size=len(ROWS))
    other = plain.copy()
    other[11] = np.roll(plain[11], 1)
    truth = [classes[place] for place in draw.integers(3, size=len(ROWS))]
    comparison = compared(
        tmp_path,
        task="multiclass",
        metric="log_loss",
        rows=lambda *_: ROWS,
        targets=lambda *_: truth,
        labels=classes,
        predictions=lambda recipe, *_: (other if recipe == "other" else plain).tolist(),
    )
    found = found_in(comparison)
    assert [row.row for row in found.rows] == [11]
    changed = metrics.accuracy_score(plain.argmax(axis=1), other.argmax(axis=1))
    assert found.recipes["other"].apart == pytest.approx(1 - changed)
    assert found.recipes["plain"].apart == 0.0


def test_many_recipes_share_few_rows(tmp_path: Path) -> None:
    names = {f"recipe {number}": {"x": number} for number in range(9)}
    draw = np.random.default_rng(0)
    comparison = regression(
        tmp_path, recipes=names, predictions=lambda *_: (np.array(TARGETS) + draw.normal(size=len(ROWS))).tolist()
    )
    rows = found_in(comparison).rows
    assert len(rows) == 2 * MOST_RECIPES
    assert len({row.recipe for row in rows}) == MOST_RECIPES


def test_predictions_that_cannot_be_read_leave_the_section_out(tmp_path: Path) -> None:
    comparison = regression(tmp_path)
    for file in tmp_path.rglob("predictions.parquet"):
        file.write_bytes(b"no table")
    assert comparison.disagreement is None
