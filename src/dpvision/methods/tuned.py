"""Tune a method's settings on the private images themselves, at the price that this has: settings are drawn
for a random number of trials, and the trial that has the most training images right is released (Papernot and
Steinke, arXiv 2110.03620). What that costs is said in `dpvision.privacy.events.selection`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.methods.class_weights import class_counts
from dpvision.methods.estimates import Estimate
from dpvision.methods.method import Finished, Learned, Makes, Method, Workplace
from dpvision.methods.places import without_places
from dpvision.methods.registry import TUNED
from dpvision.methods.search import Search
from dpvision.methods.session import Session
from dpvision.methods.settings import check_settings
from dpvision.methods.stages import Calibrated, Stage
from dpvision.networks import Classifier
from dpvision.networks.by_row import by_row
from dpvision.priors.feature_classifier import FeatureClassifier, encoded
from dpvision.privacy.accounting import calibrate_noise_multiplier, epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, gaussian_event
from dpvision.privacy.events.selection import SelectionEvent
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch
from dpvision.privacy.selection import SelectionMechanism
from dpvision.privacy.trial_count import TrialCount

SCORE_SHARE = 0.1
"""The share of a trial's budget, in terms of 1/σ², that its score may take."""

ENOUGH_FOR_A_SCORE = 0.0025
"""The share of the images that a score's noise has as its standard deviation, where that costs less."""


@dataclass(frozen=True, kw_only=True)
class TunedConfig:
    """Everything public about a selection but the data and the budget.

    Attributes:
        search: lists the values of each setting that is searched.
        trials: is how many trials there are on average.
        candidates: are all settings of each candidate; a trial takes one of them, each with the same
            probability.
        noise: is the noise multiplier of each candidate's trial.
        score_noise: is the noise multiplier of a trial's score.
        pool: names the public images, where the method mixes with some.
    """

    search: dict[str, Any]
    trials: float
    candidates: list[Any]
    noise: list[Any]
    score_noise: float
    pool: str = ""

    def __post_init__(self) -> None:
        if not len(self.candidates) == len(self.noise) > 0:
            raise InputError("each candidate of a selection needs a noise multiplier")


