"""Methods: one file per paper, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.methods.estimates import Estimate
    from dpvision.methods.method import PREVIEWED_OF_A_CLASS, Finished, Learned, Makes, Method, Workplace
    from dpvision.methods.registry import check_known, find_method, known_methods
    from dpvision.methods.session import Session, Watch
    from dpvision.methods.settings import check_settings, setting_types, with_overrides
    from dpvision.methods.stages import Calibrated, Stage, at_noise, calibrate

__all__ = [
    "PREVIEWED_OF_A_CLASS",
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
    "check_known",
    "check_settings",
    "find_method",
    "known_methods",
    "setting_types",
    "with_overrides",
]

_HOMES = {
    "PREVIEWED_OF_A_CLASS": "dpvision.methods.method",
    "Calibrated": "dpvision.methods.stages",
    "Estimate": "dpvision.methods.estimates",
    "Finished": "dpvision.methods.method",
    "Learned": "dpvision.methods.method",
    "Makes": "dpvision.methods.method",
    "Method": "dpvision.methods.method",
    "Session": "dpvision.methods.session",
    "Stage": "dpvision.methods.stages",
    "Watch": "dpvision.methods.session",
    "Workplace": "dpvision.methods.method",
    "at_noise": "dpvision.methods.stages",
    "calibrate": "dpvision.methods.stages",
    "check_known": "dpvision.methods.registry",
    "check_settings": "dpvision.methods.settings",
    "find_method": "dpvision.methods.registry",
    "known_methods": "dpvision.methods.registry",
    "setting_types": "dpvision.methods.settings",
    "with_overrides": "dpvision.methods.settings",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
