"""How fast and how large is a step of leantune, against what a user would take instead?

    python benchmarks/peers.py train.csv --text excerpt --target target --model FOLDER --steps 6 --rounds 5

The peers, each a script beside this one: leantune with its defaults (`leantune_loop.py`), the article's plain loop
(`article_loop.py`), transformers.Trainer as it comes and tuned (`transformers_trainer.py`), CrossEncoderTrainer of
sentence-transformers (`cross_encoder_trainer.py`). They need the extra `benchmark`.

All learn the same rows with the same model, dropout and 32 rows a step. Every peer runs in a process of its own, one
after the other, round after round, each first in turn. A run loads the model, takes `--warm-up` steps on other rows and
then `--steps` timed steps. Peers that can be tuned run once before that in each of their variants, of which the fastest
is taken. Prints a table: medians over the rounds, and the range of the ratio of two runs of the same round.

With `--epochs` and `--validation`, and as many rounds as seeds, it asks whether they also learn the same:

    python benchmarks/peers.py train.csv --text excerpt --target target --model FOLDER --steps 25 --epochs 3 \\
        --validation 200 --rounds 3 --peers article --max-length 256 --learning-rate 1e-4
"""

import argparse
import csv
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import AutoTokenizer

from leantune.encoder.loading import model_path
from leantune.runs.record import code_revision
from leantune.system.device import describe_device, resolve_device
from leantune.tables.table import DataSettings, read_table
from leantune.tables.targets import parse_targets
from leantune.training.precision import make_precision
from workload import Workload

HERE = Path(__file__).parent
LEAST_VALIDATION_ROWS = 8  # leantune wants some, also where nothing is validated

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A script that trains, and what the table calls it."""

    script: str
    title: str
    is_tuned: bool = False


PEERS = {
    "leantune": Peer(script="leantune_loop.py", title="leantune"),
    "article": Peer(script="article_loop.py", title="the article's loop, float32"),
    "trainer": Peer(script="transformers_trainer.py", title="transformers.Trainer as it comes"),
    "trainer-tuned": Peer(script="transformers_trainer.py", title="transformers.Trainer tuned", is_tuned=True),
    "cross-encoder": Peer(script="cross_encoder_trainer.py", title="CrossEncoderTrainer", is_tuned=True),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", nargs="+", required=True, help="one column, or two for pairs")
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="beside leantune")
    parser.add_argument("--steps", type=int, default=8, help="timed optimizer steps an epoch")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before that")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most-minutes", type=float, default=1e9, help="begin no round after so many")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--validation", type=int, default=0, help="rows on which the trained models are scored")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dropout", type=float, help="default the model's own")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--precision", default="auto", help="of the peers that are tuned")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[8, 16, 32], help="to choose from, in rows")
    parser.add_argument("--compile", action="store_true", help="try the tuned Trainer with torch.compile, too")
    parser.add_argument("--output", type=Path, help="write the table here, and what was measured beside it as JSON")
    return parser


def make_workload(options: argparse.Namespace, folder: Path) -> Workload:
    """Draw the rows, and write them into a table that leantune reads."""
    model = model_path(options.model)
    settings = DataSettings(path=options.data, text=options.text, target=options.target)
    whole = read_table(settings)
    texts = list(zip(*(column.to_pylist() for column in whole.texts), strict=True))
    targets = parse_targets(whole, "auto")
    if targets.kind == "multilabel":
        raise SystemExit("--target: several labels a row are not measured here; name a number or a class")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = tokenizer(*zip(*texts, strict=True), truncation=True, max_length=options.max_length)["input_ids"]

    sizes = [options.warm_up * options.batch_size, options.steps * options.batch_size]
    sizes.append(max(options.validation, LEAST_VALIDATION_ROWS))
    if sum(sizes) > len(texts):
        raise SystemExit(f"{options.data}: found {len(texts)} rows, expected {sum(sizes)}; ask for fewer --steps")
    rows = np.random.default_rng(0).permutation(len(texts))[: sum(sizes)]
    path = folder / "rows.csv"
    columns = ["text", "text_2"][: len(texts[0])]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "target", "fold"])
        for place, (row, target) in enumerate(zip(rows, targets.readable(rows).to_pylist(), strict=True)):
            writer.writerow([*texts[row], target, int(place < sizes[0] + sizes[1])])
    drawn = read_table(DataSettings(path=path, text=columns, target="target", fold="fold"))
    targets = parse_targets(drawn, targets.kind)
    device = resolve_device(options.device)
    return Workload(
        table=str(path),
        model=str(model),
        kind=targets.kind,
        texts=[list(texts[row]) for row in rows],
        targets=targets.values.reshape(-1).tolist(),
        outputs=len(targets.classes or targets.columns),
        warm_up_rows=sizes[0],
        timed_rows=sizes[1],
        epochs=options.epochs,
        validate=options.validation > 0,
        batch_size=options.batch_size,
        max_length=options.max_length,
        longest=max(map(len, tokens)),
        dropout=options.dropout,
        learning_rate=options.learning_rate,
        precision=make_precision(options.precision, device).name,
        device=str(device),
        seed=0,
        variant={},
    )


def variants(peer: Peer, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What to choose from; nothing where there is nothing to tune."""
    if not peer.is_tuned:
        return [{}]
    if peer.script != "transformers_trainer.py":
        return [{"micro_batch": rows} for rows in options.micro_batches]
    found = [{"micro_batch": rows, "sampling": "group_by_length"} for rows in options.micro_batches]
    # Parts a step's own rows by length, which is nothing where a step is one micro-batch.
    smaller = [rows for rows in options.micro_batches if rows < options.batch_size]
    found += [{"micro_batch": rows, "sampling": "batch_rebalance"} for rows in smaller]
    if options.compile:
        found.append({"micro_batch": max(options.micro_batches), "sampling": "group_by_length", "compile": True})
    return found


