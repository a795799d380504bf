"""Is an encoder worth it? scikit-learn's own cross-validation of an encoder and of a linear model on n-grams.

    python examples/cross_validation.py train.csv --text text --target label --model demo

Needs pandas, which leantune itself does not.
"""

import argparse
from pathlib import Path

import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from leantune import TextClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--target", required=True, help="column of the classes")
    parser.add_argument("--model", default="demo", help="a folder, a hub name, or demo")
    parser.add_argument("--epochs", type=int, help="fewer epochs for a first try")
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args()

    table = pd.read_csv(options.train)
    texts, classes = table[options.text], table[options.target]
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    candidates = {
        "linear model": make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)),
        "encoder": TextClassifier(model=options.model, epochs=options.epochs or "auto"),
    }
    for name, candidate in candidates.items():
        scores = cross_val_score(candidate, texts, classes, cv=folds, scoring="accuracy")
        print(f"{name:>12}: accuracy {scores.mean():.3f} (folds: {', '.join(f'{score:.3f}' for score in scores)})")


if __name__ == "__main__":
    main()