class Tuned:
    """Another method, whose settings are tuned.

    Args:
        method: the method.
        search: what is searched; None where a run is taken up, whose configuration says it.
    """

    needs_labels = True
    makes: Makes = "a classifier"
    config_class: type = TunedConfig

    def __init__(self, method: Method, search: Search | None = None) -> None:
        if method.makes != "a classifier":
            raise InputError(f"{method.name} makes no classifier, so its settings have no score to tune by")
        self.method, self.search = method, search
        self.name = TUNED + method.name

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> TunedConfig:
        """Make the candidates, each with the noise with which a selection among such would be within the
        budget. What is neither searched nor given follows from the ε that a trial has by itself.
        """
        assert self.search is not None, "made for a new run"
        trials = self.search.trials
        once = calibrate_noise_multiplier(
            lambda sigma: [SelectionEvent.of([[gaussian_event(sigma)]], trials)], budget
        )
        of_a_trial = replace(
            budget, epsilon=epsilon([gaussian_event(once)], budget.delta, budget.neighboring_relation)
        )
        config = TunedConfig(
            search={name: list(values) for name, values in self.search.values.items()},
            trials=float(trials),
            candidates=[{}],
            noise=[0.0],
            score_noise=max(once / math.sqrt(SCORE_SHARE), ENOUGH_FOR_A_SCORE * facts.num_examples),
        )
        candidates, noises = [], []
        known: dict[tuple[Event, ...], float] = {}
        for chosen in self.search.combinations():
            settings = self.method.default_config(facts, of_a_trial, device, {**overrides, **chosen})
            like = tuple(stage.event for stage in self.method.stages(settings, facts, 1.0))
            if like not in known:
                known[like] = self._calibrated(config, settings, facts, budget)
            candidates.append(asdict(settings))
            noises.append(known[like])
        pool = candidates[0].get("pool", "")
        return replace(config, candidates=candidates, noise=noises, pool=pool)

    def _calibrated(self, config: TunedConfig, settings: Any, facts: PublicFacts, budget: Budget) -> float:
        """Return the noise multiplier at which a selection among such trials is within the budget."""

        def stages(noise: float) -> list[Event]:
            trial = self._trial(settings, facts, noise, config.score_noise)
            return [SelectionEvent.of([[stage.event for stage in trial]], config.trials)]

        return calibrate_noise_multiplier(stages, budget)

    def stages(self, config: TunedConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage, the selection. All noise of all trials is multiplied by ``noise_multiplier``,
        which is near 1: it makes up for candidates that cost the most in different orders.
        """
        trials = [
            self.stages_of(config, facts, noise_multiplier, candidate)
            for candidate in range(len(config.candidates))
        ]
        mechanism = SelectionMechanism(
            tuple(trial.events for trial in trials), config.trials, trials[0].stages[0].mechanism.sampler
        )
        return (Stage(f"{self.method.name} with settings that were drawn", mechanism, 1),)

    def stages_of(self, config: TunedConfig, facts: PublicFacts, scale: float, candidate: int) -> Calibrated:
        """Return the stages of a candidate's trial. Its ε is not computed: no trial is released by itself."""
        noise = scale * config.noise[candidate]
        settings = self.settings_of(config, candidate)
        return Calibrated(noise, self._trial(settings, facts, noise, scale * config.score_noise), math.inf)

    def _trial(
        self, settings: Any, facts: PublicFacts, noise: float, score_noise: float
    ) -> tuple[Stage, ...]:
        """Return what a trial releases: what the method does, and its score."""
        score = GaussianSumMechanism(score_noise, 1.0, FullBatch(facts.num_examples), replace_one_ratio=1.0)
        return (
            *self.method.stages(settings, facts, noise),
            Stage(f"the number of training {facts.unit}s that it has right", score, 1),
        )

    def settings_of(self, config: TunedConfig, candidate: int) -> Any:
        """Return the settings of a candidate. InputError where they are none."""
        settings = config.candidates[candidate]
        check_settings(self.method.config_class, settings)
        return self.method.config_class(**settings)

    def estimate(self, config: TunedConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what so many trials take on average, and the memory of the largest."""
        each = [
            self.method.estimate(self.settings_of(config, candidate), facts, device)
            for candidate in range(len(config.candidates))
        ]
        mean = sum(one.seconds for one in each) / len(each)
        return Estimate(
            config.trials * mean,
            max(one.memory_bytes for one in each),
            max(one.seconds_per_image for one in each),
        )

    def learn(self, config: TunedConfig, session: Session) -> Learned:
        """Run the trials and keep the best."""
        scale = session.stages.noise_multiplier

        def stages_of(candidate: int) -> Calibrated:
            return self.stages_of(config, session.facts, scale, candidate)

        def run(candidate: int, trial: Session) -> dict[str, Tensor]:
            settings = self.settings_of(config, candidate)
            learned = self.method.learn(settings, trial)
            score = self._score(settings, learned, trial)
            facts = json.dumps({"candidate": candidate, "learned": dict(learned.facts)}).encode()
            return {
                "score": score,
                "facts": torch.tensor(list(facts), dtype=torch.uint8),
                **{f"learned.{name}": tensor for name, tensor in learned.tensors.items()},
            }

        best = session.select(0, stages_of, run)
        facts = json.loads(bytes(best["facts"].tolist()))
        tensors = {
            name.removeprefix("learned."): tensor
            for name, tensor in best.items()
            if name.startswith("learned.")
        }
        score = {"images_right": float(best["score"]), "noise": scale * config.score_noise}
        return Learned(tensors, {**facts, "score": score})

    def _score(self, settings: Any, learned: Learned, trial: Session) -> Tensor:
        """Release how many training images are right: all of the trial's last stage."""
        model = self.method.finish(settings, learned, trial.facts, Workplace(trial.device)).model
        assert isinstance(model, Classifier)

        def sums_of(images: ImageSet) -> dict[str, Tensor]:
            return {"score": torch.tensor(images_right(model, images), dtype=torch.float64)}

        return trial.release(len(trial.stages.stages) - 1, sums_of, {"score": torch.zeros(())})["score"]

    def finish(
        self, config: TunedConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Return what the chosen method makes of the best trial. The card has its settings, and no time: that
        would tell how many trials there were.
        """
        settings = self.settings_of(config, learned.facts["candidate"])
        made = self.method.finish(
            settings, Learned(learned.tensors, learned.facts["learned"]), facts, workplace
        )
        tuning = {
            "expected_trials": config.trials,
            "law": TrialCount.IN_WORDS,
            "search": without_places(config.search),
            "score": learned.facts["score"],
        }
        card = {"method": self.method.name, "config": asdict(settings), "training_seconds": None}
        return replace(made, card={**made.card, **card, "tuning": tuning})


@torch.no_grad()
def images_right(model: Classifier, images: ImageSet) -> float:
    """Count the images that a classifier gives their own label; each of a unit's counts its share in it.

    Guarantee: one image more or less, or another in its place, changes the number by at most one: what the
    classifier says of an image does not depend on the others. So does one unit.
    ``tests/methods/test_tuned.py`` shows it.
    """
    assert images.labels is not None  # a method that needs labels gets them
    model.eval()
    network, device = model.network, model.normalize.mean.device
    if isinstance(network, FeatureClassifier):
        head, features = network.head, encoded(model, images)
        logits = by_row(
            lambda rows: model.shifted(head(rows.float())), features.split, features.shape[-1:], device
        )
    else:
        logits = by_row(model, images.blocks, images.shape, device)
    predicted = torch.cat([some.argmax(dim=1).cpu() for some in logits])
    right = predicted == images.labels.cpu()
    shares = None if images.units is None else images.units.shares
    return float(class_counts(right.long(), 2, shares)[1])
