from .loading import load_encoder as load_encoder
from .model import Encoder as Encoder
from .model import ModelSettings as ModelSettings
from .saving import save_model as save_model
