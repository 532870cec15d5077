"""That no worst-case image changes a clipped sum by more than its bound, and that faults of clipping show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, capture, clipped, proof, rounding
from dpvision.gradients.per_example import Factored, PerExample
from dpvision.gradients.standardized import PulledBack
from dpvision.images import Images
from dpvision.networks import build_classifier
from dpvision.networks.weight_standardization import WeightStandardizedConv2d
from dpvision.testing import largest_contribution
from dpvision.training import PrivateTrainer, StepKeys
from dpvision.views import DPMix, Pool, SelfAugmentation

CLASSES = 4
PLAIN = SelfAugmentation(augmult=4, pad=0, flip=False)


def made(count: int = 6, side: int = 8, channels: int = 1) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % CLASSES, tuple("abcd"), "made")


def built(name: str, images: Images) -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(name, image_shape=images.shape, class_names=images.class_names)


@pytest.mark.parametrize(("name", "side"), [("linear", 8), ("tanh-cnn", 14), ("wrn-10-1", 8)])
def test_built_in_networks_keep_the_bound_and_come_near_it(name: str, side: int) -> None:
    images = made(side=side)
    network = built(name, images)
    found = largest_contribution(
        network, images, policy=SelfAugmentation(2, pad=1), max_grad_norm=0.1, steps=2
    )
    assert 0.9 < found.share <= 1


def test_the_network_and_its_gradients_are_left_as_they_were() -> None:
    images = made()
    network = built("linear", images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert largest_contribution(network, images) == largest_contribution(network, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_norms_of_long_rows_in_single_precision_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    images = made(count=1, side=384, channels=3)
    network = built("linear", images)
    monkeypatch.setattr(
        rounding, "squared_norms", lambda rows: torch.linalg.vector_norm(rows, dim=1).square().double()
    )
    assert largest_contribution(network, images, policy=PLAIN, max_grad_norm=0.1).share > 1


def test_ghost_norms_in_single_precision_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image beside a public one that looks nearly the same: their gradients nearly cancel."""
    images = made()
    pool = Pool(
        Images(torch.full((1, *images.shape), 130, dtype=torch.uint8), None, (), "grey"),
        torch.full((1, CLASSES), 1 / CLASSES),
        images.class_names,
        "grey",
        {},
    )
    mixed = DPMix(SelfAugmentation(1, pad=0, flip=False), k_self=0, pool=pool, k_diff=1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(images.pixels[0].numel(), CLASSES))
    with torch.no_grad():  # half of each target
        network[1].weight.zero_()
        network[1].bias.copy_(((torch.eye(CLASSES)[0] + 1 / CLASSES) / 2).log())
    network[1].bias.requires_grad_(False)

    def largest() -> float:
        return largest_contribution(network, images, policy=mixed, max_grad_norm=1e-10, steps=CLASSES).share

    def in_single_precision(a: Tensor, b: Tensor) -> Tensor:
        return (torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).sum(dim=(1, 2)).clamp(min=0).double()

    assert 0.9 < largest() <= 1
    monkeypatch.setattr(Factored, "ghost_norms", staticmethod(in_single_precision))
    assert largest() > 1


class Standardized(nn.Module):
    """One standardised convolution, which alone learns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = WeightStandardizedConv2d(1, 4, 3, bias=False), nn.Linear(4, CLASSES)
        for fixed in (self.convolution.gain, *self.head.parameters()):
            fixed.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.convolution(rows).tanh().mean(dim=(2, 3)))


def test_pulled_back_norms_without_their_errors_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image of little contrast leaves of a gradient under standardisation is small."""

    def as_in_exact_arithmetic(self: PulledBack) -> Tensor:
        rows = self._by_channel(self.gradients)
        left = rows.square().sum(2) - rows.sum(2).square() / rows.shape[2] - self.to_gain.square()
        return (self._factor.square() * left.clamp(min=0).double()).sum(1)

    def largest() -> float:
        return largest_contribution(Standardized(), made(), max_grad_norm=1e-6, steps=CLASSES).share

    assert 0.9 < largest() <= 1
    monkeypatch.setattr(PulledBack, "squared_norms", as_in_exact_arithmetic)
    assert largest() > 1


def test_views_drawn_in_the_order_of_the_batch_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_place(
        trainer: PrivateTrainer, examples: Tensor, labels: Tensor, ids: Tensor, keys: StepKeys
    ) -> Any:
        return trainer.policy(examples, labels, keys.views.of(torch.arange(len(ids))))

    monkeypatch.setattr(PrivateTrainer, "views", by_place)
    images = made()
    found = largest_contribution(
        built("linear", images), images, policy=SelfAugmentation(2, pad=2), max_grad_norm=0.1
    )
    assert found.share > 1
    assert found.place != "last"


class Twice(nn.Module):
    """One layer under two names, called by both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 64)
        self.second, self.head = self.first, nn.Linear(64, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.second(self.first(rows.flatten(1)).tanh()).tanh())


class Uncounted:
    """Gradients that are summed, and not in the norm."""

    def __init__(self, gradients: PerExample) -> None:
        self.weighted_sum = gradients.weighted_sum
        self.squared_norms = lambda: torch.zeros_like(gradients.squared_norms())


def test_a_layer_that_is_left_out_of_the_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest() -> float:
        return largest_contribution(Twice(), made(), max_grad_norm=0.01).share

    right: Callable[..., Any] = clipped.per_example_gradients

    def without_the_second_name(*arguments: Any) -> Any:
        found = right(*arguments)
        found.gradients = {
            name: Uncounted(gradients) if name.startswith("first.") else gradients
            for name, gradients in found.gradients.items()
        }
        return found

    assert 0.9 < largest() <= 1
    monkeypatch.setattr(clipped, "per_example_gradients", without_the_second_name)
    assert largest() > 1


class BrightLast(nn.Module):
    """A layer that takes bright rows last. The random ones of a trial are never as bright."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        order = (rows.mean(dim=(1, 2, 3)) > 0.9).byte().argsort(stable=True)
        return self.head(self.layer(rows.flatten(1)[order]).tanh()[order.argsort()])


def test_rows_that_are_moved_by_their_values_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest() -> float:
        return largest_contribution(BrightLast(), made(), max_grad_norm=0.01, steps=3).share

    assert 0.9 < largest() <= 1
    monkeypatch.setattr(proof, "decides_by_values", lambda *_: False)
    assert largest() > 1


def test_dropout_from_one_generator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    images = made()
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, CLASSES))

    def largest() -> float:
        return largest_contribution(network, images, max_grad_norm=0.01).share

    @contextmanager
    def of_pytorch(*_: Any) -> Iterator[None]:
        yield

    right = ClippedGradient.sum

    def with_a_fixed_seed(*arguments: Any, **options: Any) -> Any:
        torch.manual_seed(0)
        return right(*arguments, **options)

    assert 0.9 < largest() <= 1
    monkeypatch.setattr(capture, "dropout_drawn", of_pytorch)
    monkeypatch.setattr(ClippedGradient, "sum", with_a_fixed_seed)
    assert largest() > 1
