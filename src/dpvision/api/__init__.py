"""Functions that the command line and Python programs share: one function per command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.api.accounts import open_account
    from dpvision.api.auditing import Audit, audit
    from dpvision.api.comparing import Runs, runs_in
    from dpvision.api.datasets import SyntheticDataset, synthetic_dataset
    from dpvision.api.diagnosing import Diagnosis, doctor
    from dpvision.api.estimator import DPImageClassifier
    from dpvision.api.exporting import Exported, export
    from dpvision.api.forecast import Forecast, plan
    from dpvision.api.hub import HubFolder, write_hub_folder
    from dpvision.api.measuring import evaluate_images
    from dpvision.api.membership_inference import Membership, membership
    from dpvision.api.publishing import Result, Synthesis
    from dpvision.api.refitting import synthesize_from
    from dpvision.api.registering import registry_entry
    from dpvision.api.release_cards import write_card
    from dpvision.api.sampling import sample
    from dpvision.api.sweeping import Sweep, sweep
    from dpvision.api.synthesis import synthesize
    from dpvision.api.training import resume, train
    from dpvision.api.tuning import tune
    from dpvision.api.two_releases import Comparison, compare
    from dpvision.api.using import Prediction, evaluate, load, predict, predictions
    from dpvision.api.verifying import Verification, verify
    from dpvision.api.watching import curves
    from dpvision.runs import Progress

__all__ = [
    "Audit",
    "Comparison",
    "DPImageClassifier",
    "Diagnosis",
    "Exported",
    "Forecast",
    "HubFolder",
    "Membership",
    "Prediction",
    "Progress",
    "Result",
    "Runs",
    "Sweep",
    "Synthesis",
    "SyntheticDataset",
    "Verification",
    "audit",
    "compare",
    "curves",
    "doctor",
    "evaluate",
    "evaluate_images",
    "export",
    "load",
    "membership",
    "open_account",
    "plan",
    "predict",
    "predictions",
    "registry_entry",
    "resume",
    "runs_in",
    "sample",
    "sweep",
    "synthesize",
    "synthesize_from",
    "synthetic_dataset",
    "train",
    "tune",
    "verify",
    "write_card",
    "write_hub_folder",
]

_HOMES = {
    "Audit": "dpvision.api.auditing",
    "Comparison": "dpvision.api.two_releases",
    "Diagnosis": "dpvision.api.diagnosing",
    "DPImageClassifier": "dpvision.api.estimator",
    "Exported": "dpvision.api.exporting",
    "Forecast": "dpvision.api.forecast",
    "HubFolder": "dpvision.api.hub",
    "Membership": "dpvision.api.membership_inference",
    "Prediction": "dpvision.api.using",
    "Progress": "dpvision.runs",
    "Result": "dpvision.api.publishing",
    "Runs": "dpvision.api.comparing",
    "Sweep": "dpvision.api.sweeping",
    "Synthesis": "dpvision.api.publishing",
    "SyntheticDataset": "dpvision.api.datasets",
    "Verification": "dpvision.api.verifying",
    "audit": "dpvision.api.auditing",
    "compare": "dpvision.api.two_releases",
    "curves": "dpvision.api.watching",
    "doctor": "dpvision.api.diagnosing",
    "evaluate": "dpvision.api.using",
    "evaluate_images": "dpvision.api.measuring",
    "export": "dpvision.api.exporting",
    "load": "dpvision.api.using",
    "membership": "dpvision.api.membership_inference",
    "open_account": "dpvision.api.accounts",
    "plan": "dpvision.api.forecast",
    "predict": "dpvision.api.using",
    "predictions": "dpvision.api.using",
    "registry_entry": "dpvision.api.registering",
    "resume": "dpvision.api.training",
    "runs_in": "dpvision.api.comparing",
    "sample": "dpvision.api.sampling",
    "sweep": "dpvision.api.sweeping",
    "synthesize": "dpvision.api.synthesis",
    "synthesize_from": "dpvision.api.refitting",
    "synthetic_dataset": "dpvision.api.datasets",
    "train": "dpvision.api.training",
    "tune": "dpvision.api.tuning",
    "verify": "dpvision.api.verifying",
    "write_card": "dpvision.api.release_cards",
    "write_hub_folder": "dpvision.api.hub",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
