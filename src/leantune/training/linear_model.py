"""The linear model on n-grams that any encoder must beat.

    texts, targets, weights of the training rows  ->  predictions [n, outputs] for the validation rows

It sees TF-IDF of word and character n-grams (scikit-learn's counts), for a pair those of each text side by side and how
alike both are; ridge for numbers, else a logistic regression for each class or label. Importing scikit-learn takes a
second, so this module is imported where the predictions are not remembered.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize

from leantune.tables.targets import TaskKind

Floats = NDArray[np.float64]

MOST_ROWS = 20_000
"""Training rows of the linear model: the first of a seeded shuffle."""
MOST_CHARACTERS = 5_000_000
"""Of the training texts together: with long texts, fewer rows are taken."""
MOST_CHARACTERS_TIMES_OUTPUTS = 50_000_000
"""A logistic regression for each of many classes takes as many times as long: fewer rows are taken."""
LEAST_ROWS = 2_000
"""Rows that are taken however long the texts and however many the classes are."""
MOST_CLASSES = 1_000
CHARACTERS_A_TEXT = 5_000
"""What the linear model reads of a text, from its beginning."""
WORDS, CHARACTERS = (1, 2), (2, 4)
"""Lengths of n-grams, from and to."""
MOST_FEATURES = 50_000
"""N-grams of each kind: those that are in the most texts, and in two at least."""
RIDGE_PENALTIES = (0.3, 1.0, 3.0, 10.0, 100.0)
INVERSE_PENALTIES = (0.3, 1.0, 3.0, 10.0)
"""Of logistic regression. Which one is taken is tried on `ROWS_TO_CHOOSE` of the training rows, a fifth held back."""
ROWS_TO_CHOOSE = 2_500
ROWS_A_CHUNK = 4_096
"""Rows that are predicted at once: their n-grams take memory."""


class CannotLearnError(Exception):
    """There is no linear model; the message says why."""


def chosen_rows(
    texts: tuple[pa.Array, ...], weights: Floats, training_rows: NDArray[np.int64], outputs: int
) -> NDArray[np.int64]:
    """Return the training rows that the linear model learns from: the first of a seeded shuffle, as many as take
    seconds. Rows of weight 0 teach nothing."""
    rows = training_rows[weights[training_rows] > 0]
    rows = rows[np.random.RandomState(0).permutation(len(rows))[:MOST_ROWS]]
    lengths = sum(pc.utf8_length(_read(column, rows)).to_numpy() for column in texts)
    most = min(MOST_CHARACTERS, MOST_CHARACTERS_TIMES_OUTPUTS // outputs)
    fitting = int(np.searchsorted(np.cumsum(lengths), most, side="right"))
    return rows[: max(fitting, LEAST_ROWS)]


def _read(column: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    return pc.utf8_slice_codeunits(column.take(pa.array(rows)), 0, CHARACTERS_A_TEXT)


def predict(
    kind: TaskKind,
    texts: tuple[pa.Array, ...],
    *,
    matrix: Floats,
    weights: Floats,
    rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
) -> Floats:
    """Return predictions [n, outputs] for the validation rows from a model of `rows`.

    `texts`: one array [N] a text of a row; `matrix` [N, outputs]: the targets, one column a class; `weights` [N].

    Raises `CannotLearnError` where there is nothing to learn from, or nothing to learn.
    """
    outputs = matrix.shape[1]
    if outputs > MOST_CLASSES:
        raise CannotLearnError(f"{outputs:,} classes are more than the {MOST_CLASSES:,} that it takes")
    wanted, weight = matrix[rows], weights[rows]
    if kind not in ("regression", "multilabel"):  # the most probable class, where rows have shares of several
        wanted = np.eye(outputs)[wanted.argmax(axis=1)]
    if all(len(np.unique(column[~np.isnan(column)])) < 2 for column in wanted.T):
        raise CannotLearnError("all of its training rows have the same target")
    features, seen = _Features.learn([_read(column, rows).to_pylist() for column in texts])
    fit = _fit_ridge if kind == "regression" else _fit_logistic
    strengths = RIDGE_PENALTIES if kind == "regression" else INVERSE_PENALTIES
    strength = _choose(fit, strengths, seen, wanted, weight)
    coefficients, intercepts = fit(seen, wanted, weight, strength)
    predicted = [
        features.of([_read(column, part).to_pylist() for column in texts]) @ coefficients + intercepts
        for part in np.array_split(validation_rows, -(-len(validation_rows) // ROWS_A_CHUNK))
    ]
    values = _answers(kind, np.concatenate(predicted))
    values = values.astype(np.float32).astype(np.float64)  # as they are remembered
    if not np.isfinite(values).all():
        raise CannotLearnError("its predictions are no finite numbers")
    return values


def _answers(kind: TaskKind, scores: Floats) -> Floats:
    """Return scores as predictions: probabilities of labels, and of classes those that add up to 1."""
    if kind == "regression":
        return scores
    odds: Floats = 1 / (1 + np.exp(-scores))
    if kind == "multilabel":
        return odds
    sums = odds.sum(axis=1, keepdims=True)
    shares: Floats = np.where(sums > 0, odds / np.where(sums > 0, sums, 1), 1 / odds.shape[1])
    return shares


def _choose(fit: Any, strengths: tuple[float, ...], seen: Any, wanted: Floats, weight: Floats) -> float:
    """Return the strength of the penalty with the least weighted loss on rows that are held back."""
    count = min(len(weight), ROWS_TO_CHOOSE)
    held = count // 5
    if held < 10:
        return strengths[len(strengths) // 2]
    spread = wanted[:count].std(axis=0)
    losses = []
    for strength in strengths:
        coefficients, intercepts = fit(seen[held:count], wanted[held:count], weight[held:count], strength)
        scores = seen[:held] @ coefficients + intercepts
        if fit is _fit_ridge:
            loss = ((scores - wanted[:held]) / np.where(spread > 0, spread, 1)) ** 2
        else:  # -log of the probability of what is true
            loss = np.logaddexp(0, np.where(wanted[:held] == 1, -scores, scores)).clip(max=16)
            loss[np.isnan(wanted[:held])] = 0  # labels that were not scored
        losses.append(float((weight[:held, None] * loss).sum()))
    return strengths[int(np.argmin(losses))]


def _fit_ridge(seen: Any, wanted: Floats, weight: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Return coefficients [features, outputs] and intercepts [outputs]; each target is standardised on the way."""
    middle = np.average(wanted, axis=0, weights=weight)
    spread = np.sqrt(np.average((wanted - middle) ** 2, axis=0, weights=weight))
    spread = np.where(spread > 0, spread, 1)
    model = Ridge(alpha=penalty, solver="sparse_cg", tol=1e-3)
    model.fit(seen, (wanted - middle) / spread, sample_weight=weight)
    coefficients = np.atleast_2d(model.coef_).T
    return coefficients * spread, np.atleast_1d(model.intercept_) * spread + middle


