from .inspecting import inspect as inspect
from .inspection import Inspection as Inspection
