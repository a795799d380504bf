"""What every stage stands on: errors, settings, files, the terminal, signals, the device."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
