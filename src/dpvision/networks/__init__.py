"""Networks: plain modules, each in a file of its own, built by name."""

from dpvision.networks.build import NETWORKS, build_network
from dpvision.networks.classifier import Classifier, Normalize, build_classifier
from dpvision.networks.linear import LinearClassifier
from dpvision.networks.own import register_network
from dpvision.networks.resnet9 import ResNet9
from dpvision.networks.scatter_cnn import ScatterCNN
from dpvision.networks.scattering import Scattering2d
from dpvision.networks.tanh_cnn import DeepTanhCNN, TanhCNN
from dpvision.networks.weight_standardization import WeightStandardizedConv2d, standardize
from dpvision.networks.wide_resnet import WideResNet

__all__ = [
    "NETWORKS",
    "Classifier",
    "DeepTanhCNN",
    "LinearClassifier",
    "Normalize",
    "ResNet9",
    "ScatterCNN",
    "Scattering2d",
    "TanhCNN",
    "WeightStandardizedConv2d",
    "WideResNet",
    "build_classifier",
    "build_network",
    "register_network",
    "standardize",
]
