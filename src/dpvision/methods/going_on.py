"""Go on training from the classifier that an earlier run has released, in place of one with fresh weights; a
linear head is learned anew from the same features, and averaged with the earlier one. The private images pay
for both runs.

Guarantee:
    The earlier release came of mechanisms that were paid for, so that to begin with it is to choose the next
    steps by what has been released: composition is adaptive. What both runs cost is composed in one account
    (:func:`dpvision.api.cost_of_both.cost_of_both`), whether they were on the same images or on others, for
    an image that is in one of them alone pays for less. ``tests/api/test_going_on.py`` compares it with the
    ledger of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dpvision.methods.continued import FROM_DIGEST, FROM_RUN, Continued, parts_of, with_released
from dpvision.methods.gradient_descent import images_over_noise
from dpvision.methods.method import GUARANTEE, Learned, Method
from dpvision.methods.registry import FROM
from dpvision.methods.releases import mean_of
from dpvision.methods.session import Session
from dpvision.methods.settings import setting_types
from dpvision.methods.stages import precision
from dpvision.methods.start import Start, open_start
from dpvision.networks import Classifier
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts

Begin = Callable[[Classifier], None]
"""It gives a classifier, on the session's device, the weights that training begins with."""

BATCH = "expected_batch_size"
RATES = frozenset({"learning_rate", "phase_iii_learning_rate", "calibration_learning_rate"})
"""The settings of which a run that goes on has by default what fits its own N and ε."""


@runtime_checkable
class GoesOn(Method, Protocol):
    """A method whose training can begin with a classifier that was released before."""

    def settings_of_start(self, start: Start) -> dict[str, Any]:
        """Return the settings that say what classifier it is. InputError where this method trains none such,
        or they are not known.
        """

    def taken_over(self, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of an earlier run of this method that one from there has by default.

        Args:
            settings: those of the earlier run.
            given: those that are given for this one.

        Raises:
            InputError: the one cannot follow on the other.
        """

    def learned_anew(self, settings: Mapping[str, Any]) -> str:
        """Return how the names of the weights begin that are learned anew, and then averaged with those of
        the earlier run; empty where training begins with its weights.

        Args:
            settings: those of the run, as far as they are known.
        """

    def learn_from(self, config: Any, session: Session, begin: Begin | None) -> Learned:
        """Learn as `learn` does, but from a classifier to which ``begin`` gives its first weights. What is
        learned are then all weights, also those that did not learn. None is for fresh ones.
        """


class GoingOn(Continued):
    """Another method, whose training begins with what an earlier run has released.

    Args:
        method: the method.
    """

    method: GoesOn

    def __init__(self, method: Method) -> None:
        if not isinstance(method, GoesOn):
            raise InputError(
                f"{method.name} does not train by steps, and cannot go on from a release; dp-sgd, "
                "dp-mix-self and dp-mix-diff can, from a network, and dp-randp from a head on an encoder "
                "(--method)"
            )
        super().__init__(method, FROM, FROM_RUN)

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> Any:
        """Keep what says what classifier it is. The other settings are by default those of the earlier run,
        if that was of the same method, with batches of the same share of the images, and with learning rates
        that are smaller in proportion where there is more noise, or, of what is learned anew, the method's;
        or else all are the method's.

        Raises:
            InputError: a setting says otherwise than the release, or the images do not fit it.
        """
        place, given = self.split(overrides)
        start = open_start(place)
        kept = self.method.settings_of_start(start)
        others = {name: value for name, value in given.items() if value != kept.get(name)}
        chosen = with_released(others, kept, start.place)
        _check_fits(facts, start)
        before = self._before(start, facts, budget, given)
        config = self.method.default_config(facts, budget, device, {**before, **chosen})
        return self.config_class(**asdict(config), **{FROM_RUN: start.place, FROM_DIGEST: start.digest})

    def _before(
        self, start: Start, facts: PublicFacts, budget: Budget, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the defaults that follow from the settings of the earlier run."""
        if start.method != self.method.name:
            return {}
        known = setting_types(self.method.config_class)
        settings = {name: value for name, value in start.settings.items() if name in known}
        found = self.method.taken_over(settings, given)
        if BATCH in found:
            share = found[BATCH] / start.card["num_examples"]
            found[BATCH] = max(1, round(share * facts.num_examples))
        more_noise = images_over_noise(facts.num_examples, budget) / start.images_over_noise
        for name in RATES & found.keys():
            found[name] = float(f"{min(1.0, more_noise) * found[name]:.3g}")
        if self.method.learned_anew({**settings, **given}):  # as in any run of this budget
            found = {name: value for name, value in found.items() if name not in RATES}
        return found

    def learn(self, config: Any, session: Session) -> Learned:
        """Train from there, or anew beside it. What is learned has the guarantee of the earlier release."""
        if not session.leads:  # a process that follows may not see the release, and is given the weights
            return self.method.learn_from(config, session, lambda model: session.begin_with(model, {}))
        start = self._opened(config)
        anew = self.method.learned_anew(asdict(config))

        def begin(model: Classifier) -> None:
            start.check_makes(model)
            fresh = {name: t for name, t in model.state_dict().items() if anew and name.startswith(anew)}
            session.begin_with(model, {**start.weights, **fresh})

        learned = self.method.learn_from(config, session, begin)
        tensors = dict(learned.tensors)
        if anew:
            ours = {name: tensor for name, tensor in tensors.items() if name.startswith(anew)}
            tensors |= _averaged(start, ours, session)
        return Learned(tensors, {**learned.facts, GUARANTEE: start.card})

    def runs_before(self, config: Any) -> int:
        """Return how many runs the earlier release is made of; see :class:`Continued`."""
        return len(parts_of(self._opened(config).card))

    def _opened(self, config: Any) -> Start:
        """Open the earlier release. InputError where it is not the one that the run began with."""
        start = open_start(getattr(config, FROM_RUN))
        self.check_same(config, start.digest)
        return start


def _averaged(start: Start, ours: Mapping[str, Tensor], session: Session) -> dict[str, Tensor]:
    """Return the mean of weights that were learned in both runs from the same features, each weighed by the
    square of its N/σ: the noise of each is its own.
    """
    of_ours = session.facts.num_examples * math.sqrt(precision(session.stages.stages))
    theirs = {name: start.weights[name] for name in ours}
    mean, _ = mean_of(theirs, 1 / start.all_images_over_noise, ours, 1 / of_ours)
    return mean


def _check_fits(facts: PublicFacts, start: Start) -> None:
    """Raise InputError unless a classifier can learn more from such images."""
    model = start.card["model"]
    ours = {"images of shape": list(facts.image_shape), "the classes": list(facts.class_names)}
    theirs = {"images of shape": model["image_shape"], "the classes": model["class_names"]}
    for what, here in ours.items():
        if here != theirs[what]:
            raise InputError(
                f"the classifier of {start.place} is for {what} {theirs[what]}, not {here}; give images that "
                "fit it, with the same classes in the same order"
            )
