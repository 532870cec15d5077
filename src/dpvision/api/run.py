"""A run: begin it or take it up, and work on it, once it is prepared.

All that `train`, `tune`, `synthesize` and `resume` do is made of these.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
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
from dpvision.api.config import RunConfig, Sources
from dpvision.api.cost_of_both import cost_of_both
from dpvision.api.pool_cost import described_pool
from dpvision.api.preparing import prepare
from dpvision.api.publishing import (
    OfLearning,
    Result,
    Synthesis,
    measured,
    published,
    release_files,
    write_drawn,
    write_preview,
)
from dpvision.api.sources import Source
from dpvision.api.together import begin_together, follow, leading
from dpvision.images import ImageSet
from dpvision.images.files import reading
from dpvision.images.indexed import indexed_if_any, warn_of_other_kind
from dpvision.images.look_alikes import warn_of_indexed_look_alikes
from dpvision.images.public import Overlaps
from dpvision.methods import Learned, Makes, Session, Workplace
from dpvision.methods.method import GUARANTEE
from dpvision.networks import register_network
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.parallel import ALONE, Peers, peers
from dpvision.privacy import Account, Event, InputError, PublicFacts, RandomSource
from dpvision.privacy.errors import named_option
from dpvision.reports import guarantee
from dpvision.reports.guarantee_file import UNPAID, not_covered_of_release
from dpvision.runs import FileCheckpoints, Metrics, Progress, RunDirectory
from dpvision.runs.files import write_atomically
from dpvision.runs.tensorboard import show_to_tensorboard
from dpvision.training import StepStatistics

logger = logging.getLogger("dpvision")


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
            random, metrics = config.random(), Metrics(directory.private_path)
            session = config.session(
                sources,
                open_account,
                random,
                progress,
                checkpoints=checkpoints,
                on_step=look_at,
                preview=partial(write_drawn, directory.samples_path),
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
        started, samples = time.monotonic(), directory.samples_path
        workplace = Workplace(
            config.device,
            config.finishing_seed,
            FileCheckpoints(directory.finishing_path, directory.seal),
            progress,
            partial(write_preview, samples, config.facts.class_names),
        )
        finished = config.finish(learned, workplace)
        if isinstance(finished.model, ImageGenerator):
            write_drawn(samples, finished.model)
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
