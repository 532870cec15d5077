"""Small runs of every method, each command in a process of its own, and what must always hold of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch

from checks.points import Reach, install, spends
from dpvision.api.config import RunConfig
from dpvision.cli.main import run as run_command
from dpvision.images.public import Overlaps
from dpvision.methods import Session, Workplace, find_method, known_methods
from dpvision.networks.weights import safetensors_bytes
from dpvision.privacy import Account, InputError, Ledger, random_source
from dpvision.runs import RunDirectory

_TRAIN = "train bundled:digits --epsilon 2 --device cpu --method "
_LINEAR = " --set network=linear --set steps={steps} --set expected_batch_size=32"
JOBS = {
    "dp-sgd": f"{_TRAIN} dp-sgd {_LINEAR.format(steps=12)} --set momentum=0.5",
    "dp-mix-self": f"{_TRAIN} dp-mix-self {_LINEAR.format(steps=8)}",
    "dp-mix-diff": f"{_TRAIN} dp-mix-diff {_LINEAR.format(steps=8)} --pool POOL",
    "dp-randp": f"{_TRAIN} dp-randp --phase-iii full --set encoder=pixels --set steps=12 "
    "--set phase_ii_share=0.5 --set expected_batch_size=32",
    "dp-ridge": f"{_TRAIN} dp-ridge --set encoder=pixels",
    "dp-mepf": "synthesize bundled:digits --epsilon 2 --device cpu --count 20 --method dp-mepf "
    "--set steps=5 --set batch_size=20 --set encoder_options.products=false --set network_width=128",
    "dp-moments": "synthesize bundled:digits --epsilon 2 --device cpu --count 20 --method dp-moments",
    "dp-diffusion": "synthesize bundled:digits --epsilon 2 --device cpu --count 20 --method dp-diffusion "
    "--set steps=8 --set expected_batch_size=32 --set width=8 --set sampling_steps=2 "
    "--set pretraining_steps=1 --set warm_up_steps=1",
    "dp-distill": "synthesize bundled:digits --epsilon 2 --device cpu --count 20 --method dp-distill "
    "--set teacher.encoder=pixels --set teacher.steps=8 --set candidates=2",
}
"""Commands by method, without --out and --seed."""
assert JOBS.keys() == known_methods().keys()

NO_STEPS = ("dp-ridge", "dp-mepf", "dp-moments")
"""Methods that do no more than to release sums."""

NEED_A_RELEASE = (*NO_STEPS, "dp-diffusion", "dp-distill")
"""Methods that cannot do without such a release: a process that ends between its record and its file leaves
nothing.
"""

LOST = "was paid for but lost"
POOL_COMMAND = ["pool", "make", "--process", "dead-leaves-squares", "--count", "16"]
SEED = 7
"""Of the runs that are compared with one another."""
KNOWN = {"config.json", "private", "release", "samples"}


@dataclass(frozen=True)
class Trial:
    """One run of a method, in a folder of its own with a ledger of its own.

    Attributes:
        folder: holds the run, the ledger, and the log of its noise.
        method: a key of `JOBS`.
        seed: of the run; None for noise from the system.
        pool: a folder of public images, for the method that needs one.
    """

    folder: Path
    method: str
    seed: int | None
    pool: Path

    @property
    def home(self) -> Path:
        return self.folder / "watched"

    @property
    def out(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.folder / "noise.jsonl"

    def command(self) -> list[str]:
        """What begins the run, or goes on with it."""
        if self.out.exists():
            return ["resume", str(self.out)]
        job = [str(self.pool) if word == "POOL" else word for word in JOBS[self.method].split()]
        seed = [] if self.seed is None else ["--seed", str(self.seed)]
        return [*job, *seed, "--out", str(self.out)]

    def go(
        self, reach: Reach = lambda name, moment: None, prepare: Callable[[], None] = lambda: None
    ) -> Ended:
        """`command` in a process that begins with ``prepare``; ``reach`` is told of its operations."""
        self.home.mkdir(parents=True, exist_ok=True)
        os.environ["DPVISION_HOME"] = str(self.home)

        def work() -> int:
            install(self.home, reach, self.log)
            prepare()
            return run_command(self.command())

        return in_a_process(work, self.folder / "output")

    def faults(self) -> list[str]:
        """What is wrong with the files, whatever befell the run so far; nothing, unless there is a bug."""
        found = []
        spent = spends(self.home)
        draws = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        releases: dict[tuple[int, int], int] = {}
        for draw in draws:
            releases.setdefault((draw["process"], draw["release"]), draw["spent"])
        events = list(releases.values())
        if len(spent) < len(releases):
            found.append(f"{len(releases)} releases, but the ledger holds {len(spent)}")
        # Each release began with one more event in the ledger than when any before it did.
        if events != sorted(set(events)) or 0 in events:
            found.append(f"releases share events: they began at {events}")
        if not all(draw["synced"] for draw in draws):
            found.append("noise was drawn before the ledger was on the disk")
        hashes = [draw["hash"] for draw in draws]
        if self.seed is None and len(set(hashes)) < len(hashes):
            found.append("noise was drawn twice")
        for ledger in (self.home / "ledgers").glob("*.jsonl"):
            try:
                Ledger(ledger)  # reads and verifies all of it
            except InputError as error:
                found.append(str(error))
        if self.out.exists():
            names = {path.name for path in self.out.iterdir() if not path.name.startswith(".release.")}
            if not names <= KNOWN:
                found.append(f"unknown files {names - KNOWN}")
            if (self.out / "release").exists():
                json.loads((self.out / "release" / "card.json").read_text())
                self.released()
        return found

    def released(self) -> dict[str, torch.Tensor]:
        """The weights that the run released."""
        name = "generator" if find_method(self.method).makes == "images" else "model"
        return safetensors.torch.load_file(self.out / "release" / f"{name}.safetensors")

    def lost(self) -> list[int]:
        """How many steps each stage of a complete run lost: paid for, with nothing to show for it."""
        if self.method in NO_STEPS:
            return [0]
        run = RunDirectory.open(self.out)
        state = safetensors.torch.load_file(run.checkpoint_path)
        last = int(state["stage"])
        _, calibrated = RunConfig.from_json(run.config).spending
        counts = [stage.count for stage in calibrated.stages]
        lost = [counts[last] - int(state["steps_done"])]
        if last:  # before the last but one come single releases, without which a run does not go on
            lost = [*[0] * (last - 1), int(state["lost"]), *lost]
        assert len(lost) == len(counts)
        assert sum(lost) == json.loads((run.release_path / "card.json").read_text())["lost_steps"]
        return lost

    def is_as_uninterrupted(self, reference: Trial) -> bool:
        """Whether a complete seeded run released what it would have in one process.

        A run that lost no steps has the weights of ``reference``; another those of a training that, from the
        beginning and without an interruption, took so many steps fewer.
        """
        lost = self.lost()
        expected = reference.released() if not any(lost) else self._replayed(lost)
        released = self.released()
        return released.keys() == expected.keys() and all(
            torch.equal(tensor, expected[name]) for name, tensor in released.items()
        )

    def _replayed(self, lost: list[int]) -> dict[str, torch.Tensor]:
        target = self.folder / "replayed.safetensors"

        def work() -> int:
            config = RunConfig.from_json(RunDirectory.open(self.out).config)
            sources, (budget, stages) = config.opened(None, None, Overlaps()), config.spending
            account = Account(budget, None, "replayed", stages.events)
            account.open()
            for stage, count in zip(stages.stages, lost, strict=True):
                if count:
                    account.record(replace(stage.event, count=count))
            random = random_source(config.seed)
            session = Session(
                sources.images,
                config.facts,
                stages,
                lambda: account,
                random,
                config.device,
                pool=sources.pool,
            )
            learned = config.method.learn(config.settings, session)
            finished = config.method.finish(config.settings, learned, config.facts, Workplace(config.device))
            target.write_bytes(safetensors_bytes(finished.model.state_dict()))
            return 0

        ended = in_a_process(work, self.folder / "output")
        assert ended.code == 0, ended.output
        return safetensors.torch.load_file(target)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or less the number of the signal; and all that it said."""

    code: int
    output: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def is_one_sentence(self) -> bool:
        """Whether it ended as bad input does."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def in_a_process(work: Callable[[], int], output: Path) -> Ended:
    """Fork, and end with the code that ``work`` returns; 70 for an exception."""
    return wait(start(work, output), output)


def start(work: Callable[[], int], output: Path) -> int:
    """`in_a_process`, without waiting for it: its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def wait(child: int, output: Path) -> Ended:
    """Until a process of `start` has ended."""
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))


def make_pool(folder: Path) -> Path:
    """A pool of public images for `JOBS`."""
    command = [*POOL_COMMAND, "--out", str(folder / "pool")]
    ended = in_a_process(lambda: run_command(command), folder / "output")
    assert ended.code == 0, ended.output
    return folder / "pool"


def prepare_here(trial: Trial) -> None:
    """Do in this process what precedes a run, so that its children need not calibrate the noise again."""
    output = trial.folder / "output"
    with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        code = run_command([*trial.command(), "--ledger", "/dev/null/none"])
    assert code == 2, output.read_text()


def reference_of(method: str, folder: Path, pool: Path) -> tuple[Trial, int]:
    """A run of a method that nothing befalls, and how many moments it has."""
    trial = Trial(folder / f"{method}-reference", method, SEED, pool)
    trial.folder.mkdir()
    prepare_here(trial)
    moments = trial.folder / "moments"

    def count(name: str, moment: str) -> None:
        with moments.open("ab") as file:
            file.write(b".")

    ended = trial.go(count)
    assert ended.code == 0, ended.output
    assert trial.faults() == []
    return trial, moments.stat().st_size
