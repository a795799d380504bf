from .comparison.comparing import Comparison as Comparison
from .experiments.experiment import compare as compare
from .experiments.experiment import demo as demo
from .runs.result import Run as Run
from .runs.run import train as train
from .system.errors import LeantuneError as LeantuneError
from .tables.folds import Folds as Folds
from .tables.folds import assign_folds as assign_folds
