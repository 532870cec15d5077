"""A run on disk: its configuration, its checkpoint, what it releases and what stays private."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.runs.checkpoints import Checkpoints, FileCheckpoints
    from dpvision.runs.directory import RunDirectory
    from dpvision.runs.metrics import Metrics
    from dpvision.runs.progress import Progress
    from dpvision.runs.release import classifier_files, load_release

__all__ = [
    "Checkpoints",
    "FileCheckpoints",
    "Metrics",
    "Progress",
    "RunDirectory",
    "classifier_files",
    "load_release",
]

_HOMES = {
    "Checkpoints": "dpvision.runs.checkpoints",
    "FileCheckpoints": "dpvision.runs.checkpoints",
    "Metrics": "dpvision.runs.metrics",
    "Progress": "dpvision.runs.progress",
    "RunDirectory": "dpvision.runs.directory",
    "classifier_files": "dpvision.runs.release",
    "load_release": "dpvision.runs.release",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
