"""Evaluation: how good a classifier or a set of synthetic images is, and how sure that figure is."""

from dpvision.evaluation.accuracy import Accuracy, accuracy
from dpvision.evaluation.benchmark_training import BenchmarkTraining
from dpvision.evaluation.class_sheet import class_sheet
from dpvision.evaluation.classification import evaluate_classifier
from dpvision.evaluation.classifier_report import ClassifierReport, Measured
from dpvision.evaluation.copies import evaluate_copies
from dpvision.evaluation.downstream import (
    ClassifierName,
    default_classifiers,
    named_classifiers,
    train_and_test,
)
from dpvision.evaluation.features import image_features
from dpvision.evaluation.frechet import frechet_distance
from dpvision.evaluation.intervals import Figure
from dpvision.evaluation.kernel_distance import kernel_distance
from dpvision.evaluation.neighbours import nearest_neighbours, neighbours_sheet
from dpvision.evaluation.network_training import NetworkTraining, train_network
from dpvision.evaluation.precision_recall import PrecisionRecall, precision_recall
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.evaluation.rows import Reference, Row
from dpvision.evaluation.synthetic import evaluate_synthetic

__all__ = [
    "Accuracy",
    "BenchmarkTraining",
    "ClassifierName",
    "ClassifierReport",
    "Figure",
    "Measured",
    "NetworkTraining",
    "PrecisionRecall",
    "Reference",
    "ResNet9Training",
    "Row",
    "accuracy",
    "class_sheet",
    "default_classifiers",
    "evaluate_classifier",
    "evaluate_copies",
    "evaluate_synthetic",
    "frechet_distance",
    "image_features",
    "kernel_distance",
    "named_classifiers",
    "nearest_neighbours",
    "neighbours_sheet",
    "precision_recall",
    "train_and_test",
    "train_network",
]
