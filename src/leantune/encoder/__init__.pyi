from .model import Encoder as Encoder
from .model import ModelSettings as ModelSettings
from .model import load_encoder as load_encoder
from .model import save_model as save_model
