from .trained_run import TrainedRun as TrainedRun
from .trained_run import open_run as open_run
