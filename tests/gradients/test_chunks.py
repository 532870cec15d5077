"""What an example adds depends on nobody else: not on how many there are, nor on where in a chunk it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dpvision.gradients.clipped as clipped_module
from dpvision.gradients import ClippedGradient, clipped_gradient_sum, reference_clipped_sum
from dpvision.gradients.capture import Pass, per_example_gradients
from dpvision.gradients.chunks import chunk_sizes, fastest
from dpvision.gradients.ways import Ways
from dpvision.networks import build_network
from dpvision.privacy.errors import InputError

C = 0.1


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def batch(examples: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(examples, 2, *shape, generator=generator)
    return views, torch.randint(3, (examples,), generator=generator)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in one) ** 0.5)


class Capacity(nn.Module):
    """The second layer has room for eight rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x) * (torch.arange(len(x)) < 8)[:, None]


class Experts(nn.Module):
    """Rows go to the expert of their choice, in the order of their choice."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(8, 2), nn.Linear(8, 3)
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(dim=1)
        chosen = weights.argmax(dim=1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                out[chosen == number] = expert(x[chosen == number]) * weights[chosen == number][:, [number]]
        return self.head(out)


class Sorted(nn.Module):
    """Rows are sorted by what they hold, and put back afterwards; random ones are in their order already."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = (x.amax(dim=1) > 1).to(torch.int8).argsort(stable=True)
        return self.head(self.mix(x[order]).tanh()[order.argsort()])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(dim=0) if x.max() > 1.5 else x)


class Centred(nn.Module):
    """Mixes examples in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(dim=0) if self.training else x)


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.seen = nn.Linear(8, 3), []

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        self.seen.append(x)
        return self.head(x)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many a product of matrices is spread over, which may change how it rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("network", "left_out"),
    [
        *((network, left_out) for network in ("linear", "tanh-cnn") for left_out in (0, 4, 10)),
        *(("wrn-10-1", left_out) for left_out in (0, 10)),
    ],
)
@pytest.mark.usefixtures("threads")
def test_others_have_the_same_gradients_to_the_last_bit(network: str, left_out: int) -> None:
    torch.manual_seed(0)
    model = build_network(network, in_channels=1, image_size=(16, 16), num_classes=3)
    views, targets = batch(11, 1, 16, 16)
    engine = ClippedGradient(model, loss, C, precision="float32", expected_batch_size=8)
    whole = engine.sum(views, targets)
    assert engine.chunk > 1
    others = torch.arange(11) != left_out
    rest = engine.sum(views[others], targets[others])
    assert torch.equal(whole.norms[others], rest.norms)
    assert torch.equal(whole.losses[others], rest.losses)
    assert 0 < distance(whole.gradients, rest.gradients) <= C


@pytest.mark.parametrize("width", [8, 30, 57])
def test_features_of_any_number_go_through_in_chunks(width: int) -> None:
    views, targets = batch(40, width)
    engine = ClippedGradient(nn.Linear(width, 3), loss, C, expected_batch_size=64, precision="float32")
    whole = engine.sum(views, targets)
    assert engine.chunk == 64
    assert torch.equal(engine.sum(views[1:], targets[1:]).norms, whole.norms[1:])


@pytest.mark.parametrize(("tied", "examples"), [(False, 2048), (True, 64)])
def test_gradients_in_factors_take_no_memory(tied: bool, examples: int) -> None:
    """Of a layer that is used twice they are formed: fewer examples fit."""
    layer = nn.Linear(512, 512, bias=False)
    model = nn.Sequential(layer, layer) if tied else nn.Sequential(layer)
    assert chunk_sizes(model, torch.zeros(1, 1, 512), 10**6, memory_bytes=2**30)[0] == examples


def test_a_weight_that_two_layers_share_is_counted_once() -> None:
    """As that of a layer that is used twice: its gradient is formed."""
    layers = nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)
    layers[1].weight = layers[0].weight
    assert chunk_sizes(nn.Sequential(*layers), torch.zeros(1, 1, 512), 10**6, memory_bytes=2**30)[0] == 64


def test_all_passes_have_one_shape() -> None:
    views, targets = batch(11, 8)
    engine = ClippedGradient(nn.Linear(8, 3), loss, C, expected_batch_size=8)
    engine.sum(views, targets)
    with mock.patch.object(clipped_module, "per_example_gradients", wraps=per_example_gradients) as spy:
        for count in (11, 8, 1):
            engine.sum(views[:count], targets[:count])
    assert {tuple(call.args[3].shape) for call in spy.call_args_list} == {(8, 2, 8)}


def test_a_network_that_treats_places_unlike_gets_smaller_chunks() -> None:
    torch.manual_seed(0)
    model = Capacity()
    views, targets = batch(20, 8)
    engine = ClippedGradient(model, loss, C, expected_batch_size=16, precision="float32")
    whole = engine.sum(views, targets)
    assert engine.chunk * 2 <= 8
    assert distance(whole.gradients, engine.sum(views[1:], targets[1:]).gradients) <= C


@pytest.mark.parametrize("network", [Experts, Sorted, Branches])
def test_a_network_that_decides_by_values_takes_one_example_at_a_time(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network()
    views, targets = batch(9, 8)
    views *= 3
    engine = ClippedGradient(model, loss, C, precision="float32")
    whole = engine.sum(views, targets)
    assert engine.chunk == 1
    expected = reference_clipped_sum(model, loss, views, targets[:, None].expand(-1, 2), C)
    assert distance(whole.gradients, expected) < 1e-3 * C * 9
    for left_out in (0, 4, 8):
        others = torch.arange(9) != left_out
        assert distance(whole.gradients, engine.sum(views[others], targets[others]).gradients) <= C


def test_a_change_of_mode_is_a_new_trial() -> None:
    model = Centred().eval()
    views, targets = batch(4, 8)
    engine = ClippedGradient(model, loss, C)
    engine.sum(views, targets)
    model.train()
    with pytest.raises(InputError, match="changes with the other examples"):
        engine.sum(views, targets)


def test_a_module_keeps_nothing_of_a_batch() -> None:
    model = Keeps()
    clipped_gradient_sum(model, loss, *batch(4, 8), C)
    assert not hasattr(model, "last")
    assert model.seen == []


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        ({1: 0.03, 2: 0.035, 4: 0.2, 8: 0.01}, 2, {1, 2, 4}),
        ({1: 0.03, 2: 0.035, 4: 0.04, 8: 0.05}, 8, {1, 2, 4, 8}),
        ({1: 0.001, 2: 0.0, 4: 0.0, 8: 0.0}, 1, {1}),  # too short to tell
        ({1: 0.03, 2: None, 4: 0.01, 8: 0.01}, 1, {1, 2}),  # no memory for two
    ],
)
def test_the_chunk_with_which_a_batch_takes_least_is_chosen(
    seconds: dict[int, float | None], best: int, tried: set[int]
) -> None:
    seen = set()

    def run(ways: Ways, views: Tensor, targets: Tensor) -> Pass:
        seen.add(len(views))
        wait = seconds[len(views)]
        if wait is None:
            raise RuntimeError("out of memory")
        time.sleep(wait)
        return Pass(torch.zeros(len(views)))

    chunk, _ = fastest(run, [1, 2, 4, 8], *batch(1, 8), expected_batch_size=64)
    assert (chunk, seen) == (best, tried)
