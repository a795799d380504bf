"""The constant answer and the linear model: as scikit-learn has them used plainly, and None rather than a crash."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from leantune.training import linear_model, yardsticks
from leantune.training.scoring import compute_metrics
from leantune.training.yardsticks import Yardsticks, join, measure_yardsticks

GOOD = ["lovely", "bright", "happy", "warm", "kind", "gentle", "sweet", "calm", "fine", "merry"]
BAD = ["awful", "dark", "sad", "cold", "cruel", "harsh", "sour", "loud", "poor", "grim"]
PLAIN = ["the", "a", "table", "river", "stone", "paper", "window", "road", "letter", "garden"]


def make_texts(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of common words, and how many of their words are good ones."""
    draw = np.random.default_rng(seed)
    good = draw.integers(0, 7, count)
    texts = [
        " ".join(draw.permutation([*draw.choice(GOOD, g), *draw.choice(BAD, 6 - g), *draw.choice(PLAIN, 6)]))
        for g in good
    ]
    return texts, good


def measure(
    kind: Any, texts: Any, targets: Any, *, train: int, weights: Any = None, outputs: int | None = None, **options: Any
) -> Yardsticks:
    """The yardsticks where the first `train` rows train, and the others validate."""
    columns = texts if isinstance(texts, tuple) else (texts,)
    count = len(columns[0])
    values = np.asarray(targets)
    return measure_yardsticks(
        kind,
        texts=tuple(pa.array(column, pa.large_string()) for column in columns),
        targets=values,
        weights=np.ones(count) if weights is None else np.asarray(weights, dtype=float),
        training_rows=np.arange(train),
        validation_rows=np.arange(train, count),
        outputs=outputs or (values.shape[1] if values.ndim == 2 else int(values.max()) + 1),
        **options,
    )


def plain_features(texts: list[str], train: int) -> Any:
    """TF-IDF of scikit-learn, used plainly."""
    parts = []
    for settings in (
        {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"ngram_range": (2, 4), "analyzer": "char_wb"},
    ):
        vectorizer = TfidfVectorizer(**settings, sublinear_tf=True, min_df=2).fit(texts[:train])
        parts.append(vectorizer.transform(texts))
    return sparse.hstack(parts, format="csr")


def test_the_constant_answer_is_the_weighted_mean_of_the_training_targets():
    targets = [[1.0, 5.0], [3.0, 5.0], [8.0, 2.0], [0.0, 0.0], [9.0, 9.0]]
    made = measure("regression", ["a"] * 5, targets, train=3, weights=[1, 2, 1, 7, 7])
    assert made.constant == pytest.approx(np.array([[3.75, 4.25]] * 2))


def test_the_constant_answer_of_classes_and_labels_is_their_share_of_the_weight():
    made = measure("multiclass", ["a"] * 5, [0, 0, 2, 1, 1], train=3, weights=[1, 1, 2, 7, 7], outputs=3)
    assert made.constant.tolist() == [[0.5, 0.0, 0.5]] * 2
    made = measure("multilabel", ["a"] * 5, [[1, 0], [1, 1], [0, 0], [1, 1], [1, 1]], train=3, weights=[1, 1, 2, 7, 7])
    assert made.constant.tolist() == [[0.5, 0.25]] * 2


def test_shares_of_classes_have_their_mean_for_a_constant_and_probabilities_from_the_model():
    texts, good = make_texts(200)
    shares = np.stack([good / 6, 1 - good / 6], axis=1)
    made = measure("soft", texts, shares, train=150)
    assert made.constant[0] == pytest.approx(shares[:150].mean(axis=0))
    assert made.linear is not None
    assert made.linear.sum(axis=1) == pytest.approx(np.ones(50))
    assert np.corrcoef(made.linear[:, 0], good[150:])[0, 1] > 0.7


