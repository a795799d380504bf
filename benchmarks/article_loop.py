"""The article's plain training loop: float32, every text padded to max_length, batches of 32, nothing else.

    python benchmarks/article_loop.py DATA --text excerpt --target target --model FOLDER --rows 1000 --seed 0

What leantune is held against, in transformers, torch and pandas alone: folds by StratifiedKFold on Sturges' bins, of
which fold 0 validates; one forward and backward pass a batch; an evaluation every epoch. Prints one JSON line, in which
`train_seconds` is the time in optimizer steps alone and `rmse` is the best of the epochs.
"""

import argparse
import json
import os
import resource
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedKFold
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup


def validates_in_fold_0(targets: np.ndarray, seed: int) -> np.ndarray:
    """The article's folds: shuffle, cut into Sturges' bins, stratify; True for the rows of fold 0, in file order."""
    shuffled = pd.DataFrame({"target": targets}).sample(frac=1, random_state=seed)
    bins = pd.cut(shuffled.target, bins=int(np.floor(1 + np.log2(len(shuffled)))), labels=False)
    splits = StratifiedKFold(n_splits=5, shuffle=True, random_state=seed).split(shuffled, bins)
    validation = next(splits)[1]
    mask = np.zeros(len(targets), dtype=bool)
    mask[shuffled.index[validation]] = True
    return mask


def make_parser() -> argparse.ArgumentParser:
    """The options that say which rows are learned, and how."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--text", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    return parser


def main() -> None:
    parser = make_parser()
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    table = pd.read_csv(options.data, keep_default_na=False, nrows=options.rows)
    targets = table[options.target].astype(float).to_numpy()
    validation = validates_in_fold_0(targets, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    torch.manual_seed(options.seed)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.float32)

    tokens = tokenizer(
        table[options.text].tolist(),
        padding="max_length",
        truncation=True,
        max_length=options.max_length,
        return_tensors="pt",
    )
    dataset = torch.utils.data.TensorDataset(
        tokens["input_ids"], tokens["attention_mask"], torch.tensor(targets, dtype=torch.float32)
    )
    training = torch.utils.data.Subset(dataset, np.flatnonzero(~validation).tolist())
    held_out = torch.utils.data.Subset(dataset, np.flatnonzero(validation).tolist())
    loader = torch.utils.data.DataLoader(training, batch_size=32, shuffle=True)
    steps = len(loader) * options.epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)

    train_seconds, scores = 0.0, []
    for _ in range(options.epochs):
        model.train()
        start = time.perf_counter()
        for ids, mask, target in loader:
            loss = torch.nn.functional.mse_loss(model(input_ids=ids, attention_mask=mask).logits[:, 0], target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        train_seconds += time.perf_counter() - start
        model.eval()
        with torch.no_grad():
            errors = [
                (model(input_ids=ids, attention_mask=mask).logits[:, 0] - target) ** 2
                for ids, mask, target in torch.utils.data.DataLoader(held_out, batch_size=32)
            ]
        scores.append(torch.cat(errors).mean().sqrt().item())
    print(
        json.dumps(
            {
                "rmse": min(scores),
                "rmse_by_epoch": scores,
                "steps": steps,
                "train_seconds": train_seconds,
                "peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
