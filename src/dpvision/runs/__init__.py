"""A run on disk: its configuration, its checkpoint, what it releases and what stays private."""

from dpvision.runs.checkpoints import Checkpoints, FileCheckpoints
from dpvision.runs.directory import RunDirectory, check_free
from dpvision.runs.metrics import Metrics
from dpvision.runs.progress import Progress
from dpvision.runs.release import classifier_files, load_release

__all__ = [
    "Checkpoints",
    "FileCheckpoints",
    "Metrics",
    "Progress",
    "RunDirectory",
    "check_free",
    "classifier_files",
    "load_release",
]
