"""What a table or a run is like, and what to do about it: findings, measured advice, and pages that show both."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
