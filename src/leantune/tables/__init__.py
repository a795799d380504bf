"""A file of rows becomes a `Table`, its `Targets` and its `Folds`."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
