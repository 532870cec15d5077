"""Clipped gradient sums of ordinary modules: fast (clipped.py) and obviously right (reference.py)."""

from dpvision.gradients.clipped import ClippedGradient, ClippedSum, clipped_gradient_sum
from dpvision.gradients.plan import refuse_cross_example_layers
from dpvision.gradients.reference import reference_clipped_sum, reference_gradients
from dpvision.gradients.rules import RULES, rule
from dpvision.networks.precision import Precision, resolve_precision

__all__ = [
    "RULES",
    "ClippedGradient",
    "ClippedSum",
    "Precision",
    "clipped_gradient_sum",
    "reference_clipped_sum",
    "reference_gradients",
    "refuse_cross_example_layers",
    "resolve_precision",
    "rule",
]
