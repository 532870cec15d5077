"""A run: prepare it, begin it or take it up, work on it. All that `train`, `synthesize`, `resume`, `plan` and
`audit` do is made of these.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import safetensors.torch
import torch

from dpvision.api.accounts import (
    check_ledger,
    check_unchanged,
    check_version,
    close_account,
    discard_unspent,
    make_account,
)
from dpvision.api.devices import resolve_device
from dpvision.api.options import FinishOptions, RunOptions, check_seed
from dpvision.api.publishing import (
    GUARANTEE,
    OfLearning,
    Result,
    Synthesis,
    published,
    release_files,
    write_preview,
)
from dpvision.api.sources import Reading, Source, fitting_reading, lasting, training_reading
from dpvision.images import Images, available_splits
from dpvision.images.files import reading
from dpvision.images.write import check_formats
from dpvision.methods import (
    Calibrated,
    Learned,
    Makes,
    Method,
    Session,
    Workplace,
    at_noise,
    calibrate,
    check_settings,
    find_method,
)
from dpvision.methods.auto import choose_method
from dpvision.methods.registry import AUTO
from dpvision.networks import register_network
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.priors import scales_images
from dpvision.privacy import (
    Account,
    Budget,
    InputError,
    PublicFacts,
    default_delta,
    random_source,
)
from dpvision.reports import guarantee
from dpvision.runs import FileCheckpoints, Metrics, Progress, RunDirectory
from dpvision.runs.files import write_atomically
from dpvision.views import Pool, open_pool, refuse_private

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
        chosen_size: the image size, if it was chosen by looking at the sizes of the images.
        pool_digest: the digest of the public images that private ones are mixed with, if any.
        images: what is to be published, if images are made.
        because: why the method was chosen, of a new run that named none.
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
    chosen_size: int | None = None
    pool_digest: str | None = None
    images: FinishOptions | None = None
    because: str | None = None

    def tell_choice(self) -> None:
        """Announce the method that was chosen, once nothing can be refused any more."""
        if self.because:
            logger.info(f"method {self.method.name}, because {self.because}; --method chooses another")

    @property
    def spending(self) -> tuple[Budget, Calibrated]:
        """The budget and the stages, of a run that takes private images."""
        if self.budget is None or self.stages is None:
            raise ValueError("the run takes no private image")
        return self.budget, self.stages

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
            "chosen_size": self.chosen_size,
            "pool_digest": self.pool_digest,
            "images": asdict(self.images) if self.images else None,
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
                chosen_size=fields["chosen_size"],
                pool_digest=fields["pool_digest"],
                images=FinishOptions(**fields["images"]) if fields["images"] else None,
            )

    def opened(self, images: Images | None, test: Images | None) -> Sources:
        """Read the images again, or take those that were in memory.

        Raises:
            InputError: they cannot be read, are not given, or the public ones have changed.
        """
        assert self.data is not None
        private = _open_again(self.data, images, "data", self.method.needs_labels)
        pool = _open_pool(self.settings, private)
        if pool is not None and pool.digest != self.pool_digest:
            raise InputError(
                f"the public images in {pool.source} have changed; restore them, or start a new run"
            )
        return Sources(private, self.opened_test(test), pool)

    def opened_test(self, test: Images | None) -> Images | None:
        """Return the test images, read again or given; None without any. InputError as `opened`."""
        if self.test is None:
            return None
        return _open_again(self.test, test, "test", True).with_classes(self.facts.class_names)


@dataclass(frozen=True, eq=False)
class Sources:
    """The images of a run.

    Attributes:
        images: the private ones.
        test: to measure the accuracy on, or None.
        pool: public ones that the method mixes with the private, where its settings name some.
    """

    images: Images
    test: Images | None = None
    pool: Pool | None = None


def prepare(
    data: Source,
    options: RunOptions,
    *,
    makes: Makes | None = None,
    test: Source | None = None,
    images: FinishOptions | None = None,
) -> tuple[RunConfig, Sources]:
    """Check every option, read the images, and resolve what was left open. Writes and spends nothing.

    Args:
        data: the private images.
        options: the options of the run.
        makes: what the method is to make; by default any does.
        test: images to measure the accuracy on.
        images: what is to be published of images that are made.

    Raises:
        InputError: an option or the data cannot be used.
    """
    # What is wrong at first sight is refused before the images are read, which may take a while.
    relation: Any = options.neighboring_relation
    budget = Budget(options.epsilon, 1e-9 if options.delta is None else options.delta, relation)
    overrides = dict(options.config or {})
    network = getattr(options, "network", None)
    if network is not None:
        overrides["network"] = register_network(network)
    automatic = options.method == AUTO and makes != "images"
    method = find_method(choose_method(overrides).method if automatic else options.method, makes)
    check_settings(method.config_class, overrides)
    device = resolve_device(options.device)

    how, chosen_size = training_reading(
        data, options.size, options.channels, keep_large=_takes_large(overrides)
    )
    private = data if isinstance(data, Images) else _read(how, method.needs_labels)
    if method.needs_labels:
        private.check_classes()
    declared = len(private) if options.num_examples is None else options.num_examples
    facts = PublicFacts(declared, private.shape, private.class_names if private.labels is not None else ())
    because = None
    if automatic:
        chosen = choose_method(overrides, facts.image_shape)
        method, because = find_method(chosen.method), chosen.because
    how_test, test_images = (
        _test_images(data, test, private) if method.makes == "a classifier" else (None, None)
    )
    if options.delta is None:
        budget = replace(budget, delta=default_delta(declared))
    settings = method.default_config(facts, budget, device, overrides)
    pool = _open_pool(settings, private)
    if pool is not None:
        settings = replace(settings, pool=lasting(settings.pool))
    if images is not None:
        images = to_publish(images, facts)
    return (
        RunConfig(
            method=method,
            settings=settings,
            facts=facts,
            budget=budget,
            stages=calibrate(partial(method.stages, settings, facts), declared, budget),
            seed=options.seed,
            finishing_seed=secrets.randbits(63) if options.seed is None else options.seed,
            device=device,
            data=how,
            test=how_test,
            chosen_size=chosen_size,
            pool_digest=pool.digest if pool else None,
            images=images,
            because=because,
        ),
        Sources(private, test_images, pool),
    )


class Run:
    """A run on disk.

    Attributes:
        directory: the run's directory.
        config: what it is to do.
    """

    def __init__(self, directory: RunDirectory, config: RunConfig) -> None:
        self.directory, self.config = directory, config

    @classmethod
    def begin(
        cls, config: RunConfig, out: str | os.PathLike[str], private: Mapping[str, Any] | None = None
    ) -> Run:
        """Make the directory of a new run.

        Args:
            config: the configuration of the run.
            out: the path of the directory, as for :meth:`RunDirectory.create`.
            private: its private record (:func:`private_record`); None where no private image is read.
        """
        began = {"dpvision": version("dpvision"), "started": datetime.now(UTC).isoformat(timespec="seconds")}
        return cls(RunDirectory.create(out, began | config.to_json(), dict(private or {})), config)

    @classmethod
    def take_up(cls, directory: RunDirectory) -> Run:
        """Go on with a run that was begun earlier.

        Raises:
            InputError: another version began it, or its config.json is of no run.
        """
        check_version(directory)
        return cls(directory, RunConfig.from_json(directory.config))

    def learn(self, sources: Sources, progress: Progress | None = None, *, is_new: bool = False) -> None:
        """Do all that takes private images, and keep what was learned.

        Args:
            sources: the images.
            progress: is told how far the run is.
            is_new: whether the run is taken back if it fails before it spends anything.

        Raises:
            InputError: the images are not those that the run began with, or something cannot be used.
            KeyboardInterrupt: passed on; the run can be taken up again.
        """
        directory, config, images = self.directory, self.config, sources.images
        budget, stages = config.spending
        checkpoints = FileCheckpoints(directory.checkpoint_path, directory.seal)

        def open_account() -> Account:
            account = make_account(directory, len(images), budget, stages, released)
            account.open()
            checkpoints.account = account
            config.tell_choice()
            return account

        session = None
        try:
            if not is_new:
                check_unchanged(directory, images)
            released = checkpoints.spent()
            random, metrics = random_source(config.seed), Metrics(directory.private_path / "metrics.jsonl")
            session = Session(
                images,
                config.facts,
                stages,
                open_account,
                random,
                config.device,
                pool=sources.pool,
                checkpoints=checkpoints,
                on_step=metrics.append,
                progress=progress,
            )
            learned = config.method.learn(config.settings, session)
            _warn_of_divergence(metrics.last_loss, config.facts)
            account = session.opened_account()
            cost = guarantee(account, stages, random, config.facts, config.chosen_size, session.lost)
            self.keep(
                replace(learned, facts={**learned.facts, GUARANTEE: cost}),
                OfLearning(
                    spent=account.spent,
                    seconds=metrics.seconds,
                    pool=sources.pool.to_json() if sources.pool else None,
                ),
            )
        except Exception:
            if is_new:
                discard_unspent(directory, session.account if session else None)
            raise
        account.close()

    def keep(self, learned: Learned, how: OfLearning | None = None) -> None:
        """Write down what was learned, and how: from here on the run takes no private image."""
        facts = {
            "run": self.directory.seal,
            "facts": dict(learned.facts),
            "how": how.to_json() if how else None,
        }
        write_atomically(self.directory.learned_path, safetensors_bytes(learned.tensors, facts))

    @property
    def has_learned(self) -> bool:
        """True once `keep` has written what was learned."""
        return self.directory.learned_path.exists()

    def settle(self) -> None:
        """End the account of a run that has learned, whose process may have died before it could.

        Raises:
            InputError: what was kept is damaged or of another run, or the ledger lacks what was spent.
        """
        _, how = self._kept
        if how is not None:
            check_ledger(self.directory, how.spent)
            close_account(self.directory)

    @cached_property
    def _kept(self) -> tuple[Learned, OfLearning | None]:
        """Read what `keep` has written. InputError where it is damaged or of another run."""
        path = self.directory.learned_path
        with reading(str(path)):
            content = path.read_bytes()
            facts = checked_facts(path, content)
            if facts["run"] != self.directory.seal:
                raise InputError(f"{path} is not of this run; restore that of this one")
            how = OfLearning.from_json(facts["how"]) if facts["how"] else None
            return Learned(safetensors.torch.load(content), facts["facts"]), how

    def finish(self, test: Images | None = None, progress: Progress | None = None) -> Result | Synthesis:
        """Make of what was learned what is published, and publish it."""
        directory, config = self.directory, self.config
        learned, how = self._kept
        started = time.monotonic()
        workplace = Workplace(
            config.device,
            config.finishing_seed,
            FileCheckpoints(directory.finishing_path, directory.seal),
            progress,
            partial(write_preview, directory.path / "samples"),
        )
        finished = config.method.finish(config.settings, learned, config.facts, workplace)
        files = release_files(
            config.method.name,
            config.settings,
            learned,
            how,
            finished,
            test,
            config.images,
            config.finishing_seed,
            started,
        )
        directory.release(files)
        return published(directory)


def _warn_of_divergence(last_loss: float | None, facts: PublicFacts) -> None:
    """Tell the operator, and nobody else, of a training that ended worse than guessing."""
    guessing = math.log(max(1, len(facts.class_names)))
    if last_loss is not None and not last_loss <= guessing:
        logger.warning(
            f"training ended worse than guessing: its last batches had a mean loss of {last_loss:.2f}, and "
            f"guessing has {guessing:.2f}; take a smaller learning_rate (this is private: do not publish it)"
        )


def _read(how: Reading, needs_labels: bool) -> Images:
    """Read images, with labels where there are some, needed or not: they are part of the data set's identity,
    and so of which ledger is its own.
    """
    return how.open(needs_labels or None)


def _open_again(how: Reading, given: Images | None, what: str, needs_labels: bool) -> Images:
    if how.spec is not None:
        return _read(how, needs_labels)
    if given is None:
        raise InputError(f"the images of this run were in memory; give them again ({what}=)")
    return given


def _open_pool(settings: Any, images: Images) -> Pool | None:
    """Return the public images that the settings name, none of which may be private."""
    if not getattr(settings, "pool", ""):
        return None
    pool = open_pool(settings.pool, images.shape, images.class_names)
    refuse_private(pool, images)
    return pool


def _takes_large(overrides: Mapping[str, Any]) -> bool:
    """Say whether the user has chosen a model that takes images of any size."""
    return "network" in overrides or scales_images(str(overrides.get("encoder", "")))


def to_publish(images: FinishOptions, facts: PublicFacts) -> FinishOptions:
    """Check the options, and resolve how many images to publish. InputError where a value is not possible."""
    count = facts.num_examples if images.count is None else images.count
    if count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    check_formats(images.formats, facts.class_names)
    return replace(images, count=count)


def _test_images(data: Source, test: Source | None, images: Images) -> tuple[Reading | None, Images | None]:
    """Return the test images: those given, or else the test split that comes with the data, if any."""
    if test is None:
        if isinstance(data, Images) or "test" not in available_splits(data):
            return None, None
        test = data
    if isinstance(test, Images):
        how, test_images = Reading(None), test
    else:
        how = fitting_reading(test, None, images.shape)
        if how.split == "train" and _same_place(data, test):
            raise InputError(f"{test} has no test split, and must not be tested on what it is trained on")
        test_images = how.open()
    if test_images.shape != images.shape:
        raise InputError(
            f"test images from {test_images.source} have the shape {list(test_images.shape)}, but those to "
            f"train on {list(images.shape)}; read both with the same size and channels"
        )
    return how, test_images.with_classes(images.class_names)


def _same_place(data: Source, test: str | os.PathLike[str]) -> bool:
    return not isinstance(data, Images) and lasting(data) == lasting(test)
