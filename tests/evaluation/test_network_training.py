from __future__ import annotations

import pytest
import torch
from torch import nn

from dpvision.evaluation import BenchmarkTraining, ResNet9Training, train_and_test, train_network
from dpvision.evaluation.benchmark_training import BenchmarkNetwork
from dpvision.images import Images
from dpvision.networks import ResNet9
from dpvision.privacy.errors import InputError

QUICK = ResNet9Training(steps=40, batch_size=32, width=4)


def bright(n: int, seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> Images:
    """Noise whose left half is bright in one class, and whose right half is in the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = torch.randint(120, (n, *shape), generator=generator)
    half = shape[2] // 2
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, :, half * label : half * (label + 1)] += 100
    return Images(pixels.to(torch.uint8), labels, ("left", "right"), f"bright {seed}")


class Last(nn.Module):
    """A network that BatchNorm and dropout make depend on all that training keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU()
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BenchmarkTraining, "build", lambda self, images: Last())


@pytest.mark.parametrize(
    ("name", "shape", "steps"),
    [("resnet110", (1, 8, 8), 15), ("wrn-40-4", (3, 12, 12), 15), ("resnext29", (1, 8, 8), 6)],
)
def test_each_network_learns(name: BenchmarkNetwork, shape: tuple[int, int, int], steps: int) -> None:
    training = BenchmarkTraining(network=name, steps=steps, batch_size=16)
    model, test = train_network(bright(64, 0, shape), training), bright(40, 1, shape)
    with torch.no_grad():
        right = model(test.pixels).argmax(dim=1) == test.labels
    assert right.float().mean() > 0.75
    assert not model.training


def test_fifty_epochs_unless_told_otherwise() -> None:
    assert BenchmarkTraining().steps_for(60_000) == 11_719  # 50 · 60,000 / 256
    assert BenchmarkTraining().steps_for(100) == 50  # all of them in a batch
    assert BenchmarkTraining(batch_size=64).steps_for(128) == 100
    assert BenchmarkTraining(steps=7).steps_for(60_000) == 7


def test_the_rate_falls_as_in_the_benchmark() -> None:
    training = BenchmarkTraining()
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], training.learning_rate)
    schedule, rates = training.schedule(optimizer, 50), []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.01] * 20 + [0.002] * 20 + [0.0004] * 10)


def test_the_weights_are_averages_and_the_statistics_are_theirs(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, seen = bright(96, 0), []
    step = torch.optim.Adam.step

    def record(self: torch.optim.Adam, closure: None = None) -> None:
        step(self, closure)
        seen.append(self.param_groups[0]["params"][-2].detach().clone())

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    model = train_network(images, BenchmarkTraining(steps=30, batch_size=32))
    average = first_head()
    for number, weights in enumerate(seen):
        decay = min(0.9999, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights
    assert torch.allclose(model.network.head.weight, average, atol=1e-6)
    assert not torch.allclose(model.network.head.weight, seen[-1], atol=1e-3)
    # The mean before BatchNorm, over all images once.
    with torch.no_grad():
        before = model.network.layers[:2](model.normalize(images.pixels))
    assert torch.allclose(model.network.layers[2].running_mean, before.mean(dim=0), atol=1e-5)


def first_head() -> torch.Tensor:
    """The weights of the last layer before any step, with seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Last().head.weight.detach()


def test_dropout_follows_the_seed_and_leaves_the_global_generator_alone(small: None) -> None:
    images, training = bright(64, 0), BenchmarkTraining(steps=5, batch_size=16)
    state = torch.random.get_rng_state()
    one, other, third = (train_network(images, training, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.network.head.weight, other.network.head.weight)
    assert not torch.equal(one.network.head.weight, third.network.head.weight)


def test_targets_take_the_place_of_labels() -> None:
    images, test = bright(96, 0), bright(60, 1)
    assert images.labels is not None
    certain = nn.functional.one_hot(images.labels, 2).double()
    by_labels, by_targets = (
        train_network(images, QUICK, targets=targets).network.head.weight for targets in (None, certain)
    )
    assert torch.allclose(by_labels, by_targets, atol=1e-5)
    swapped = train_network(images, QUICK, targets=certain.flip(1))
    unsure = train_network(images, QUICK, targets=torch.full((96, 2), 0.5))
    with torch.no_grad():
        assert (swapped(test.pixels).argmax(dim=1) != test.labels).float().mean() > 0.9
        assert (unsure(test.pixels).softmax(dim=1) - 0.5).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.full((3, 2), 0.5), r"shape \[4, 2\]"),
        (torch.full((4, 3), 1 / 3), r"shape \[4, 2\]"),
        (torch.ones(4, 2, dtype=torch.int64), "not int64"),
        (torch.ones(4, 2), "the sum 1"),
        (torch.tensor([[1.5, -0.5]] * 4), "at least 0"),
        (torch.full((4, 2), float("nan")), "at least 0"),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_network(bright(4, 0), QUICK, targets=targets)


def test_two_images_are_enough() -> None:
    for training in (ResNet9Training(steps=2, width=2), BenchmarkTraining(network="resnet110", steps=2)):
        assert not train_network(bright(2, 0), training).training


def test_the_network_of_the_settings_counts_for_nothing_where_the_classifier_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []

    def build(self: BenchmarkTraining, images: Images) -> nn.Module:
        built.append(self.network)
        return ResNet9(1, 2, 2)

    monkeypatch.setattr(BenchmarkTraining, "build", build)
    images, training = bright(8, 0), BenchmarkTraining(network="wrn-40-4", steps=1)
    train_and_test("resnext29", images, images, benchmark=training)
    assert built == ["resnext29"]


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"network": "resnet18"},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        BenchmarkTraining(**setting)  # type: ignore[arg-type]
