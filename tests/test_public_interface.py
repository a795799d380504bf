"""What `import leantune` gives, and what it does not load."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import leantune

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "sklearn", "scipy", "pydantic", "matplotlib")


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a new process, and return the heavy packages that it has loaded."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    return set(HEAVY) & set(done.stdout.split())


def names_for_type_checkers() -> set[str]:
    """Names that `leantune/__init__.py` imports from leantune, at run time or for type checkers only."""
    tree = ast.parse(Path(leantune.__file__).read_text("utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("leantune.")
    ]
    return {alias.asname or alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize("name", leantune.__all__)
def test_every_public_name_is_there_and_is_leantunes_own(name):
    found = getattr(leantune, name)
    assert found.__name__ == name
    assert found.__module__.startswith("leantune.")
    assert inspect.getdoc(found)


def test_the_public_names_are_exactly_those_that_are_exported():
    assert list(leantune.__all__) == sorted(leantune.__all__)
    assert set(leantune.__all__) == names_for_type_checkers()
    there = {
        name
        for name, value in vars(leantune).items()
        if not isinstance(value, ModuleType) and str(getattr(value, "__module__", "")).startswith("leantune.")
    }
    assert there <= set(leantune.__all__)


def test_a_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from leantune import *", names)
    assert names.keys() - {"__builtins__"} == set(leantune.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'leantune' has no attribute 'tarin'"):
        leantune.tarin  # noqa: B018


@pytest.mark.parametrize("module", ["leantune", "leantune.system.errors", "leantune.cli"])
def test_help_waits_for_no_heavy_package(module):
    assert loaded_by(f"import {module}") == set()


@pytest.mark.parametrize("module", ["record", "tally", "batch_plan", "folds", "display", "events", "targets", "table"])
def test_plans_records_and_folds_need_no_torch(module):
    assert loaded_by(f"import leantune.{module}").isdisjoint({"torch", "transformers"})
