"""The only door to the private images of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.images import ImageSet
from dpvision.images.public import Overlaps
from dpvision.methods.stages import Calibrated
from dpvision.networks.image_generator import ImageGenerator
from dpvision.parallel import ALONE, Peers, share_of
from dpvision.priors.encoders import Encoder
from dpvision.priors.feature_classifier import refuse_own_encoder
from dpvision.priors.remembered import features_remembered
from dpvision.privacy.account import Account
from dpvision.privacy.by_example import KEY_BYTES
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.noise import KeyedRandom, RandomSource, SeededRandom
from dpvision.privacy.selection import SelectionMechanism
from dpvision.privacy.uninterrupted import uninterrupted
from dpvision.runs.checkpoints import Checkpoints
from dpvision.runs.progress import Progress
from dpvision.training import (
    Examples,
    ExponentialMovingAverage,
    OnBatch,
    Phase,
    PrivateTrainer,
    Rows,
    StepStatistics,
    check_tensors,
    whole_number,
)
from dpvision.views import Pool, ViewPolicy

Built = TypeVar("Built", bound=nn.Module)
Sums = Mapping[str, Tensor]
AfterStep = Callable[[ExponentialMovingAverage, int], None]
"""A callback that is given the averaged weights after a step, which are made of releases alone, and how many
steps of the stage were taken. It changes nothing.
"""

REHEARSED = 64
"""The most images on which it is tried whether a trial can be done."""


class Watch(OnBatch, Protocol):
    """A callback for audits: it is shown what every release is made of, before that is released. It changes
    nothing.
    """

    def look_at_release(
        self, images: ImageSet, sums_of: Callable[[ImageSet], Sums], sensitivity: float
    ) -> None: ...


class Session:
    """Holds the private images of one run, with its account, its randomness and its checkpoints.

    A method asks it for releases, and gets nothing of the images but these. Each stage of the run is worked
    on once, in the order of the stages, by :meth:`descend`, :meth:`release` or :meth:`select`. An interrupted
    run is taken up where its checkpoint says; releases that the ledger holds but no checkpoint does were paid
    for and are lost.

    Guarantee:
        All that :meth:`descend` and :meth:`release` return or write into a model was made of releases of the
        stages' mechanisms, each of them in the account before its noise was drawn. What :meth:`select`
        returns is the best of trials, each on a session of its own, which were paid for together before the
        first. This holds if what a method gives them (views, encoders, sums) keeps what :class:`ViewPolicy`,
        :class:`ClippedGradient` and the stage's mechanism ask for. Record and replay
        (:mod:`dpvision.testing`) tries it on every method.

    Args:
        images: the private ones.
        facts: what is public about them.
        stages: what will be released.
        open_account: opens the account, with these stages' events. It is called before the first of them:
            what fails earlier leaves no trace in a ledger.
        random: where batches, views, noise and first weights come from.
        device: to work on.
        pool: public images, where the settings name some.
        checkpoints: where to go on from, and what to write to.
        on_step: is given what every step saw: private.
        progress: is told how far each stage is.
        preview: is given, now and then, a generator that learns, as it would be released, and how many steps
            it has taken.
        watch: see `Watch`.
        overlaps: is told of an encoder that was learned from the private images; by default it is refused.
        peers: the processes that do the run together. This one leads: its sums are of all their images, and
            they get what is released. By default there are none.
        share: which of the images this process works on; by default those of its rank.

    Attributes:
        facts, stages, device, pool, preview: as above.
        account: once it is open.
        lost: releases that were paid for but whose result was lost with an interrupted process.
    """

    def __init__(
        self,
        images: ImageSet,
        facts: PublicFacts,
        stages: Calibrated,
        open_account: Callable[[], Account],
        random: RandomSource,
        device: torch.device,
        *,
        pool: Pool | None = None,
        checkpoints: Checkpoints | None = None,
        on_step: Callable[[StepStatistics], None] | None = None,
        progress: Progress | None = None,
        preview: Callable[[ImageGenerator, int], None] | None = None,
        watch: Watch | None = None,
        overlaps: Overlaps | None = None,
        peers: Peers = ALONE,
        share: ImageSet | None = None,
    ) -> None:
        self.facts, self.stages, self.device, self.pool = facts, stages, device, pool
        self.preview = preview
        self.account: Account | None = None
        self._all, self._open_account, self._random, self._peers = images, open_account, random, peers
        self._images = own_share(images, peers, facts.num_examples) if share is None else share
        self._checkpoints, self._on_step, self._progress, self._watch = (
            checkpoints,
            on_step,
            progress,
            watch,
        )
        self._overlaps = overlaps or Overlaps()
        self.lost = 0
        self._results: dict[int, dict[str, Tensor]] = {}  # of the stages that are done
        self._state: dict[str, Tensor] = {}  # of the stage that was interrupted
        self._state_of = 0
        saved = checkpoints.load() if checkpoints else None
        if saved is not None:
            self._take_up(saved)

    def initialized(self, build: Callable[[], Built]) -> Built:
        """Build a network with random weights, on the run's device. A seed of the run fixes them; the global
        generator stays as it is.
        """
        seed = self._peers.say(int.from_bytes(self._random.at("weights", 0).bytes(8), "little") >> 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return build().to(self.device)

    @property
    def leads(self) -> bool:
        """Whether this is the process that has the run's directory and its account."""
        return self._peers.leads

    def begin_with(self, module: nn.Module, weights: Sums) -> None:
        """Give a module weights that were released before, in all processes of the run. Those that follow get
        the leader's.

        Raises:
            InputError: the weights are of another module.
        """
        if self.leads:
            module.load_state_dict(_checked(weights, module.state_dict()))
        self.agree(module)

    def agree(self, module: nn.Module) -> None:
        """Let all processes of the run have the leader's weights of a module, such as an encoder: fitted on
        other hardware they may differ.
        """
        self._peers.share(list(module.state_dict().values()))

    def is_begun(self, number: int) -> bool:
        """Say, to the followers too, whether the stage ``number`` goes on from a checkpoint: what it would
        start from need not be made again. Account and images have been found to be in order by then.
        """
        self.opened_account()
        begun = number in self._results or (bool(self._state) and self._state_of == number)
        return bool(self._peers.say(begun))

    def refuse_own(self, encoder: Encoder) -> None:
        """Raise InputError where the encoder was learned from some of these very images, as if they were
        public, unless the owner has allowed it.
        """
        refuse_own_encoder(encoder, self._all, self._overlaps)

    def opened_account(self) -> Account:
        """Return the account, open. InputError where the owner's limit does not allow the stages."""
        if self.account is None:
            self.account = self._open_account()
        return self.account

    def tell(self, what: str, done: int, total: int) -> None:
        """Tell whoever watches the run how far it is."""
        if self._progress:
            self._progress(what, done, total, self.account)

    def release(self, number: int, sums_of: Callable[[ImageSet], Sums], blank: Sums) -> dict[str, Tensor]:
        """Release sums over the images once: all of the stage ``number``.

        Args:
            number: the number of the stage, from 0.
            sums_of: from images to exact sums, no further apart on neighbours than the sensitivity of the
                stage's mechanism. It may be called more than once.
            blank: tensors of the names and shapes of the sums, of any type.

        Returns:
            The sums with noise, float32, on the CPU. After an interruption, those that were released.

        Raises:
            InputError: the release was paid for by a process that ended before it could keep what was
                released; or what was kept is of another run.
        """
        blank = {name: tensor.float() for name, tensor in blank.items()}  # of the type of what is released
        if not self._is_kept(number):
            self._release(number, sums_of, blank)
        kept = self._results.get(number)  # which a follower has not
        return self._peers.tensors(kept and _checked(kept, blank))

    def _release(self, number: int, sums_of: Callable[[ImageSet], Sums], blank: Sums) -> None:
        """Make the release of a stage, and keep it."""
        account, mechanism = self.opened_account(), self.stages.stages[number].mechanism
        if account.left(mechanism.cost(1)) == 0:
            raise InputError(
                "a release that this run needs was paid for but lost with an interrupted process; "
                "start a new run, within what the budget leaves"
            )
        self._reserve(blank)
        if self._watch:
            self._watch.look_at_release(self._images, sums_of, mechanism.sensitivity)
        sums = self._sums_of_all(sums_of, blank)
        with uninterrupted():  # what is paid for is kept
            noisy = mechanism.release(sums, account, self._stream(number).at("noise", 0))
            self._results[number] = {name: total.cpu() for name, total in noisy.items()}
            self._save(number + 1, dict, final=True)

    def _is_kept(self, number: int) -> bool:
        """Say, to the followers too, whether the result of a stage is at hand. Account and images have been
        found to be in order by then.
        """
        if number not in self._results:
            self.opened_account()
        return bool(self._peers.say(number in self._results))

    def _sums_of_all(self, sums_of: Callable[[ImageSet], Sums], blank: Sums) -> Sums:
        """Return the sums over the images of all processes; to a follower those of its own."""
        if len(self._images):
            sums = sums_of(self._images)
        else:
            sums = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in blank.items()}
        self._peers.add_up([sums[name] for name in blank])
        return sums

    def descend(
        self,
        number: int,
        what: str,
        model: nn.Module,
        *,
        engine: ClippedGradient,
        policy: ViewPolicy,
        phases: Sequence[Phase],
        ema_decay: float,
        encode: Callable[[ImageSet], Tensor | Examples] | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        """Train ``model`` in place by noisy steps: all of the stage ``number``, or what the account has left
        of it. It ends with the averaged weights.

        Args:
            number: the number of the stage, from 0.
            what: is being done, for progress.
            model: on the run's device.
            engine: the engine of this model's clipped sums.
            policy: the views of an example.
            phases, ema_decay: as for :class:`PrivateTrainer`.
            encode: from images to what is trained on, ``[N, …]`` on the model's device or as `Examples`, once
                before the first step: each row of its own image alone. By default the images themselves.
            after_step: see `AfterStep`; it is called where the run's directory is.

        Raises:
            InputError: the parts do not fit; nothing was spent.
            KeyboardInterrupt: passed on, after a checkpoint.
        """
        if not self._is_kept(number):
            trainer = self._trainer(number, model, engine, policy, phases, ema_decay, encode)
            self._take_steps(number, what, model, trainer, after_step)
        elif number in self._results:  # which a follower has not
            model.load_state_dict(_checked(self._results[number], model.state_dict()))
        self._peers.share(list(model.state_dict().values()))

    def _take_steps(
        self, number: int, what: str, model: nn.Module, trainer: PrivateTrainer, after_step: AfterStep | None
    ) -> None:
        """Take the steps of a stage, or those that the account has left; end with the averaged weights."""
        account, stage = self.opened_account(), self.stages.stages[number]
        if self._state and self._state_of == number:
            trainer.load_state(self._state)
            self._state = {}
        # Optimisers keep up to two numbers for each that they train, from the first step on.
        trained = dict(model.named_parameters())
        self._reserve(trainer.state(), trained, trained)
        before = sum(stage.count for stage in self.stages.stages[:number])
        self.tell(what, before + trainer.steps_done, self.stages.num_releases)
        finished = False
        try:
            # Another stage may have events like this one's: what is left is then not this stage's alone.
            while trainer.steps_done < stage.count and account.left(stage.mechanism.cost(1)) > 0:
                statistics = trainer.step(account)
                self._save(number, trainer.state, final=False)
                if self._on_step:
                    self._on_step(replace(statistics, step=before + statistics.step))
                self.tell(what, before + trainer.steps_done, self.stages.num_releases)
                if after_step:
                    after_step(trainer.average, trainer.steps_done)
            trainer.end()
            finished = True
        finally:
            if finished or trainer.steps_done > 0:
                self._save(number, trainer.state, final=True)
        trainer.average.copy_to(model)
        self.lost += stage.count - trainer.steps_done
        if number + 1 < len(self.stages.stages):  # a later stage's checkpoint is no longer of this one
            self._results[number] = {  # copies, for what comes next may change the model
                name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()
            }

    def _trainer(
        self,
        number: int,
        model: nn.Module,
        engine: ClippedGradient,
        policy: ViewPolicy,
        phases: Sequence[Phase],
        ema_decay: float,
        encode: Callable[[ImageSet], Tensor | Examples] | None,
    ) -> PrivateTrainer:
        """Return what takes the steps of a stage, on this process' share of the images; see `descend`."""
        images, on_batch = self._images, self._watch
        if images.labels is None:
            raise InputError(f"{images.source} has no labels; training takes labelled images")
        engine.share(self._peers.size)
        return PrivateTrainer(
            model,
            self._encoded(encode) if encode else images,
            images.labels,
            policy=policy,
            engine=engine,
            mechanism=self.stages.stages[number].mechanism.over(images.num_protected),
            phases=phases,
            ema_decay=ema_decay,
            random=self._stream(number),
            ids=images.ids,
            units=images.units,
            num_classes=len(images.class_names),
            on_batch=partial(on_batch, encode=encode) if encode and on_batch else on_batch,
            peers=self._peers,
        )

    def _encoded(self, encode: Callable[[ImageSet], Tensor | Examples]) -> Examples:
        """Return what is trained on, of this process' share: where that is empty, no rows of their shape."""
        if len(self._images):
            examples = encode(self._images)
            return Rows(examples) if isinstance(examples, Tensor) else examples
        of_one = encode(self._all.subset([0]))
        assert isinstance(of_one, Tensor), "one row is no reason for a file"
        return Rows(of_one[:0])

    def select(
        self, number: int, stages_of: Callable[[int], Calibrated], run: Callable[[int, Session], Sums]
    ) -> dict[str, Tensor]:
        """Run a random number of trials and return what the best came to: all of the stage ``number``, whose
        mechanism is a :class:`SelectionMechanism`.

        The whole selection is paid for before the first trial. All that trials draw follows from a key, which
        is kept until the last one is done: a trial that is begun again is the same trial.

        Args:
            number: the number of the stage, from 0.
            stages_of: from the index of a candidate to the stages of its trial.
            run: does a trial of a candidate on a session of its own, and returns what it came to, on the CPU:
                tensors, the "score" among them.

        Raises:
            InputError: a candidate cannot be used, and nothing was spent; or the selection was paid for by a
                process whose key is lost.
        """
        if not self._is_kept(number):
            self._run_trials(number, stages_of, run)
        return self._peers.tensors(self._results.get(number))

    def _run_trials(
        self, number: int, stages_of: Callable[[int], Calibrated], run: Callable[[int, Session], Sums]
    ) -> None:
        """Run the trials of a selection, and keep what the best came to."""
        account, mechanism = self.opened_account(), self.stages.stages[number].mechanism
        assert isinstance(mechanism, SelectionMechanism)
        cost = mechanism.cost(1)
        is_paid = account.left(cost) == 0
        if is_paid and not self._state:
            raise InputError(
                "this tuning was paid for, but the key of its trials is lost; its budget stays spent, so "
                "start a new run within what the budget leaves"
            )
        with features_remembered():
            if not self._state:
                for candidate in range(len(mechanism.candidates)):
                    self._rehearse(stages_of(candidate), partial(run, candidate))
                key = self._random.at("trials", 0).bytes(KEY_BYTES)
                self._state = {"key": torch.tensor(list(key), dtype=torch.uint8), "done": torch.tensor(0)}
                self._save(number, lambda: self._state, final=True)
            if not is_paid:
                account.record(cost)
            self._results[number] = self._best_trial(number, mechanism, stages_of, run)
        self._state = {}
        self._save(number + 1, dict, final=True)  # without the key
        self._peers.say(None)

    def _best_trial(
        self,
        number: int,
        mechanism: SelectionMechanism,
        stages_of: Callable[[int], Calibrated],
        run: Callable[[int, Session], Sums],
    ) -> dict[str, Tensor]:
        """Run the trials that the key says, from the first that is not done; what the best of all came to."""
        state = self._state
        random = KeyedRandom(bytes(state["key"].tolist()))
        trials = mechanism.draw(random.at("trials", 0))
        for trial in range(whole_number(state, "done", len(trials)), len(trials)):
            candidate, said = self._peers.say(trials[trial]), f"trial {trial + 1} of {len(trials)}: "
            session = self._of_trial(stages_of(candidate), random.at("trial", trial), said)
            outcome = run(candidate, session)
            if "best.score" not in state or outcome["score"] > state["best.score"]:
                state = {"key": state["key"], **{f"best.{name}": t for name, t in outcome.items()}}
            state["done"] = torch.tensor(trial + 1)
            self._save(number, partial(dict, state), final=True)
        return {name.removeprefix("best."): t for name, t in state.items() if name.startswith("best.")}

    def _of_trial(self, stages: Calibrated, random: RandomSource, said: str) -> Session:
        """Return the session of a trial, whose account holds it to its stages: this one's has paid for it."""

        def open_account() -> Account:
            account = Account(self.opened_account().budget, None, "a trial", stages.events)
            account.open()
            return account

        def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
            self.tell(said + what, done, total)

        return self._with(
            self._all, stages, open_account, random, progress, peers=self._peers, share=self._images
        )

    def _rehearse(self, stages: Calibrated, run: Callable[[Session], Sums]) -> None:
        """Do a trial on some of the images up to its first release. InputError where it cannot be done."""
        some = self._all.subset(range(min(len(self._all), REHEARSED)))
        account = _Rehearsal(self.opened_account().budget, None, "a rehearsal", stages.events)
        with suppress(_Rehearsed):
            run(self._with(some, stages, lambda: account, SeededRandom(0)))

    def _with(
        self,
        images: ImageSet,
        stages: Calibrated,
        open_account: Callable[[], Account],
        random: RandomSource,
        progress: Progress | None = None,
        **more: Any,
    ) -> Session:
        """Return a session on other images, stages and account, without checkpoints; ``more`` are arguments
        of it.
        """
        return Session(
            images,
            self.facts,
            stages,
            open_account,
            random,
            self.device,
            pool=self.pool,
            progress=progress,
            overlaps=self._overlaps,
            **more,
        )

    def _stream(self, number: int) -> RandomSource:
        """Return the randomness of a stage."""
        return self._random.at("stage", number)

    def _reserve(self, *tensors: Sums) -> None:
        """Make sure of room for a checkpoint before something is spent that only it would keep."""
        if self._checkpoints:
            kept = [*tensors, *self._results.values()]
            self._checkpoints.reserve(sum(t.nbytes for some in kept for t in some.values()))

    def _save(self, number: int, state: Callable[[], Sums], final: bool) -> None:
        """Keep the state of stage ``number`` and the results of those before."""
        if not self._checkpoints:
            return

        def everything() -> dict[str, Tensor]:
            found = {**state(), "stage": torch.tensor(number), "lost": torch.tensor(self.lost)}
            for earlier, result in self._results.items():
                found |= {f"result.{earlier}.{name}": tensor for name, tensor in result.items()}
            return found

        self._checkpoints.save(everything, final)

    def _take_up(self, saved: Sums) -> None:
        """Go on from what `_save` kept."""
        stages = self.stages.stages
        try:
            self._state_of = whole_number(saved, "stage", len(stages))
            self.lost = whole_number(saved, "lost", self.stages.num_releases)
            for key, tensor in saved.items():
                kind, _, rest = key.partition(".")
                if kind == "result":
                    number, _, name = rest.partition(".")
                    self._results.setdefault(int(number), {})[name] = tensor
                elif key not in ("stage", "lost"):
                    self._state[key] = tensor
            if set(self._results) != set(range(self._state_of)):
                raise ValueError("it lacks what an earlier stage came to")
        except (KeyError, ValueError) as error:
            raise _of_another_run(error) from error


def own_share(images: ImageSet, peers: Peers, count: int) -> ImageSet:
    """Return the images that one of several processes works on: those of whole units, where there are any.

    Args:
        images: all.
        peers: the processes.
        count: the declared number of what is protected, as for `share_of`.
    """
    if peers.size == 1:
        return images
    chosen = share_of(peers, images.protected_ids, count)
    if images.units is not None:
        chosen = torch.isin(images.units.of_image, chosen).nonzero().squeeze(1)
    return images.subset(chosen) if len(chosen) else images.none()


class _Rehearsed(Exception):  # noqa: N818 (reads as what happened)
    """A trial has come to its first release."""


class _Rehearsal(Account):
    """An account of which nothing is ever spent."""

    def record(self, event: Event) -> None:
        raise _Rehearsed


def _checked(result: Sums, like: Sums) -> dict[str, Tensor]:
    """Return a kept result. InputError unless it has the names and shapes of ``like``."""
    try:
        check_tensors(result, like)
    except ValueError as error:
        raise _of_another_run(error) from error
    return dict(result)


def _of_another_run(error: Exception) -> InputError:
    return InputError(f"checkpoint: it is of another run, or damaged ({error})")
