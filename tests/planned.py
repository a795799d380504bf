"""A plan, and a run that is done, as a comparison tells of them."""

from leantune.training.events import Plan, PlannedRecipe, RunDone

PLAN = Plan(
    title="mine",
    baseline="plain",
    recipes=(
        PlannedRecipe(name="plain", differs={}, runs=2, finished=1, seconds=60.0, step_seconds=0.5, error=""),
        PlannedRecipe(
            name="[red]odd[/red]",
            differs={"precision": "bf16", "gone": None},
            runs=2,
            finished=0,
            seconds=30.0,
            step_seconds=0.25,
            error="",
        ),
    ),
    seeds=(0, 1),
    folds=(0,),
    rows=1200,
)
METRICS = {
    "best": {"rmse": 0.5},
    "last": {"rmse": 0.6},
    "train_seconds": 40.0,
    "peak_device_bytes": None,
    "peak_process_bytes": 3 * 2**30,
}


def done(recipe: str, error: str = "") -> RunDone:
    return RunDone(
        recipe=recipe, fold=0, seed=1, seconds=50.0, metric="rmse", metrics=None if error else METRICS, error=error
    )