def _fit_logistic(seen: Any, wanted: Floats, weight: Floats, inverse_penalty: float) -> tuple[Floats, Floats]:
    """Return coefficients [features, outputs] and intercepts [outputs], a logistic regression for each column.

    A column that is the same in every row has nothing to learn: its answer is that of every row. Each column learns
    from the rows that have a value in it (NaN: a label that was not scored).
    """
    coefficients = np.zeros((seen.shape[1], wanted.shape[1]))
    intercepts = np.zeros(wanted.shape[1])
    for column, values in enumerate(wanted.T):
        known = ~np.isnan(values)
        if not known.any():
            continue
        truth, its_weight = values[known], weight[known]
        if (truth == truth[0]).all():
            intercepts[column] = 50.0 if truth[0] else -50.0  # a probability of 1 or 0, to float32
            continue
        # The dual form takes seconds for 77 classes where the primal and lbfgs take minutes; it draws random numbers.
        model = LogisticRegression(C=inverse_penalty, solver="liblinear", dual=True, tol=0.1, random_state=0)
        model.fit(seen if known.all() else seen[known], truth, sample_weight=its_weight)
        coefficients[:, column], intercepts[column] = model.coef_[0], model.intercept_[0]
    return coefficients, intercepts


# N-grams


@dataclass(frozen=True, kw_only=True)
class _Block:
    """N-grams of one kind that were learned: which there are, and how rare each is."""

    kind: Literal["words", "characters"]
    vectorizer: CountVectorizer
    kept: NDArray[np.intp]
    """Of the vectorizer's columns."""
    rarity: Floats
    """[kept]: the inverse document frequency."""

    @classmethod
    def learn(cls, kind: Literal["words", "characters"], texts: list[str]) -> "tuple[_Block, Any] | None":
        """Return the n-grams that are in two texts at least, and TF-IDF [texts, kept] of these; None if there are
        none."""
        settings: dict[str, Any] = {"dtype": np.float64}
        if kind == "words":
            settings |= {"ngram_range": WORDS, "token_pattern": r"(?u)\b\w+\b"}
        else:
            settings |= {"ngram_range": CHARACTERS, "analyzer": "char_wb"}
        vectorizer = CountVectorizer(**settings)
        try:
            counts = _counts(kind, vectorizer, texts, learn=True)
        except ValueError as error:
            if "empty vocabulary" in str(error):
                return None
            raise
        found = np.bincount(counts.indices, minlength=counts.shape[1])
        kept = np.flatnonzero(found >= 2)
        kept = np.sort(kept[np.argsort(-found[kept], kind="stable")[:MOST_FEATURES]])
        if not len(kept):
            return None
        rarity = np.log((1 + len(texts)) / (1 + found[kept])) + 1
        block = cls(kind=kind, vectorizer=vectorizer, kept=kept, rarity=rarity)
        return block, block._weigh(counts)

    def of(self, texts: list[str]) -> Any:
        """Return TF-IDF [texts, kept]."""
        try:
            return self._weigh(_counts(self.kind, self.vectorizer, texts, learn=False))
        except ValueError as error:
            if "empty vocabulary" in str(error):
                return sparse.csr_matrix((len(texts), len(self.kept)))
            raise

    def _weigh(self, counts: Any) -> Any:
        kept = sparse.csr_matrix(counts)[:, self.kept]
        kept.data = (np.log(kept.data) + 1) * self.rarity[kept.indices]
        return normalize(kept, copy=False)


