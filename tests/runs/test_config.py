"""The settings of a run: which of their sources wins, and that what is written can be read again."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leantune.runs.config import Config, dump_config, load_config, parse_config, read_yaml
from leantune.runs.record import RunFolder
from leantune.system.errors import SettingsError
from leantune.system.settings import OTHER_NAMES, Section, nearest_setting
from leantune.training.metrics import MetricName
from leantune.training.optim import OptimizerSettings

MINIMAL = {"data.path": "a.csv", "data.text": "text", "data.target": "target", "model.name": "demo"}


def load(*assignments: str, **flags: Any) -> Config:
    return load_config(None, MINIMAL | flags, assignments)


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(path: Path | None = None, *assignments: str, **flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_config(path, MINIMAL | flags, assignments)
    return str(caught.value)


# Precedence


def test_a_flag_wins_over_the_file_and_an_assignment_over_both(tmp_path):
    path = write_yaml(tmp_path, "optimizer: {epochs: 1, learning_rate: 1.0e-3, weight_decay: 0.5}\n")
    flags = MINIMAL | {"optimizer.epochs": 2, "optimizer.learning_rate": 2e-3}
    optimizer = load_config(path, flags, ["optimizer.epochs=3"]).optimizer
    assert optimizer == OptimizerSettings(epochs=3, learning_rate=2e-3, weight_decay=0.5)


def test_the_last_of_two_assignments_wins():
    assert load("seed=1", "seed=2").seed == 2


def test_what_nobody_sets_has_its_default():
    config = load()
    assert config.optimizer == OptimizerSettings()
    assert (config.fold, config.seed, config.device, config.precision) == (0, 0, "auto", "auto")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [("fold=all", "all"), ("fold='3'", 3), ("fold=3", 3)],
)
def test_the_fold_is_a_number_or_all(assignment, expected):
    assert load(assignment).fold == expected


@pytest.mark.parametrize("text", ["2e-5", "2.0e-5", "0.00002", " 2e-5 "])
def test_a_number_may_be_written_as_people_write_it(text):
    assert load(f"optimizer.learning_rate={text}").optimizer.learning_rate == 2e-5


def test_the_value_of_an_assignment_is_yaml():
    config = load("data.text=[question, answer]", "optimizer.gradient_clip_norm=null", "batching.micro_batch={rows: 8}")
    assert config.data.text == ("question", "answer")
    assert config.optimizer.gradient_clip_norm is None
    assert dump_config(config)["batching"]["micro_batch"] == {"rows": 8}


def test_an_assignment_may_reach_into_a_setting_that_was_a_word():
    config = load("batching.micro_batch=auto", "batching.micro_batch.rows=8", "evaluation.every.steps=5")
    assert (config.batching.micro_batch.rows, config.evaluation.every.steps) == (8, 5)


def test_an_equals_sign_in_the_value_belongs_to_the_value():
    assert load("data.id=a=b").data.id == "a=b"


def test_loading_leaves_the_callers_settings_alone():
    batching = {"batch_size": 4}
    load_config(None, MINIMAL | {"batching": batching, "batching.order": "uniform_length"}, ["batching.batch_size=8"])
    assert batching == {"batch_size": 4}


def test_an_assignment_to_one_of_two_that_share_a_yaml_alias_leaves_the_other(tmp_path):
    path = write_yaml(tmp_path, "batching: {micro_batch: &x {rows: 8}}\nextra: *x\n")
    assert "extra: there is no such setting" in problem(path, "batching.micro_batch.rows=1")
    path = write_yaml(tmp_path, "folds: &x {seed: 3}\n\ntokens: *x\n")
    assert problem(path, "folds.count=4").splitlines() == [
        "tokens.seed: there is no such setting; did you mean folds.seed or seed?"
    ]


# What is wrong


@pytest.mark.parametrize("assignment", ["optimizer.epochs", "=3", ""])
def test_an_assignment_without_a_key_or_a_value_is_refused(assignment):
    assert problem(None, assignment).startswith(f"--set: found {assignment!r}, expected key.sub=value")


@pytest.mark.parametrize("value", ["[", "{a: 1, a: 2}", "2024-13-45", "*nothing", "a: b: c"])
def test_an_assignment_that_is_no_yaml_is_refused(value):
    assert problem(None, f"data.id={value}") == f"--set data.id: {value!r} is not a YAML value"


@pytest.mark.parametrize("text", ["a: [", "a: 2024-13-45", "\tb", "a: !!python/object:os.system x", "a: \x07"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, text):
    path = write_yaml(tmp_path, text)
    assert problem(path).startswith(f"{path}: is not YAML: ")
    assert "\n" not in problem(path)


def test_a_file_that_is_no_utf_8_is_named(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes("data: {text: é}".encode("latin-1"))
    assert problem(path).startswith(f"{path}: is not YAML: 'utf-8' codec")


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path):
    path = write_yaml(tmp_path, "optimizer: {epochs: 1}\nseed: 1\noptimizer: {learning_rate: 1.0}\n")
    assert problem(path).startswith(f"{path}: is not YAML: the key optimizer stands twice")


def test_yaml_may_merge_a_mapping_into_another(tmp_path):
    path = write_yaml(tmp_path, "tokens: &x {truncation: head}\n")
    assert read_yaml(path) == {"tokens": {"truncation": "head"}}
    path = write_yaml(tmp_path, "a: &x {b: 1}\nc: {<<: *x, b: 2}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 2}}


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a", "list"), ("word", "str"), ("3", "int")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, found):
    path = write_yaml(tmp_path, text)
    assert problem(path) == f"{path}: found {found}, expected settings such as `model: {{name: demo}}`"


def test_a_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "none.yaml"
    assert problem(path) == f"{path}: cannot be read: No such file or directory"
    assert problem(tmp_path).startswith(f"{tmp_path}: cannot be read: ")


def test_an_unknown_setting_is_refused_wherever_it_stands(tmp_path):
    assert "optimizer.lr: there is no such setting" in problem(write_yaml(tmp_path, "optimizer: {lr: 1}"))
    assert "optimizer.epoch: there is no such setting; did you mean optimizer.epochs?" in problem(
        None, "optimizer.epoch=1"
    )
    assert "model.nam: there is no such setting; did you mean model.name?" in problem(None, **{"model.nam": "demo"})


def test_a_setting_that_nothing_reads_is_refused():
    assert "head_fraction is used only where truncation is head_tail" in problem(
        None, "tokens={truncation: head, head_fraction: 0.3}"
    )


def test_folds_are_refused_where_the_table_gives_them():
    assert problem(None, "data.fold=part", "folds.count=3") == (
        "folds: not used where data.fold ('part') gives every row's fold: remove one"
    )


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("folds.count=3", "folds"),
        ("data.fold=part", "data.fold"),
        ("data.group=author", "data.group"),
        ("evaluation.metric=mae", "evaluation"),
        ("evaluation.patience=2", "evaluation"),
    ],
)
def test_what_has_no_meaning_where_all_rows_train_is_refused(setting, name):
    assert problem(None, setting, "fold=none").startswith(f"{name}: not used where fold is none")


def test_settings_that_nothing_reads_without_validation_are_not_written():
    assert {"folds", "evaluation"}.isdisjoint(dump_config(load("fold=none")))


def test_what_has_no_meaning_beside_a_validation_file_is_refused():
    given = {"data.validation": "valid.csv"}
    assert problem(None, "folds.count=3", **given).startswith("folds: not used where data.validation (valid.csv)")
    assert problem(None, "data.fold=part", **given).startswith("data: validation: not used where fold ('part')")
    for fold in ("all", "1"):
        assert problem(None, f"fold={fold}", **given).startswith(f"fold: found {fold}, and with data.validation there")
    assert "folds" not in dump_config(load("fold=0", **given))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("text", "the column that holds the texts (--text COLUMN)"), ("target", "the column to learn (--target COLUMN)")],
)
def test_a_run_needs_texts_and_a_target(name, expected):
    assert problem(**{f"data.{name}": []}) == f"data.{name}: name {expected}"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(seed):
    assert problem(None, f"seed={seed}").startswith(f"seed: found {seed}; expected ")


# What is written can be read again

# All that YAML can carry: text without surrogates.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [
        "null",
        "true",
        "1",
        "1e3",
        "2024-01-01",
        "~",
        "- a",
        "a: b",
        "#x",
        " x ",
        "\n",
        "é",
        "東",
        "\ufeff",
        "\x85",
        "'",
        "=",
    ]
)
counts = st.integers(1, 2**40)


def floats(low: float, high: float, **bounds: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False, **bounds)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any part of the settings."""
    return st.fixed_dictionaries({}, optional=fields)


