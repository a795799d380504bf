"""Settings to train with, each with its reason and what it is expected to bring, and what candidates cost."""

import textwrap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from leantune.advice.blocks import Block, Cells, Code, Paragraph, Section
from leantune.advice.probe import Measured, measure, prepare_quietly
from leantune.advice.table_parts import Part
from leantune.batches.plan import TokensPerMicroBatch
from leantune.inspection.findings import Finding, percent
from leantune.runs.config import Config, dump_config
from leantune.runs.preparation import Prepared
from leantune.system.device import counts_memory
from leantune.system.formatting import duration

WORTH = 0.93
"""Settings that change nothing that is learned are advised where they take at most this share of the default's time."""
LESS = 0.9
"""Share of the tokens that a shorter max_length keeps at least, to be tried as a candidate."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings that were tried."""

    name: str
    changes: dict[str, Any]
    """Section -> settings, over the default's."""
    learns_the_same: bool
    measured: Measured


def advise(config: Config, prepared: Prepared, cost: Measured, findings: tuple[Finding, ...]) -> tuple[Part, str]:
    """Measure the candidates beside the settings of `prepared`, which `cost` what was measured already.

    Return what all of them cost, and the settings to train with as YAML.
    """
    tried = [_try(config, name, changes, same) for name, changes, same in _changes(prepared)]
    default, *others = _at_one_speed(
        [Candidate(name="default", changes={}, learns_the_same=True, measured=cost), *tried]
    )
    candidates = [default, *others]
    safe = [candidate for candidate in candidates if candidate.learns_the_same]
    best = min(safe, key=lambda candidate: candidate.measured.seconds_per_epoch)
    if best.measured.seconds_per_epoch > WORTH * default.measured.seconds_per_epoch:
        best = default
    settings = _yaml(config, prepared, default, best, findings)
    usual = default.measured
    blocks: list[Block] = [
        Paragraph(
            text=f"Each line was measured on this machine with the first optimizer steps of a real training "
            f"({cost.steps:,} to {max(c.measured.steps for c in candidates):,} of {cost.total_steps:,}). "
            f"{_other_programs(cost)}"
        ),
        Cells(
            head=("settings", "an epoch", "training", "memory", "learns the same"),
            lines=tuple(
                (
                    c.name,
                    f"{duration(c.measured.seconds_per_epoch)} ± {c.measured.scatter:.0%}",
                    duration(c.measured.train_seconds),
                    f"{c.measured.peak_bytes / 2**30:.2f} GiB",
                    "yes" if c.learns_the_same else "no",
                )
                for c in candidates
            ),
            caption=f"Training is {usual.epochs} epochs of {usual.steps_per_epoch:,} steps, without evaluations and "
            f"start-up. Memory is the peak of the {usual.memory_of}.",
        ),
        Paragraph(text="Settings to train with: save them as train.yaml, then"),
        Code(text="leantune train --config train.yaml --output RUN"),
        Code(text=settings),
    ]
    data = {
        "candidates": [
            {
                "name": c.name,
                "changes": c.changes,
                "learns_the_same": c.learns_the_same,
                "seconds_per_epoch": c.measured.seconds_per_epoch,
                "train_seconds": c.measured.train_seconds,
                "standard_error": c.measured.scatter,
                "peak_bytes": c.measured.peak_bytes,
                "memory_of": c.measured.memory_of,
                "steps_measured": c.measured.steps,
            }
            for c in candidates
        ],
        "advised": best.name,
    }
    return Part(section=Section(title="Settings, measured", blocks=tuple(blocks)), data=data), settings


def _at_one_speed(candidates: list[Candidate]) -> list[Candidate]:
    """On a CPU, turn the processor's time into seconds at the same speed for all candidates.

    They are measured one after the other, and what else the machine does changes meanwhile.
    """
    processor = [c.measured.processor_seconds_per_epoch for c in candidates]
    known = [seconds for seconds in processor if seconds is not None]
    if len(known) < len(candidates):
        return candidates
    slowness = sum(c.measured.seconds_per_epoch for c in candidates) / sum(known)
    return [
        replace(c, measured=replace(c.measured, seconds_per_epoch=seconds * slowness))
        for c, seconds in zip(candidates, known, strict=True)
    ]


def _other_programs(cost: Measured) -> str:
    """Say how much of the processor this process had, where that was little."""
    if cost.processor_seconds_per_epoch is None:
        return "Other programs that run at the same time change the figures."
    cores = cost.processor_seconds_per_epoch / cost.seconds_per_epoch
    text = "They hold for what else the machine does now"
    if cores < 0.8:
        text += f": this process had only {cores:.0%} of one core, so that training on an idle machine is faster"
    return f"{text}."


def _changes(prepared: Prepared) -> list[tuple[str, dict[str, Any], bool]]:
    """Return candidates beside the default: a name, the settings, and whether they learn the same."""
    found: list[tuple[str, dict[str, Any], bool]] = []
    batching = prepared.config.batching
    if batching.layout == "packed":
        found.append(("layout: dynamic", {"batching": {"layout": "dynamic", "micro_batch": "auto"}}, True))
    # Where the device counts its memory, auto is already as much as fits.
    if isinstance(batching.micro_batch, TokensPerMicroBatch) and not counts_memory(prepared.precision.device):
        doubled = 2 * batching.micro_batch.tokens
        change = {"batching": {"layout": batching.layout, "micro_batch": {"tokens": doubled}}}
        found.append((f"micro_batch: {doubled:,} tokens", change, True))
    shorter = _shorter_length(prepared)
    if shorter is not None:
        found.append((f"max_length: {shorter:,}", {"tokens": {"max_length": shorter}}, False))
    return found


