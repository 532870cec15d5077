"""A run: prepare it, begin it or take it up, work on it. All that `train`, `synthesize`, `resume`, `plan` and
`audit` do is made of these.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch

from dpvision.api.accounts import (
    check_ledger,
    check_unchanged,
    check_version,
    close_account,
    discard_unspent,
    make_account,
    private_record,
)
from dpvision.api.config import RunConfig, Sources, open_pool_of, read_images, to_publish
from dpvision.api.cost_of_both import cost_of_both
from dpvision.api.devices import resolve_device
from dpvision.api.earlier import earlier_of
from dpvision.api.options import FinishOptions, FitOptions, RunOptions, SweptOptions
from dpvision.api.pool_cost import described_pool, warn_of_unknown_spending
from dpvision.api.publishing import (
    OfLearning,
    Result,
    Synthesis,
    measured,
    published,
    release_files,
    write_last_preview,
    write_preview,
)
from dpvision.api.sources import Reading, Source, fitting_reading, lasting, training_reading
from dpvision.api.together import begin_together, follow, leading
from dpvision.images import ImageSet, available_splits
from dpvision.images.choices import Choices
from dpvision.images.files import reading
from dpvision.images.indexed import indexed_if_any, warn_of_other_kind
from dpvision.images.look_alikes import warn_of_indexed_look_alikes, warn_of_look_alikes
from dpvision.images.public import USED_AS, Overlaps, refuse_data_with_ledger, refuse_private_images
from dpvision.images.released import guarantee_with
from dpvision.images.units import refuse_units_of_both
from dpvision.methods import (
    Learned,
    Makes,
    Method,
    Session,
    Workplace,
    calibrate,
    check_settings,
    find_method,
)
from dpvision.methods.auto import choose_method
from dpvision.methods.method import GUARANTEE
from dpvision.methods.registry import AUTO, OF_IMAGES
from dpvision.methods.search import Search
from dpvision.methods.tuned import Tuned
from dpvision.networks import register_network
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.parallel import ALONE, Peers, peers
from dpvision.priors import scales_images
from dpvision.privacy import (
    Account,
    Budget,
    Event,
    InputError,
    PublicFacts,
    RandomSource,
    default_delta,
    default_ledger_path,
    random_source,
)
from dpvision.privacy.errors import named_option
from dpvision.reports import guarantee
from dpvision.reports.guarantee_file import UNPAID, not_covered_of_release
from dpvision.runs import FileCheckpoints, Metrics, Progress, RunDirectory
from dpvision.runs.files import write_atomically
from dpvision.runs.tensorboard import show_to_tensorboard
from dpvision.training import StepStatistics
from dpvision.views.pool import Pool

logger = logging.getLogger("dpvision")


def prepare(data: Source, options: RunOptions, makes: Makes | None = None) -> tuple[RunConfig, Sources]:
    """Check every option, read the images, and resolve what was left open. Writes and spends nothing.

    Args:
        data: the private images.
        options: the options of the run.
        makes: what the method is to make; by default any does.

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
    search: Search | None = getattr(options, "searching", None)
    given = [{**overrides, **chosen} for chosen in (search.combinations() if search else [{}])]
    earlier = earlier_of(options)
    automatic = options.method == AUTO and makes != "images" and earlier is None
    if earlier is None:
        method = find_method(choose_method(given[0]).method if automatic else options.method, makes)
    else:
        overrides |= earlier.settings
        method, given = earlier.method, [overrides]
    if search:
        Tuned(method, search)  # refuses a method that cannot be tuned
    for settings in given:
        check_settings(method.config_class, settings)
    device = resolve_device(options.device)

    choices = options.choices()
    if earlier is not None and not isinstance(data, ImageSet):
        choices = earlier.read_likewise(choices)
    how, chosen_size = training_reading(data, choices, keep_large=_takes_large(given[0]))
    private = data if isinstance(data, ImageSet) else read_images(how, method.needs_labels)
    if method.needs_labels:
        private.check_classes()
    declared = private.num_protected if options.num_examples is None else options.num_examples
    facts = PublicFacts(
        declared,
        private.shape,
        private.class_names if private.labels is not None else (),
        private.protects,
    )
    because = None
    if automatic:
        choice = choose_method(given[0], facts.image_shape)
        method, because = find_method(choice.method), choice.because
    if search:
        method = Tuned(method, search)
    publishes = _publishing(options, method)
    how_test, test_images, overlaps = None, None, Overlaps(options.allow_overlap)
    if method.makes == "a classifier":
        how_test, test_images = _test_images(data, getattr(options, "test", None), private, overlaps, choices)
    if options.delta is None:
        budget = replace(budget, delta=default_delta(declared))
    _check_delta(budget.delta, private)
    if earlier is not None:
        earlier.check(private, options.ledger, budget)
    settings = method.default_config(facts, budget, device, overrides)
    settings, pool = _with_pool(settings, private, options.ledger, overlaps)
    stages = calibrate(partial(method.stages, settings, facts), declared, budget)
    if earlier is not None:
        earlier.check_length(stages)
    return (
        RunConfig(
            method=method,
            settings=settings,
            facts=facts,
            budget=budget,
            stages=stages,
            seed=options.seed,
            finishing_seed=secrets.randbits(63) if options.seed is None else options.seed,
            device=device,
            data=how,
            test=how_test,
            test_digest=test_images.digest if test_images else None,
            chosen_size=chosen_size,
            pool_digest=pool.digest if pool else None,
            images=_to_publish(publishes, settings, facts) if publishes else None,
            because=because,
            allow_overlap=options.allow_overlap,
            overlaps=tuple(overlaps.found),
            data_name=getattr(options, "data_name", None),
            given=tuple(sorted(overrides)),
            unpaid=isinstance(options, SweptOptions) and options.unpaid,
            first=isinstance(options, FitOptions) and options.first,
            made_of=_guarantee_of_images(how, private),
        ),
        Sources(private, test_images, pool),
    )