columns = st.lists(words, min_size=3, max_size=6, unique=True)
data = st.builds(
    lambda names, pair, more: {"path": "a.csv", "text": names[: 1 + pair], "target": names[1 + pair :]} | more,
    columns,
    st.booleans(),
    some(
        path=words.map(lambda name: f"{name.replace(chr(0), '')}.tsv"),
        id=words,
        group=words,
        weight=words,
        task=st.sampled_from(["auto", "regression", "binary", "multiclass", "multilabel", "soft"]),
        encoding=st.sampled_from(["utf-8", "cp932"]),
        delimiter=st.sampled_from([";", "|", "\t", "'", " "]),
        limit=counts,
    ),
)
folds = some(
    count=st.integers(2, 100),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["auto", "sturges", "stratified", "group", "random", "multilabel"]),
)
tokens = (
    some(
        max_length=st.just("auto") | counts,
        unknown=st.sampled_from(["refuse", "allow"]),
        truncation=st.just("head_tail"),
        head_fraction=floats(0, 1),
    )
    | st.fixed_dictionaries(
        {"truncation": st.just("windows")},
        optional={
            "stride": st.just("auto") | counts,
            "window_pooling": st.sampled_from(["mean", "max"]),
            "training_windows": st.sampled_from(["one", "all"]),
        },
    )
    | some(truncation=st.sampled_from(["head", "tail", "head_tail"]))
)
batching = some(
    batch_size=counts,
    micro_batch=st.just("auto") | counts.map(lambda n: {"rows": n}) | counts.map(lambda n: {"tokens": n}),
    order=st.sampled_from(["random", "uniform_length"]),
    layout=st.sampled_from(["auto", "fixed", "dynamic", "packed"]),
)
optimizer = some(
    learning_rate=floats(0, 10, exclude_min=True),
    weight_decay=floats(0, 1),
    epochs=counts,
    max_steps=st.none() | counts,
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    warmup_fraction=floats(0, 1),
    gradient_clip_norm=st.none() | floats(0, 1e9, exclude_min=True),
)
evaluation = some(
    every=st.just("epoch")
    | counts.map(lambda n: {"steps": n})
    | floats(0, 1, exclude_min=True).map(lambda f: {"fraction": f}),
    metric=st.sampled_from(["auto", *get_args(MetricName)]),
)
model = st.builds(lambda name, more: {"name": name} | more, words, some(revision=words))
run = some(
    tokens=tokens,
    batching=batching,
    precision=st.sampled_from(["auto", "fp32", "tf32", "fp16", "bf16"]),
    optimizer=optimizer,
    evaluation=evaluation,
    fold=st.just("all") | st.integers(0, 99),
    seed=st.integers(0, 2**32 - 1),
    device=words,
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    table = draw(data)
    parts = {"data": table, "model": draw(model)} | draw(run)
    if draw(st.booleans()):
        table["fold"] = draw(words)
    else:
        parts["folds"] = draw(folds)
    return parse_config(parts)


@given(configs())
def test_the_settings_in_a_run_folder_load_again_as_they_were(config):
    with tempfile.TemporaryDirectory() as name, RunFolder(Path(name)) as folder:
        folder.write_config(dump_config(config))
        assert load_config(Path(name) / "config.yaml", {}) == config


@given(configs())
def test_what_is_dumped_is_plain_and_complete_but_for_what_nothing_reads(config):
    def check(section: Section, dumped: dict[str, Any]) -> None:
        assert dumped.keys() == type(section).model_fields.keys() - section.unused()
        for name, value in dumped.items():
            setting = getattr(section, name)
            if isinstance(setting, Section):
                check(setting, value)
            else:
                assert type(value) in {str, int, float, bool, list, type(None)}

    check(config, dump_config(config))


def test_a_setting_that_nothing_reads_is_not_dumped():
    assert "head_fraction" not in dump_config(load("tokens.truncation=tail"))["tokens"]
    assert "head_fraction" in dump_config(load("tokens.truncation=head_tail"))["tokens"]
    assert "folds" not in dump_config(load("data.fold=part"))
    assert "folds" in dump_config(load())


def test_a_dump_stands_in_the_order_of_the_stages():
    assert list(dump_config(load())) == list(Config.model_fields)
    assert list(yaml.safe_load(yaml.safe_dump(dump_config(load()), sort_keys=False))) == list(Config.model_fields)


# Every setting is described


def sections(section: type[Section]) -> Iterator[type[Section]]:
    """Yield a section and all that are in it, also as one of several choices."""
    yield section
    for field in section.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from sections(kind)


def test_every_setting_but_a_whole_section_has_a_description():
    assert [
        f"{part.__name__}.{name}"
        for part in sections(Config)
        for name, field in part.model_fields.items()
        if field.description is None
        and not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    ] == []


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("epochs=1", "optimizer.epochs"),
        ("learning_rate=1e-4", "optimizer.learning_rate"),
        ("optimizer.lr=3", "optimizer.learning_rate"),
        ("batch_size=8", "batching.batch_size"),
        ("save_steps=5", "evaluation.every or checkpoint.every"),
        ("max_seq_length=5", "tokens.max_length"),
    ],
)
def test_a_setting_without_its_section_or_by_the_name_of_other_tools_is_found(assignment, meant):
    assert problem(None, assignment).endswith(f"there is no such setting; did you mean {meant}?")


def test_every_name_of_other_tools_stands_for_a_setting_that_exists():
    assert all(nearest_setting(name, Config) for name in OTHER_NAMES)


def test_a_model_that_is_not_named_is_asked_for_by_its_option():
    with pytest.raises(SettingsError, match="name an encoder with --model"):
        parse_config({"data": {"path": "a.csv", "text": "t", "target": "y"}})


def test_a_mapping_without_the_blank_of_yaml_is_explained():
    assert problem(None, "evaluation.every={steps:3}").endswith("YAML needs a blank behind the colon: {steps: 3}")