def run_peer(peer: Peer, workload: Workload) -> Result:
    """Run a peer once in a fresh process; a result with `skipped` where it cannot run, with the reason."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workload.json"
        workload.write(path)
        # A cache of its own: what an earlier run has tokenized must not shorten the start of a later one.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "LEANTUNE_CACHE": folder}
        done = subprocess.run(
            [sys.executable, HERE / peer.script, path], capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        print(done.stderr, file=sys.stderr)
        return {"skipped": f"failed with exit code {done.returncode}: {reason}"}
    result: Result = json.loads(done.stdout.splitlines()[-1])
    if "skipped" not in result and result["steps"] != workload.timed_steps:
        return {"skipped": f"found {result['steps']} timed steps, expected {workload.timed_steps}"}
    return result


def choose_variant(peer: Peer, workload: Workload, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return a peer's fastest variant, and one sentence about the choice; empty where there is nothing to choose."""
    found = variants(peer, options)
    if len(found) == 1:
        return found[0], "" if not found[0] else f"{peer.title}: {describe_variant(found[0])}"
    seconds: dict[str, float] = {}
    fastest: dict[str, Any] = found[0]
    notes = []
    for variant in found:
        result = run_peer(peer, replace(workload, variant=variant))
        name = describe_variant(variant)
        if "skipped" in result:
            notes.append(f"{name}: {result['skipped']}")
            continue
        seconds[name] = result["seconds"] / workload.timed_steps
        notes.append(f"{name}: {seconds[name]:.3g} s")
        if seconds[name] == min(seconds.values()):
            fastest = variant
    return fastest, f"{peer.title}: {describe_variant(fastest)}, the fastest of ({'; '.join(notes)}) a step"


def describe_variant(variant: dict[str, Any]) -> str:
    """`micro-batches of 8 rows, group_by_length`."""
    words = [f"micro-batches of {variant['micro_batch']} rows", variant.get("sampling", "")]
    return ", ".join(filter(None, [*words, "torch.compile" if variant.get("compile") else ""]))


def measure(workload: Workload, options: argparse.Namespace) -> Iterator[tuple[list[dict[str, Result]], list[str]]]:
    """Run all rounds; yield after each the results of all so far by peer, and what is to be said about them."""
    began = time.monotonic()
    names = ["leantune", *(name for name in PEERS if name in options.peers and name != "leantune")]
    notes = []
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        chosen[name], note = choose_variant(PEERS[name], workload, options)
        notes += [note] if note else []
    rounds: list[dict[str, Result]] = []
    for number in range(options.rounds):
        if rounds and time.monotonic() - began > 60 * options.most_minutes:
            break
        results: dict[str, Result] = {}
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = run_peer(PEERS[name], replace(workload, seed=number, variant=chosen[name]))
            if "skipped" in result:
                if name == "leantune":
                    raise SystemExit(f"leantune {result['skipped']}")
                notes.append(f"{PEERS[name].title} is left out: {result['skipped']}")
                continue
            results[name] = result
            print(
                f"round {number + 1}: {PEERS[name].title}: {result['seconds'] / workload.timed_steps:.3f} s a step",
                file=sys.stderr,
                flush=True,
            )
        names = [name for name in names if name in results]
        rounds.append(results)
        yield rounds, notes


