"""The DP-SGD loop: sample → views → clipped sum → mechanism → optimiser → average."""

from dpvision.training.ema import ExponentialMovingAverage
from dpvision.training.optimization import OptimizerName, Schedule, make_optimizer, schedule_factor
from dpvision.training.trainer import Phase, PrivateTrainer, StepStatistics

__all__ = [
    "ExponentialMovingAverage",
    "OptimizerName",
    "Phase",
    "PrivateTrainer",
    "Schedule",
    "StepStatistics",
    "make_optimizer",
    "schedule_factor",
]
