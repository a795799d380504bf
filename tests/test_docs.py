"""What the documents say is what the code does."""

import importlib.util
import re
from pathlib import Path

import leantune

ROOT = Path(__file__).parents[1]


def test_the_settings_page_is_written_from_the_settings() -> None:
    spec = importlib.util.spec_from_file_location("generate_settings", ROOT / "docs" / "generate_settings.py")
    assert spec is not None
    assert spec.loader is not None
    generate_settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_settings)
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == generate_settings.settings_page(), "run: python docs/generate_settings.py"


def test_the_readmes_map_names_every_file_once() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py)`", readme[readme.index("## The map") :])
    files = {path.name for path in Path(str(leantune.__file__)).parent.rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert sorted(named) == sorted(files)


def test_the_tests_that_the_readme_names_are_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py)`", readme))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").iterdir()}