def middle(values: Iterable[float]) -> str:
    """Median and range, in three digits: `1.73 (1.64 to 1.77)`."""
    found = list(values)
    return f"{statistics.median(found):.3g} ({min(found):.3g} to {max(found):.3g})"


def ratios(rounds: list[dict[str, Result]], name: str) -> list[float]:
    """How many times as fast as a peer leantune was, in each round that has both."""
    return [found[name]["seconds"] / found["leantune"]["seconds"] for found in rounds if name in found]


def make_table(rounds: list[dict[str, Result]], steps: int) -> str:
    """A row for each peer, leantune first; median over the rounds, where nothing else is said with the range.

    Tokens and useful floating-point operations are those of the rows, which all peers share: leantune counts them.
    """
    has_device = any(found["leantune"]["peak_device_bytes"] for found in rounds)
    has_score = any("score" in found["leantune"] for found in rounds)
    heads = ["", "seconds a step", "leantune is so many times as fast", "tokens a second", "padding", "utilization"]
    heads += ["memory of the process", *(["memory on the device"] if has_device else []), "start-up"]
    heads += ["score"] if has_score else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, peer in PEERS.items():
        own = [found for found in rounds if name in found]
        if not own:
            continue

        def median(key: str, own: list[dict[str, Result]] = own, name: str = name) -> float:
            return statistics.median(found[name][key] for found in own)

        tokens = [found["leantune"]["tokens"] for found in own]
        seconds = [found[name]["seconds"] for found in own]
        used = [
            found["leantune"]["useful_flops"] / found[name]["seconds"] / found["leantune"]["matrix_rate"]
            for found in own
        ]
        padding = "–"
        if all(found[name]["positions"] for found in own):
            shares = [1 - count / found[name]["positions"] for count, found in zip(tokens, own, strict=True)]
            padding = f"{statistics.median(shares):.1%}"
        cells = [
            peer.title,
            middle(second / steps for second in seconds),
            "–" if name == "leantune" else middle(ratios(rounds, name)),
            f"{statistics.median(count / second for count, second in zip(tokens, seconds, strict=True)):,.0f}",
            padding,
            f"{statistics.median(used):.1%}",
            f"{median('peak_process_bytes') / 2**30:.2f} GiB",
        ]
        if has_device:
            cells.append(f"{median('peak_device_bytes') / 2**30:.2f} GiB")
        cells.append(f"{median('startup_seconds'):.1f} s")
        if has_score:
            cells.append(middle(found[name]["score"] for found in own))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe_machine(workload: Workload) -> str:
    """Hardware and versions, in one line."""
    versions = []
    for package in ("torch", "transformers", "sentence-transformers", "leantune"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package} installed")
    device = describe_device(resolve_device(workload.device))
    where = f"{device['name']}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{where}; {platform.system()}, Python {platform.python_version()}, {', '.join(versions)}"


def make_page(
    options: argparse.Namespace, workload: Workload, rounds: list[dict[str, Result]], notes: list[str]
) -> str:
    """The table with all that a reader needs in order to judge and to repeat it."""
    first = rounds[0]["leantune"]
    tokens = first["tokens"] / workload.epochs / workload.timed_rows
    rates = middle(found["leantune"]["matrix_rate"] / 1e9 for found in rounds)
    dropout = "the model's own" if workload.dropout is None else workload.dropout
    said = [
        f"{options.data.name}: {workload.timed_rows} rows in steps of {workload.batch_size}, {workload.epochs} "
        f"epoch(s); {tokens:.0f} tokens a row, at most {workload.max_length}, the longest of the data set "
        f"{workload.longest}; dropout: {dropout}",
        f"leantune: {first['settings']}",
        *notes,
        f"utilization: floating-point operations that cannot be avoided, over {rates} GFLOP/s, the rate of matrix "
        f"products of this device ({first['matrix_rate_of']}), measured in every round",
    ]
    if workload.validate:
        what = "RMSE" if workload.is_regression else "log loss"
        said.append(f"score: {what} on {options.validation} other rows after the last step; a seed a round")
    command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}. {describe_machine(workload)}; commit {code_revision() or 'unknown'}.",
            "",
            f"    {command}",
            "",
            make_table(rounds, workload.timed_steps),
            "",
            f"Median of {len(rounds)} rounds (of {options.rounds} asked for), with the range.",
            "",
            *(f"- {sentence}." for sentence in said),
            "",
        ]
    )


def main() -> None:
    options = make_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workload = make_workload(options, Path(folder))
        for rounds, notes in measure(workload, options):  # written after each, so that who stops it loses one at most
            page = make_page(options, workload, rounds, notes)
            if options.output is not None:
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(page, encoding="utf-8")
                options.output.with_suffix(".json").write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
