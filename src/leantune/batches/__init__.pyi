from .batch import Batch as Batch
from .batch import make_batch as make_batch
from .packing import Packing as Packing
from .packing import make_packing as make_packing
from .plan import BatchingSettings as BatchingSettings
from .plan import EpochPlan as EpochPlan
from .plan import plan_epoch as plan_epoch
from .plan import plan_evaluation as plan_evaluation
