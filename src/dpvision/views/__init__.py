"""Views: what one private example becomes before its gradient is taken."""

from dpvision.views.leak import check_no_leak
from dpvision.views.mixing import DPMix
from dpvision.views.policy import ViewPolicy
from dpvision.views.pool import Pool, open_pool
from dpvision.views.self_augmentation import SelfAugmentation
from dpvision.views.unchanged import Unchanged

__all__ = [
    "DPMix",
    "Pool",
    "SelfAugmentation",
    "Unchanged",
    "ViewPolicy",
    "check_no_leak",
    "open_pool",
]
