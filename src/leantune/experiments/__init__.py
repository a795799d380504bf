"""An experiment file becomes runs in fresh processes, their comparison and its report."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