def _counts(kind: str, vectorizer: CountVectorizer, texts: list[str], *, learn: bool) -> Any:
    """Count n-grams [texts, n-grams].

    N-grams of characters lie within words (`char_wb`), so those of each different word are counted once: the counts of
    scikit-learn, in a fourth of its time (short questions) to two thirds. A script without spaces has texts for words,
    and loses nothing.
    """
    count = vectorizer.fit_transform if learn else vectorizer.transform
    if kind == "words":
        return count(texts)
    words = CountVectorizer(token_pattern=r"\S+", dtype=np.float64)
    of_texts = words.fit_transform(texts)
    return of_texts @ count(words.get_feature_names_out())


@dataclass(frozen=True, kw_only=True)
class _Features:
    """How texts become features: n-grams of words and of characters, whichever there are."""

    blocks: tuple[_Block, ...]

    @classmethod
    def learn(cls, columns: list[list[str]]) -> "tuple[_Features, Any]":
        """Return how, and the features of these texts, one list a text of a row; the texts of a pair share their
        n-grams, each with features of its own.

        Raises `CannotLearnError` where no n-gram is in two texts.
        """
        together = [text for column in columns for text in column]
        learned = [block for kind in ("words", "characters") if (block := _Block.learn(kind, together)) is not None]
        if not learned:
            raise CannotLearnError("no two of its training texts have a word or two characters in common")
        parts = []
        for _, found in learned:
            count = found.shape[0] // len(columns)
            parts.append([found[count * i : count * (i + 1)] for i in range(len(columns))])
        return cls(blocks=tuple(block for block, _ in learned)), _side_by_side(parts)

    def of(self, columns: list[list[str]]) -> Any:
        """Return the features of texts, one list a text of a row."""
        return _side_by_side([[block.of(column) for column in columns] for block in self.blocks])


def _side_by_side(parts: list[list[Any]]) -> Any:
    """Join the features of each block and text, and for a pair the cosine of its texts in each block: what two texts
    have in common is no sum of what each has."""
    flat = [part for block in parts for part in block]
    alike = [sparse.csr_matrix(one.multiply(other).sum(axis=1)) for one, other in (b for b in parts if len(b) == 2)]
    return sparse.hstack([*flat, *alike], format="csr")