def _shorter_length(prepared: Prepared) -> int | None:
    """Return the least multiple of 16 tokens that keeps most of them, or None where it is no shorter."""
    lengths = prepared.rows.sequences.lengths.astype(np.int64)
    total, longest = int(lengths.sum()), int(lengths.max())
    for limit in range(32, longest, 16):
        if np.minimum(lengths, limit).sum() >= LESS * total:
            return limit if limit <= 0.8 * longest else None
    return None


def _try(config: Config, name: str, changes: dict[str, Any], same: bool) -> Candidate:
    prepared, encoder = prepare_quietly(changed(config, changes))
    return Candidate(name=name, changes=changes, learns_the_same=same, measured=measure(prepared, encoder))


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """Return settings with others in some sections."""
    settings = config.model_dump(exclude_unset=True)
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return Config.model_validate(settings)


def _yaml(
    config: Config, prepared: Prepared, default: Candidate, best: Candidate, findings: tuple[Finding, ...]
) -> str:
    """Write the settings, with a comment for each."""
    effective, sequences = prepared.config, prepared.rows.sequences
    given = dump_config(config.data)
    lines = ["data:"]
    reasons = {
        "path": "the table",
        "text": "as asked",
        "target": prepared.targets.reason.removesuffix("."),
        "task": "what the targets were read as; fixed, so that other rows cannot change it",
    }
    for name in type(config.data).model_fields:
        if name == "task":
            lines.append(_line("task", prepared.targets.kind, reasons["task"], indent=2))
        elif name in config.data.model_fields_set:
            value = given[name]
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            lines.append(_line(name, value, reasons.get(name, "as asked"), indent=2))
    lines += ["model:", _line("name", config.model.name, "as asked", indent=2)]
    codes = {finding.code for finding in findings}
    reason = f"nothing is cut: the longest row has {int(sequences.full_lengths.max()):,} tokens"
    if sequences.truncated_rows:
        reason = f"the model's limit; {percent(sequences.cut_share)} of the tokens are cut"
    if config.tokens.max_length != "auto":
        reason = "as asked"
    lines += ["tokens:", _line("max_length", config.tokens.max_length, reason, indent=2)]
    if config.tokens.truncation != "head_tail" or sequences.truncated_rows:
        lines.append(_line("truncation", config.tokens.truncation, "both ends usually say most", indent=2))
    lines += ["batching:", _line("batch_size", effective.batching.batch_size, "rows an optimizer step", indent=2)]
    lines += batching_lines(effective.batching.layout, default, best)
    lines.append(
        _line(
            "precision",
            effective.precision,
            "the fastest that this device computes" if config.precision == "auto" else "as asked",
            indent=0,
        )
    )
    took = best.measured
    optimizer = effective.optimizer
    lines += [
        "optimizer:",
        _line("learning_rate", optimizer.learning_rate, "by the size of the encoder", indent=2),
        _line(
            "epochs",
            optimizer.epochs,
            f"{took.total_steps:,} steps; expected: {duration(took.seconds_per_epoch)} an epoch, "
            f"{duration(took.train_seconds)} in all, {took.peak_bytes / 2**30:.2f} GiB",
            indent=2,
        ),
    ]
    metric = effective.evaluation.metric
    if "LT303" in codes and config.evaluation.metric == "auto":
        metric = "f1_macro"
        reason = "one class has more than 90% of the rows (LT303), which accuracy does not see"
    else:
        reason = "the usual one for this task" if config.evaluation.metric == "auto" else "as asked"
    if config.fold != "none":
        lines += ["evaluation:", _line("metric", metric, reason, indent=2)]
    if any(finding.code in ("LT401", "LT402") and finding.severity == "warning" for finding in findings):
        lines += _comment(
            "Copies stand in several folds (LT401, LT402), so that the metrics will be too good. Name a column that is "
            "the same for all copies with data.group, or remove them."
        )
    if "LT405" in codes and config.data.group is None:
        lines += _comment("Rows may belong together (LT405). Set data.group if new texts will be of other groups.")
    return "\n".join(lines) + "\n"


def batching_lines(layout: str, default: Candidate, best: Candidate) -> list[str]:
    """Write the layout and the micro-batch of the best candidate, with the reason for each; `layout`: the default's."""
    gain = best.measured.seconds_per_epoch / default.measured.seconds_per_epoch
    faster = f"measured: {gain:.2f} times the time of the default, and learns the same"
    changes = best.changes.get("batching", {})
    chosen, micro_batch = changes.get("layout", layout), changes.get("micro_batch", "auto")
    usual = "the fastest of those that were measured and learn the same"
    lines = [_line("layout", chosen, usual if chosen == layout else faster, indent=2)]
    if micro_batch != "auto":
        lines.append(_line("micro_batch", micro_batch, faster, indent=2))
    return lines


def _line(name: str, value: Any, reason: str, *, indent: int) -> str:
    """Return one line of YAML below its reason as a comment."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).strip()
    text = text.removesuffix("...").strip()
    margin = " " * indent
    return "\n".join([*_comment(reason, margin), f"{margin}{name}: {text}"])


def _comment(text: str, margin: str = "") -> list[str]:
    """Return lines of YAML's comments, of at most 78 columns."""
    begin = f"{margin}# "
    return textwrap.wrap(" ".join(text.split()), 78, initial_indent=begin, subsequent_indent=begin)
