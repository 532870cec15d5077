"""dpvision: learn from private images under one privacy budget.

    import dpvision
    result = dpvision.train("photos/", epsilon=2, out="runs/photos")

The names below are imported when they are first used, so that ``import dpvision`` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.api import (
        DPImageClassifier,
        audit,
        compare,
        curves,
        doctor,
        evaluate,
        evaluate_images,
        export,
        load,
        membership,
        open_account,
        plan,
        predict,
        registry_entry,
        resume,
        runs_in,
        sample,
        sweep,
        synthesize,
        synthesize_from,
        synthetic_dataset,
        train,
        tune,
        verify,
        write_card,
        write_hub_folder,
    )
    from dpvision.images import (
        Images,
        images_from_arrays,
        images_from_dataset,
        images_from_table,
        open_images,
    )
    from dpvision.networks import register_network
    from dpvision.privacy import Budget, InputError

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "DPImageClassifier",
    "Images",
    "InputError",
    "__version__",
    "audit",
    "compare",
    "curves",
    "doctor",
    "evaluate",
    "evaluate_images",
    "export",
    "images_from_arrays",
    "images_from_dataset",
    "images_from_table",
    "load",
    "membership",
    "open_account",
    "open_images",
    "plan",
    "predict",
    "register_network",
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
    "Budget": "dpvision.privacy",
    "DPImageClassifier": "dpvision.api",
    "Images": "dpvision.images",
    "InputError": "dpvision.privacy",
    "audit": "dpvision.api",
    "compare": "dpvision.api",
    "curves": "dpvision.api",
    "doctor": "dpvision.api",
    "evaluate": "dpvision.api",
    "evaluate_images": "dpvision.api",
    "export": "dpvision.api",
    "load": "dpvision.api",
    "membership": "dpvision.api",
    "images_from_arrays": "dpvision.images",
    "images_from_dataset": "dpvision.images",
    "images_from_table": "dpvision.images",
    "open_account": "dpvision.api",
    "open_images": "dpvision.images",
    "plan": "dpvision.api",
    "predict": "dpvision.api",
    "register_network": "dpvision.networks",
    "registry_entry": "dpvision.api",
    "resume": "dpvision.api",
    "runs_in": "dpvision.api",
    "sample": "dpvision.api",
    "sweep": "dpvision.api",
    "synthesize": "dpvision.api",
    "synthesize_from": "dpvision.api",
    "synthetic_dataset": "dpvision.api",
    "train": "dpvision.api",
    "tune": "dpvision.api",
    "verify": "dpvision.api",
    "write_card": "dpvision.api",
    "write_hub_folder": "dpvision.api",
}


if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
