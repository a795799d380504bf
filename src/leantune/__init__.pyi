from .comparison.comparing import Comparison as Comparison
from .experiments.experiment import compare as compare
from .experiments.experiment import demo as demo
from .inference.exporting import Exported as Exported
from .inference.exporting import export as export
