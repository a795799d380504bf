from .predictions import Predictions as Predictions
from .predictor import Predictor as Predictor
from .predictor import load as load
from .trained_run import TrainedRun as TrainedRun
from .trained_run import open_run as open_run
