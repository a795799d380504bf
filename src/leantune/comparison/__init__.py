"""Finished runs held against each other: read back, refused where they do not belong together, judged pair by pair.

results        what one run folder says
folder         which run of an experiment is which, and what became of it
comparability  which runs may be compared
paired         a mean of paired differences, with its interval
effects        what a recipe changed in one measure, and the verdict
comparing      all of it, for all recipes
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
