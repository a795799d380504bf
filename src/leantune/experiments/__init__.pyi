from .experiment import compare as compare
from .experiment import demo as demo
from .recipes import Experiment as Experiment
from .recipes import load_experiment as load_experiment
