from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from dpvision.images import Images
from dpvision.networks import Normalize
from dpvision.priors.phase_one import contrastive
from dpvision.priors.phase_one.contrastive import (
    ContrastiveConfig,
    alignment,
    contrastive_loss,
    load_public_images,
    shuffled_batches,
    train_body,
    uniformity,
)
from dpvision.priors.phase_one.prior_file import body_weights
from dpvision.priors.phase_one.two_views import TwoViews
from dpvision.privacy.errors import InputError

CPU = torch.device("cpu")
SMALL = ContrastiveConfig(
    network="wrn-10-1",
    network_options={"stem_stride": 2},
    view_size=16,
    steps=6,
    batch_size=16,
    embedding_dim=8,
    precision="float32",
)


class InterruptedRunError(Exception):
    pass


@pytest.fixture(scope="module")
def images() -> Images:
    return in_memory(gratings(40))


@pytest.fixture
def checkpoints_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def in_memory(pixels: Tensor) -> Images:
    return Images(pixels, None, (), "made")


def gratings(count: int) -> Tensor:
    """Waves of one direction, one frequency and two colours per image: uint8 [count, 3, 24, 24]."""
    generator = torch.Generator().manual_seed(0)
    angle, frequency = torch.rand(2, count, 1, 1, generator=generator)
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    phase = (0.3 + 1.2 * frequency) * (x * (math.pi * angle).cos() + y * (math.pi * angle).sin())
    return (torch.lerp(*colours, phase.sin()[:, None] / 2 + 0.5) * 255).byte()


