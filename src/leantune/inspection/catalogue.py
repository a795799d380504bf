"""Every check that there is: its stable code, what it looks for, how, why that matters, and what to do.

`docs/inspect.md` lists them; a test holds both alike. A code is never given to another check.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """What does not change from table to table about one finding."""

    code: str
    name: str
    about: str
    """The stage or setting that it concerns."""
    finds: str
    how: str
    why: str


def _check(code: str, name: str, about: str, *, finds: str, how: str, why: str) -> Check:
    return Check(code=code, name=name, about=about, finds=finds, how=how, why=why)


CHECKS = (
    _check(
        "LT101",
        "other_reading",
        "task",
        finds="Targets that can be read as another kind of task.",
        how="The kind of task follows from the values of the target columns alone.",
        why="Classes have no order and no distance; a scale has both. The loss and the metrics depend on it.",
    ),
    _check(
        "LT201",
        "unknown_tokens",
        "tokens",
        finds="Texts that the tokenizer cannot read.",
        how="Counts the unknown token among all tokens; a warning above 5%, an error above 90%.",
        why="To the model all unknown tokens are the same.",
    ),
    _check(
        "LT202",
        "cut_texts",
        "tokens",
        finds="Texts that are longer than the model reads.",
        how="Compares each row's tokens with the model's limit; a warning where 5% of all tokens are cut.",
        why="The model cannot learn from what it does not read.",
    ),
    _check(
        "LT301",
        "untrained_classes",
        "folds",
        finds="Validation rows of a class or label that no training row of the fold has.",
        how="Counts the rows of each class in the training and the validation rows of each fold.",
        why="A model cannot learn what it never sees, and is measured on it.",
    ),
    _check(
        "LT302",
        "rare_classes",
        "targets",
        finds="Classes or labels with fewer than 10 rows.",
        how="Counts the rows of each class or label.",
        why="Metrics on a handful of rows say little, and a model hardly learns such a class.",
    ),
    _check(
        "LT303",
        "one_class_dominates",
        "targets",
        finds="One class that has more than 90% of the rows.",
        how="Counts the rows of each class.",
        why="The accuracy of the constant answer is then high, and says nothing.",
    ),
    _check(
        "LT304",
        "outliers",
        "targets",
        finds="Target values that lie far outside of all others.",
        how="Distance from the median of more than 12 times the usual (median) distance.",
        why="The squared error is dominated by such rows. Many are typing errors or marks of a missing value.",
    ),
    _check(
        "LT305",
        "rounded_scale",
        "targets",
        finds="A regression target with few different values.",
        how="Counts the different values: at most 30, and each in 10 rows on average.",
        why="Predictions between the steps cost some error; `leantune predict --decide qwk` can fit cut points.",
    ),
    _check(
        "LT306",
        "correlated_targets",
        "targets",
        finds="Two targets that are nearly the same.",
        how="Pearson correlation of the target columns; above 0.95 or below -0.95.",
        why="The second target adds next to nothing, and counts twice in the mean over the targets.",
    ),
    _check(
        "LT307",
        "constant_label",
        "targets",
        finds="A label that no row has, or that all rows have.",
        how="Counts the rows of each label.",
        why="There is nothing to learn, and metrics of this label are not defined.",
    ),
    _check(
        "LT308",
        "fold_differs",
        "folds",
        finds="A fold whose targets differ from those of the other folds.",
        how="The mean of a target in the fold, compared with the other rows: more than 4 standard errors apart.",
        why="Metrics of that fold speak about other rows than those that train.",
    ),
    _check(
        "LT401",
        "duplicates_across_folds",
        "folds",
        finds="Validation rows whose text a training row of the same fold has, too.",
        how="Compares whole texts without the whitespace around them; of pairs, both texts. A warning above 1% of the "
        "rows.",
        why="The metrics are better than on new texts.",
    ),
    _check(
        "LT402",
        "near_duplicates_across_folds",
        "folds",
        finds="Validation rows whose text is nearly the same as that of a training row.",
        how="Two texts share 80% of their runs of 5 characters or more (exact Jaccard similarity, not an estimate). A "
        "warning above 1% of the rows.",
        why="The metrics are better than on new texts.",
    ),
    _check(
        "LT403",
        "duplicates",
        "data",
        finds="Texts that stand in several rows.",
        how="Compares whole texts without the whitespace around them; of pairs, both texts.",
        why="A text that stands there twice counts twice.",
    ),
    _check(
        "LT404",
        "contradicting_targets",
        "targets",
        finds="The same text with different targets.",
        how="Compares the targets of rows whose texts are the same. A warning above 1% of the rows.",
        why="No model can be right on all of these rows. They bound what can be reached.",
    ),
    _check(
        "LT405",
        "suggested_groups",
        "folds",
        finds="A column, or the beginning of an id, that several rows share.",
        how="A column, or the part of the id before its first separator, with at most half as many values as rows.",
        why="Rows of one author, article or customer resemble each other. If a fold parts them, metrics flatter.",
    ),
    _check(
        "LT406",
        "id_predicts_target",
        "data",
        finds="A column of ids whose order tells the target.",
        how="Predicts each row by the mean of the 10 rows beside it in the order of the ids: R² above 0.05.",
        why="Rows that were collected together share something. Random folds then flatter.",
    ),
    _check(
        "LT407",
        "column_predicts_target",
        "data",
        finds="A column beside the texts that tells the target.",
        how="Predicts each row by the mean of the other rows with the same cell: R² above 0.05.",
        why="It is a leak if the column follows from the target, and a free feature if it is known for new texts.",
    ),
    _check(
        "LT501",
        "linear_model_learns_nothing",
        "yardsticks",
        finds="A linear model on n-grams that is no better than the constant answer.",
        how="The 95% interval of the difference on the validation rows of the fold.",
        why="The target may not follow from the texts at all, or the rows may be too few.",
    ),
    _check(
        "LT502",
        "more_rows_help",
        "yardsticks",
        finds="A learning curve that still rises at the end.",
        how="The linear model on half and on all of the training rows: the 95% interval of the difference.",
        why="More rows of the same kind may be worth more than a better recipe.",
    ),
    _check(
        "LT601",
        "probably_mislabelled",
        "run",
        finds="Rows whose target the model contradicts.",
        how="Confident learning (Northcutt, Jiang and Chuang, 2021) on out-of-fold probabilities; of numbers, "
        "residuals beyond 4 robust standard deviations.",
        why="Such rows are often labelled wrongly. They limit every metric.",
    ),
    _check(
        "LT602",
        "miscalibrated",
        "run",
        finds="Probabilities that are too high or too low.",
        how="Expected calibration error over at most 10 bins of equal size, 30 rows or more each: above 0.05.",
        why="Thresholds and costs that are computed from such probabilities are wrong.",
    ),
    _check(
        "LT603",
        "worse_than_yardstick",
        "run",
        finds="A run that is no better than the constant answer or the linear model.",
        how="The run's metrics and those of its yardsticks on the same rows.",
        why="The encoder has not learned what it should.",
    ),
    _check(
        "LT604",
        "error_differs",
        "run",
        finds="Groups or lengths on which the error is much larger.",
        how="The mean error of each part with 20 rows or more, compared with that of all other rows: more than 4 "
        "standard errors apart, and more than 1.5 times as large.",
        why="One number for all rows hides it.",
    ),
)
BY_CODE = {check.code: check for check in CHECKS}