class Run:
    """A run on disk.

    Attributes:
        directory: the run's directory.
        config: what it is to do.
        overlaps: the uses of private images outside its guarantee, those found before it began among them.
    """

    def __init__(self, directory: RunDirectory, config: RunConfig) -> None:
        self.directory, self.config = directory, config
        self.overlaps = Overlaps(config.allow_overlap, config.overlaps)

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

    def learn(
        self,
        sources: Sources,
        progress: Progress | None = None,
        *,
        is_new: bool = False,
        group: Peers = ALONE,
    ) -> None:
        """Do all that takes private images, and keep what was learned.

        Args:
            sources: the images.
            progress: is told how far the run is.
            is_new: whether the run is taken back if it fails before it spends anything.
            group: the processes that learn together.

        Raises:
            InputError: the images are not those that the run began with, or something cannot be used.
            KeyboardInterrupt: passed on; the run can be taken up again.
        """
        directory, config, images = self.directory, self.config, sources.images
        checkpoints = FileCheckpoints(directory.checkpoint_path, directory.seal)

        def look_at(step: StepStatistics) -> None:
            assert session is not None
            metrics.append(step, session.opened_account())

        session: Session | None = None
        try:
            if not is_new:
                check_unchanged(directory, images)
            open_account = partial(self._open_account, images, checkpoints, checkpoints.spent(), is_new)
            random, metrics = random_source(config.seed), Metrics(directory.private_path)
            session = config.session(
                sources,
                open_account,
                random,
                progress,
                checkpoints=checkpoints,
                on_step=look_at,
                overlaps=self.overlaps,
                peers=group,
            )
            with closing(metrics):
                learned = config.learn(session)
            if config.method.makes == "a classifier":  # others have losses of other kinds
                _warn_of_divergence(metrics.last_loss, config.facts)
            account, cost = session.opened_account(), self._cost(session, random, learned)
            self.keep(
                replace(learned, facts={**learned.facts, GUARANTEE: cost}),
                OfLearning(
                    spent=account.spent,
                    seconds=metrics.seconds,
                    pool=described_pool(sources.pool, cost) if sources.pool else None,
                ),
            )
        except Exception:
            if is_new:
                discard_unspent(directory, session.account if session else None)
            raise
        account.close()

    def _open_account(
        self, images: ImageSet, checkpoints: FileCheckpoints, released: Sequence[Event], is_new: bool
    ) -> Account:
        """Open the account of the run, which is told from here on to the checkpoints too.

        Args:
            images: the private images.
            checkpoints: those of the run.
            released: what they say that it has released so far.
            is_new: whether the operator is warned of look-alikes of the images.

        Raises:
            InputError: the ledger lacks what was released, or the account may not be opened.
        """
        directory, config = self.directory, self.config
        budget, stages = config.spending
        check_ledger(directory, released)
        account = make_account(
            {name: directory.of_account(name) for name in ("run_id", "digest", "ledger")},
            images,
            budget,
            stages,
            config.method.name,
            directory.path,
            unpaid=config.unpaid,
            first=config.first,
        )
        if is_new:
            _warn_of_look_alikes(images, account, config.first)
        account.open()
        checkpoints.account = account
        config.tell_choice()
        return account

    def _cost(self, session: Session, random: RandomSource, learned: Learned) -> dict[str, Any]:
        """Return the guarantee of what was learned, for the card."""
        config, found = self.config, self.overlaps.found
        account, (_, stages) = session.opened_account(), config.spending
        cost = guarantee(account, stages, random, config.facts, config.chosen_size, session.lost, found)
        if GUARANTEE in learned.facts:  # of an earlier run, whose release is part of what was learned
            cost = cost_of_both(learned.facts[GUARANTEE], cost)
        if config.unpaid:
            cost["not_covered"].append(UNPAID)
        if config.made_of is not None:
            cost["not_covered"].append(not_covered_of_release(config.made_of))
        return cost

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

    def finish(self, test: ImageSet | None = None, progress: Progress | None = None) -> Result | Synthesis:
        """Make of what was learned what is published, and publish it."""
        directory, config = self.directory, self.config
        learned, how = self._kept
        started, samples = time.monotonic(), directory.path / "samples"
        workplace = Workplace(
            config.device,
            config.finishing_seed,
            FileCheckpoints(directory.finishing_path, directory.seal),
            progress,
            partial(write_preview, samples, config.facts.class_names),
        )
        finished = config.finish(learned, workplace)
        if isinstance(finished.model, ImageGenerator):
            write_last_preview(samples, finished.model)
        accuracy = measured(directory, finished.model, test)
        began = str(directory.config["started"])[: len("2026-01-31")]
        directory.release(release_files(config, learned, how, finished, accuracy, started, began))
        return published(directory)


