"""Evaluation: how good a classifier or a set of synthetic images is, and how sure that figure is."""

from dpvision.evaluation.accuracy import Accuracy, accuracy
from dpvision.evaluation.features import image_features
from dpvision.evaluation.frechet import frechet_distance
from dpvision.evaluation.intervals import Figure
from dpvision.evaluation.kernel_distance import kernel_distance
from dpvision.evaluation.precision_recall import PrecisionRecall, precision_recall
from dpvision.evaluation.progress import Progress

__all__ = [
    "Accuracy",
    "Figure",
    "PrecisionRecall",
    "Progress",
    "accuracy",
    "frechet_distance",
    "image_features",
    "kernel_distance",
    "precision_recall",
]