@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_are_those_of_scikit_learns_tf_idf_and_ridge(monkeypatch, weighted):
    monkeypatch.setattr(linear_model, "RIDGE_PENALTIES", (1.0,))
    texts, good = make_texts(240)
    targets = np.stack([good * 10.0 + 3, np.cos(good)], axis=1)
    weights = np.random.default_rng(1).uniform(0.1, 4, 240) if weighted else np.ones(240)
    made = measure("regression", texts, targets, train=180, weights=weights)
    used = weights[:180] / weights[:180].mean()
    features = plain_features(texts, 180)
    model = Ridge(alpha=1.0, solver="cholesky").fit(features[:180].toarray(), targets[:180], sample_weight=used)
    expected = model.predict(features[180:].toarray())
    assert made.linear is not None
    assert made.linear == pytest.approx(expected, abs=0.02 * targets.std())
    plain = Ridge(alpha=1.0, solver="cholesky").fit(features[:180].toarray(), targets[:180]).predict(features[180:])
    assert weighted == (np.abs(plain - made.linear).max() > 0.05 * targets.std())  # so that weights are seen to count


def test_classes_are_those_of_one_logistic_regression_a_class(monkeypatch):
    monkeypatch.setattr(linear_model, "INVERSE_PENALTIES", (3.0,))
    texts, good = make_texts(300)
    classes = np.digitize(good, [2, 4])
    made = measure("multiclass", texts, classes, train=240)
    features = plain_features(texts, 240)
    model = LogisticRegression(C=3.0, solver="liblinear", tol=1e-6)
    odds = [model.fit(features[:240], classes[:240] == c).predict_proba(features[240:])[:, 1] for c in range(3)]
    expected = np.stack(odds, axis=1) / np.sum(odds, axis=0)[:, None]
    assert made.linear is not None
    assert made.linear == pytest.approx(expected, abs=0.03)


def test_labels_are_learned_each_by_itself_and_one_that_no_row_has_is_never_predicted():
    texts, good = make_texts(300)
    labels = np.stack([good > 3, np.zeros(300), good < 2, np.ones(300)], axis=1).astype(float)
    made = measure("multilabel", texts, labels, train=240)
    assert made.linear is not None
    assert made.linear[:, 1].max() < 1e-9
    assert made.linear[:, 3].min() > 1 - 1e-9
    for column in (0, 2):
        assert compute_metrics("multilabel", labels[240:, [column]], made.linear[:, [column]])["roc_auc"] > 0.9


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_the_linear_model_beats_the_constant_where_there_is_something_to_learn(kind):
    texts, good = make_texts(300)
    targets = good[:, None].astype(float) if kind == "regression" else (good > 3).astype(int)
    made = measure(kind, texts, targets, train=240)
    scores = made.scores(kind, targets[240:])
    name = "rmse" if kind == "regression" else "log_loss"
    assert scores["linear"][name] < 0.8 * scores["constant"][name]
    assert (scores["training_rows"], scores["reason"]) == (240, "")


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_where_there_is_nothing_to_learn_it_is_hardly_worse_than_the_constant(kind):
    texts, _ = make_texts(600)
    draw = np.random.default_rng(5)
    targets = draw.normal(size=(600, 1)) if kind == "regression" else draw.integers(0, 2, 600)
    scores = measure(kind, texts, targets, train=500).scores(kind, targets[500:])
    name = "rmse" if kind == "regression" else "log_loss"
    assert scores["linear"][name] < 1.15 * scores["constant"][name]