def whole_run(data: Source, given: Any, makes: Makes, progress: Progress | None) -> Result | Synthesis | None:
    """Prepare a run, begin it and work on it to its end. A process that follows another does its part, and
    returns None.

    Args:
        data: the private images.
        given: the options of the run, among them where it is to be.
        makes: what the method is to make.
        progress: see `Progress`.
    """
    group = peers()
    if not group.leads:
        if getattr(given, "network", None) is not None:
            register_network(given.network)
        follow(group, data if isinstance(data, ImageSet) else None)
        return None
    with leading(group):
        config, sources = prepare(data, given, makes)
        begin_together(group, config, sources)
    record = private_record(sources.images, given.ledger, datetime.now(UTC))
    run = Run.begin(config, given.out, record)
    with run.directory.locked():
        if given.tensorboard:
            show_to_tensorboard(run.directory.private_path)
        run.learn(sources, progress, is_new=True, group=group)
        return run.finish(sources.test, progress)


def rest_of_run(
    directory: RunDirectory, data: ImageSet | None, test: ImageSet | None, progress: Progress | None
) -> Result | Synthesis:
    """Go on with a run that was begun earlier, to its end. Of one that is complete, return the result."""
    group = peers()
    with leading(group), directory.locked():
        if directory.is_released:
            close_account(directory)
            return published(directory)
        run = Run.take_up(directory)
        if run.has_learned:
            run.settle()
            return run.finish(run.config.opened_test(test), progress)
        run.config.check_learns()
        sources = run.config.opened(data, test, run.overlaps)
        begin_together(group, run.config, sources)
        run.learn(sources, progress, group=group)
        return run.finish(sources.test, progress)


def _publishing(options: RunOptions, method: Method) -> FinishOptions | None:
    """Return the options of the images that a method publishes, if it makes images. InputError where such
    options are given for a method that does not.
    """
    if not isinstance(options, FinishOptions):
        return None
    if method.makes != "images" and options.of_images:
        raise InputError(
            f"{options.of_images[0]} is for a method that makes images, and {method.name} makes a "
            f"classifier; name the method {OF_IMAGES}"
        )
    return options if method.makes == "images" else None


def _guarantee_of_images(how: Reading, images: ImageSet) -> dict[str, Any] | None:
    """Return what is guaranteed of the images of a run that another released; None of others. Those in memory
    are known by their source, where that is a path.
    """
    if how.spec is not None:
        return guarantee_with(how.spec)
    return guarantee_with(images.source) if os.path.exists(images.source) else None


