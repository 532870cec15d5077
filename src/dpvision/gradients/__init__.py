"""Clipped gradient sums of ordinary modules: fast (clipped.py) and obviously right (reference.py)."""

from dpvision.gradients.clipped import (
    ClippedGradient,
    ClippedSum,
    check_clipping_norm,
    clipped_gradient_sum,
)
from dpvision.gradients.forward import Loss
from dpvision.gradients.reference import reference_clipped_sum, reference_gradients
from dpvision.gradients.refusals import refuse_cross_example_layers
from dpvision.gradients.rules import RULES, rule
from dpvision.gradients.ways import Engine, check_engine
from dpvision.networks.precision import Precision, resolve_precision

__all__ = [
    "RULES",
    "ClippedGradient",
    "ClippedSum",
    "Engine",
    "Loss",
    "Precision",
    "check_clipping_norm",
    "check_engine",
    "clipped_gradient_sum",
    "reference_clipped_sum",
    "reference_gradients",
    "refuse_cross_example_layers",
    "resolve_precision",
    "rule",
]
