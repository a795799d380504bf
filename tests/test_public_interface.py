"""What `import leantune` gives, and what it does not load."""

import inspect
import pkgutil
import pydoc
import subprocess
import sys
from importlib import import_module

import pytest

import leantune

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "sklearn", "scipy", "pydantic", "matplotlib")


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a new process, and return the heavy packages that it has loaded."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    return set(HEAVY) & set(done.stdout.split())


FOLDERS = [package.name for package in pkgutil.iter_modules(leantune.__path__, "leantune.") if package.ispkg]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_that_a_folder_hands_on_is_there(folder):
    package = import_module(folder)
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("name", leantune.__all__)
def test_every_public_name_is_there_and_is_leantunes_own(name):
    found = getattr(leantune, name)
    assert found.__name__ == name
    assert found.__module__.startswith("leantune.")
    assert inspect.getdoc(found)


def test_a_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from leantune import *", names)
    assert names.keys() - {"__builtins__"} == set(leantune.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="tarin"):
        leantune.tarin  # noqa: B018


@pytest.mark.parametrize("module", ["leantune", "leantune.system.errors", "leantune.cli"])
def test_help_waits_for_no_heavy_package(module):
    assert loaded_by(f"import {module}") == set()


@pytest.mark.parametrize(
    "module",
    [
        *("system.files", "tables.table", "tables.targets", "tables.folds", "batches.plan"),
        *("training.events", "training.metrics", "runs.record", "runs.totals", "runs.display"),
        *("comparison.comparing", "inspection.findings", "report.pages", "report.overview"),
    ],
)
def test_plans_records_and_folds_need_no_torch(module):
    assert loaded_by(f"import leantune.{module}").isdisjoint({"torch", "transformers"})


def test_tab_completion_shows_the_public_names_and_nothing_else():
    assert sorted(dir(leantune)) == sorted(leantune.__all__)


def test_help_shows_what_the_package_is_and_loads_every_public_name():
    text = pydoc.plain(pydoc.render_doc(leantune))
    assert leantune.__doc__ is not None
    assert leantune.__doc__ in text
    functions = [name for name in leantune.__all__ if inspect.isfunction(getattr(leantune, name))]
    for name in functions:
        assert f"    {name}(" in text
    for name in set(leantune.__all__) - set(functions):
        assert f"    class {name}(" in text
