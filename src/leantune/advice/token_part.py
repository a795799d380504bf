"""What a model's tokenizer makes of the texts: lengths, what a limit cuts, what each layout pads, what is unknown."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.advice import drawings
from leantune.advice.blocks import Block, Cells, Figure, Paragraph, Section
from leantune.advice.table_parts import Part
from leantune.batches.plan import Order, Padding, TokensPerMicroBatch, padded_tokens, plan_epoch
from leantune.encoder.model import Encoder
from leantune.inspection.findings import Finding, count_rows, percent, unknown_tokens
from leantune.runs.preparation import Prepared
from leantune.tables.table import Table
from leantune.tokens.sequences import count_unknown
from leantune.tokens.truncation import Sequences, TokenSettings, truncate
from leantune.training.layout import AUTO_TOKENS

CUT_TO_WARN = 0.05
MOST_ROWS_READ = 1_000
"""Rows with unknown tokens whose scripts are told."""


def describe_tokens(prepared: Prepared, encoder: Encoder, table: Table, model: str) -> Part:
    """Measure everything that the tokenizer and the batch planner decide."""
    sequences = prepared.rows.sequences
    full = sequences.full_lengths
    quantiles = np.quantile(full, (0.05, 0.5, 0.95, 0.99)).round().astype(int)
    limits = _limits(full, encoder.position_limit or sequences.max_length)
    blocks: list[Block] = [
        Paragraph(
            text=f"A row has {quantiles[1]:,} tokens in the median (5%: {quantiles[0]:,}, 95%: {quantiles[2]:,}, 99%: "
            f"{quantiles[3]:,}, most: {int(full.max()):,}), special tokens included."
        ),
        Figure(
            svg=drawings.histogram("lengths", "Tokens of a row", full, "tokens", mark=sequences.max_length),
            caption="Tokens of a row. The line, where there is one, is the longest that is read; the last bar has "
            "all longer rows.",
        ),
    ]
    cuts = [_cut(sequences, limit, encoder) for limit in limits]
    blocks.append(
        Cells(
            head=("max_length", "rows cut", "tokens cut by head, tail, head_tail", "windows instead"),
            lines=tuple(
                (
                    f"{c['max_length']:,}",
                    percent(c["rows_cut"]) if c["rows_cut"] else "0",
                    _share(c["tokens_cut"]),
                    c["said"],
                )
                for c in cuts
            ),
            caption="What tokens.max_length cuts. head, tail and head_tail cut as many tokens, at other places: head "
            "keeps the beginning, tail the end, head_tail both ends. windows cuts nothing: each epoch reads one window "
            "of each row.",
        )
    )
    padding = [*_padding(prepared)]
    blocks.append(
        Cells(
            head=("layout", "padding", "positions an epoch"),
            lines=tuple((name, _share(share), f"{positions:,}") for name, share, positions in padding),
            caption=f"What the real plan of an epoch computes for nothing, with {prepared.batching.batch_size} rows a "
            "step.",
        )
    )
    blocks.append(
        Figure(
            svg=drawings.bars(
                "padding",
                "Positions that an epoch computes, by layout",
                [name for name, _, _ in padding],
                [float(positions) for _, _, positions in padding],
                [f"{_share(share)} padding" for _, share, _ in padding],
            ),
            caption="Positions that the encoder computes in an epoch.",
        )
    )
    unknown, tokens = count_unknown(prepared.tokenizer, sequences.tokenized)
    scripts = _unknown_scripts(prepared.tokenizer, table, unknown)
    used = len(sequences.used_ids(encoder.vocabulary_size))
    total, all_tokens = int(unknown.sum()), int(tokens.sum())
    said = f"{f'{total:,} of' if total else 'None of the'} {all_tokens:,} tokens are unknown to the tokenizer"
    if scripts:
        named = ", ".join(f"{name} {count:,}" for name, count in scripts.most_common(6))
        said += f": by script, in the rows that have most of them, {named}"
    blocks.append(
        Paragraph(
            text=f"{said}. The texts use {used:,} of {encoder.vocabulary_size:,} rows of the embedding "
            f"({percent(used / encoder.vocabulary_size)}); only these are trained."
        )
    )
    findings = [
        *unknown_tokens(table, unknown, tokens, model=model, allowed=False),
        *_cut_texts(sequences, encoder.position_limit),
    ]
    return Part(
        section=Section(title="Lengths and tokens", blocks=tuple(blocks)),
        data={
            "tokens": {"median": int(quantiles[1]), "p95": int(quantiles[2]), "most": int(full.max())},
            "cut_by_max_length": cuts,
            "padding": [{"layout": n, "padding_fraction": s, "positions": p} for n, s, p in padding],
            "unknown_tokens": total,
            "unknown_by_script": dict(scripts),
            "embedding_rows_in_use": used,
            "embedding_rows": encoder.vocabulary_size,
        },
        findings=tuple(findings),
    )


def _share(share: float) -> str:
    return "0" if share == 0 else percent(share)


def _limits(full: NDArray[np.int32], limit: int) -> list[int]:
    """Return lengths worth a look: powers of two up to the model's limit, and that limit."""
    longest = int(full.max())
    powers = [2**power for power in range(5, 14) if 2**power < limit]
    below = [power for power in powers if power < longest]
    above = [power for power in powers if power >= longest][:1]
    return [*below[-4:], *above, *([limit] if longest > max(powers, default=0) or not above else [])]


