"""Finished runs held against each other: read back, refused where they do not belong together, judged pair by pair.

results        what one run folder says
folder         which run of an experiment is which, and what became of it
comparability  which runs may be compared
paired         a mean of paired differences, with its interval
effects        what a recipe changed in one measure, and the verdict
comparing      all of it, for all recipes
"""

from leantune.comparison.comparing import Comparison, RecipeResult, compare_runs
from leantune.comparison.effects import Effect, Measure, Verdict
from leantune.comparison.folder import Cell

__all__ = ["Cell", "Comparison", "Effect", "Measure", "RecipeResult", "Verdict", "compare_runs"]
