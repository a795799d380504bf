import dataclasses
import json
import math
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment
from markdown_it import MarkdownIt

from browser import cut_off, find_browser, sizes, visit
from comparisons import MEASURES, RECIPES, make_comparison
from leantune.comparison import Comparison, Effect, Verdict
from leantune.comparison.paired import Estimate
from leantune.comparison.words import effect_text
from leantune.report import pages, wording
from leantune.report.pages import report_html, report_json, report_md, write_report

EVIL = (
    "<script>alert(1)</script>",
    "$x^2$ & \\alpha",
    "a|b [1](http://planted.invalid/)",
    "`code` *bold* _em_ ~~gone~~ [link](http://planted.invalid/) ![i](x) &amp;",
    '"><img src=x onerror=alert(1)>',
    "基準レシピ、混合精度",
    "a_name_that_goes_on_" * 20,
    "{{ 7 * 7 }} {0} {% raw %}",
)
FAILED = {("batch_16", 1, 2): "TrainingError: <b>not finite</b>\nat step 84"}
TYPICAL = make_comparison(failed=FAILED, unfinished=[("dynamic", 0, 1)])
ALL_RUNS = {(name, fold, seed): "no memory" for name in RECIPES for fold in (0, 1) for seed in (0, 1, 2)}
VOID = {"meta", "link", "br", "img", "wbr"}


class Page(HTMLParser):
    """A parsed page: its elements in order, with their attributes, and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def evil_comparison() -> Comparison:
    """Every text that a user can choose is one that means something in HTML, in Markdown or to a template."""
    recipes = {name: dict(what) for name, what in zip(EVIL, [{}, *RECIPES.values()] * 2, strict=False)}
    recipes[EVIL[1]]["differs"] = {EVIL[0]: (EVIL[2], EVIL[3])}
    texts = dict.fromkeys(("title", "data", "model", "command"), " ".join(EVIL))
    failed = {(EVIL[2], 0, 0): EVIL[4]}
    return make_comparison(recipes, failed=failed, seeds=(0, 1), **texts, notes=EVIL, method=EVIL)


def faults(html: str) -> list[str]:
    """What in a page does not come from its template: elements and attributes that run or load something."""
    page = Page(html)
    found = [tag for tag, _ in page.elements if tag in {"script", "img", "iframe", "object", "base", "form"}]
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if tag == "a" and name == "href" and re.match(r"(report|runs)[-./%\w]*$", str(value)):
                continue  # a link to a file beside the page
            loads = name in {"src", "href", "xlink:href", "data", "action"} and not str(value).startswith(
                ("#", "data:")
            )
            if loads or name.startswith("on"):
                found.append(f"{tag} {name}={value}")
    return found + re.findall(r"@import|url\((?!#)", html)


def effect(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    verdict: Verdict = "inconclusive",
    *,
    tolerance: float | None = None,
    pairs: int = 6,
    reason: str = "",
) -> Effect:
    estimate = Estimate(value=value, low=low, high=high, p_value=None, pairs=pairs)
    [measure] = [measure for measure in MEASURES if measure.name == name]
    return Effect(measure=measure, estimate=estimate, verdict=verdict, reason=reason, tolerance=tolerance)


def answer(*effects: Effect) -> str:
    recipe = dataclasses.replace(TYPICAL.recipes[1], effects={effect.measure.name: effect for effect in effects})
    return wording.answer(recipe).replace("\N{NO-BREAK SPACE}", " ")


def row_of(page: str, recipe: str) -> str:
    """The text of a recipe's row in the first table."""
    table = page[page.index("<tbody") : page.index("</tbody>")]
    [row] = [row for row in table.split("</tr>") if f"<span>{recipe}</span>" in row]
    return " ".join("".join(Page(row[row.index("<tr") :] + "</tr>").text).split())


