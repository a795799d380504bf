from .comparing import Comparison as Comparison
from .comparing import RecipeResult as RecipeResult
from .comparing import compare_runs as compare_runs
from .effects import Effect as Effect
from .effects import Measure as Measure
from .effects import Verdict as Verdict
from .folder import Cell as Cell
