"""Evaluation: how good a classifier or a set of synthetic images is, and how sure that figure is."""

from dpvision.evaluation.accuracy import Accuracy, accuracy

__all__ = ["Accuracy", "accuracy"]
