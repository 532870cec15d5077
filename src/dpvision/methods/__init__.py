"""Methods: one file per paper, and what they share."""

from dpvision.methods.estimates import Estimate
from dpvision.methods.method import Finished, Learned, Makes, Method, Workplace
from dpvision.methods.registry import find_method, methods
from dpvision.methods.session import Session, Watch
from dpvision.methods.settings import check_settings, setting_types, with_overrides
from dpvision.methods.stages import Calibrated, Stage, at_noise, calibrate

__all__ = [
    "Calibrated",
    "Estimate",
    "Finished",
    "Learned",
    "Makes",
    "Method",
    "Session",
    "Stage",
    "Watch",
    "Workplace",
    "at_noise",
    "calibrate",
    "check_settings",
    "find_method",
    "methods",
    "setting_types",
    "with_overrides",
]
