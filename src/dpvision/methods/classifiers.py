"""Share what methods that make a classifier have in common: what is learned of one, and how to make it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dpvision.methods.method import Finished, Learned, Workplace
from dpvision.networks import Classifier
from dpvision.training import check_tensors


def learned_weights(model: Classifier, of: str = "") -> Learned:
    """Take the weights of a classifier whose names begin with ``of``: by default all."""
    weights = {name: t.detach().cpu() for name, t in model.state_dict().items() if name.startswith(of)}
    return Learned(weights)


def finished_classifier(build: Callable[[], Classifier], learned: Learned, workplace: Workplace) -> Finished:
    """Build the classifier anew and give it the learned weights; the others are as they are built.

    Raises:
        ValueError: the weights are of another classifier.
    """
    with torch.random.fork_rng(devices=[]):  # a network draws its first weights, which are replaced
        model = build()
    weights = model.state_dict()
    check_tensors(learned.tensors, {name: weights[name] for name in weights.keys() & learned.tensors.keys()})
    model.load_state_dict(weights | dict(learned.tensors))
    return Finished(model.to(workplace.device))
