"""Texts become token ids, and these become `Sequences` of at most `max_length` tokens."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
