"""A comparison as people read it: in words, in figures, as one page, and in the terminal."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
