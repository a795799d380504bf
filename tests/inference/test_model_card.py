"""The page of an exported model says what is known, and nothing about where it lay."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from leantune.inference.exporting import export
from leantune.inference.model_card import find_base
from small_runs import run_all, tiny_config, write_table


def run_of(name: str) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(name=name, revision=None)))


def test_a_folder_is_named_without_the_path_to_it_and_its_card_tells_the_licence(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n\n# Base\n")
    base = find_base(run_of(str(folder)))
    assert (base.name, base.hub_name, base.licence) == ("base", None, "mit")


@pytest.mark.parametrize(
    "card", ["", "# no head", "---\nlicense: [a, b]\n---", "---\n: {\n---", "---\nlicense: '`x`'\n---"]
)
def test_a_licence_that_is_not_told_is_not_made_up(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert find_base(run_of(str(tmp_path))).licence is None


def test_a_model_of_a_hub_keeps_its_full_name() -> None:
    base = find_base(run_of("somebody/some-encoder"))
    assert (base.name, base.hub_name, base.licence) == ("somebody/some-encoder", "somebody/some-encoder", None)


def test_a_folder_that_is_gone_is_named_without_its_path_too() -> None:
    assert find_base(run_of("/home/me/secret/encoder")).name == "encoder"
    assert find_base(run_of("../secret/encoder")).name == "encoder"


def test_the_model_of_another_run_is_named_by_that_run(tmp_path: Path) -> None:
    folder = tmp_path / "first_run" / "fold_0" / "model"
    folder.mkdir(parents=True)
    assert find_base(run_of(str(folder))).name == "first_run/fold_0/model"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> str:
    folder = tmp_path_factory.mktemp("page")
    table = write_table(folder / "my table.csv", rows=40)
    strange = "sc|ore` <b>*"
    table.write_text(table.read_text().replace("score", f'"{strange}"', 1))
    config = tiny_config(
        table, tiny_encoder_dir("bert"), data__target=strange, optimizer__max_steps=1, optimizer__epochs=1
    )
    run_all(config, folder / "run")
    export(folder / "run", output=folder / "out")
    return (folder / "out" / "README.md").read_text()


def test_its_head_is_what_model_hubs_read(page: str) -> None:
    head = yaml.safe_load(page.split("---\n")[1])
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["leantune", "regression"],
    }


def test_a_name_from_a_table_is_text_and_never_markup(page: str) -> None:
    shown = MarkdownIt().enable("table").render(page.split("---\n", 2)[2])
    assert "<b>" not in shown
    assert "sc|ore` &lt;b&gt;*" in shown


def test_its_metrics_stand_beside_the_yardsticks(page: str) -> None:
    assert "| metric | this model | last evaluation | linear model on n-grams | constant answer |" in page
    assert "| rmse |" in page


def run_example(folder: Path) -> np.ndarray:
    """Run the first example of a folder's page, and return its answers."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```", 1)[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "cut", raising=False)
        exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), names)
    return names["answers"]


def test_its_example_runs_as_it_stands(page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("page*/out"))
    assert run_example(folder).shape == (2, 1)


def test_the_page_of_a_model_that_reads_windows_says_so_and_its_example_gives_an_answer_a_row(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    tokens = {"truncation": "windows", "max_length": 4}
    config = tiny_config(
        write_table(tmp_path / "table.csv", rows=40),
        tiny_encoder_dir("bert"),
        tokens=tokens,
        optimizer__max_steps=1,
        optimizer__epochs=1,
    )
    run_all(config, tmp_path / "run")
    out = export(tmp_path / "run", output=tmp_path / "out").folder
    assert "the answer is the mean of those for its windows" in (out / "README.md").read_text()
    assert run_example(out).shape == (2, 1)
