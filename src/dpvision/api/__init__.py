"""What the command line and Python programs share: one function per command."""

from dpvision.api.auditing import Audit, audit
from dpvision.api.forecast import Forecast, plan
from dpvision.api.measuring import evaluate_images
from dpvision.api.membership_inference import Membership, membership
from dpvision.api.running import Progress, Result, makes_images, resume, train
from dpvision.api.synthesis import Synthesis, synthesize, synthesize_from
from dpvision.api.using import Prediction, evaluate, load, predict

__all__ = [
    "Audit",
    "Forecast",
    "Membership",
    "Prediction",
    "Progress",
    "Result",
    "Synthesis",
    "audit",
    "evaluate",
    "evaluate_images",
    "load",
    "makes_images",
    "membership",
    "plan",
    "predict",
    "resume",
    "synthesize",
    "synthesize_from",
    "train",
]
