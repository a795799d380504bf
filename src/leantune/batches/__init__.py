"""Sequences become an `EpochPlan`, which rows make which optimizer step, and `Batch`es of tensors."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
