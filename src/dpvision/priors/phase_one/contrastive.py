"""Phase I of DP-RandP (Tang et al., arXiv 2306.06076, section 3): a network's body learns from public images,
without labels, to tell two views of one image from views of others. Nothing private enters.

The loss is alignment plus uniformity on the hypersphere (Wang and Isola, arXiv 2005.10242, section 4).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dpvision.images import ImageSet, open_images
from dpvision.images.atomic import replacing
from dpvision.images.identity import digest_of
from dpvision.networks import Normalize, WideResNet, build_network
from dpvision.networks.precision import Precision, resolve_precision
from dpvision.networks.weights import opened
from dpvision.parallel import ALONE, Peers
from dpvision.priors.phase_one.prior_file import load_body
from dpvision.priors.phase_one.two_views import TwoViews
from dpvision.privacy.errors import InputError
from dpvision.privacy.values import check_rate

BatchStream = Callable[[int], Iterator[Tensor]]
"""A function from a step to the batches of that step and all later ones: uint8 ``[batch_size, 3, S, S]``."""
OnStep = Callable[[int, Tensor], None]
"""A function called after each step with the number of steps done, and the step's loss: a scalar on the
device (to read it is to wait).
"""

SPEED_SWITCHES = ("precision", "compile")
SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class ContrastiveConfig:
    """Settings that say how a body is trained. The defaults are the paper's: 200 epochs, 42 million views.

    Attributes:
        network: "wrn-D-K".
        network_options: further arguments of :class:`WideResNet`.
        processes: the random processes that made the images.
        count: the number of images; each process made its share.
        image_size: their side, in pixels.
        view_size: the side of the views, in pixels, which is what the network will be good for.
        steps: updates; each takes batch_size images, hence 2·batch_size views.
        batch_size: images per step, at least 2.
        learning_rate: SGD's, for batches of 256 images; it is scaled in proportion to batch_size.
        momentum, weight_decay: SGD's.
        milestones: shares of the steps after which the learning rate falls to a tenth, each time.
        embedding_dim: the dimension of the points on the hypersphere.
        seed: the seed of the initialisation, the order of the images and the views; at least 0.
        precision: the precision of forward and backward; "auto" is bfloat16 where the hardware multiplies its
            matrices.
        compile: run views and forward through ``torch.compile``, which needs a C++ compiler.

    Raises:
        InputError: for values that no training could have.
    """

    network: str = "wrn-16-4"
    network_options: dict[str, Any] = field(default_factory=dict)
    processes: tuple[str, ...] = ("stylegan-oriented",)
    count: int = 105_000
    image_size: int = 64
    view_size: int = 32
    steps: int = 82_000
    batch_size: int = 256
    learning_rate: float = 0.12
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (155 / 200, 170 / 200, 185 / 200)
    embedding_dim: int = 128
    seed: int = 0
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 2), ("embedding_dim", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        check_rate(self.learning_rate, "learning_rate")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be at least 0 and finite, not {self.weight_decay}")
        if not all(0 <= milestone <= 1 for milestone in self.milestones):
            raise InputError(f"milestones must be shares of the steps in 0..1, not {self.milestones}")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision must be {', '.join(get_args(Precision))}, not {self.precision!r}")

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of ``step``, from 0."""
        passed = sum(step >= milestone * self.steps for milestone in self.milestones)
        return self.learning_rate * self.batch_size / 256 * 0.1**passed


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Compute the mean of ‖x − y‖² over pairs ``[B, D]``: how far apart two views of an image are."""
    return (x - y).square().sum(dim=1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Compute the log of the mean of exp(−t ‖xᵢ − xⱼ‖²) over the pairs i < j of points ``[B, D]``, B ≥ 2."""
    norms = x.square().sum(dim=1)
    distances = norms[:, None] + norms[None, :] - 2 * (x @ x.T)  # [B, B], squared
    # Every pair stands there twice, and every point with itself once, which does not count.
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    exponents = (-t * distances).masked_fill(itself, -torch.inf)
    return exponents.flatten().logsumexp(dim=0) - float(np.log(len(x) * (len(x) - 1)))


