"""Notice what scikit-learn is about to do with a private classifier, by who has called it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from dpvision.privacy.errors import InputError, named_option

FIT_ONCE = ("base", "pipeline", "utils")
"""The modules of scikit-learn that fit what they are given once, or copy it for whoever asked."""


def refuse_many_fits() -> None:
    """Refuse to go on where scikit-learn chooses, combines or judges classifiers by fitting many of them on
    the same images: in `GridSearchCV`, `cross_val_score`, `BaggingClassifier` and so on, also in processes
    that these have started. Each fit would spend ε anew, and a choice by scores tells of the images.

    Raises:
        InputError: a module of scikit-learn other than `FIT_ONCE` is among the callers.
    """
    within = [_name(frame) for frame in _callers() if _fits_often(frame)]
    if within:
        raise InputError(
            f"{within[-1]} fits many times on the same private images, and each fit would spend epsilon; "
            f"nothing was spent: {named_option('search', {'learning_rate': [1, 10]})}, say, pays for a "
            f"choice within one epsilon, and {named_option('unpaid', True)} is for images that are public"
        )


def refuse_steps_that_learn() -> None:
    """Refuse to fit within a pipeline whose earlier steps have learned from the images. What they make of an
    image depends on all of them, and one image more or less changes every row: no noise covers that.

    Raises:
        InputError: a step before the classifier needs a fit, by its tags, and is not frozen.
    """
    from sklearn.pipeline import Pipeline

    for frame in _callers():
        pipeline = frame.f_locals.get("self")
        steps = pipeline.steps[:-1] if isinstance(pipeline, Pipeline) else []
        learned = [name for name, step in steps if _learns(step)]
        if learned:
            raise InputError(
                f"the step '{learned[0]}' of the pipeline learns from the private images: one of them "
                "changes what it makes of all, which no guarantee would cover; take a step that looks at one "
                "image at a time, such as a FunctionTransformer, or a FrozenEstimator fitted on public images"
            )


def _learns(step: Any) -> bool:
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.utils import get_tags

    if step is None or step in ("passthrough", "drop") or isinstance(step, FrozenEstimator):
        return False
    if isinstance(step, Pipeline):
        return any(_learns(one) for _, one in step.steps)
    if isinstance(step, FeatureUnion):
        return any(_learns(one) for _, one in step.transformer_list)
    return not hasattr(step, "__sklearn_tags__") or bool(get_tags(step).requires_fit)


def _callers() -> Iterator[FrameType]:
    """Yield the frames of those who have called, the nearest first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _fits_often(frame: FrameType) -> bool:
    package, *rest = str(frame.f_globals.get("__name__", "")).split(".")
    return package == "sklearn" and bool(rest) and rest[0] not in FIT_ONCE


def _name(frame: FrameType) -> str:
    """Return what a user knows a caller by: its class, or its own name."""
    owner = frame.f_locals.get("self")
    return frame.f_code.co_name if owner is None else type(owner).__name__
