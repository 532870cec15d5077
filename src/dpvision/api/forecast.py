"""Forecast what a run would do, and how long it would take, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack

from dpvision.api.options import PlanOptions, takes
from dpvision.runs.memory import forget_peak, peak_bytes

if TYPE_CHECKING:
    from dpvision.api.config import RunConfig
    from dpvision.api.keywords import PlanKeywords
    from dpvision.api.sources import Source
    from dpvision.privacy import NeighboringRelation
    from dpvision.views import Pool

SECONDS_PER_FILE = 0.004
"""The time to write an image as a file of its own, which is flushed to the disk: 3,000 took 12 s on ext4."""


@dataclass(frozen=True)
class StageForecast:
    """A stage: ``count`` noisy releases of what ``releases`` names, over Poisson batches of this
    sample rate.
    """

    releases: str
    sample_rate: float
    count: int


@dataclass(frozen=True)
class CandidateForecast:
    """A candidate of a tuning: the settings that are searched, the noise multiplier of its trial, and the one
    that a run with these settings ``alone`` would have within the same budget.
    """

    settings: Mapping[str, Any]
    noise_multiplier: float
    alone: float


@dataclass(frozen=True)
class TuningForecast:
    """A tuning: the expected number of trials, the standard deviation of a score's noise, in images or
    units, and the candidates.
    """

    trials: float
    score_noise: float
    candidates: tuple[CandidateForecast, ...]


@dataclass(frozen=True)
class Forecast:
    """A run as `dpvision.train`, `dpvision.tune` or `dpvision.synthesize` would make it.

    Attributes:
        method: the name of the method, as it was resolved.
        epsilon, delta, neighboring_relation: what it would spend.
        noise_multiplier, stages: how the run releases.
        num_examples: N, as it was declared.
        unit: what is protected, and counted by N: "image" or "unit".
        image_shape, num_classes: those of the data, (C, H, W) for the shape.
        test_examples: how many images the accuracy would be measured on.
        seconds: expected, of all: reading images, learning, and the measurement of the accuracy, or the
            making and writing of images.
        images: how many would be released; None where a classifier would be.
        memory_bytes: expected, of the whole process on the CPU.
        allowed: whether the limits of the images' owners allow the run at present.
        epsilon_after: the ε that the worst image or unit would have afterwards, over all ledgers: where a
            limit holds at its δ and relation, otherwise at those of the run. Private, like the four below.
        images_after: how many images or units would have it.
        after_of: whether these are units: where a limit holds for them the run may protect the other.
        epsilon_limit: the limit that would be used up, or exceeded, the most; None without a limit.
        epsilon_fits: the largest ε with which the run would be allowed, with the same method and what was
            given of its settings; 0 where none is, None without a limit.
        epsilon_with_earlier: what the run costs together with the releases that it takes up, of an earlier
            run and of a synthetic pool: its card would state it. None where it takes up none that protects
            the same.
        config: all settings, those of the method.
        tuning: what is tuned, if anything; then noise_multiplier scales that of all candidates.
    """

    method: str
    epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation
    noise_multiplier: float
    stages: tuple[StageForecast, ...]
    num_examples: int
    unit: str
    image_shape: tuple[int, int, int]
    num_classes: int
    test_examples: int
    images: int | None
    seconds: float
    memory_bytes: int
    allowed: bool
    epsilon_after: float
    images_after: int
    after_of: str
    epsilon_limit: float | None
    epsilon_fits: float | None
    epsilon_with_earlier: float | None
    config: Any
    tuning: TuningForecast | None = None


@takes(PlanOptions)
def plan(data: Source, **options: Unpack[PlanKeywords]) -> Forecast:
    """Say what a run with the same options would do. Spends nothing and writes nothing.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`.
        {options}

    Raises:
        InputError: as `dpvision.train`, but for the owner's limit, which is only reported, and for
            encoders that were learned from the private images.
    """
    started = perf_counter()
    given = PlanOptions.of(options, data)
    from dpvision.api.admission import admission_of  # here: it takes seconds to import
    from dpvision.api.images_to_publish import COPIES
    from dpvision.api.preparing import prepare

    config, sources = prepare(data, given)
    facts, (budget, stages) = config.facts, config.spending
    admission = admission_of(config, sources.images, given)
    opening = perf_counter() - started
    forget_peak()
    # Of units all images are read; like the rest of a forecast, how many there are is told the owner alone.
    of_images = replace(facts, num_examples=len(sources.images)) if facts.unit == "unit" else facts
    expected = config.method.estimate(config.settings, of_images, config.device)
    # The images are counted by the estimate, and held here already.
    held = peak_bytes() - of_images.num_examples * prod(facts.image_shape)
    test_examples = len(sources.test) if sources.test else 0
    publishes = config.images
    made = publishes.count if publishes else None
    files = (made or 0) * list(publishes.formats).count("png") if publishes else 0
    config.tell_choice()
    return Forecast(
        method=config.method.name,
        epsilon=stages.epsilon,
        delta=budget.delta,
        neighboring_relation=budget.neighboring_relation,
        noise_multiplier=stages.noise_multiplier,
        stages=tuple(
            StageForecast(stage.releases, stage.mechanism.sampler.sample_rate, stage.count)
            for stage in stages.stages
        ),
        num_examples=facts.num_examples,
        unit=facts.unit,
        image_shape=facts.image_shape,
        num_classes=len(facts.class_names),
        test_examples=test_examples,
        images=made,
        seconds=opening
        + expected.seconds
        + (test_examples + (made or 0)) * expected.seconds_per_image
        + files * SECONDS_PER_FILE,
        memory_bytes=held + expected.memory_bytes + (made or 0) * COPIES * prod(facts.image_shape),
        epsilon_with_earlier=_with_earlier(given, config, sources.pool),
        config=config.settings,
        tuning=_tuning(config) if given.searching else None,
        **asdict(admission),
    )


def _with_earlier(given: PlanOptions, config: RunConfig, pool: Pool | None) -> float | None:
    """Return the ε of a run and of the releases that it takes up, in one account."""
    from dpvision.api.earlier import earlier_of
    from dpvision.api.pool_cost import events_of_card
    from dpvision.privacy.accounting import epsilon

    earlier = earlier_of(given)
    cards = [earlier.guarantee] if earlier else []
    if pool is not None and pool.guarantee is not None and pool.guarantee["unit"] == config.facts.unit:
        cards.append(pool.guarantee)
    if not cards:
        return None
    budget, stages = config.spending
    events = [event for card in cards for event in events_of_card(card)]
    return epsilon([*events, *stages.events], budget.delta, budget.neighboring_relation)


def _tuning(config: RunConfig) -> TuningForecast:
    from dpvision.methods import calibrate
    from dpvision.methods.tuned import Tuned, TunedConfig

    method, settings, facts, (budget, stages) = config.method, config.settings, config.facts, config.spending
    assert isinstance(method, Tuned)
    assert isinstance(settings, TunedConfig)
    scale = stages.noise_multiplier
    candidates = []
    for candidate in range(len(settings.candidates)):
        of_one = partial(method.method.stages, method.settings_of(settings, candidate), facts)
        candidates.append(
            CandidateForecast(
                {name: settings.candidates[candidate][name] for name in settings.search},
                scale * settings.noise[candidate],
                calibrate(of_one, facts.num_examples, budget).noise_multiplier,
            )
        )
    return TuningForecast(settings.trials, scale * settings.score_noise, tuple(candidates))
