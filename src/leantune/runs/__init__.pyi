from .config import Config as Config
from .config import load_config as load_config
from .result import Run as Run
from .run import train as train