def _with_pool(
    settings: Any, private: ImageSet, ledger: str | os.PathLike[str] | None, overlaps: Overlaps
) -> tuple[Any, Pool | None]:
    """Open the pool of public images that settings name, if any, and return them with a path that lasts."""
    pool = open_pool_of(settings, private, overlaps)
    if pool is None:
        return settings, None
    settings = replace(settings, pool=lasting(settings.pool))
    if pool.guarantee is not None:
        ledger = Path(ledger or default_ledger_path(private.digest))
        warn_of_unknown_spending(pool.guarantee, f"the pool {pool.source}", settings.pool, private, ledger)
    return settings, pool


def _to_publish(options: FinishOptions, settings: Any, facts: PublicFacts) -> FinishOptions:
    """Resolve which images to publish, of a method that may leave the labels aside."""
    names = facts.class_names if getattr(settings, "labelled", True) else ()
    return to_publish(options, names, facts.num_examples)


def _warn_of_look_alikes(images: ImageSet, account: Account, first: bool) -> None:
    """Warn the operator where earlier runs have learned from images that look like these, whose account is
    about to be opened. InputError where that is refused: with ``first``.
    """
    if account.images:
        warn_of_other_kind(images, account.images)
        then = "what was spent on those is not composed with this run"
        refuse = f"{named_option('again', True)} insists" if first else ""
        warn_of_indexed_look_alikes(images, account.images, "images", then, refuse=refuse)
    elif known := indexed_if_any(images):
        then, refuse = "what it tells of those is in no account", f"leave out {named_option('unpaid', True)}"
        warn_of_indexed_look_alikes(images, known, "images of an unpaid run", then, refuse=refuse)


def _warn_of_divergence(last_loss: float | None, facts: PublicFacts) -> None:
    """Tell the operator, and nobody else, of a training that ended worse than guessing."""
    guessing = math.log(max(1, len(facts.class_names)))
    if last_loss is not None and not last_loss <= guessing:
        logger.warning(
            f"training ended worse than guessing: its last batches had a mean loss of {last_loss:.2f}, and "
            f"guessing has {guessing:.2f}; take a smaller learning_rate (this is private: do not publish it)"
        )


def _takes_large(overrides: Mapping[str, Any]) -> bool:
    """Say whether the user has chosen a model that takes images of any size."""
    return "network" in overrides or scales_images(str(overrides.get("encoder", "")))


def _check_delta(delta: float, images: ImageSet) -> None:
    """Raise InputError for a δ with which one of the images or units that there are, however many were
    declared, could be published whole.
    """
    present = images.num_protected
    if delta >= 1 / present:
        raise InputError(
            f"delta {delta:g} is not below 1/N for the {present} {images.protects}s there are; give a "
            "smaller one, or declare a num_examples that is nearer to that"
        )


def _test_images(
    data: Source, test: Source | None, images: ImageSet, overlaps: Overlaps, choices: Choices
) -> tuple[Reading | None, ImageSet | None]:
    """Return the test images: those given, or else the test split that comes with the data, if any.

    Raises:
        InputError: they are of other kind than the images, or private images are among them.
    """
    if test is None:
        if isinstance(data, ImageSet) or "test" not in available_splits(data, **choices.given()):
            return None, None
        test = data
    if isinstance(test, ImageSet):
        how, test_images = Reading(), test
    else:
        how = fitting_reading(test, None, images.shape, choices)
        if how.split == "train" and _same_place(data, test):
            refusal = (
                f"{test} has no test split, and must not be tested on what it is trained on; give others"
            )
            overlaps.refuse(USED_AS.format("test images"), refusal)
        test_images = how.open()
    if test_images.shape != images.shape:
        raise InputError(
            f"test images from {test_images.source} have the shape {list(test_images.shape)}, but those to "
            f"train on {list(images.shape)}; read both with the same size and channels"
        )
    test_images = test_images.with_classes(images.class_names)
    refuse_units_of_both(images, test_images)
    refuse_private_images(test_images, images, "test images", overlaps)
    refuse_data_with_ledger(test_images, "test images", overlaps)
    then = "the accuracy on the card would be exact on them"
    warn_of_look_alikes(test_images, images, "test images", then)
    return how, test_images


def _same_place(data: Source, test: str | os.PathLike[str]) -> bool:
    return not isinstance(data, ImageSet) and lasting(data) == lasting(test)
