import csv
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from comparisons import RECIPES, make_comparison
from leantune.report.pages import report_json, write_report
from leantune.report.take_away import FOLDER, markdown_table

COMPARISON = make_comparison()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("take-away")
    write_report(COMPARISON, path)
    return path


def test_every_link_to_a_file_of_the_report_has_its_file(folder: Path) -> None:
    html = (folder / "report.html").read_text("utf-8")
    links = [unquote(link) for link in re.findall(r'<a href="([^"]+)"', html)]
    beside = {link for link in links if not link.startswith("runs/")}
    assert {f"{FOLDER}/{path.name}" for path in (folder / FOLDER).iterdir()} < beside
    assert all((folder / link).is_file() for link in beside)
    runs = [f"{cell.folder}/metrics.json" for recipe in COMPARISON.recipes for cell in recipe.cells]
    assert [link for link in links if link.startswith("runs/")] == runs


def test_a_figure_stands_alone_in_the_light_page_s_colours_with_the_names_of_its_lines(folder: Path) -> None:
    for path in (folder / FOLDER).glob("*.svg"):
        root = ET.fromstring(path.read_text("utf-8"))
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "var(" not in path.read_text("utf-8")
        assert "f0f0" not in path.read_text("utf-8")
        assert not any(re.search(r"\{\d+\}", text or "") for text in texts)
        assert set(RECIPES) - {"plain"} <= set(texts), path.name
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_of_the_recipes_has_the_numbers_of_the_json(folder: Path) -> None:
    record = report_json(COMPARISON)
    with (folder / FOLDER / "recipes.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(record["recipes"]) * len(record["measures"])
    for line in lines:
        effect = record["recipes"][line["recipe"]]["effects"].get(line["measure"], {})
        assert line["verdict"] == effect.get("verdict", "")
        for name in ("estimate", "low", "high"):
            assert line[name] == ("" if effect.get(name) is None else str(effect[name]))


def test_the_csv_of_the_runs_has_a_line_for_each_run(folder: Path) -> None:
    with (folder / FOLDER / "runs.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(recipe.cells) for recipe in COMPARISON.recipes)
    assert float(lines[0]["best"]) == COMPARISON.recipes[0].cells[0].result.scores["best"]["rmse"]  # type: ignore[union-attr]


def test_the_table_to_paste_has_every_recipe_and_verdict() -> None:
    table = markdown_table(COMPARISON).replace("\N{NO-BREAK SPACE}", " ")
    for recipe in COMPARISON.recipes:
        assert f"**{recipe.name}**" in table
    assert "▼ worse" in table
    assert "▲ better" in table
    assert COMPARISON.tolerance.said in table
