"""The DP-SGD loop: sample → views → clipped sum → mechanism → optimiser → average."""

from dpvision.training.batch import Batch, Examples, Rows, UnitBatch
from dpvision.training.ema import ExponentialMovingAverage
from dpvision.training.optimization import (
    OptimizerName,
    Schedule,
    make_optimizer,
    schedule_factor,
)
from dpvision.training.optimizer_state import load_optimizer_state, optimizer_state
from dpvision.training.saved_state import check_tensors, whole_number
from dpvision.training.together import StepKeys
from dpvision.training.trainer import OnBatch, Phase, PrivateTrainer, StepStatistics

__all__ = [
    "Batch",
    "Examples",
    "ExponentialMovingAverage",
    "OnBatch",
    "OptimizerName",
    "Phase",
    "PrivateTrainer",
    "Rows",
    "Schedule",
    "StepKeys",
    "StepStatistics",
    "UnitBatch",
    "check_tensors",
    "load_optimizer_state",
    "make_optimizer",
    "optimizer_state",
    "schedule_factor",
    "whole_number",
]
