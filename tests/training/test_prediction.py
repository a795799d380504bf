"""Rows that are read in several windows have one prediction each, that of plain transformers pooled by hand."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from leantune.batches.plan import RowsPerMicroBatch, TokensPerMicroBatch
from leantune.encoder.model import Encoder
from leantune.tokens.truncation import TokenSettings
from leantune.training.prediction import pool_windows, predict_rows
from small_runs import FP32, load_tiny, make_rows, make_task_of
from tiny_encoders import make_texts

TEXTS = [*make_texts(12, most_words=50, seed=5), "", "Bako", *make_texts(4, most_words=8)]
LIMIT, STRIDE = 20, 7
LAYOUTS = {
    "dynamic": ("longest", RowsPerMicroBatch(rows=4)),
    "fixed": (LIMIT, TokensPerMicroBatch(tokens=3 * LIMIT)),
    "packed": ("none", TokensPerMicroBatch(tokens=50)),
}


def rows_of(folder: Path, kind: Any, *, pair: bool = False, **tokens: Any) -> Any:
    settings = TokenSettings(max_length=LIMIT, truncation="windows", stride=STRIDE, **tokens)
    return make_rows(folder, kind, texts=TEXTS, pair=pair, tokens=settings)


def predict(folder: Path, rows: Any, kind: Any, layout: str, numbers: Any = None) -> NDArray[np.float64]:
    padding, limit = LAYOUTS[layout]
    return predict_rows(
        load_tiny(folder, kind, packed=layout == "packed"),
        rows.sequences,
        np.arange(len(TEXTS)) if numbers is None else np.array(numbers),
        task=make_task_of(kind),
        micro_batch=limit,
        padding=padding,
        precision=FP32,
    ).values


def windows_of(texts: list[list[int]], budget: int) -> list[list[list[int]]]:
    """The tokens that each window has of each of a row's texts."""
    kept = list(map(len, texts))
    while sum(kept) > budget:  # a token at a time, from the longest text, or from the last one where they are even
        kept[max(range(len(kept)), key=lambda text: (kept[text], text))] -= 1
    starts = [0] * len(texts)
    windows = []
    while True:
        windows.append([text[start : start + n] for text, start, n in zip(texts, starts, kept, strict=True)])
        ends = [len(text) - n for text, n in zip(texts, kept, strict=True)]
        if starts == ends:
            return windows
        starts = [min(start + STRIDE, end) for start, end in zip(starts, ends, strict=True)]


def stock_outputs(folder: Path, encoder: Encoder, kind: Any, *, pair: bool = False) -> list[NDArray[np.float64]]:
    """[windows, outputs] of each row, a window after the other through plain transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(make_task_of(kind).labels))
    model.load_state_dict(encoder.model.state_dict())
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    middle = end * 2 if folder.name == "roberta" else end
    outputs = []
    for columns in zip(*(TEXTS, TEXTS[::-1])[: 1 + pair], strict=True):
        texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in columns]
        logits = []
        for first, *second in windows_of(texts, LIMIT - 2 - len(middle) * pair):
            ids = [*begin, *first, *(middle if pair else []), *chain(*second), *end]
            types = [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)
            has_types = {"token_type_ids": torch.tensor([types])} if folder.name == "bert" else {}
            with torch.inference_mode():
                logits.append(model(input_ids=torch.tensor([ids]), **has_types).logits)
        outputs.append(make_task_of(kind).predictions(torch.cat(logits)).numpy().astype(np.float64))
    return outputs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "pair", "kind", "pooling"),
    [
        ("bert", False, "regression", "mean"),
        ("bert", True, "multiclass", "mean"),
        ("bert", True, "multilabel", "max"),
        ("roberta", True, "multiclass", "max"),
        ("roberta", False, "binary", "max"),
        ("roberta", False, "regression", "max"),
    ],
)
def test_a_rows_prediction_is_that_of_its_windows_by_plain_transformers_pooled_by_hand(
    tiny_encoder_dir: Callable[[str], Path], layout: str, name: str, pair: bool, kind: Any, pooling: Any
) -> None:
    folder = tiny_encoder_dir(name)
    rows = rows_of(folder, kind, pair=pair, window_pooling=pooling)
    by_window = stock_outputs(folder, load_tiny(folder, kind), kind, pair=pair)
    assert rows.sequences.windows.tolist() == list(map(len, by_window))
    assert max(map(len, by_window)) > 5
    expected = np.stack([values.mean(axis=0) if pooling == "mean" else values.max(axis=0) for values in by_window])
    if pooling == "max" and kind in ("binary", "multiclass"):
        expected /= expected.sum(axis=1, keepdims=True)
    assert np.unique(expected.round(4), axis=0).shape[0] > 10  # or else any order would do
    np.testing.assert_allclose(predict(folder, rows, kind, layout), expected, rtol=0, atol=2e-6)


def test_predictions_of_some_rows_come_in_the_order_that_was_asked_for(
    tiny_encoder_dir: Callable[[str], Path],
) -> None:
    folder = tiny_encoder_dir("bert")
    rows = rows_of(folder, "multiclass")
    numbers = [7, 3, 13, 0, 12, 9]
    whole = predict(folder, rows, "multiclass", "packed")
    np.testing.assert_allclose(
        predict(folder, rows, "multiclass", "packed", numbers), whole[numbers], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_row_with_one_window_has_the_prediction_of_that_window_to_the_bit(pooling: Any) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(3), size=6).astype(np.float32).astype(np.float64)
    pooled = pool_windows(values, np.array([1, 3, 1, 1]), pooling, make_task_of("multiclass"))
    assert pooled.shape == (4, 3)
    assert (pooled[[0, 2, 3]] == values[[0, 4, 5]]).all()
    assert pooled.sum(axis=1) == pytest.approx(1)


def test_a_prediction_that_is_not_finite_in_one_window_is_not_finite() -> None:
    values = np.array([[1.0], [np.nan], [2.0]])
    for pooling in ("mean", "max"):
        pooled = pool_windows(values, np.array([2, 1]), pooling, make_task_of("regression"))  # type: ignore[arg-type]
        assert np.isnan(pooled[0, 0])