def test_three_files_and_what_can_be_taken_away_are_written_and_nothing_else(tmp_path: Path) -> None:
    write_report(TYPICAL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "report.json", "report-files"}
    assert (tmp_path / "report.html").read_text("utf-8") == report_html(TYPICAL)
    assert (tmp_path / "report.md").read_text("utf-8") == report_md(TYPICAL)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == report_json(TYPICAL)


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(TYPICAL, tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    monkeypatch.setattr(pages, "report_json", lambda _: {"planted": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        write_report(make_comparison(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == old


def test_a_name_that_utf_8_cannot_hold_is_written_with_its_escape(tmp_path: Path) -> None:
    write_report(dataclasses.replace(TYPICAL, data="train\udcff.csv"), tmp_path)
    for name in ("report.html", "report.md"):
        assert "train\\udcff.csv" in (tmp_path / name).read_text("utf-8")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["data"] == "train\udcff.csv"


def test_equal_comparisons_give_equal_pages() -> None:
    again = make_comparison(failed=FAILED, unfinished=[("dynamic", 0, 1)])
    assert report_html(again) == report_html(TYPICAL)


def test_the_json_has_stable_names() -> None:
    record = report_json(TYPICAL)
    top = "experiment metric lower_is_better baseline task method notes folds seeds rows data measures recipes model"
    more = {"yardsticks", "tolerance", "memory_of", "environment", "started", "command", "mistakes"}
    assert set(record) == {*top.split(), *more}
    recipe = record["recipes"]["batch_16"]
    assert set(recipe) == {"differs", "runs", "means", "metrics", "spreads", "effects", "reached"}
    assert recipe["differs"]["batching.batch_size"] == {"baseline": 32, "recipe": 16}
    names = "estimate low high adjusted_p pairs verdict reason seed_error row_error more_seeds each"
    assert set(recipe["effects"]["quality_best"]) == set(names.split())
    run = "fold seed state folder error best last train_seconds startup_seconds evaluation_seconds checkpoint_seconds"
    more = {"total_seconds", "peak_bytes", "tokens_per_second", "padding_fraction"}
    assert set(recipe["runs"][0]) == {*run.split(), *more}
    assert [run["state"] for run in recipe["runs"]] == ["done"] * 5 + ["failed"]
    assert recipe["runs"][-1]["error"] == FAILED["batch_16", 1, 2]
    assert recipe["runs"][-1]["best"] is None
    done = TYPICAL.recipe("batch_16").cells[0].result
    assert done is not None
    assert recipe["runs"][0]["best"] == done.scores["best"]["rmse"]


def test_the_linear_model_and_the_constant_answer_stand_below_the_recipes_and_are_explained() -> None:
    page, markdown = report_html(TYPICAL), report_md(TYPICAL)
    assert report_json(TYPICAL)["yardsticks"] == {"linear": 0.71, "constant": 1.63}
    assert "| **linear model**<br>for comparison | 0.7100 | – | – |" in markdown
    assert "| **constant answer**<br>for comparison | 1.6300 | – | – |" in markdown
    for text in (page, markdown):
        assert text.index("linear model") > text.index("batch_16")
        assert "the constant answer is the same for every row" in text
    assert page.count("for comparison</span>") == 2


def test_without_yardsticks_a_report_does_not_speak_of_them() -> None:
    older = dataclasses.replace(TYPICAL, yardsticks={})
    for text in (report_html(older), report_md(older)):
        assert "linear model" not in text
        assert "constant answer" not in text


def test_every_metric_stands_in_a_table_the_chosen_one_first() -> None:
    for text in (report_html(TYPICAL), report_md(TYPICAL)):
        part = text[text.index("Every metric") :]
        assert part.index("rmse") < part.index("mae")
        assert part.count("0.4000") == len(TYPICAL.recipes)


def test_what_is_no_number_is_null_in_the_json() -> None:
    odd = {
        "nan": math.nan,
        "inf": np.float64(-math.inf),
        "int": np.int64(3),
        "deep": [(math.nan, Path("a"))],
        "b": True,
    }
    record = report_json(dataclasses.replace(TYPICAL, environment=odd))
    assert record["environment"] == {"nan": None, "inf": None, "int": 3, "deep": [[None, "a"]], "b": True}
    json.dumps(record, allow_nan=False)


def test_no_line_parts_a_number_from_its_sign_or_its_unit() -> None:
    html = report_html(TYPICAL)
    page = Page(re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", html, flags=re.DOTALL))  # figures have no lines
    parted = re.compile(r"[×±] \d|[\d%] (?:s|min|h|GiB|tokens/s|points|times|worse|better|to)\b|most \d|[▲▼◆○] ")
    assert parted.findall("× 0.5, 16.1 s, 1.0 GiB, (11% to 32%)")
    assert parted.findall("\n".join(page.text)) == []
    for text in (TYPICAL.recipes[1].effects, TYPICAL.recipes[3].effects):
        assert parted.findall(wording.answer(dataclasses.replace(TYPICAL.recipes[1], effects=text))) == []


def test_headings_are_in_order_and_every_cell_has_a_header_and_every_part_that_scrolls_a_name() -> None:
    html = report_html(TYPICAL)
    page = Page(html)
    assert re.findall(r"<h(\d)", html)[0] == "1"
    assert set(re.findall(r"<h(\d)", html)[1:]) == {"2"}
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.elements if tag == "th")
    for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
        assert "<thead" in table
        assert re.search(r"<th[^>]*></th>", table) is None
    for _, attributes in page.elements:
        if attributes.get("tabindex") == "0":
            assert attributes.get("role") == "region"
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def private(place: Path) -> Comparison:
    """A comparison of which texts have absolute paths, below a folder and elsewhere."""
    command = (
        f"leantune compare {place}/settings/try.yaml --set=base.data.path=/srv/secret/train.csv "
        "--set 'base.model.name=/srv/secret/my models/small' --output /srv/secret/out"
    )
    recipes = {name: dict(what) for name, what in RECIPES.items()}
    recipes["mixed"]["differs"] = {"model.name": ("/srv/secret/small", "bert-base-uncased")}
    failed = {("batch_16", 1, 2): "TableError: /srv/secret/train.csv, row 3: found 1/2, expected a number"}
    return make_comparison(recipes, failed=failed, command=command, notes=(f"It stopped; `{command}` finishes it.",))


def test_what_is_published_has_no_absolute_path_and_the_terminal_has_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = unsettled(private(tmp_path))
    (tmp_path / "out").mkdir()
    write_report(comparison, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*.*") if path.suffix in {".html", ".md", ".json", ".csv"}]
    assert len(files) >= 7
    for path in files:
        text = path.read_text("utf-8")
        assert "secret" not in text, path.name
        assert str(tmp_path) not in text, path.name
    page = " ".join("".join(Page((tmp_path / "out" / "report.html").read_text("utf-8")).text).split())
    command = (
        "leantune compare settings/try.yaml --set=base.data.path=train.csv --set base.model.name=small --output out"
    )
    assert f"{command} --set 'seeds=[0,1,2,3]'" in page
    assert f"It stopped; `{command}` finishes it." in page
    assert "TableError: train.csv, row 3: found 1/2, expected a number" in page
    assert wording.SHORTENED in page
    assert shlex.split(wording.settling(comparison)[1])[:7] == shlex.split(comparison.command)[:7]


def test_a_report_without_absolute_paths_does_not_speak_of_them(tmp_path: Path) -> None:
    write_report(TYPICAL, tmp_path)
    assert wording.SHORTENED not in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("data/train.csv", "data/train.csv"),
        ("../train.csv", "../train.csv"),
        ("/srv/secret/train.csv", "train.csv"),
        ("{here}/data/train.csv", "data/train.csv"),
        ("{here}", "."),
    ],
)
def test_a_path_is_published_from_the_current_directory_or_as_its_name(
    path: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert wording.published_path(path.format(here=tmp_path)) == shown


def test_a_current_directory_that_holds_everything_hides_nothing_so_names_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/")
    assert wording.published_path("/home/somebody/train.csv") == "train.csv"


def unsettled(comparison: Comparison) -> Comparison:
    """The same with a recipe for whose metric one more seed is needed."""
    recipe = comparison.recipes[1]
    wide = dataclasses.replace(recipe.effects["quality_best"], verdict="inconclusive", more_seeds=1)
    recipe = dataclasses.replace(recipe, effects=recipe.effects | {"quality_best": wide})
    return dataclasses.replace(comparison, recipes=(comparison.recipes[0], recipe, *comparison.recipes[2:]))


def test_more_seeds_go_into_the_same_folder_unless_the_looks_at_them_were_planned() -> None:
    text, command = wording.settling(unsettled(TYPICAL))
    assert command == "leantune compare commonlit.yaml --output results --set 'seeds=[0,1,2,3]'"
    assert "about 1 more seed for best rmse" in text
    planned = dataclasses.replace(
        unsettled(TYPICAL), command="leantune compare commonlit.yaml --settle 3 --output results"
    )
    text, command = wording.settling(planned)
    assert command == "leantune compare commonlit.yaml --settle 4 --output results-again"
    assert "more seeds need a new folder" in text
    demo = dataclasses.replace(unsettled(TYPICAL), command="leantune demo --output leantune-demo")
    expected = "leantune compare leantune-demo/experiment.yaml --output leantune-demo --set 'seeds=[0,1,2,3]'"
    assert wording.settling(demo)[1] == expected
    assert wording.settling(TYPICAL) == ("", "")


def test_an_inconclusive_difference_is_never_called_none() -> None:
    said = answer(effect("train_seconds", 0.98, 0.94, 1.03), effect("quality_best", -0.0025, -0.0061, 0.0011))
    expected = "training time is not settled: 0.98 times as long (0.94 to 1.03); rmse is not settled: "
    assert said == f"{expected}at most 0.0011 worse, at most 0.0061 better."


def test_an_answer_says_how_much_faster_with_the_interval_turned_over_too() -> None:
    said = answer(effect("train_seconds", 0.5, 0.4, 0.8, "better"), effect("peak_bytes", 0.66, 0.6, 0.7, "better"))
    assert said == "trains 2.00 times as fast (1.25 to 2.50), with 34% less memory (30% to 40%)."
    assert (
        answer(effect("train_seconds", 1.5, 1.4, 1.6, "worse")) == "takes 1.50 times as long to train (1.40 to 1.60)."
    )
    assert answer(effect("peak_bytes", 1.26, 1.11, 1.44, "worse")) == "with 26% more memory (11% to 44%)."
    assert answer(effect("peak_bytes", 0.998, 0.997, 0.999, "better")) == "with 0.2% less memory (0.1% to 0.3%)."


def test_an_answer_speaks_of_the_last_evaluation_only_where_it_says_otherwise() -> None:
    best = effect("quality_best", -0.01, -0.02, -0.005, "better")
    assert "last" not in answer(best, effect("quality_last", -0.01, -0.02, -0.005, "better"))
    assert "last rmse is not settled" in answer(best, effect("quality_last", 0.01, -0.02, 0.02))


def test_one_pair_has_no_interval_and_claims_nothing() -> None:
    single = effect("train_seconds", 0.5, pairs=1)
    assert answer(single) == "training time × 0.50 in one pair, which may be chance."
    page = report_html(make_comparison(folds=(0,), seeds=(0,)))
    assert "○ no interval (one pair)" in row_of(page, "mixed")
    assert "▲" not in row_of(page, "mixed")


def test_pairs_that_are_all_equal_have_no_interval_and_no_chance() -> None:
    assert answer(effect("peak_bytes", 0.75)) == "peak memory × 0.75 alike in all 6 pairs."
    assert answer(effect("quality_best", 0.0)) == "best rmse the same in all 6 pairs."


def test_an_answer_says_within_what_a_recipe_is_as_good() -> None:
    assert answer(effect("quality_best", 0.001, -0.004, 0.006, "as good", tolerance=0.0085)) == (
        "rmse as good (within 0.0085)."
    )
    assert answer(effect("quality_best", -0.02, -0.03, -0.01, "better")) == "rmse better by 0.0200 (0.0100 to 0.0300)."


def test_an_interval_that_says_nothing_is_not_shown_in_millions() -> None:
    wide = effect("train_seconds", 3.2, 0.0, 47_514_021.18)
    assert effect_text(wide).replace("\N{NO-BREAK SPACE}", " ") == "× 3.20 [under 0.05, over 64]"
    assert answer(wide) == "training time is not settled: 3.20 times as long (under 0.05 to over 64)."


def test_what_a_reader_must_know_of_an_effect_stands_beside_it() -> None:
    withheld = effect("quality_best", -0.03, -0.05, -0.01, reason="defined in 5 of 6 pairs")
    recipe = dataclasses.replace(TYPICAL.recipes[1], effects=TYPICAL.recipes[1].effects | {"quality_best": withheld})
    changed = dataclasses.replace(TYPICAL, recipes=(TYPICAL.recipes[0], recipe, *TYPICAL.recipes[2:]))
    assert "defined in 5 of 6 pairs" in row_of(report_html(changed), "mixed")
    assert "defined in 5 of 6 pairs" in report_md(changed)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (effect("quality_best", -0.00251, -0.00612, 0.00114), "−0.0025 [−0.0061, +0.0011]"),
        (effect("quality_best", 0.0000251, 0.0000112, 0.0000391), "+0.000025 [+0.000011, +0.000039]"),
        (effect("quality_best", 35.12, 23.4, 46.8), "+35.1 [+23.4, +46.8]"),
        (effect("quality_best", 0.0), "0"),
        (effect("train_seconds", 0.5321, 0.5012, 0.5643), "× 0.53 [0.50, 0.56]"),
        (effect("train_seconds", 0.89979, 0.89932, 0.90025), "× 0.900 [0.899, 0.900]"),
        (effect("train_seconds", 12.31, 11.04, 13.72), "× 12.3 [11.0, 13.7]"),
        (effect("train_seconds", 0.0123, 0.0111, 0.0137), "× 0.0123 [0.0111, 0.0137]"),
        (effect("padding_fraction", -0.4512, -0.4613, -0.4411), "−45.1 points [−46.1, −44.1]"),
    ],
)
def test_numbers_have_the_places_that_their_interval_is_worth(given: Effect, text: str) -> None:
    assert effect_text(given).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_failed_and_an_unfinished_run_show_in_their_recipe_s_row_and_among_the_runs() -> None:
    html = report_html(TYPICAL)
    assert "5 of 6 runs, 1 failed" in row_of(html, "batch_16")
    assert "5 of 6 runs, 1 unfinished" in row_of(html, "dynamic")
    assert "the baseline, 6 runs" in row_of(html, "plain")
    assert re.search(
        r"Why <strong>batch_16</strong>, fold 1, seed 2 failed</summary><pre>TrainingError: &lt;b&gt;", html
    )
    assert "(5 of 6 pairs)" in html
    assert "not finite" in report_md(TYPICAL)


def test_verdicts_have_a_shape_beside_their_colour() -> None:
    row = row_of(report_html(TYPICAL), "batch_16")
    assert "▼ worse" in row
    assert "▲ better" in row
    assert "◆ as good" in row_of(report_html(TYPICAL), "mixed")


@pytest.mark.parametrize("comparison", [TYPICAL, make_comparison(failed=ALL_RUNS)], ids=["typical", "all failed"])
def test_the_page_is_one_file_that_loads_nothing(comparison: Comparison) -> None:
    html = report_html(comparison)
    assert faults(html) == []
    assert "default-src 'none'" in html
    page = Page(html)
    assert page.open == []
    assert page.count("h1") == 1
    assert page.count("table") == 5
    assert page.elements[0] == ("html", {"lang": "en"})


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    html = report_html(make_comparison({f"recipe_{i}": {} for i in range(9)}))
    ids = re.findall(r'\bid="([^"]+)"', html)
    references = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', html)
    assert len(ids) == len(set(ids))
    assert len(references) > 100
    assert set(" ".join(references).split()) <= set(ids)


def test_every_text_of_the_user_is_escaped_in_the_page() -> None:
    html = report_html(evil_comparison())
    assert faults(html) == []
    text = "".join(Page(html).text)
    for evil in EVIL:
        assert text.count(evil) > 5, evil


def test_a_page_without_escaping_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(**settings: Any) -> Environment:
        return Environment(**settings | {"autoescape": False})

    monkeypatch.setattr(pages, "Environment", careless)
    pages._template.cache_clear()
    html = report_html(evil_comparison())
    pages._template.cache_clear()
    assert {"script", "img"} <= set(faults(html.replace("</html>", "")))


def test_every_text_of_the_user_is_escaped_in_markdown() -> None:
    markdown = report_md(evil_comparison())
    blocks = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    inline = [token for block in blocks for token in block.children or []]
    assert {t.content for t in [*blocks, *inline] if t.type in {"html_block", "html_inline"}} == {"<br>"}
    kinds = {token.type for token in inline}
    assert (
        kinds
        == {"text", "text_special", "strong_open", "strong_close", "html_inline", "code_inline", "softbreak"} & kinds
    )
    assert [t.content for t in inline if t.type == "code_inline"] == ["report.html"] * sum(
        t.type == "code_inline" for t in inline
    )
    said = ["".join(c.content for c in block.children if c.type != "softbreak") for block in blocks if block.children]
    for evil in EVIL:
        assert sum(" ".join(evil.split()) in text for text in said) > 5, evil
    outside = "".join(part for part in re.split(r"^(`{3,})$.*?^\1$", markdown, flags=re.M | re.S)[::2])
    assert "$" not in outside  # GitHub would read mathematics


def test_every_row_of_a_markdown_table_has_all_its_columns() -> None:
    blocks = MarkdownIt("commonmark").enable("table").parse(report_md(evil_comparison()))
    rows = "".join({"tr_open": "\n", "td_open": ".", "th_open": "."}.get(token.type, "") for token in blocks)
    counts = [len(row) for row in rows.split()]
    runs = 2 * 2 * len(EVIL)
    assert counts.count(10) == runs + 1
    assert counts.count(5) == len(EVIL) + 3  # with the linear model and the constant answer
    assert counts.count(6) == len(EVIL) + 1


def test_a_block_of_code_outlasts_the_backticks_in_it() -> None:
    [block] = MarkdownIt().parse(pages.code_block("a ```` b\n```\nc"))
    assert block.type == "fence"
    assert block.content == "a ```` b\n```\nc\n"


def test_an_experiment_without_a_finished_run_still_has_its_report() -> None:
    nothing = make_comparison(failed=ALL_RUNS)
    assert "could not be compared" in report_html(nothing)
    assert report_html(nothing).count("no memory") == len(ALL_RUNS)
    assert report_json(nothing)["recipes"]["mixed"]["effects"]["quality_best"]["estimate"] is None
    assert "not compared" in report_md(nothing)


def test_a_report_needs_neither_torch_nor_pyplot() -> None:
    heavy = ("torch", "transformers", "matplotlib.pyplot")
    code = f"import sys, leantune.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    find_browser()
    path = tmp_path_factory.mktemp("pages")
    (path / "report.html").write_text(report_html(evil_comparison()), "utf-8", "backslashreplace")
    return path


def test_a_browser_draws_the_page_and_has_nothing_to_say(folder: Path) -> None:
    seen = visit(folder / "report.html", folder)
    assert seen.console == []
    assert seen.requests == []
    page = Page(seen.dom.replace("<!--", ""))
    assert page.count("table") == 5
    assert page.count("figure") == 13
    assert page.count("script") == 0


def test_it_is_not_the_policy_alone_that_keeps_the_page_from_loading(folder: Path) -> None:
    html = (folder / "report.html").read_text("utf-8")
    (folder / "open.html").write_text(re.sub("<meta http-equiv[^>]*>", "", html), "utf-8")
    assert visit(folder / "open.html", folder).requests == []


def test_a_page_that_loads_something_would_be_found_out(folder: Path) -> None:
    planted = '<img src="http://planted.invalid/x.png">'
    html = (folder / "report.html").read_text("utf-8").replace("</main>", planted + "</main>")
    (folder / "planted.html").write_text(html, "utf-8")
    seen = visit(folder / "planted.html", folder)
    assert seen.requests == []
    assert any("Content Security Policy" in line for line in seen.console)  # the policy holds, and the browser tells
    (folder / "planted.html").write_text(planted, "utf-8")
    assert set(visit(folder / "planted.html", folder).requests) == {"http://planted.invalid/x.png"}


def test_the_page_fits_screens_from_a_phone_to_a_desk(folder: Path) -> None:
    wide = "<body style='margin:0'><div style='width:401px;height:9px'></div>"
    (folder / "wide.html").write_text(wide, "utf-8")
    assert sizes(folder / "wide.html", folder, (360, 420))[360][0] == 401  # a page that is too wide is found out
    measured = sizes(folder / "report.html", folder, (360, 390, 700, 800, 1000, 1100, 1280))
    for width, (needs, height) in measured.items():
        assert needs <= width
        assert height < 45_000  # no column so narrow that words stand upright


def test_no_table_of_a_usual_comparison_is_cut_off_from_a_small_laptop_up(tmp_path: Path) -> None:
    find_browser()
    recipes = {name.replace("_", " "): what for name, what in RECIPES.items()}
    comparison = make_comparison(recipes)
    cells = [
        dataclasses.replace(cell, folder=f"runs/batch_16_accumulated-133f8490/fold_{cell.fold}-seed_{cell.seed}")
        for cell in comparison.recipes[3].cells
    ]
    last = dataclasses.replace(comparison.recipes[3], cells=tuple(cells))
    comparison = dataclasses.replace(comparison, recipes=(*comparison.recipes[:3], last))
    (tmp_path / "report.html").write_text(report_html(comparison), "utf-8")
    assert cut_off(tmp_path / "report.html", tmp_path, (500,))[500] != []  # is found out
    assert cut_off(tmp_path / "report.html", tmp_path, (900, 1280, 1400)) == {900: [], 1280: [], 1400: []}
