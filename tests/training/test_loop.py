"""The loop: what it yields, in which order, and that padding, micro-batches and order never move a prediction."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from leantune.batches.batch import Rows
from leantune.batches.plan import RowsPerMicroBatch, TokensPerMicroBatch, draw_windows
from leantune.encoder.loading import load_encoder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.system.errors import TrainingError
from leantune.system.stopping import Stopped, deferred, listen
from leantune.tables.scale import Scale
from leantune.tokens.truncation import TokenSettings
from leantune.training.checkpoint import CheckpointSettings
from leantune.training.clock import PhaseClock
from leantune.training.evaluation import EvaluationSettings, EveryFraction, EverySteps
from leantune.training.events import Evaluation, FoldStart, Note, TrainStep
from leantune.training.loop import Batching, Fold, train_fold
from leantune.training.optim import make_optimizer
from leantune.training.precision import Precision
from leantune.training.prediction import Predicted, predict_rows
from leantune.training.scoring import compute_metrics
from leantune.training.state import TrainState
from leantune.training.task import Task
from small_runs import CPU, FP32, load_tiny, make_rows, make_task_of, optimizer_settings
from tiny_encoders import make_texts

TEXTS = make_texts(50, most_words=20)
REGRESSION = make_task_of("regression")


def make_fold(**changes: Any) -> Fold:
    """40 rows train in steps of 8, 10 validate; two epochs are 10 steps."""
    order = np.random.default_rng(0).permutation(50)
    batching = {"batch_size": 8, "micro_batch": RowsPerMicroBatch(rows=3), "order": "random", "padding": "longest"}
    batching |= {name: changes.pop(name) for name in list(changes) if name in batching}
    fields: dict[str, Any] = {
        "number": 0,
        "training_rows": np.sort(order[:40]),
        "validation_rows": np.sort(order[40:]),
        "batching": Batching(**batching),
        "optimizer": optimizer_settings(epochs=2, learning_rate=1e-3),
        "evaluation": EvaluationSettings(),
        "metric": "rmse",
        "seed": 0,
        "checkpoint": CheckpointSettings(),
    }
    return Fold(**(fields | changes))


def train(folder: Path, fold: Fold, *, kind: Any = "regression", precision: Precision = FP32, **options: Any) -> Any:
    """Train from the start; the encoder and all events."""
    rows = options.get("rows") or make_rows(folder, kind, texts=TEXTS)
    packed = fold.batching.padding == "none"
    encoder = load_tiny(folder, kind, dropout=options.get("dropout", 0.0), packed=packed)
    events = list(begin(encoder, rows, fold, task=make_task_of(kind), precision=precision))
    return encoder, events


def begin(encoder: Encoder, rows: Rows, fold: Fold, *, task: Task, precision: Precision = FP32) -> Iterator[Any]:
    state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
    return train_fold(encoder, rows, fold, state, task=task, precision=precision, clock=PhaseClock())


def predict(encoder: Encoder, rows: Rows, fold: Fold, *, task: Task) -> Predicted:
    """Predict the validation rows of a fold as an evaluation does."""
    return predict_rows(
        encoder,
        rows.sequences,
        fold.validation_rows,
        task=task,
        micro_batch=fold.batching.micro_batch,
        padding=fold.batching.padding,
        precision=FP32,
    )


def steps_of(events: Any) -> list[TrainStep]:
    return [event for event in events if isinstance(event, TrainStep)]


def evaluated_at(events: Any) -> list[int]:
    return [event.step for event in events if isinstance(event, Evaluation)]


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def test_a_fold_tells_its_start_each_step_and_an_evaluation_an_epoch(bert: Path) -> None:
    _, events = train(bert, make_fold())
    assert isinstance(events[0], FoldStart)
    assert events[0].total_steps == 10
    assert [event.step for event in steps_of(events)] == list(range(1, 11))
    assert [event.rows for event in steps_of(events)] == [8] * 10
    assert evaluated_at(events) == [5, 10]


def test_training_lowers_the_loss(bert: Path) -> None:
    _, events = train(bert, make_fold(optimizer=optimizer_settings(epochs=8, learning_rate=3e-3)))
    losses = [event.loss for event in steps_of(events)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (EverySteps(steps=4), [4, 8, 10]),
        (EveryFraction(fraction=0.5), [3, 5, 8, 10]),
        (EveryFraction(fraction=0.01), list(range(1, 11))),
        ("epoch", [5, 10]),
    ],
)
def test_evaluations_come_when_they_are_set(bert: Path, every: Any, expected: list[int]) -> None:
    _, events = train(bert, make_fold(evaluation=EvaluationSettings(every=every)))
    assert evaluated_at(events) == expected


def test_max_steps_ends_in_the_middle_of_an_epoch_with_an_evaluation(bert: Path) -> None:
    _, events = train(bert, make_fold(optimizer=optimizer_settings(epochs=2, max_steps=7)))
    assert len(steps_of(events)) == 7
    assert evaluated_at(events) == [5, 7]


def test_the_last_step_of_an_epoch_has_what_rows_are_left(bert: Path) -> None:
    _, events = train(bert, make_fold(batch_size=32))
    assert [event.rows for event in steps_of(events)] == [32, 8, 32, 8]


@pytest.mark.parametrize("order", ["random", "uniform_length"])
def test_micro_batches_and_padding_do_not_change_what_is_learned(bert: Path, order: Any) -> None:
    learned = []
    for limit, padding in (
        (RowsPerMicroBatch(rows=8), "longest"),
        (RowsPerMicroBatch(rows=1), "longest"),
        (TokensPerMicroBatch(tokens=64), 96),
        (TokensPerMicroBatch(tokens=64), "none"),
    ):
        encoder, events = train(bert, make_fold(micro_batch=limit, padding=padding, order=order))
        learned.append((encoder, [event.loss for event in steps_of(events)]))
    (first, losses), *others = learned
    for other, other_losses in others:
        assert other_losses == pytest.approx(losses, rel=1e-4)
        for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


@pytest.mark.parametrize("order", ["random", "uniform_length"])
@pytest.mark.parametrize("limit", [RowsPerMicroBatch(rows=4), TokensPerMicroBatch(tokens=50)], ids=str)
@pytest.mark.parametrize("padding", ["longest", 96, "none"], ids=["dynamic", "fixed", "packed"])
def test_predictions_come_in_the_tables_order(bert: Path, order: Any, limit: Any, padding: Any) -> None:
    rows, encoder, task = (
        make_rows(bert, "multiclass", texts=TEXTS),
        load_tiny(bert, "multiclass", packed=padding == "none"),
        make_task_of("multiclass"),
    )
    fold = make_fold(order=order, micro_batch=limit, padding=padding)
    together = predict(encoder, rows, fold, task=task).values
    for i, number in enumerate(fold.validation_rows):
        alone = make_fold(validation_rows=np.array([number]), padding=padding)
        np.testing.assert_allclose(predict(encoder, rows, alone, task=task).values[0], together[i], rtol=0, atol=1e-6)
    assert np.unique(together.round(4), axis=0).shape[0] == 10  # or else any order would do


def test_an_evaluations_metrics_are_those_of_its_predictions(bert: Path) -> None:
    rows = make_rows(bert, texts=TEXTS)
    fold = make_fold()
    encoder, events = train(bert, fold, rows=rows)
    last = events[-1]
    predictions = predict(encoder, rows, fold, task=make_task_of("regression")).values
    np.testing.assert_array_equal(last.predictions, predictions)
    assert last.metrics == compute_metrics("regression", rows.targets[fold.validation_rows], predictions)


def test_is_best_marks_each_evaluation_that_beats_all_before(bert: Path) -> None:
    optimizer = optimizer_settings(epochs=6, learning_rate=2e-2)
    _, events = train(bert, make_fold(optimizer=optimizer))
    scores = [(event.metrics["rmse"], event.is_best) for event in events if isinstance(event, Evaluation)]
    best = np.inf
    for score, is_best in scores:
        assert is_best == (score < best)
        best = min(best, score)


def test_the_same_training_twice_is_the_same_bit_for_bit_with_dropout(bert: Path) -> None:
    (first, events), (second, again) = (train(bert, make_fold(), dropout=0.1) for _ in range(2))
    assert [event.loss for event in steps_of(events)] == [event.loss for event in steps_of(again)]
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


def test_dropout_is_on_in_every_step_and_off_in_evaluations(bert: Path) -> None:
    rows, fold = make_rows(bert, texts=TEXTS), make_fold()
    encoder = load_tiny(bert, dropout=0.5)
    modes = []
    encoder.model.register_forward_pre_hook(lambda model, _: modes.append((model.training, torch.is_grad_enabled())))
    task = make_task_of("regression")
    for _ in begin(encoder, rows, fold, task=task):
        pass
    assert set(modes) == {(True, True), (False, False)}


def test_another_seed_takes_the_rows_in_another_order(bert: Path) -> None:
    losses = [[event.loss for event in steps_of(train(bert, make_fold(seed=seed))[1])] for seed in (0, 1)]
    assert losses[0][1:] != losses[1][1:]


def test_steps_that_fp16_skips_are_counted_and_do_not_advance_the_schedule(bert: Path) -> None:
    slow = optimizer_settings(epochs=2, warmup_fraction=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-30)
    _, events = train(bert, make_fold(optimizer=slow), precision=Precision(name="fp16", device=CPU, scaler=scaler))
    steps = steps_of(events)
    skipped = [event.skipped for event in steps]
    assert skipped[0]
    assert not skipped[-1]
    assert skipped == sorted(skipped, reverse=True)
    first_learned = skipped.index(False)
    assert [event.learning_rate for event in steps[: first_learned + 1]] == [steps[0].learning_rate] * (
        first_learned + 1
    )
    assert steps[first_learned + 1].learning_rate != steps[0].learning_rate
    assert all(event.gradient_norm is None for event in steps[:first_learned])


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(bert: Path) -> None:
    rows = make_rows(bert, texts=TEXTS)
    targets = rows.targets.copy()
    targets[make_fold().training_rows[7]] = 1e30  # its square is beyond float32
    broken = Rows(sequences=rows.sequences, targets=targets, weights=rows.weights)
    with pytest.raises(TrainingError, match=r"the loss of step \d \(fold 0\) is inf"):
        train(bert, make_fold(), rows=broken)


def test_tokens_and_padding_are_counted_as_the_encoder_computes_them(bert: Path) -> None:
    rows = make_rows(bert, texts=TEXTS)
    computed = []
    encoder = load_tiny(bert)
    encoder.model.register_forward_pre_hook(
        lambda model, _, inputs: computed.append(inputs["input_ids"].numel()) if model.training else None,
        with_kwargs=True,
    )
    fold, task = make_fold(), make_task_of("regression")
    steps = steps_of(begin(encoder, rows, fold, task=task))
    assert sum(event.computed_tokens for event in steps) == sum(computed)
    assert sum(event.tokens for event in steps) == 2 * rows.sequences.lengths[fold.training_rows].sum()
    assert sum(event.useful_flops for event in steps) == pytest.approx(
        2 * encoder.training_flops(rows.sequences.lengths[fold.training_rows])
    )


def test_an_fp16_run_that_only_overflows_stops(bert: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=1 - 1e-6)
    precision = Precision(name="fp16", device=CPU, scaler=scaler)
    with pytest.raises(TrainingError, match="20 steps in a row, up to step 20"):
        train(bert, make_fold(optimizer=optimizer_settings(epochs=5)), precision=precision)


def test_a_loss_that_is_not_finite_names_the_rows_of_its_step(bert: Path) -> None:
    rows, fold = make_rows(bert, texts=TEXTS), make_fold()
    broken = int(fold.training_rows[7])
    targets = rows.targets.copy()
    targets[broken] = 1e30
    with pytest.raises(TrainingError) as caught:
        train(bert, fold, rows=Rows(sequences=rows.sequences, targets=targets, weights=rows.weights))
    named = [int(number) - 1 for number in str(caught.value).rpartition("the rows ")[2].split(", ")]
    assert broken in named
    assert len(named) == 8
    assert set(named) <= set(fold.training_rows.tolist())


def test_a_gradient_that_is_not_finite_stops_training(bert: Path) -> None:
    rows, fold = make_rows(bert, texts=TEXTS), make_fold()
    encoder = load_tiny(bert)
    encoder.model.get_parameter("classifier.bias").register_hook(lambda gradient: gradient * np.inf)
    events = begin(encoder, rows, fold, task=make_task_of("regression"))
    with pytest.raises(TrainingError, match=r"the gradient norm of step 1"):
        list(events)


def test_a_stop_in_the_middle_of_a_step_leaves_everything_as_it_was_before_it(bert: Path) -> None:
    rows, fold, task = make_rows(bert, texts=TEXTS), make_fold(micro_batch=RowsPerMicroBatch(rows=1)), REGRESSION
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    encoder, whole = load_tiny(bert, dropout=0.3), load_tiny(bert, dropout=0.3)
    before = torch.get_rng_state()
    for event in begin(whole, rows, fold, task=task):
        if isinstance(event, TrainStep) and event.step == 2:
            after_two = torch.get_rng_state()
            break
    torch.set_rng_state(before)
    forwards: list[int] = []

    def stop_in_the_third_step(*_: Any) -> None:
        forwards.append(1)
        if len(forwards) == 2 * 8 + 5:
            os.kill(os.getpid(), signal.SIGTERM)

    encoder.model.register_forward_hook(stop_in_the_third_step)
    state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
    events = train_fold(encoder, rows, fold, state, task=task, precision=FP32, clock=PhaseClock())
    listen()
    try:
        with pytest.raises(Stopped) as stopped, deferred():
            list(events)
        assert (stopped.value.code, stopped.value.at_once) == (128 + signal.SIGTERM, False)
    finally:
        listen()  # forget the signal
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert len(forwards) == 2 * 8 + 5
    assert state.step == 2
    assert torch.equal(torch.get_rng_state(), after_two)
    assert all(map(torch.equal, encoder.model.parameters(), whole.model.parameters()))
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_a_prediction_that_is_not_finite_names_its_row(bert: Path) -> None:
    rows, fold, encoder = make_rows(bert, texts=TEXTS), make_fold(), load_tiny(bert)
    with torch.no_grad():
        encoder.model.get_parameter("classifier.bias").fill_(np.nan)
    with pytest.raises(TrainingError, match=f"row {fold.validation_rows[0] + 1} "):
        predict(encoder, rows, fold, task=make_task_of("regression"))


def test_a_metric_that_is_not_defined_warns_and_leaves_the_first_evaluation_best(bert: Path) -> None:
    fold = make_fold(metric="pearson", validation_rows=np.array([3]))
    _, events = train(bert, fold)
    assert [event.is_best for event in events if isinstance(event, Evaluation)] == [True, False]
    assert ["pearson" in event.text for event in events if isinstance(event, Note)] == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["bf16", "fp32", "tf32"])
def test_steps_on_a_gpu_never_wait_for_the_device(bert: Path, name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    rows, fold, task = make_rows(bert, texts=TEXTS), make_fold(), make_task_of("regression")
    monkeypatch.setattr("leantune.training.readings.SECONDS_BETWEEN_READINGS", 1e9)
    encoder = load_tiny(bert)
    encoder.model.to(device)
    forwards = []
    encoder.model.register_forward_hook(lambda *_: forwards.append(1))
    precision = Precision(name=name, device=device)
    events = begin(encoder, rows, fold, task=task, precision=precision)
    next(events)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):  # the reading before the evaluation is the first to wait
            list(events)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(forwards) == 5 * 3  # an epoch of 5 steps, each of 8 rows in micro-batches of 3


def test_patience_ends_the_training_after_evaluations_that_bring_nothing_better(bert: Path) -> None:
    fold = make_fold(
        optimizer=optimizer_settings(epochs=2, learning_rate=1e-30),  # nothing changes
        evaluation=EvaluationSettings(every=EverySteps(steps=1), patience=3),
    )
    _, events = train(bert, fold)
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    assert [event.is_best for event in evaluations] == [True, False, False, False]
    (note,) = [event for event in events if isinstance(event, Note) and event.about == "patience"]
    assert note.text == "no better evaluation in the last 3: ended at step 4 of 10"
    assert max(event.step for event in events if isinstance(event, TrainStep)) == 4


def test_of_equal_metrics_the_one_with_the_smaller_loss_is_the_best(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.4, 0.1), (0.6, 3.0), (0.6, 3.0)])

    def told(*_: Any) -> dict[str, float]:
        accuracy, log_loss = next(scores)
        return {"accuracy": accuracy, "log_loss": log_loss}

    monkeypatch.setattr("leantune.training.loop.compute_metrics", told)
    evaluation = EvaluationSettings(every=EverySteps(steps=1))
    fold = make_fold(optimizer=optimizer_settings(epochs=2, max_steps=6), evaluation=evaluation, metric="accuracy")
    _, events = train(bert, fold, kind="multiclass")
    assert [event.is_best for event in events if isinstance(event, Evaluation)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_losses_are_told_in_the_tables_units(bert: Path, factor: float) -> None:
    """One step of 40 rows that changes nothing: the loss of the answers that the evaluation sees, on training rows."""
    rows = make_rows(bert, texts=TEXTS)
    targets = np.column_stack([rows.targets * factor, rows.targets[::-1]])
    fold = make_fold(
        batch_size=40,
        optimizer=optimizer_settings(epochs=1, learning_rate=1e-30),
        validation_rows=make_fold().training_rows,
        scale=Scale(mean=np.array([2.0 * factor, 2.0]), deviation=np.array([factor, 0.5])),
    )
    task = Task(kind="regression", labels=("a", "b"))
    settings = ModelSettings(name=str(bert))
    encoder = load_encoder(settings, labels=task.labels, problem_type="regression", device=CPU, seed=0)
    weightless = Rows(sequences=rows.sequences, targets=targets, weights=np.ones(50))
    events = list(begin(encoder, weightless, fold, task=task))
    (step,) = [event for event in events if isinstance(event, TrainStep)]
    (evaluation,) = [event for event in events if isinstance(event, Evaluation)]
    assert step.loss == pytest.approx(evaluation.metrics["mse"], rel=1e-4)


# Windows

LONG = [*make_texts(20, most_words=60, seed=4), *TEXTS[:4]]
WINDOWS = TokenSettings(max_length=24, truncation="windows", stride=9)


def windows_by_hand(folder: Path, texts: list[str]) -> list[list[list[int]]]:
    """The ids of every window of every text, by plain slices of what the tokenizer gives."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cut = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        starts = [*range(0, max(len(ids) - 22, 0), 9), max(len(ids) - 22, 0)]
        cut.append([[tokenizer.cls_token_id, *ids[start : start + 22], tokenizer.sep_token_id] for start in starts])
    return cut