def contrastive_loss(x: Tensor, y: Tensor) -> Tensor:
    """Compute alignment of the views ``[B, D]``, ``[B, D]`` plus the mean of their uniformities."""
    return alignment(x, y) + (uniformity(x) + uniformity(y)) / 2


def train_body(
    config: ContrastiveConfig,
    images: ImageSet | BatchStream,
    device: torch.device | str,
    *,
    initial_weights: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    peers: Peers = ALONE,
) -> WideResNet:
    """Train a network so that its ``stem`` and ``stages`` make a prior.

    The network's own ``head``, a linear layer to embedding_dim, is the projection; it and ``final`` are of no
    use afterwards. Inputs are normalised by :class:`dpvision.networks.Normalize`. All randomness of a step
    comes from the seed and the step's number, so a resumed run goes on as it would have.

    Args:
        images: N ≥ batch_size public RGB images, shuffled anew each epoch (an epoch's last incomplete batch
            is left out); or a stream of batches.
        device: the device to train on.
        initial_weights: the weights of the ``stem`` and ``stages`` to begin with; by default random ones.
        checkpoint: a safetensors file, written about once a minute and at the end, from which an interrupted
            run of the same config, images and initial weights goes on (a stream's images are not compared);
            a finished one returns at once.
        on_step: is told of every step.
        peers: the processes that train together, each on a part of every batch: what the leader steps by is
            the gradient of the loss of the whole batch. The checkpoint and the initial weights are its alone.

    Returns:
        The network in eval mode, on the device, float32.

    Raises:
        InputError: if the network is no wide residual network or does not take the views; initial weights of
            another network; too few images; a checkpoint that is damaged, or of another config or other
            images or initial weights.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config.seed, "initialisation"))
        network = build_network(
            config.network,
            in_channels=3,
            image_size=(config.view_size, config.view_size),
            num_classes=config.embedding_dim,
            **config.network_options,
        )
    if not isinstance(network, WideResNet):
        raise InputError(f"a prior is the body of a network wrn-D-K, not of '{config.network}'")
    if initial_weights is not None:
        load_body(network, initial_weights)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate_at(0),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    fingerprint = _fingerprint(config, images, initial_weights) if peers.leads else ""
    first = 0 if checkpoint is None else _resume(checkpoint, fingerprint, network, optimizer)
    first = peers.say(first)

    normalize = Normalize().to(device)
    two_views = TwoViews(size=config.view_size)
    autocast_dtype = resolve_precision(config.precision, device)

    def points_of(batch: Tensor, u: Tensor) -> Tensor:
        views = two_views.make(batch, u).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
            embeddings = network(normalize(views))  # [2·B, embedding_dim]
        return torch.cat(F.normalize(embeddings.float(), dim=1).chunk(2), dim=1)  # [B, 2·embedding_dim]

    embed = torch.compile(points_of) if config.compile else points_of
    parameters = list(network.parameters())
    generator = torch.Generator(device)
    batches = shuffled_batches(images, config, first) if isinstance(images, ImageSet) else images(first)
    saved_at = time.monotonic()
    for step in range(first, config.steps):
        batch = next(batches)
        generator.manual_seed(_seed(config.seed, "views", step))
        draws = two_views.draw(len(batch), generator).unflatten(0, (len(batch), 2))
        own = parts_of_batch(len(batch), peers.size)[peers.rank]
        peers.share(parameters)
        points = embed(batch[own].to(device, non_blocking=True), draws[own.to(device)].flatten(0, 1))
        loss = contrastive_loss(*_of_all(peers, points, len(batch)).chunk(2, dim=1))
        optimizer.zero_grad()
        loss.backward()
        peers.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not peers.leads:
            continue
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, loss.detach())
        due = time.monotonic() - saved_at >= SECONDS_BETWEEN_CHECKPOINTS
        if checkpoint is not None and (due or step + 1 == config.steps):
            _save(checkpoint, fingerprint, network, optimizer, step + 1)
            saved_at = time.monotonic()
    return network.eval()


def parts_of_batch(count: int, processes: int) -> list[Tensor]:
    """Return the indices of the images of a batch that each process takes. Each part begins with an even one,
    for in which turn :class:`TwoViews` changes the hue of a view follows from its place.
    """
    parts = torch.arange(0, count, 2).tensor_split(processes)
    return [torch.stack([part, part + 1], dim=1).flatten().clamp(max=count - 1).unique() for part in parts]


def _of_all(peers: Peers, points: Tensor, count: int) -> Tensor:
    """Return the points of a whole batch, ``[count, D]``, given those of this process' part, through which
    alone gradients flow: the gradients of all processes then add up to that of the batch.
    """
    sizes = [len(part) for part in parts_of_batch(count, peers.size)]
    parts = peers.every(F.pad(points, (0, 0, 0, max(sizes) - len(points))))
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    parts[peers.rank] = points
    return torch.cat(parts)


def load_public_images(path: str | os.PathLike[str], size: int) -> ImageSet:
    """Return the images that :func:`dpvision.images.open_images` finds, in RGB: uint8 ``[N, 3, size, size]``.

    Who calls this declares them public: no privacy guarantee covers what is learnt from them.

    Raises:
        InputError: as ``open_images``.
    """
    try:
        return open_images(path, size=size, channels=3, unit="image")
    except InputError:  # labels are not needed, but without them its digest is not that of the data set
        return open_images(path, size=size, channels=3, labelled=False, unit="image")


def shuffled_batches(images: ImageSet, config: ContrastiveConfig, first: int) -> Iterator[Tensor]:
    """Yield the batches of step ``first`` and all later ones, uint8 ``[B, 3, S, S]`` on the CPU; seed and
    epoch decide an epoch's order.
    """
    per_epoch = len(images) // config.batch_size
    if per_epoch == 0:
        raise InputError(
            f"{len(images)} images do not fill a batch of {config.batch_size}; "
            "give more images, or a smaller batch_size"
        )
    epoch, skip = divmod(first, per_epoch)
    while True:
        order = torch.randperm(
            len(images), generator=torch.Generator().manual_seed(_seed(config.seed, "order", epoch))
        )
        batches = order[: per_epoch * config.batch_size].split(config.batch_size)
        for indices in batches[skip:]:
            yield images.take(indices)
        epoch, skip = epoch + 1, 0


def _seed(seed: int, purpose: str, number: int = 0) -> int:
    """Return a seed of its own for every use."""
    words = [seed, *purpose.encode(), number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1  # fits a signed integer


def _save(path: Path, fingerprint: str, network: nn.Module, optimizer: torch.optim.SGD, step: int) -> None:
    """Save everything that the next step depends on, in one file that is replaced whole."""
    state = {"step": torch.tensor(step)}
    for name, parameter in network.named_parameters():
        state[f"network.{name}"] = parameter.detach().contiguous()
        if optimizer.defaults["momentum"]:
            state[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"].contiguous()
    try:
        with replacing(path) as partial:
            save_file(state, partial, metadata={"config": fingerprint})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written ({error}); choose another place for it") from error


def _resume(path: Path, fingerprint: str, network: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Return the number of steps done, after restoring what :func:`_save` wrote; 0 if there is no file."""
    if not path.exists():
        return 0
    with opened(path) as file:
        if (file.metadata() or {}).get("config") != fingerprint:
            raise InputError(
                f"{path} is no checkpoint of this training; "
                "remove it, or restore the settings that it was made with"
            )
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(file.get_tensor(f"network.{name}"))
                if optimizer.defaults["momentum"]:
                    buffer = torch.empty_like(parameter).copy_(file.get_tensor(f"momentum.{name}"))
                    optimizer.state[parameter]["momentum_buffer"] = buffer
        return int(file.get_tensor("step"))


def _fingerprint(
    config: ContrastiveConfig, images: ImageSet | BatchStream, initial_weights: Mapping[str, Tensor] | None
) -> str:
    """Compute the digest of all that a resumed run must agree on.

    That is the images that are there, the initial weights, and all of config but the switches that change
    speed alone. The images of a stream are taken to follow from the config.
    """
    fields = {name: value for name, value in asdict(config).items() if name not in SPEED_SWITCHES}
    if isinstance(images, ImageSet):
        fields["images"] = images.pixel_digest
    if initial_weights is not None:
        fields["initial_weights"] = {
            name: digest_of(tensor.cpu().numpy()) for name, tensor in initial_weights.items()
        }
    return json.dumps(fields, sort_keys=True)
