"""Do a run in several processes: the first leads, and the others do what it tells them.

torchrun starts the same command, or the same Python program, in each. The leader prepares the run and tells
the others its configuration; they read the same images, and say what they have; if that is the same they all
learn, each from its share. All that comes then is the leader's alone.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dpvision.api.config import RunConfig, Sources, open_again
from dpvision.images import ImageSet
from dpvision.images.public import Overlaps
from dpvision.methods.following import FollowingSession
from dpvision.methods.refined import Refined
from dpvision.parallel import Peers, ProcessLostError
from dpvision.parallel.variables import number
from dpvision.privacy.errors import InputError
from dpvision.views import open_pool

IN_WORDS = {
    "dpvision": "another version of dpvision",
    "code": "other code of dpvision",
    "torch": "another version of torch",
    "images": "other images",
    "pool": "other public images",
}


@contextmanager
def leading(peers: Peers) -> Iterator[None]:
    """Tell those that follow where something fails before they are told what to do, and let it fail."""
    try:
        yield
    except ProcessLostError:
        raise
    except BaseException as error:
        if not peers.begun:
            tell(peers, {"failed": str(error) if isinstance(error, InputError) else type(error).__name__})
        raise


def tell(peers: Peers, message: Mapping[str, Any]) -> None:
    """Tell those that follow what to do: the one message that they wait for."""
    if peers.size > 1:
        peers.begun = True
        peers.say(dict(message))


def begin_together(peers: Peers, config: RunConfig, sources: Sources) -> None:
    """Tell those that follow the run, and check that all have the same.

    Raises:
        InputError: one has other images, other code or another torch, or cannot read the images.
    """
    if peers.size == 1:
        return
    tell(peers, {"config": config.to_json()})
    pool = sources.pool.digest if sources.pool else None
    refuse_others(peers, what_is_here(sources.images.digest, pool))


def refuse_others(peers: Peers, here: Mapping[str, Any]) -> None:
    """Compare what all processes have. InputError, in all of them, where one has something else."""
    said = peers.hear(here)
    refusal = peers.say(_difference(said))
    if refusal:
        raise InputError(refusal)


def what_is_here(images: str | None, pool: str | None = None) -> dict[str, Any]:
    """Return what must be the same in all processes, given the digests of images, and where this one is."""
    return {
        "host": socket.gethostname(),
        "dpvision": version("dpvision"),
        "code": _digest_of_code(),
        "torch": str(torch.__version__),
        "images": images,
        "pool": pool,
    }


def follow(peers: Peers, data: ImageSet | None = None) -> None:
    """Do what the leader tells: a part of the work of one run, or nothing.

    Args:
        peers: the processes, of which this is not the first.
        data: the private images, if they are in memory.

    Raises:
        InputError: the leader has refused something.
        ProcessLostError: another process has ended.
    """
    message = peers.say()
    if "failed" in message:
        raise InputError(message["failed"])
    if "prior" in message:
        from dpvision.api.priors import follow_prior  # here: it takes a while

        follow_prior(peers, message["prior"])
    elif "config" in message:
        _follow_run(peers, message["config"], data)


@contextmanager
def taking_part(peers: Peers) -> Iterator[None]:
    """Tell the leader where this process cannot do its part, which then refuses for all."""
    try:
        yield
    except InputError as error:
        refuse_others(peers, {"host": socket.gethostname(), "error": str(error)})
        raise


def _follow_run(peers: Peers, fields: dict[str, Any], data: ImageSet | None) -> None:
    with taking_part(peers):
        config = RunConfig.from_json({**fields, "device": own_device(fields["device"])})
        assert config.data is not None
        if isinstance(config.method, Refined):
            config.method.opened(config.settings)
        images = open_again(config.data, data, "data", config.method.needs_labels)
        spec = getattr(config.settings, "pool", "")
        # Whether the pool is public is for the leader to judge, which has the index.
        pool = open_pool(spec, images.shape, images.class_names, Overlaps(True)) if spec else None
    refuse_others(peers, what_is_here(images.digest, pool.digest if pool else None))
    _, stages = config.spending
    session = FollowingSession(images, config.facts, stages, config.device, peers, pool=pool)
    config.method.learn(config.settings, session)


def own_device(leaders: str) -> str:
    """Return the device of this process, of the kind that the leader has."""
    if torch.device(leaders).type != "cuda" or not torch.cuda.is_available():
        return leaders
    return f"cuda:{number('LOCAL_RANK', 0) % torch.cuda.device_count()}"


def _difference(said: Sequence[Mapping[str, Any]]) -> str | None:
    """Say in a sentence what a process has that the first has not; None: nothing."""
    for rank, here in enumerate(said):
        who = f"process {rank}, on {here['host']},"
        if "error" in here:
            return f"{who} cannot take part: {here['error']}"
        for name, words in IN_WORDS.items():
            if here[name] != said[0][name]:
                return f"{who} has {words} than process 0, on {said[0]['host']}; give all the same"
    return None


@cache
def _digest_of_code() -> str:
    """Return the SHA-256 of the package's Python files."""
    package, sha256 = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        sha256.update(repr((path.relative_to(package).as_posix(), len(content))).encode() + content)
    return sha256.hexdigest()