def test_of_pairs_it_sees_how_alike_the_texts_are():
    draw = np.random.default_rng(0)
    vocabulary = [f"w{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]
    shared = draw.integers(0, 9, 400)
    ones = [list(draw.choice(vocabulary, 8, replace=False)) for _ in shared]
    others = [[*one[:n], *draw.choice(vocabulary, 8 - n)] for one, n in zip(ones, shared, strict=True)]
    pair = ([" ".join(one) for one in ones], [" ".join(draw.permutation(other)) for other in others])
    targets = shared[:, None].astype(float)
    made = measure("regression", pair, targets, train=300)
    assert made.linear is not None
    assert compute_metrics("regression", targets[300:], made.linear)["r2"] > 0.6  # 0.1 without the cosine


def test_the_texts_of_a_pair_do_not_share_their_features():
    texts, good = make_texts(300)
    others, _ = make_texts(300, seed=1)
    targets = good[:, None].astype(float)
    made = measure("regression", (texts, others), targets, train=240)
    assert compute_metrics("regression", targets[240:], made.linear)["r2"] > 0.6  # type: ignore[arg-type]


def test_a_script_without_spaces_is_read_by_its_characters():
    draw = np.random.default_rng(0)
    happy = draw.integers(0, 2, 200)
    texts = ["".join(draw.permutation([*"山川田中本日月火水木", "嬉しい" if h else "悲しい"])) for h in happy]
    made = measure("binary", texts, happy, train=150)
    assert made.linear is not None
    assert compute_metrics("binary", happy[150:], made.linear)["accuracy"] > 0.95


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_n_grams_are_counted_as_scikit_learn_counts_them(kind):
    texts = [*make_texts(40)[0], "", "   ", "A a\tB\n\nb", "日本語 の 文章", "i̇İ ﬁ", "x" * 50]
    block = linear_model._Block.learn(kind, texts[:30])
    assert block is not None
    learned, found = block
    settings: Any = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
    if kind == "characters":
        settings = {"ngram_range": (2, 4), "analyzer": "char_wb"}
    trusted = TfidfVectorizer(**settings, sublinear_tf=True, min_df=2)
    assert np.abs(found - trusted.fit_transform(texts[:30])).max() < 1e-12
    assert np.abs(learned.of(texts) - trusted.transform(texts)).max() < 1e-12


ODD: dict[str, tuple[Any, Any, Any, int, str]] = {
    "one class in the training rows": ("binary", ["a b", "a c", "b c", "a b c"], [0, 0, 0, 1], 3, "same target"),
    "one value in the training rows": ("regression", ["a b", "a c", "d"], [[1.0], [1.0], [2.0]], 2, "same target"),
    "empty texts": ("regression", [""] * 6, [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], 4, "no two of its"),
    "blank texts": ("binary", [" \n"] * 6, [0, 1, 0, 1, 0, 1], 4, "no two of its"),
    "nothing in common": ("binary", list("abcdef"), [0, 1, 0, 1, 0, 1], 4, "no two of its"),
    "too many classes": ("multiclass", ["a b"] * 4, [0, 1, 2, 0], 3, "5,000 classes"),
}


@pytest.mark.parametrize("name", ODD)
def test_where_there_is_no_linear_model_the_reason_is_said(name, tmp_path):
    kind, texts, targets, train, reason = ODD[name]
    outputs = 5000 if "many" in name else None
    for _ in range(2):  # computed, and remembered
        made = measure(kind, texts, targets, train=train, outputs=outputs, cache_dir=tmp_path)
        assert made.linear is None
        assert reason in made.reason
        scores = made.scores(kind, np.asarray(targets)[train:])
        assert (scores["linear"], scores["training_rows"]) == (None, 0)
        assert scores["constant"]


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_what_does_not_converge_is_no_warning(kind, monkeypatch):
    monkeypatch.setattr(linear_model, "LogisticRegression", partial(LogisticRegression, max_iter=1))
    monkeypatch.setattr(linear_model, "Ridge", partial(Ridge, max_iter=1))
    texts, good = make_texts(120)
    targets = good[:, None].astype(float) if kind == "regression" else (good > 3).astype(int)
    assert measure(kind, texts, targets, train=100).linear is not None  # tests turn warnings into errors


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("train", [2, 4, 20])
def test_tiny_tables_with_empty_texts_work(kind, train):
    texts = (["a good day", "", "a bad day", "a good day!"] * 6)[: train + 1]
    values = {
        "regression": np.arange(train + 1.0)[:, None],
        "binary": np.arange(train + 1) % 2,
        "multiclass": np.arange(train + 1) % 3,
        "multilabel": np.stack([np.arange(train + 1) % 2, np.zeros(train + 1)], axis=1),
    }[kind]
    made = measure(kind, texts, values, train=train, outputs=3 if kind == "multiclass" else None)
    assert (made.linear is None) == bool(made.reason)
    assert made.linear is None or np.isfinite(made.linear).all()


def test_validation_rows_that_are_all_empty_are_predicted():
    texts, good = make_texts(100)
    made = measure("regression", [*texts, "", " "], [*good[:, None].astype(float), [0.0], [0.0]], train=100)
    assert made.linear is not None
    assert made.linear[0] == made.linear[1]


def test_validation_rows_without_a_known_word_get_the_models_intercept():
    texts, good = make_texts(100)
    made = measure("regression", [*texts, "", "ζζζ"], [*good[:, None].astype(float), [0.0], [0.0]], train=100)
    assert made.linear is not None
    assert made.linear[0] == pytest.approx(made.linear[1])


def test_huge_targets_are_no_crash():
    texts, good = make_texts(60)
    made = measure("regression", texts, good[:, None] * 1e300, train=50)
    assert made.linear is None
    assert "no finite numbers" in made.reason


def test_rows_of_weight_0_teach_nothing(tmp_path):
    texts, good = make_texts(120)
    targets = good[:, None].astype(float)
    weights = np.ones(120)
    weights[:40] = 0
    spoiled = targets.copy()
    spoiled[:40] = 99
    one = measure("regression", texts, targets, train=100, weights=weights, cache_dir=tmp_path / "1")
    other = measure("regression", texts, spoiled, train=100, weights=weights, cache_dir=tmp_path / "2")
    assert one.training_rows == 60
    assert np.array_equal(one.linear, other.linear)  # type: ignore[arg-type]
    assert np.array_equal(one.constant, other.constant)


def test_long_tables_teach_the_first_rows_of_a_seeded_shuffle(monkeypatch, tmp_path):
    monkeypatch.setattr(linear_model, "MOST_ROWS", 50)
    monkeypatch.setattr(linear_model, "RIDGE_PENALTIES", (1.0,))
    texts, good = make_texts(120)
    targets = good[:, None].astype(float)
    made = measure("regression", texts, targets, train=100, cache_dir=tmp_path)
    assert made.training_rows == 50
    first = np.random.RandomState(0).permutation(100)[:50]
    weights = np.zeros(120)
    weights[first] = 1
    monkeypatch.setattr(linear_model, "MOST_ROWS", 100)
    same = measure("regression", texts, targets, train=100, weights=weights, cache_dir=tmp_path)
    assert same.linear == pytest.approx(made.linear, abs=1e-2)  # type: ignore[arg-type]


def test_long_texts_and_many_classes_take_fewer_rows(monkeypatch):
    texts, good = make_texts(120)
    monkeypatch.setattr(linear_model, "LEAST_ROWS", 10)
    lengths = np.array([len(text) for text in texts])[np.random.RandomState(0).permutation(100)]
    monkeypatch.setattr(linear_model, "MOST_CHARACTERS", int(lengths[:30].sum()))
    assert measure("regression", texts, good[:, None].astype(float), train=100).training_rows == 30
    monkeypatch.setattr(linear_model, "MOST_CHARACTERS_TIMES_OUTPUTS", 7 * int(lengths[:20].sum()))
    assert measure("multiclass", texts, good, train=100).training_rows == 20
    monkeypatch.setattr(linear_model, "LEAST_ROWS", 60)
    assert measure("multiclass", texts, good, train=100, weights=np.full(120, 2)).training_rows == 60


def test_what_was_computed_is_remembered_and_the_same(monkeypatch, tmp_path):
    texts, good = make_texts(120)
    classes = np.digitize(good, [2, 4])
    one = measure("multiclass", texts, classes, train=100, cache_dir=tmp_path)
    fresh = measure("multiclass", texts, classes, train=100, cache_dir=tmp_path / "other")
    monkeypatch.setattr(linear_model, "predict", None)  # cannot be called
    again = measure("multiclass", texts, classes, train=100, cache_dir=tmp_path)
    assert np.array_equal(one.linear, again.linear)  # type: ignore[arg-type]
    assert np.array_equal(one.linear, fresh.linear)  # type: ignore[arg-type]
    assert again.scores("multiclass", classes[100:]) == one.scores("multiclass", classes[100:])
    assert len(list((tmp_path / "yardsticks").iterdir())) == 1


CHANGES: dict[str, dict[str, Any]] = {
    "a training text": {"texts": lambda texts: ["another text", *texts[1:]]},
    "a validation text": {"texts": lambda texts: [*texts[:-1], "another text"]},
    "where a text ends": {"texts": lambda texts: [texts[0] + texts[1][:1], texts[1][1:], *texts[2:]]},
    "a target": {"targets": lambda targets: np.concatenate([[[77.0]], targets[1:]])},
    "the rows": {"train": 99},
    "a weight": {"weights": [2.0, *[1.0] * 119]},
    "the method": {"METHOD": 0},
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_remembered_where_anything_differs_that_it_depends_on(name, monkeypatch, tmp_path):
    texts, good = make_texts(120)
    targets = good[:, None].astype(float)
    measure("regression", texts, targets, train=100, cache_dir=tmp_path)
    change = dict(CHANGES[name])
    if "METHOD" in change:
        monkeypatch.setattr(yardsticks, "METHOD", change.pop("METHOD"))
    texts = change.pop("texts", lambda same: same)(texts)
    targets = change.pop("targets", lambda same: same)(targets)
    measure("regression", texts, targets, cache_dir=tmp_path, **({"train": 100} | change))
    assert len(list((tmp_path / "yardsticks").iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"ARROW1 and then nothing", None])
def test_a_damaged_file_of_the_cache_is_made_anew(damage, tmp_path):
    texts, good = make_texts(120)
    targets = good[:, None].astype(float)
    one = measure("regression", texts, targets, train=100, cache_dir=tmp_path)
    (file,) = (tmp_path / "yardsticks").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = measure("regression", texts, targets, train=100, cache_dir=tmp_path)
    assert np.array_equal(one.linear, again.linear)  # type: ignore[arg-type]
    assert yardsticks._recall(file, again.constant) is not None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    texts, good = make_texts(60)
    (tmp_path / "cache").write_text("a file, where a folder should be")
    made = measure("regression", texts, good[:, None].astype(float), train=50, cache_dir=tmp_path / "cache")
    assert made.linear is not None


def test_yardsticks_of_folds_are_joined_in_their_order():
    parts = [
        Yardsticks(constant=np.full((2, 1), n), linear=np.full((2, 1), -n), reason="", training_rows=5, seconds=1.5)
        for n in (1.0, 2.0)
    ]
    both = join(parts)
    assert (both.constant.tolist(), both.training_rows, both.seconds) == ([[1.0], [1.0], [2.0], [2.0]], 10, 3.0)
    assert both.linear is not None
    assert both.linear.tolist() == [[-1.0], [-1.0], [-2.0], [-2.0]]
    none = Yardsticks(constant=np.ones((1, 1)), linear=None, reason="why not", training_rows=0, seconds=0.0)
    assert (join([*parts, none]).linear, join([*parts, none]).reason) == (None, "why not")


def test_it_needs_no_torch():
    code = "import sys, leantune.training.yardsticks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_seconds_are_those_of_the_computation(monkeypatch, tmp_path):
    texts, good = make_texts(60)
    real = linear_model.predict

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(0.2)
        return real(*given, **named)

    monkeypatch.setattr(linear_model, "predict", slow)
    one = measure("regression", texts, good[:, None].astype(float), train=50, cache_dir=tmp_path)
    assert one.seconds > 0.2
    assert measure("regression", texts, good[:, None].astype(float), train=50, cache_dir=tmp_path).seconds > 0.2


def test_the_cache_lies_where_that_of_the_tokens_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path / "here"))
    texts, good = make_texts(60)
    measure("regression", texts, good[:, None].astype(float), train=50)
    assert [path.suffix for path in (tmp_path / "here" / "yardsticks").iterdir()] == [".arrow"]


def test_a_label_is_learned_from_the_rows_that_have_a_score_of_it(monkeypatch):
    monkeypatch.setattr(linear_model, "INVERSE_PENALTIES", (1.0,))
    texts, good = make_texts(200)
    targets = np.stack([good > 2, good > 3], axis=1).astype(float)
    targets[::2, 1] = np.nan
    features = plain_features(texts, 150)
    known = np.flatnonzero(~np.isnan(targets[:150, 1]))
    model = LogisticRegression(C=1.0, solver="liblinear", tol=1e-6)
    model.fit(features[known], targets[known, 1])

    made = measure("multilabel", texts, targets, train=150)

    assert made.constant[0] == pytest.approx(np.nanmean(targets[:150], axis=0))
    assert made.linear[:, 1] == pytest.approx(model.predict_proba(features[150:])[:, 1], abs=0.03)


def test_a_label_that_no_training_row_has_a_score_of_is_answered_with_one_half():
    texts, good = make_texts(60)
    targets = np.stack([good > 2, np.full(60, np.nan)], axis=1).astype(float)

    made = measure("multilabel", texts, targets, train=40)

    assert (made.constant[:, 1] == 0.5).all()
    assert (made.linear[:, 1] == 0.5).all()
