"""What shows before any run that an experiment cannot be run here: devices, number formats, models, equal recipes."""

from collections.abc import Iterable

from leantune.encoder.loading import check_model
from leantune.experiments.recipes import Experiment, Recipe, refuse_equal
from leantune.system.device import resolve_device
from leantune.system.errors import InputError, SettingsError
from leantune.training.precision import make_precision


def refuse_what_cannot_run(experiment: Experiment, recipes: Iterable[Recipe]) -> None:
    """Raise `SettingsError`, with a line for each problem, where some of `recipes` cannot be run on this machine.

    Precision `auto` is resolved first, so that recipes which are the same here are found. What depends on the model's
    architecture only a trial shows.
    """
    try:
        device = resolve_device(experiment.recipes[0].config.device)
    except InputError as error:
        raise SettingsError(f"base.{error}") from None
    problems: dict[str, list[str]] = {}
    known: dict[tuple[str, str | None], str] = {}
    for recipe in recipes:
        config = recipe.config
        model = config.model.name, config.model.revision
        try:
            make_precision(config.precision, device)
        except InputError as error:
            problems.setdefault(str(error), []).append(recipe.name)
        if model not in known:
            try:
                check_model(config.model)
                known[model] = ""
            except InputError as error:
                known[model] = str(error)
        if known[model]:
            problems.setdefault(known[model], []).append(recipe.name)
    lines = [f"{_whose(experiment, names)}{problem}" for problem, names in problems.items()]
    if not problems:
        settings = {}
        for recipe in experiment.recipes:
            precision = make_precision(recipe.config.precision, device).name
            settings[recipe.name] = recipe.settings() | {"precision": precision}
        refuse_equal(settings)
    if lines:
        raise SettingsError("\n".join(lines))


def _whose(experiment: Experiment, names: list[str]) -> str:
    """Name the recipes that a problem is about, if it is not about all."""
    return "" if len(names) == len(experiment.recipes) else f"recipes.{', recipes.'.join(names)}: "
