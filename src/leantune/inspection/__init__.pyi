from .catalogue import CHECKS as CHECKS
from .catalogue import Check as Check
from .findings import Finding as Finding
from .findings import duplicates_across_folds as duplicates_across_folds
from .findings import unknown_tokens as unknown_tokens
from .findings import untrained_classes as untrained_classes
