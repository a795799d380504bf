"""How fast and how long to learn where the user does not say: rules that go by the encoder, the task and the table.

What they were found with, and what else was tried: docs/design/0007-defaults.md.
"""

from typing import Any

from torch import nn

BASE_RATE, BASE_PARAMETERS = 3e-5, 85e6
"""What suits the layers of BERT-base: 2e-5 to 5e-5 in Devlin et al., 2019, appendix A.3."""
FAST_LEARNERS = {"modernbert": 2.0}
"""Architectures that were found to learn best with a larger rate: ModernBERT with 5e-5 to 8e-5 (Warner et al., 2024,
appendix on GLUE)."""

LEAST_EPOCHS, MOST_EPOCHS = 3, 20
LEAST_STEPS = 200
"""Optimizer steps below which a table is passed over more often: what fails on small tables is often training that ends
too early (Mosbach et al., 2021; Zhang et al., 2021)."""
STEPS_PER_CLASS = 3
"""More steps for each class beyond two, since a step shows each to the new head only once in a while."""


def layer_parameters(model: Any) -> int:
    """Count the parameters of a model outside its embeddings: what decides how fast it can learn."""
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def default_learning_rate(model: Any) -> float:
    """Return the largest learning rate for a transformers model: the smaller its layers, the larger.

    3e-5 for BERT-base, and otherwise in inverse proportion to the 0.9th power of the parameters in layers: 2e-4 for
    MiniLM's 11 million, 1e-5 for BERT-large's 300 million. One digit, so that it can be said and set.
    """
    rate = BASE_RATE * (BASE_PARAMETERS / layer_parameters(model)) ** 0.9
    rate *= FAST_LEARNERS.get(model.config.model_type, 1.0)
    return float(f"{min(rate, 5e-4):.0e}")


def default_epochs(steps_per_epoch: int, outputs: int) -> int:
    """Return the passes over a table whose epoch has so many optimizer steps, for so many classes or targets."""
    wanted = LEAST_STEPS + STEPS_PER_CLASS * max(0, outputs - 2)
    return max(LEAST_EPOCHS, min(MOST_EPOCHS, -(-wanted // steps_per_epoch)))