def on_the_sphere(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def losses_of(config: ContrastiveConfig, images: Images) -> list[float]:
    losses: list[float] = []
    train_body(config, images, CPU, on_step=lambda _, loss: losses.append(loss.item()))
    return losses


def test_the_loss_equals_its_definition() -> None:
    x, y = on_the_sphere(7, 0), on_the_sphere(7, 1)
    aligned = sum(math.dist(*pair) ** 2 for pair in zip(x.tolist(), y.tolist(), strict=True)) / 7
    assert alignment(x, y).item() == pytest.approx(aligned, rel=1e-5)

    def uniform(points: Tensor, t: float) -> float:
        pairs = list(itertools.combinations(points.tolist(), 2))
        return math.log(sum(math.exp(-t * math.dist(*pair) ** 2) for pair in pairs) / len(pairs))

    assert uniformity(x).item() == pytest.approx(uniform(x, 2.0), rel=1e-5)
    assert uniformity(3 * x, t=0.5).item() == pytest.approx(uniform(3 * x, 0.5), rel=1e-5)
    expected = aligned + (uniform(x, 2.0) + uniform(y, 2.0)) / 2
    assert contrastive_loss(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_has_a_gradient_where_points_coincide() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    contrastive_loss(x, x.detach()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(3, 4))


def test_training_lowers_the_loss_of_images_not_seen() -> None:
    seen, unseen = gratings(192).split([128, 64])
    views = Normalize()(TwoViews(size=16)(unseen, torch.Generator().manual_seed(9)).flatten(0, 1))

    def loss_after(config: ContrastiveConfig) -> float:
        body = train_body(config, in_memory(seen), CPU)
        with torch.no_grad():
            points = F.normalize(body(views), dim=1)
        return contrastive_loss(*points.chunk(2)).item()

    config = replace(SMALL, steps=40, batch_size=32, embedding_dim=32)
    at_the_start = loss_after(replace(config, steps=1, learning_rate=1e-30))
    assert loss_after(config) < at_the_start - 0.05


def test_the_body_is_float32_in_eval_mode_and_unlike_its_start(images: Images) -> None:
    body = train_body(SMALL, images, CPU)
    assert not body.training
    assert body.embed(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    start = train_body(replace(SMALL, learning_rate=1e-30), images, CPU).state_dict()
    for name, value in body.state_dict().items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, start[name]), name


def test_the_seed_decides_everything(images: Images) -> None:
    state = torch.get_rng_state()
    losses = losses_of(SMALL, images)
    torch.manual_seed(5)
    assert losses_of(SMALL, images) == losses
    assert losses_of(replace(SMALL, seed=1), images) != losses
    torch.set_rng_state(state)
    losses_of(SMALL, images)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are used"


def test_the_learning_rate_scales_with_the_batch_and_falls_at_the_milestones() -> None:
    config = ContrastiveConfig(steps=200, batch_size=512)
    rates = {step: config.learning_rate_at(step) for step in (0, 154, 155, 169, 170, 185, 199)}
    assert rates == pytest.approx(
        {0: 0.24, 154: 0.24, 155: 0.024, 169: 0.024, 170: 0.0024, 185: 0.00024, 199: 0.00024}
    )


@pytest.mark.usefixtures("checkpoints_at_every_step")
def test_each_step_is_taken_at_its_learning_rate(images: Images, tmp_path: Path) -> None:
    def last_step(milestones: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """A filter before and after the last of 4 steps."""
        path, before = tmp_path / f"{len(milestones)}.safetensors", torch.empty(0)

        def on_step(step: int, _: Tensor) -> None:
            nonlocal before
            if step == 4:
                before = load_file(path)["network.stem.weight"]

        config = replace(SMALL, steps=4, momentum=0.0, milestones=milestones)
        train_body(config, images, CPU, checkpoint=path, on_step=on_step)
        return before, load_file(path)["network.stem.weight"]

    (before, after), (same, less) = last_step(()), last_step((0.75,))
    assert torch.equal(before, same)
    torch.testing.assert_close(less - before, (after - before) / 10, atol=1e-6, rtol=1e-2)
    assert (after - before).abs().max() > 1e-4


@pytest.mark.usefixtures("checkpoints_at_every_step")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    images: Images, tmp_path: Path, streamed: bool, momentum: float
) -> None:
    config = replace(SMALL, momentum=momentum)

    def stream(first: int) -> Iterator[Tensor]:
        return shuffled_batches(images, config, first)

    def interrupt(step: int, _: Tensor) -> None:
        if step == 4:
            raise InterruptedRunError

    source = stream if streamed else images
    expected = train_body(config, images, CPU).state_dict()
    path, steps = tmp_path / "checkpoint.safetensors", []
    with pytest.raises(InterruptedRunError):
        train_body(config, source, CPU, checkpoint=path, on_step=interrupt)
    resumed = train_body(config, source, CPU, checkpoint=path, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6]
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name

    again = train_body(config, source, CPU, checkpoint=path, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6], "a finished run trains no further"
    assert torch.equal(again.stem.weight, expected["stem.weight"])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    images = in_memory(torch.arange(48, dtype=torch.uint8).view(48, 1, 1, 1))
    batches = [b.flatten().tolist() for b in itertools.islice(shuffled_batches(images, SMALL, 0), 9)]
    epochs = [list(itertools.chain(*batches[i : i + 3])) for i in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(48))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    later = itertools.islice(shuffled_batches(images, SMALL, 4), 5)
    assert [batch.flatten().tolist() for batch in later] == batches[4:]
    incomplete = itertools.islice(shuffled_batches(images.subset(range(40)), SMALL, 0), 6)
    assert [len(batch) for batch in incomplete] == [16] * 6


def test_bfloat16_trains_alike(images: Images) -> None:
    config = replace(SMALL, learning_rate=1e-3)  # differences do not build up
    expected = losses_of(config, images)
    losses = losses_of(replace(config, precision="bfloat16"), images)
    assert losses != expected
    assert losses == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_compilation_trains_alike(images: Images) -> None:
    config = replace(SMALL, learning_rate=1e-3)
    losses = losses_of(replace(config, compile=True), images)
    assert losses == pytest.approx(losses_of(config, images), abs=0.01)


def test_public_folders_are_read_as_rgb_squares(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 20), 7, dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((16, 12, 3), 9, dtype=np.uint8)).save(tmp_path / "rgb.png")
    pixels = load_public_images(tmp_path, 8).pixels
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.tensor([7, 9], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 and at most .*, not nan"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and at most .*, not inf"),
        ({"momentum": math.nan}, "momentum must be at least 0 and below 1, not nan"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, not 1.0"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0 and finite, not nan"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"milestones": (155,)}, "milestones must be shares"),
        ({"precision": "float16"}, "precision must be auto, float32, bfloat16, not 'float16'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ContrastiveConfig(**options)  # type: ignore[arg-type]


def test_what_cannot_be_trained_is_refused(images: Images) -> None:
    with pytest.raises(InputError, match="wrn-D-K, not of 'linear'"):
        train_body(replace(SMALL, network="linear", network_options={}), images, CPU)
    with pytest.raises(InputError, match="40 images do not fill a batch of 64"):
        train_body(replace(SMALL, batch_size=64), images, CPU)


def test_a_checkpoint_of_other_initial_weights_is_refused(images: Images, tmp_path: Path) -> None:
    weights = body_weights(train_body(SMALL, images, CPU))
    train_body(SMALL, images, CPU, initial_weights=weights, checkpoint=tmp_path / "checkpoint")
    train_body(SMALL, images, CPU, initial_weights=weights, checkpoint=tmp_path / "checkpoint")
    for others in (None, {name: -tensor for name, tensor in weights.items()}):
        with pytest.raises(InputError, match="no checkpoint of this training"):
            train_body(SMALL, images, CPU, initial_weights=others, checkpoint=tmp_path / "checkpoint")


def test_a_checkpoint_that_does_not_fit_is_refused(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    config = replace(SMALL, steps=2)
    train_body(config, images, CPU, checkpoint=path)
    train_body(replace(config, precision="auto"), images, CPU, checkpoint=path)  # changes speed alone
    with pytest.raises(InputError, match="no checkpoint of this training"):
        train_body(replace(config, steps=3), images, CPU, checkpoint=path)
    save_file({"step": torch.tensor(1)}, path)
    with pytest.raises(InputError, match="no checkpoint of this training"):
        train_body(config, images, CPU, checkpoint=path)
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        train_body(config, images, CPU, checkpoint=path)
    with pytest.raises(InputError, match="cannot be written"):
        train_body(config, images, CPU, checkpoint=tmp_path / "missing" / "checkpoint.safetensors")
