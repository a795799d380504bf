from .loop import Fold as Fold
from .loop import train_fold as train_fold
from .precision import Precision as Precision
from .precision import make_precision as make_precision
from .scoring import compute_metrics as compute_metrics
from .step import optimizer_step as optimizer_step
from .task import Task as Task
from .task import make_task as make_task
