"""What training carries from step to step beside the weights, and its way into a checkpoint and back, bit for bit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from leantune.encoder.embedding import rows_digest, whole_embedding
from leantune.encoder.model import Encoder
from leantune.system.errors import RunFolderError
from leantune.training.checkpoint import SavedState
from leantune.training.precision import Precision


@dataclass(kw_only=True)
class TrainState:
    """Where training is. The batch plan is a pure function of the seed, so that the step is the place in the data."""

    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps done."""
    schedule_step: int = 0
    """Steps done that fp16 did not skip: only these move the learning rate on."""
    settled_step: int = 0
    """The last step that is counted in `schedule_step` and `skipped_in_a_row`, which wait for the device under fp16."""
    skipped_in_a_row: int = 0
    evaluated_step: int = 0
    """The last step that was evaluated; 0 before the first."""
    best_step: int = 0
    """The step of the best evaluation; 0 before the first."""
    best_value: float | None = None
    """Its metric; None where that is not defined."""
    best_loss: float | None = None
    """Its loss, which decides between equal metrics."""
    evaluations_since_best: int = 0
    smaller_micro_batch: dict[str, int] | None = None
    """The limit, `rows` or `tokens`, that took the setting's place where there was no memory; None where there was."""
    smaller_evaluation: dict[str, int] | None = None
    """The same for evaluations."""


def pack_state(
    state: TrainState, encoder: Encoder, precision: Precision
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return everything that training needs in order to go on: tensors by file and name, and plain values."""
    names = {id(parameter): name for name, parameter in encoder.model.named_parameters()}
    moments, numbers = dict[str, Tensor](), dict[str, Any]()
    for parameter, values in state.optimizer.state.items():
        for key, value in values.items():
            (moments if isinstance(value, Tensor) else numbers)[f"{names[id(parameter)]}/{key}"] = value
    plain = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "optimizer"}
    return (
        {
            "weights": weights_of(encoder.model),
            "optimizer": moments,
            "random": random_states(precision.device),
        },
        {
            "train": plain,
            "optimizer": numbers,
            "loss_scale": None if precision.scaler is None else precision.scaler.state_dict(),
            "embedding_rows": rows_digest(encoder.model),
        },
    )


def unpack_state(
    saved: SavedState, encoder: Encoder, optimizer: torch.optim.Optimizer, precision: Precision
) -> TrainState:
    """Put a checkpoint back into the encoder, a fresh optimizer, the loss scaler and the random numbers.

    Raises `RunFolderError` where it is of another model, or of texts that use other tokens.
    """
    try:
        if saved.state["embedding_rows"] != rows_digest(encoder.model):
            raise ValueError("the texts use other tokens than they did")
        load_tensors(weights_of(encoder.model), saved.tensors("weights"))
    except ValueError as error:
        raise RunFolderError(
            f"{saved.path}: {error}: it is of another model, or of other texts, with which --force cannot go on "
            "either; give another --output"
        ) from None
    parameters = dict(encoder.model.named_parameters())
    values: dict[Any, dict[str, Any]] = {}
    for name, value in [*saved.tensors("optimizer").items(), *saved.state["optimizer"].items()]:
        owner, _, key = name.rpartition("/")
        values.setdefault(parameters[owner], {})[key] = value
    places = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict(
        optimizer.state_dict() | {"state": {i: values[p] for i, p in enumerate(places) if p in values}}
    )
    if precision.scaler is not None and saved.state["loss_scale"] is not None:
        precision.scaler.load_state_dict(saved.state["loss_scale"])
    set_random_states(saved.tensors("random"), precision.device)
    return TrainState(optimizer=optimizer, **saved.state["train"])


def load_tensors(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors over those of the same names; raises ValueError where names or shapes differ."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in of.items()} for of in (into, tensors)]
    for name in [*shapes[1], *shapes[0]]:
        if shapes[0].get(name) != shapes[1].get(name):
            raise ValueError(f"found {name} of shape {shapes[1].get(name)}, expected {shapes[0].get(name)}")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(tensors[name])


def weights_of(model: Any) -> dict[str, Tensor]:
    """Return the weights, and buffers that belong to them, by name; those that share memory once."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor for name, tensor in model.state_dict().items() if name in own}


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's random numbers that training on `device` draws from; does not wait for it."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put `random_states` back, as far as they are of this kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 (hexadecimal) over the weights of a model that was just loaded, without those drawn at random."""
    digest = hashlib.sha256()
    with whole_embedding(encoder.model):  # rows that no text uses are saved with the model, too
        weights = weights_of(encoder.model)
    for name, tensor in weights.items():
        if name not in encoder.new_weights:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()
