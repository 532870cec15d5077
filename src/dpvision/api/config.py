"""The configuration of a run: all that is public about it, resolved, and the images that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from dpvision.api.devices import resolve_device
from dpvision.api.options import FinishOptions, check_seed
from dpvision.api.pool_cost import refuse_unguarded
from dpvision.api.sources import Reading
from dpvision.images import ImageSet
from dpvision.images.files import reading
from dpvision.images.look_alikes import warn_of_look_alikes
from dpvision.images.public import Overlaps, refuse_private_images
from dpvision.images.released import release_with, stated_guarantee
from dpvision.methods import (
    Calibrated,
    Finished,
    Learned,
    Method,
    Session,
    Workplace,
    at_noise,
    check_settings,
    find_method,
)
from dpvision.methods.continued import Continued
from dpvision.methods.registry import plain_name
from dpvision.privacy import Account, Budget, InputError, PublicFacts, RandomSource, random_source
from dpvision.runs import Progress
from dpvision.views import Pool, open_pool

logger = logging.getLogger("dpvision")


@dataclass(frozen=True)
class RunConfig:
    """All that is public about a run, resolved: what RUN/config.json holds.

    Attributes:
        method, settings: how to learn.
        facts: what is public about the private images.
        budget: not to be exceeded; None, as stages and data are, where a run makes more of what another has
            released, and takes no private image.
        stages: what will be released.
        seed: the seed of the noise, which makes the run not private; None for noise from the system's
            entropy.
        finishing_seed: the seed of what is made of the releases. Nothing private depends on it: work that is
            taken up again goes on as it would have.
        device: to work on.
        data, test: how images were read; the latter is None without test images.
        test_digest: the digest of the test images, none of which may be a private one.
        chosen_size: the image size, if it was chosen by looking at the sizes of the images.
        pool_digest: the digest of the public images that private ones are mixed with, if any.
        images: what is to be published, if images are made.
        because: why the method was chosen, of a new run that named none.
        data_name: what the card calls the private images, if anything.
        given: names of the settings that were given, and not left to their defaults.
        unpaid: whether the images are said to be public, and what the run costs is in no account of theirs.
        first: whether the run is refused where others have spent anything on some of the images, or, when it
            begins, on look-alikes.
        made_of: what is guaranteed of the images, where another run released them, see
            `dpvision.images.released.guarantee_with`; None of others.
    """

    method: Method
    settings: Any
    facts: PublicFacts
    budget: Budget | None
    stages: Calibrated | None
    seed: int | None
    finishing_seed: int
    device: torch.device
    data: Reading | None
    test: Reading | None = None
    test_digest: str | None = None
    chosen_size: int | None = None
    pool_digest: str | None = None
    images: FinishOptions | None = None
    because: str | None = None
    allow_overlap: bool = False
    overlaps: tuple[str, ...] = ()
    data_name: str | None = None
    given: tuple[str, ...] = ()
    unpaid: bool = False
    first: bool = False
    made_of: Mapping[str, Any] | None = None

    def tell_choice(self) -> None:
        """Announce the method that was chosen, once nothing can be refused any more."""
        if self.because:
            name = plain_name(self.method.name)
            logger.info(f"method {name}, because {self.because}; --method chooses another")

    @property
    def spending(self) -> tuple[Budget, Calibrated]:
        """The budget and the stages, of a run that takes private images. InputError where it takes none."""
        self.check_learns()
        assert self.budget is not None
        assert self.stages is not None
        return self.budget, self.stages

    def check_learns(self) -> None:
        """Raise InputError unless it is of a run that takes private images."""
        if self.budget is None or self.stages is None or self.data is None:
            raise InputError(
                "the config.json of the run has no budget or no data, though nothing was learned yet; it was "
                "changed or damaged: restore it, or start a new run"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON types."""
        return {
            "method": self.method.name,
            "config": asdict(self.settings),
            "facts": self.facts.to_json(),
            "budget": asdict(self.budget) if self.budget else None,
            "noise_multiplier": self.stages.noise_multiplier if self.stages else None,
            "epsilon": self.stages.epsilon if self.stages else None,
            "seed": self.seed,
            "finishing_seed": self.finishing_seed,
            "device": str(self.device),
            "data": asdict(self.data) if self.data else None,
            "test": asdict(self.test) if self.test else None,
            "test_digest": self.test_digest,
            "chosen_size": self.chosen_size,
            "pool_digest": self.pool_digest,
            "images": asdict(self.images) if self.images else None,
            "allow_overlap": self.allow_overlap,
            "overlaps": list(self.overlaps),
            "data_name": self.data_name,
            "given": list(self.given),
            "unpaid": self.unpaid,
            "first": self.first,
            "made_of": self.made_of,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is no such record.
        """
        with reading("the config.json of the run"):
            method = find_method(fields["method"])
            check_settings(method.config_class, fields["config"])
            settings = method.config_class(**fields["config"])
            facts, budget, stages = PublicFacts.from_json(fields["facts"]), None, None
            if fields["budget"]:
                budget = Budget(**fields["budget"])
                at = partial(method.stages, settings, facts)
                stages = at_noise(fields["noise_multiplier"], at, budget)
            check_seed(fields["seed"])
            return cls(
                method=method,
                settings=settings,
                facts=facts,
                budget=budget,
                stages=stages,
                seed=fields["seed"],
                finishing_seed=fields["finishing_seed"],
                device=resolve_device(fields["device"]),
                data=Reading.from_json(fields["data"]) if fields["data"] else None,
                test=Reading.from_json(fields["test"]) if fields["test"] else None,
                test_digest=fields["test_digest"],
                chosen_size=fields["chosen_size"],
                pool_digest=fields["pool_digest"],
                images=FinishOptions(**fields["images"]) if fields["images"] else None,
                allow_overlap=fields["allow_overlap"],
                overlaps=tuple(fields["overlaps"]),
                data_name=fields["data_name"],
                given=tuple(fields["given"]),
                unpaid=fields["unpaid"] is True,
                first=fields["first"] is True,
                made_of=fields["made_of"] and stated_guarantee(fields["made_of"]),
            )

    def session(
        self,
        sources: Sources,
        open_account: Callable[[], Account],
        random: RandomSource,
        progress: Progress | None = None,
        **more: Any,
    ) -> Session:
        """Return the session through which the method sees the images; ``more`` are arguments of it."""
        _, stages = self.spending
        return Session(
            sources.images,
            self.facts,
            stages,
            open_account,
            random,
            self.device,
            pool=sources.pool,
            progress=progress,
            **more,
        )

    def random(self) -> RandomSource:
        """Return the source of all that protects. A run that takes up a release draws other noise than those
        before it with the same seed, and the same whatever they released: several processes round that
        otherwise. InputError where what it takes up is not what it began with.
        """
        source = random_source(self.seed)
        if self.seed is None or not isinstance(self.method, Continued):
            return source
        return source.at("after a release", self.method.runs_before(self.settings))

    def learn(self, session: Session) -> Learned:
        """Do all that takes private images."""
        return self.method.learn(self.settings, session)

    def finish(self, learned: Learned, workplace: Workplace | None = None) -> Finished:
        """Make of what was learned what is published; by default without keeping anything on the way."""
        return self.method.finish(self.settings, learned, self.facts, workplace or Workplace(self.device))

    def opened(self, images: ImageSet | None, test: ImageSet | None, overlaps: Overlaps) -> Sources:
        """Read the images again, or take those that were in memory.

        Args:
            images, test: those that were in memory.
            overlaps: is told of images of the pool that are private, also such as became so meanwhile.

        Raises:
            InputError: they cannot be read, are not given, or the public ones have changed.
        """
        assert self.data is not None
        private = open_again(self.data, images, "data", self.method.needs_labels)
        pool = open_pool_of(self.settings, private, overlaps)
        if pool is not None and pool.digest != self.pool_digest:
            raise InputError(
                f"the public images in {pool.source} have changed; restore them, or start a new run"
            )
        return Sources(private, self.opened_test(test), pool)

    def opened_test(self, test: ImageSet | None) -> ImageSet | None:
        """Return the test images, read again or given; None without any. InputError as `opened`: by now the
        private ones may be out of reach, so that only those that were compared with them will do.
        """
        if self.test is None:
            return None
        images = open_again(self.test, test, "test", True).with_classes(self.facts.class_names)
        if images.digest != self.test_digest:
            raise InputError(f"the test images in {images.source} have changed; restore them")
        return images


@dataclass(frozen=True, eq=False)
class Sources:
    """The images of a run.

    Attributes:
        images: the private ones.
        test: to measure the accuracy on, or None.
        pool: public ones that the method mixes with the private, where its settings name some.
    """

    images: ImageSet
    test: ImageSet | None = None
    pool: Pool | None = None


def read_images(how: Reading, needs_labels: bool) -> ImageSet:
    """Read images, with labels where there are some, needed or not: they are part of the data set's identity,
    and so of which ledger is its own.
    """
    return how.open(needs_labels or None)


def open_again(how: Reading, given: ImageSet | None, what: str, needs_labels: bool) -> ImageSet:
    """Read the images of a run again, or take those that were in memory. InputError where they are not given;
    ``what`` is the argument that gives them.
    """
    if how.spec is not None:
        return read_images(how, needs_labels)
    if given is None:
        raise InputError(f"the images of this run were in memory; give them again ({what}=)")
    return given


def open_pool_of(settings: Any, images: ImageSet, overlaps: Overlaps) -> Pool | None:
    """Return the public images that the settings name, none of which may be private, unless allowed. What a
    run has released may be like one by chance, and is not asked.
    """
    if not getattr(settings, "pool", ""):
        return None
    pool = open_pool(settings.pool, images.shape, images.class_names, overlaps)
    refuse_unguarded(pool, overlaps)
    if release_with(settings.pool) is not None:
        return pool
    refuse_private_images(pool.images, images, "images of the pool", overlaps)
    warn_of_look_alikes(pool.images, images, "images of the pool", "no guarantee would cover them")
    return pool
