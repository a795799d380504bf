"""A peer of `benchmarks/peers.py`: the article's plain training loop.

Float32, every text padded to the longest of the data set, batches of 32, nothing else; in transformers and torch alone.
"""

from typing import Any

import torch
from transformers import get_linear_schedule_with_warmup

from workload import Meter, Workload, load_model, run_peer, score


def train(workload: Workload, meter: Meter) -> dict[str, Any]:
    model, tokenizer = load_model(workload)
    model.to(workload.device)
    meter.count_positions_of(model)
    tokens = tokenizer(
        *workload.columns(), padding="max_length", truncation=True, max_length=workload.longest, return_tensors="pt"
    )
    dataset = torch.utils.data.TensorDataset(*tokens.values(), workload.target_tensor())
    losses: list[torch.Tensor] = []
    for rows, epochs in workload.spans():
        training = torch.utils.data.Subset(dataset, rows)
        loader = torch.utils.data.DataLoader(training, batch_size=workload.batch_size, shuffle=True)
        steps = len(loader) * epochs
        optimizer = torch.optim.AdamW(model.parameters(), lr=workload.learning_rate, weight_decay=0.01)
        schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
        losses.clear()
        model.train()
        meter.start()
        for _ in range(epochs):
            for batch in loader:
                *inputs, target = (tensor.to(workload.device) for tensor in batch)
                logits = model(**dict(zip(tokens, inputs, strict=True))).logits
                if workload.is_regression:
                    loss = torch.nn.functional.mse_loss(logits[:, 0], target)
                else:
                    loss = torch.nn.functional.cross_entropy(logits, target)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
        meter.stop()
    result = {"steps": len(losses), "loss": torch.stack(losses).mean().item()}
    return result | ({"score": score(workload, model, tokenizer)} if workload.validate else {})


if __name__ == "__main__":
    run_peer(train)
