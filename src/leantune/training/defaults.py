"""How fast and how long to learn where the user does not say."""

from typing import Any

from torch import nn


def layer_parameters(model: Any) -> int:
    """Count the parameters of a model outside its embeddings: what decides how fast it can learn."""
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def default_learning_rate(parameters: int) -> float:
    """Return the largest learning rate for an encoder with so many parameters in its layers."""
    return 1e-4 if parameters < 45e6 else 3e-5 if parameters < 200e6 else 1e-5


def default_epochs(steps_per_epoch: int) -> int:
    """Return the passes over a table whose epoch has so many optimizer steps."""
    return max(3, min(20, -(-200 // steps_per_epoch)))
