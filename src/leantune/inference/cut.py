"""Which tokens of a row's texts the model reads, put together as it was trained. Needs no other package.

A row has one text or a pair; its tokens are lists of ids without special tokens. `cut.json` beside this file says how
many tokens the model reads, which ones stay of a longer row, and which special tokens stand around them::

    settings = read_settings()
    inputs = encode(tokenizer, settings, ["A text.", "Another one."])   # lists: input_ids, attention_mask, ...
    inputs = batch(settings, [[2023, 2003], [102]])                     # the same from token ids

With the truncation `windows`, a row that is too long is read in several windows, which stand in `inputs` one after the
other; the answer for the row is made of those for its windows::

    columns = [tokens(tokenizer, ["A text.", "Another one."])]
    inputs = batch(settings, *columns)
    answers = ...                           # a list of values or probabilities for each entry of `inputs`
    answers = pool(settings, answers, windows(settings, *columns))      # for each row
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRUNCATIONS = ("head", "tail", "head_tail", "windows")


def read_settings(folder: str | Path | None = None) -> dict[str, Any]:
    """Read `cut.json` of a folder, by default the one in which this file lies."""
    path = (Path(__file__).parent if folder is None else Path(folder)) / "cut.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if settings["truncation"] not in TRUNCATIONS:
        raise ValueError(f"{path}: truncation is {settings['truncation']!r}, and this file knows {TRUNCATIONS}")
    return settings


def cut(settings: dict[str, Any], texts: list[list[int]], window: int = 0) -> list[list[int]]:
    """Return the tokens that stay of a row's one or two texts, or that are read in one of its windows.

    All of them stay where the row fits. The texts of a pair share the room, longest first: the longer one is cut down
    to the other's length, then both evenly, an odd token going to the first. Of each text that is cut, a share of the
    kept tokens is its first (`head`: numerator and denominator, rounded half up), and the rest are its last. A window
    has as many tokens; the next one begins `stride` tokens later, or where the last tokens of the text fit.
    """
    return [_keep(settings, ids, count, window) for ids, count in zip(texts, _counts(settings, texts))]  # noqa: B905


def windows(settings: dict[str, Any], *columns: list[list[int]]) -> list[int]:
    """Return in how many windows each row is read: 1 where it fits, and always with the other truncations."""
    return [_windows(settings, [*texts]) for texts in zip(*columns)]  # noqa: B905


def pool(settings: dict[str, Any], answers: list[list[float]], windows: list[int]) -> list[list[float]]:
    """Return the answer for each row, of those for its windows: values or probabilities, not logits.

    `pooling` is their mean, or their maximum; where each row has one class (`one_class`), the maxima are divided by
    their sum.
    """
    rows, start = [], 0
    for count in windows:
        row = [list(map(float, answer)) for answer in answers[start : start + count]]
        start += count
        if count == 1:
            pooled = row[0]
        elif settings["pooling"] == "mean":
            pooled = [sum(values) / count for values in zip(*row)]  # noqa: B905
        else:
            pooled = [max(values) for values in zip(*row)]  # noqa: B905
            total = sum(pooled) if settings["one_class"] else 1.0
            pooled = [value / total for value in pooled]
        rows.append(pooled)
    return rows


def _counts(settings: dict[str, Any], texts: list[list[int]]) -> list[int]:
    """Return how many tokens each text of a row keeps, or has in a window."""
    if len(texts) != len(settings["special_ids"]) - 1:
        raise ValueError(f"found {len(texts)} texts a row, expected {len(settings['special_ids']) - 1}")
    room = settings["max_length"] - sum(map(len, settings["special_ids"]))
    if len(texts) == 1:
        return [min(len(texts[0]), room)]
    first, second = map(len, texts)
    return [min(first, max(room - second, room - room // 2)), min(second, max(room - first, room // 2))]


def _windows(settings: dict[str, Any], texts: list[list[int]]) -> int:
    if settings["truncation"] != "windows":
        return 1
    stride: int = settings["stride"]
    left = [len(ids) - count for ids, count in zip(texts, _counts(settings, texts))]  # noqa: B905
    return 1 + max(-(-rest // stride) for rest in left)  # rounded up


def _keep(settings: dict[str, Any], ids: list[int], count: int, window: int) -> list[int]:
    if count == len(ids):
        return list(ids)
    if settings["truncation"] == "windows":
        start = min(window * settings["stride"], len(ids) - count)
        return ids[start : start + count]
    numerator, denominator = settings["head"]
    head = (2 * count * numerator + denominator) // (2 * denominator)
    return [*ids[:head], *ids[len(ids) - (count - head) :]]


def join(settings: dict[str, Any], texts: list[list[int]]) -> tuple[list[int], list[int] | None]:
    """Put the special tokens around a row's texts, which are cut; return ids and token types, None without any."""
    ids: list[int] = list(settings["special_ids"][0])
    for text, special in zip(texts, settings["special_ids"][1:]):  # noqa: B905 - for every version of Python 3
        ids += [*text, *special]
    if settings["token_types"] is None:
        return ids, None
    # One for each special token, and one for each text as a whole, in their order.
    types, given = [], iter(settings["token_types"])
    types += [next(given) for _ in settings["special_ids"][0]]
    for text, special in zip(texts, settings["special_ids"][1:]):  # noqa: B905
        types += [next(given)] * len(text)
        types += [next(given) for _ in special]
    return ids, types


def batch(settings: dict[str, Any], *columns: list[list[int]]) -> dict[str, list[list[int]]]:
    """Return the model's inputs for rows of tokens, a column for each text of a row: cut, joined and padded to the
    longest; a row that is read in several windows has as many entries."""
    rows = [
        join(settings, cut(settings, [*texts], window))
        for texts in zip(*columns)  # noqa: B905
        for window in range(_windows(settings, [*texts]))
    ]
    longest = max((len(ids) for ids, _ in rows), default=0)
    if settings["pad_id"] is None and any(len(ids) < longest for ids, _ in rows):
        raise ValueError("padding changes what this model computes: give rows of equal length, or one at a time")
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for ids, _ in rows:
        padding = longest - len(ids)
        inputs["input_ids"].append([*ids, *[settings["pad_id"]] * padding])
        inputs["attention_mask"].append([1] * len(ids) + [0] * padding)
    if settings["token_types"] is not None:
        inputs["token_type_ids"] = [[*(types or ()), *[0] * (longest - len(types or ()))] for _, types in rows]
    return inputs


def encode(tokenizer: Any, settings: dict[str, Any], *columns: list[str]) -> dict[str, list[list[int]]]:
    """Return the model's inputs for rows of texts, a list for each text of a row, with a tokenizer of transformers."""
    return batch(settings, *(tokens(tokenizer, texts) for texts in columns))


def tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text: all of them, and no special tokens."""
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, padding=False, truncation=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return ids
