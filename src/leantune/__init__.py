"""Fine-tune text encoders without waste, and know what each trick bought you."""

from lazy_loader import attach_stub

# Names are imported when they are first used: torch and transformers take seconds, and `leantune --help` must not wait.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