def stock_model(folder: Path, encoder: Encoder, kind: Any) -> Any:
    """Plain transformers with the weights of `encoder`."""
    labels = len(make_task_of(kind).labels)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model.load_state_dict(encoder.model.state_dict())
    return model


def plain_losses(logits: torch.Tensor, targets: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "regression":
        return F.mse_loss(logits, targets, reduction="none").mean(dim=1)
    if kind == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("kind", ["regression", "multiclass", "multilabel"])
@pytest.mark.parametrize(
    ("padding", "limit"),
    [("longest", RowsPerMicroBatch(rows=5)), (24, TokensPerMicroBatch(tokens=50)), ("none", RowsPerMicroBatch(rows=7))],
    ids=["dynamic", "fixed", "packed"],
)
@pytest.mark.parametrize("read", ["one", "all"])
def test_the_gradient_of_windows_is_that_of_plain_transformers(
    bert: Path, kind: Any, padding: Any, limit: Any, read: Any
) -> None:
    """A step of all rows: the sum over rows of weight x the mean of its windows' losses, by the weight of the rows."""
    rows = make_rows(bert, kind, texts=LONG, tokens=WINDOWS)
    numbers = np.arange(len(LONG))
    encoder = load_tiny(bert, kind, packed=padding == "none")
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in encoder.model.named_parameters():
        # Called after each micro-batch, with what was gathered until then.
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.update({name: p.grad.to_dense().clone()})
        )
    plain = stock_model(bert, encoder, kind)
    fold = make_fold(
        training_rows=numbers,
        validation_rows=numbers[:1],
        batch_size=len(LONG),
        micro_batch=limit,
        padding=padding,
        optimizer=optimizer_settings(epochs=1, gradient_clip_norm=None, learning_rate=1e-30),
        windows_read=read,
        metric="rmse" if kind == "regression" else "log_loss",
    )
    (step,) = steps_of(begin(encoder, rows, fold, task=make_task_of(kind)))

    windows = windows_by_hand(bert, LONG)
    counts = np.array(list(map(len, windows)))
    assert counts.max() > 5
    assert (counts == 1).any()
    if read == "one":
        chosen = draw_windows(counts, fold.seed, 0)
        assert len(set(chosen)) > 3
        windows = [[of_row[window]] for of_row, window in zip(windows, chosen, strict=True)]
    targets = torch.tensor(rows.targets if kind == "multiclass" else rows.targets.astype(np.float32))
    total = torch.zeros(())
    for row, of_row in enumerate(windows):
        logits = plain(input_ids=torch.tensor(of_row)).logits
        losses = plain_losses(logits, targets[row : row + 1].repeat_interleave(len(of_row), dim=0), kind)
        total = total + rows.weights[row] * losses.mean()
    loss = total / rows.weights.sum()
    loss.backward()
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    assert (step.rows, step.tokens) == (len(LONG), sum(len(window) for of_row in windows for window in of_row))
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    found = torch.cat([gradients[name].flatten() for name, _ in encoder.model.named_parameters()])
    assert torch.linalg.norm(found - expected) <= 2e-6 * torch.linalg.norm(expected)


@pytest.mark.parametrize("read", ["one", "all"])
def test_where_no_row_is_too_long_windows_train_as_cutting_does_bit_for_bit(bert: Path, read: Any) -> None:
    learned = []
    for tokens in (TokenSettings(max_length=96, truncation="windows"), TokenSettings(max_length=96, truncation="head")):
        rows = make_rows(bert, texts=TEXTS, tokens=tokens)
        encoder, events = train(bert, make_fold(windows_read=read), rows=rows, dropout=0.1)
        learned.append((encoder, [event.loss for event in steps_of(events)], events[-1].predictions))
    (one, losses, predictions), (other, other_losses, other_predictions) = learned
    assert losses == other_losses
    assert (predictions == other_predictions).all()
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))
