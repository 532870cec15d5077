"""Views: what one private example becomes before its gradient is taken."""

from dpvision.views.leak import check_no_leak, check_no_leak_of_units
from dpvision.views.mixing import DPMix
from dpvision.views.noisy import NoisyViews
from dpvision.views.policy import UnitPolicy, ViewPolicy
from dpvision.views.pool import Pool, open_pool
from dpvision.views.self_augmentation import SelfAugmentation
from dpvision.views.unchanged import Unchanged

__all__ = [
    "DPMix",
    "NoisyViews",
    "Pool",
    "SelfAugmentation",
    "Unchanged",
    "UnitPolicy",
    "ViewPolicy",
    "check_no_leak",
    "check_no_leak_of_units",
    "open_pool",
]
