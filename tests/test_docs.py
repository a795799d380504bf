"""What the documents say is what the code does."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leantune

ROOT = Path(__file__).parents[1]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_settings_page_is_written_from_the_settings() -> None:
    spec = importlib.util.spec_from_file_location("generate_settings", ROOT / "docs" / "generate_settings.py")
    assert spec is not None
    assert spec.loader is not None
    generate_settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_settings)
    assert read("docs/settings.md") == generate_settings.settings_page(), "run: python docs/generate_settings.py"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design/0006-the-house.md"])
def test_a_map_names_every_folder_once(page: str) -> None:
    first_cells = re.findall(r"^\| `(\w+)/` \|", read(page), flags=re.MULTILINE)
    folders = {path.parent.name for path in Path(str(leantune.__file__)).parent.glob("*/__init__.py")}
    assert sorted(first_cells) == sorted(folders)


@pytest.mark.parametrize("page", ["README.md", "docs/reliability.md"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)`", read(page))
    assert named
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_every_test_that_the_reliability_page_names_by_its_name_is_there() -> None:
    page = read("docs/reliability.md")
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)` \(`(test_\w+)`", page)
    assert named
    for file, name in named:
        assert f"def {name}(" in read(f"tests/{file}")


def test_the_examples_of_the_estimators_page_run(
    tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", read("docs/estimators.md"), flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("".join(examples).replace('"demo"', repr(str(tiny_encoder_dir("bert")))), names)
    assert names["classifier"].classes_.tolist() == ["bad", "good"]
    assert names["run"].folder == Path("run")
