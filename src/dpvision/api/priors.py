"""Make a prior from public images: of random processes, or of a folder that the caller declares public."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dpvision.api.devices import resolve_device
from dpvision.api.sources import lasting
from dpvision.api.together import (
    follow,
    leading,
    own_device,
    refuse_others,
    taking_part,
    tell,
    what_is_here,
)
from dpvision.images import Images, ImageSet
from dpvision.images.files import named
from dpvision.images.indexed import indexed
from dpvision.images.look_alikes import warn_of_indexed_look_alikes
from dpvision.images.public import refuse_data_with_ledger
from dpvision.images.released import guarantee_with
from dpvision.parallel import ALONE, Peers, peers
from dpvision.priors import ContrastiveConfig, Prior, image_batches, load_prior, save_prior
from dpvision.priors.phase_one.contrastive import (
    BatchStream,
    load_public_images,
    shuffled_batches,
    train_body,
)
from dpvision.priors.phase_one.places import check_new_prior
from dpvision.priors.phase_one.prior_file import (
    INITIAL_PRIOR,
    LEARNED_FROM,
    body_weights,
    input_normalization,
)
from dpvision.privacy import InputError
from dpvision.runs.progress import Progress

MOST_IMAGES_PER_BATCH = 64  # made at once
LAST_LOSSES = 100  # whose mean is the figure of a prior


def train_prior(
    config: ContrastiveConfig,
    out: str | os.PathLike[str],
    *,
    public_images: str | os.PathLike[str] | None = None,
    stream: bool = False,
    initial_prior: str | os.PathLike[str] | None = None,
    device: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Prior:
    """Learn a network's body from public images, and write it to a file: Phase I of DP-RandP (arXiv
    2306.06076). An interrupted training goes on from the checkpoint beside ``out``, if it is called again
    likewise.

    Args:
        config: how to train.
        out: the prior's file, ending in .safetensors, in a folder that exists; its provenance goes beside it.
        public_images: images for :func:`dpvision.open_images` that are public, in place of the processes'. No
            guarantee covers them.
        stream: make new images for every step, instead of ``config.count`` before the first.
        initial_prior: a prior of the same network to begin with, a bundled one's name or a file.
        device: as for `dpvision.train`.
        command: for the provenance, which is published with what the prior is used for: without folders of
            this machine; by default the Python that calls this function likewise.
        progress: see `Progress`.

    Returns:
        The prior, as it was read from its new file; in a process that follows another, None.

    Raises:
        InputError: a setting or the images cannot be used, the images were made of private ones, or the file
            cannot be written.
    """
    group = peers()
    if not group.leads:
        follow(group)
        return cast("Prior", None)
    path = Path(out)
    with leading(group):
        check_new_prior(path)
        if public_images is not None and stream:
            raise InputError(
                "public images are there already; leave stream out, or leave the public images out"
            )
        if config.batch_size < 2 * group.size and group.size > 1:
            raise InputError(
                f"a batch of {config.batch_size} images is too small for {group.size} processes; take a "
                "larger batch_size, or fewer processes"
            )
        chosen = resolve_device(device)
        public_name = None if public_images is None else named(public_images)
        command = command or _python(
            config,
            path.name,
            public_images=public_name,
            stream=stream,
            initial_prior=initial_prior and named(initial_prior),
            device=device,
        )
        initial = None if initial_prior is None else load_prior(initial_prior)
        origin: dict[str, Any] = {} if initial is None else {INITIAL_PRIOR: initial.provenance}
        public = None
        if public_images is not None:
            if guarantee_with(public_images) is not None:
                raise InputError(
                    f"the images of {public_images} were made of private ones, and a prior says nowhere what "
                    "that cost; give public images"
                )
            public = load_public_images(public_images, config.image_size)
            refuse_data_with_ledger(public, "public images")
            known = indexed(public)
            then = "no guarantee would cover what is learned of them"
            warn_of_indexed_look_alikes(public, known, "public images", then)
            origin[LEARNED_FROM] = public.pixel_digest
            known.index.note_public(public.pixel_digest, known.identities, known.fingerprints)
            config = replace(config, processes=(), count=len(public))
        elif stream:
            config = replace(config, count=config.steps * config.batch_size)
        _begin_together(group, config, chosen, public, public_images, stream)
    images = public or _of_processes(config, chosen, stream, progress, group)

    losses: list[Tensor] = []

    def on_step(done: int, loss: Tensor) -> None:
        losses.append(loss)
        del losses[:-LAST_LOSSES]
        if progress:
            progress("training", done, config.steps)

    checkpoint = path.with_suffix(".checkpoint")
    body = train_body(
        config,
        images,
        chosen,
        initial_weights=None if initial is None else initial.weights,
        checkpoint=checkpoint,
        on_step=on_step,
        peers=group,
    )
    settings = asdict(config)
    provenance = {
        **{name: settings[name] for name in ("count", "steps", "batch_size", "seed")},
        "processes": list(config.processes) or [f"public images: {public_name}"],
        "views": 2 * config.steps * config.batch_size,
        "settings": settings,
        "stream": stream,
        "command": command,
        "figure": _figure(losses),
        "normalization": input_normalization(),
        "version": version("dpvision"),
        **origin,
    }
    prior = Prior(path.stem, config.network, config.network_options, body_weights(body), provenance)
    save_prior(path, prior)
    checkpoint.unlink(missing_ok=True)
    return load_prior(path)


def _begin_together(
    group: Peers,
    config: ContrastiveConfig,
    device: torch.device,
    public: ImageSet | None,
    spec: str | os.PathLike[str] | None,
    stream: bool,
) -> None:
    """Tell those that follow what to learn from, and check that they have the same."""
    if group.size == 1:
        return
    prior = {
        "config": asdict(config),
        "device": str(device),
        "public_images": None if spec is None else lasting(spec),
        "stream": stream,
    }
    tell(group, {"prior": prior})
    refuse_others(group, what_is_here(public.pixel_digest if public else None))


def follow_prior(group: Peers, prior: Mapping[str, Any]) -> None:
    """Learn with the process that leads, as it told to.

    Raises:
        InputError: this process has other images, code or torch, or cannot read the images.
    """
    config, device = ContrastiveConfig(**prior["config"]), torch.device(own_device(prior["device"]))
    spec, public = prior["public_images"], None
    with taking_part(group):
        public = None if spec is None else load_public_images(spec, config.image_size)
    refuse_others(group, what_is_here(public.pixel_digest if public else None))
    images = public or _of_processes(config, device, prior["stream"], None, group)
    train_body(config, images, device, peers=group)


def _of_processes(
    config: ContrastiveConfig,
    device: torch.device,
    stream: bool,
    progress: Progress | None,
    group: Peers,
) -> BatchStream:
    """Return batches of images of random processes, from any step on: new ones of each, or of a pool."""
    return partial(_stream, config, device) if stream else partial(_pool, config, device, progress, group)


def _pool(
    config: ContrastiveConfig,
    device: torch.device,
    progress: Progress | None,
    group: Peers,
    first: int,
) -> Iterator[Tensor]:
    """Yield batches of step ``first`` and all later ones, from a pool of ``config.count`` images.

    The pool takes minutes: it is made when the first batch is asked for, after all else has been checked.
    """
    pixels = made_images(config, device, progress, group)
    yield from shuffled_batches(Images(pixels, None, (), "images of processes"), config, first)


def made_images(
    config: ContrastiveConfig, device: torch.device, progress: Progress | None, group: Peers = ALONE
) -> Tensor:
    """Make ``config.count`` images, uint8 ``[N, 3, S, S]`` on the CPU: as many of each process, to within a
    batch. Of several processes of the ``group``, each makes some of the batches, and all get all of them.
    """
    batch_size = fair_batch_size(config.count, config.processes)
    made: list[Tensor] = []
    while len(made) * batch_size < config.count:
        batches = image_batches(
            config.processes, config.image_size, config.seed, device, batch_size, len(made) + group.rank
        )
        made += [batch.cpu() for batch in group.every(next(batches))]
        if progress:
            progress("making images", min(len(made) * batch_size, config.count), config.count)
    return torch.cat(made)[: config.count]


def fair_batch_size(count: int, processes: Sequence[str]) -> int:
    """Choose a batch size for processes that make batches in turn, so that each makes its fair share.

    Of the first ``count`` images each process makes as many, to within a batch.

    Raises:
        InputError: there is not one image for each process.
    """
    share = _share(count, processes)
    rounds = -(-share // MOST_IMAGES_PER_BATCH)
    return -(-share // rounds)


def _stream(config: ContrastiveConfig, device: torch.device, first: int) -> Iterator[Tensor]:
    """Yield batches of step ``first`` and all later ones; every one mixes all processes."""
    processes = len(config.processes)
    share = _share(config.batch_size, config.processes)
    parts = image_batches(
        config.processes, config.image_size, config.seed, device, share, first=first * processes
    )
    while True:
        yield torch.cat(list(islice(parts, processes)))[: config.batch_size]


def _share(images: int, processes: Sequence[str]) -> int:
    """Return how many images each process makes so that all make ``images`` together, rounded up.

    Raises:
        InputError: there is not one image for each process.
    """
    if images < max(1, len(processes)):
        raise InputError(
            f"{images} images are too few for {len(processes)} processes to make one each; "
            "ask for more images, or fewer processes"
        )
    return -(-images // max(1, len(processes)))  # image_batches refuses no processes


def _figure(losses: list[Tensor]) -> str:
    if not losses:
        return "complete before this process began; its last losses were not kept"
    mean = float(torch.stack(losses).mean())
    return f"alignment and uniformity loss {mean:.4f} over the last {len(losses)} steps"


def _python(config: ContrastiveConfig, out: str, **options: Any) -> str:
    """Return the call of `train_prior`, to be pasted in the folder of its files."""
    given = [f"{name}={value!r}" for name, value in options.items() if value]
    call = ", ".join([repr(config), repr(out), *given])
    return (
        "from dpvision.api.priors import train_prior; from dpvision.priors import ContrastiveConfig; "
        f"train_prior({call})"
    )