def _cut(sequences: Sequences, limit: int, encoder: Encoder) -> dict[str, Any]:
    most = encoder.position_limit or max(limit, sequences.max_length)
    made = {
        way: truncate(
            sequences.tokenized, sequences.template, TokenSettings(max_length=min(limit, most), truncation=way), most
        )
        for way in ("head_tail", "windows")
    }
    cut, windows = made["head_tail"], made["windows"]
    read = int(windows.lengths.sum(dtype=np.int64))
    every = int(sequences.full_lengths.sum(dtype=np.int64))
    return {
        "max_length": limit,
        "rows_cut": cut.truncated_rows / len(cut.lengths),
        "tokens_cut": cut.cut_share,
        "windows": int(windows.windows.sum(dtype=np.int64)),
        "said": f"{count_rows(windows.windowed_rows)} in up to {int(windows.windows.max())} windows; an epoch reads "
        f"{_share(read / every)} of all tokens"
        if windows.windowed_rows
        else "no row needs more than one",
    }


def _padding(prepared: Prepared) -> Iterator[tuple[str, float, int]]:
    """Yield each layout with its padded share and the positions of an epoch, as the planner makes them."""
    rows = prepared.folds.training_rows(prepared.fold_numbers[0])
    lengths = prepared.rows.sequences.lengths[rows]
    device = prepared.precision.device.type
    longest = int(lengths.max())
    ways: tuple[tuple[str, Padding, Order], ...] = (
        ("fixed", longest, "random"),
        ("dynamic", "longest", "random"),
        ("dynamic, uniform_length", "longest", "uniform_length"),
        ("packed", "none", "random"),
    )
    total = int(lengths.sum(dtype=np.int64))
    for name, padding, order in ways:
        limit = TokensPerMicroBatch(tokens=AUTO_TOKENS["packed" if name == "packed" else "padded"][device])
        plan = plan_epoch(
            lengths,
            batch_size=prepared.batching.batch_size,
            micro_batch=limit,
            order=order,
            padding=padding,
            seed=prepared.config.seed,
            epoch=0,
        )
        positions = sum(padded_tokens(lengths[micro], padding) for micro in plan.micro_batches)
        yield name, 1 - total / positions, positions


def _cut_texts(sequences: Sequences, limit: int | None) -> Iterator[Finding]:
    if not sequences.truncated_rows:
        return
    share = sequences.cut_share
    longer = "choose a model with a higher limit"
    if limit is None or sequences.max_length < limit:
        longer = f"raise tokens.max_length{'' if limit is None else f' (the model reads {limit:,})'}"
    yield Finding(
        code="LT202",
        severity="warning" if share > CUT_TO_WARN else "note",
        found=f"{count_rows(sequences.truncated_rows)} are longer than {sequences.max_length:,} tokens and lose "
        f"{percent(share)} of all tokens",
        advice=f"if what is cut matters, read all of it with tokens.truncation: windows, or {longer}",
    )


def _unknown_scripts(tokenizer: Any, table: Table, unknown: NDArray[np.int64]) -> Counter[str]:
    """Count the unknown tokens of some rows by the script of their first character."""
    rows = np.argsort(-unknown, kind="stable")[:MOST_ROWS_READ]
    rows = rows[unknown[rows] > 0]
    if not len(rows) or not getattr(tokenizer, "is_fast", False):
        return Counter()
    found: Counter[str] = Counter()
    for column in table.texts:
        texts = column.take(pa.array(rows)).to_pylist()
        encoded = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            for token, (begin, end) in zip(ids, offsets, strict=True):
                if token == tokenizer.unk_token_id:
                    found[_script(text[begin:end])] += 1
    return found


def _script(text: str) -> str:
    """Return the script of a text's first letter or sign, by its name in Unicode: `latin`, `hiragana`, `cjk`."""
    for letter in text.strip():
        name = unicodedata.name(letter, "")
        category = unicodedata.category(letter)
        if category.startswith("S"):
            return "symbols and emoji"
        if category.startswith("P"):
            return "punctuation"
        return name.split(" ")[0].lower() if name else "unnamed"
    return "blank"
