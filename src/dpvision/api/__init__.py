"""What the command line and Python programs share: one function per command."""

from dpvision.api.forecast import Forecast, plan
from dpvision.api.running import Progress, Result, resume, train
from dpvision.api.using import Prediction, evaluate, load, predict

__all__ = [
    "Forecast",
    "Prediction",
    "Progress",
    "Result",
    "evaluate",
    "load",
    "plan",
    "predict",
    "resume",
    "train",
]
