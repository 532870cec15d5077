"""Whatever a network does inside: either its clipped sum is that of the definition, one example moves it by
at most C and the module is as it was, or it is refused with the true cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence

from dpvision.gradients import ClippedGradient, clipped_gradient_sum, reference_clipped_sum
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.dropout import dropout_drawn
from dpvision.gradients.forward import RowsMoved
from dpvision.gradients.module_state import left_as_it_was
from dpvision.gradients.proof import proved_ownership
from dpvision.privacy.by_example import ExampleKey
from dpvision.privacy.errors import InputError
from tests.gradients.test_side_effects import snapshot

C = 0.3
EXAMPLES = 6


def loss(output: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(output, targets, reduction="none")


class SharedUnderTwoParents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.left = nn.Sequential(shared, nn.Tanh())
        self.right = nn.Sequential(nn.Linear(4, 4), shared)
        self.again = self.left
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(x) + self.right(x) + self.left(x.tanh()))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()))


class Adapter(nn.Module):
    """A frozen layer and a trained product of low rank (LoRA), with a trained scale without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(3, 2))
        self.logit_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.logit_scale.exp() * (self.body(x) + x @ self.down.T @ self.up.T)


class Attention(nn.Module):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(2, 4), nn.Linear(4, 3)
        self.inner = nn.Linear(4, 12) if by_hand else nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (2, 2)))
        if isinstance(self.inner, nn.Linear):
            q, k, v = self.inner(x).chunk(3, dim=-1)
            x = (q @ k.mT / 2).softmax(dim=-1) @ v
        else:
            x = self.inner(x, x, x, need_weights=False)[0]
        return self.head(x.mean(dim=1))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), 2)
        packed = pack_padded_sequence(x.unflatten(1, (2, 2)), lengths, batch_first=True)
        return self.head(self.cell(packed)[1][0][0])


class Keeps(nn.Module):
    """Keeps what it is given, as feature extractors do, and cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.cache: list[Tensor] = []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.inner(x).tanh()
        self.cache.append(self.last)
        return self.head(self.last)

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("this module cannot be copied")


@dataclass
class Pair:
    mean: Tensor
    spread: Tensor


class GivesAPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Pair:
        return Pair(self.mean(x), self.spread(x))


class TakesAPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = GivesAPair(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        pair = self.inner(x)
        return self.head(pair.mean * pair.spread.tanh())


class AlwaysSingle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((x * 2).long().clamp(0, 4)).mean(dim=1))


class Experts(nn.Module):
    """Each row goes to one of two experts, by its values."""

    def __init__(self, how: str, bias: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 2)
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
        self.how = how
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(dim=1)
        # With a bias, random rows, which are between 0 and 1, all go to one expert.
        chosen = (x.sum(dim=1) > self.bias).long()
        share = shares.gather(1, chosen[:, None])
        if self.how == "masks":
            out = x.new_zeros(len(x), 3)
            for number, expert in enumerate(self.experts):
                own = chosen == number
                out[own] = expert(x[own]).to(out.dtype)
            return out * share
        if self.how == "sort":
            order = chosen.argsort(stable=True)
            counts = chosen.bincount(minlength=2).tolist()
            parts = x[order].split(counts)
            out = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
            return out[order.argsort()] * share
        # Slots by a one-hot product, one for each row of an expert.
        hot = F.one_hot(chosen, 2).to(x.dtype)
        slot = (hot.cumsum(dim=0) - 1).long().clamp(0)
        sent = hot[:, :, None] * F.one_hot(slot, len(x)).to(x.dtype)
        slots = torch.einsum("nes,nd->esd", sent, x)
        out = torch.stack([expert(own) for expert, own in zip(self.experts, slots, strict=True)])
        return torch.einsum("nes,esd->nd", sent, out) * share


class Branches(nn.Module):
    """Takes one layer or the other by the largest value of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if x.max() > 3.5 else self.small(x)


class FirstOnes(nn.Module):
    """Has room for so many rows of a batch."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.layer, self.room = nn.Linear(4, 3), room

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (torch.arange(len(x)) < self.room).to(x.dtype)[:, None]


def shared_in_a_sequence() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))


def block_three_times() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh())
    return nn.Sequential(block, block, block, nn.Linear(4, 3))


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].requires_grad_(False)
    model[0].bias.requires_grad_(False)
    return model


def fixed_batch_norm(trained: bool) -> nn.Module:
    norm = nn.BatchNorm1d(4).eval()
    norm.running_mean = torch.randn(4)
    return nn.Sequential(nn.Linear(4, 4), norm.requires_grad_(trained), nn.Linear(4, 3))


def hooked() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 3)
    prune.random_unstructured(second, "weight", 0.5)
    return nn.Sequential(nn.utils.weight_norm(first), nn.Tanh(), second)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a layer twice in a sequence": shared_in_a_sequence,
    "a block three times": block_three_times,
    "a layer under two parents": SharedUnderTwoParents,
    "tied weights": Tied,
    "partly frozen": partly_frozen,
    "an adapter": Adapter,
    "attention": lambda: Attention(by_hand=False),
    "attention by hand": lambda: Attention(by_hand=True),
    "packed sequences": Packed,
    "fixed BatchNorm": lambda: fixed_batch_norm(True),
    "frozen BatchNorm": lambda: fixed_batch_norm(False),
    "weight_norm and pruning": hooked,
    "keeps activations": Keeps,
    "a dataclass inside": TakesAPair,
    "always float32": AlwaysSingle,
    "sparse embedding": Sparse,
    "experts by masks": lambda: Experts("masks", 2.0),
    "experts by masks, one of them idle in trials": lambda: Experts("masks", 5.0),
    "experts by sorting": lambda: Experts("sort", 2.0),
    "experts by sorting, one of them idle in trials": lambda: Experts("sort", 5.0),
    "experts by slots": lambda: Experts("slots", 2.0),
    "a branch": Branches,
}


def batch(seed: int = 0, per_view: int = 2) -> tuple[Tensor, Tensor]:
    """Wider apart than the random inputs of a trial."""
    generator = torch.Generator().manual_seed(seed)
    views = 4 * torch.rand(EXAMPLES, per_view, 4, generator=generator)
    return views, torch.randint(3, (EXAMPLES, per_view), generator=generator)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten().double() for gradient in gradients.values()])


def check(model: nn.Module, views: Tensor, targets: Tensor, of: Callable[..., Tensor] = loss) -> None:
    """The sum is the definition's, one example moves it by at most C, and the module is as it was."""
    before = snapshot(model)
    engine = ClippedGradient(model, of, C, precision="float32", expected_batch_size=4)
    whole = flat(engine.sum(views, targets).gradients)
    for left_out in (0, len(views) // 2, len(views) - 1):
        others = torch.arange(len(views)) != left_out
        change = whole - flat(engine.sum(views[others], targets[others]).gradients)
        assert float(change.norm()) <= C
    assert snapshot(model) == before
    expected = flat(reference_clipped_sum(model, of, views, targets, C))
    tolerance = 1e-3 if views.dtype == torch.float32 else 2e-4  # of which 1e-4 is the engine's margin
    assert float((whole - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_is_the_definitions_and_one_example_moves_it_by_c(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    if name != "always float32":
        model.to(dtype)
    views, targets = batch()
    check(model, views.to(dtype), targets)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("how", ["masks", "sort", "slots"])
def test_experts_take_their_rows_wherever_these_are(how: str, seed: int) -> None:
    torch.manual_seed(seed)
    check(Experts(how, bias=4.0 + seed), *batch(seed))


def test_nothing_that_a_module_keeps_is_left() -> None:
    model = Keeps()
    clipped_gradient_sum(model, loss, *batch(), C)
    assert model.last is None
    assert not model.cache
    views, targets = batch()
    with pytest.raises(InputError, match="loss: it fails"):
        clipped_gradient_sum(model, loss, views, targets + 9, C)
    assert model.last is None
    assert not model.cache


@pytest.mark.parametrize("room", [8, 16])
def test_room_for_so_many_rows_is_no_reason_to_leave_examples_out(room: int) -> None:
    torch.manual_seed(0)
    engine = ClippedGradient(FirstOnes(room), loss, C, expected_batch_size=256)
    views, targets = batch()
    engine.sum(views, targets)
    assert engine.chunk * views.shape[1] <= room
    check(FirstOnes(room), views, targets)


class InPieces(nn.Module):
    """Gives its layer so many rows at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(some) for some in x.split(8)])


def test_calls_on_other_rows_than_in_the_trial_are_noticed() -> None:
    model, (views, targets) = InPieces(), batch()
    ownership = proved_ownership(model, loss, views, targets)
    with pytest.raises(RowsMoved):
        per_example_gradients(model, loss, ownership, views, targets)
    check(model, views, targets)


class CentredInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(dim=0) if self.training else x)


def test_a_network_in_another_mode_is_tried_again() -> None:
    model = CentredInTraining().eval()
    engine = ClippedGradient(model, loss, C)
    engine.sum(*batch())
    model.train()
    with pytest.raises(InputError, match="changes with the other examples"):
        engine.sum(*batch())


def test_views_may_change_in_number_and_in_shape() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3))
    engine = ClippedGradient(model, loss, C, precision="float32")
    for per_view, size in [(2, 4), (1, 4), (3, 8), (2, 4)]:
        views, targets = torch.rand(5, per_view, size), torch.arange(5) % 3
        expected = reference_clipped_sum(model, loss, views, targets[:, None].expand(-1, per_view), C)
        assert torch.allclose(
            flat(engine.sum(views, targets).gradients), flat(expected), rtol=1e-3, atol=1e-5
        )


class TwoHeads(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).tanh()
        found = (self.one(x), self.two(x))
        return found if self.kind == "tuple" else dict(zip(("one", "two"), found, strict=True))


@pytest.mark.parametrize("kind", ["tuple", "dictionary"])
def test_the_loss_may_take_a_tuple_or_a_dictionary(kind: str) -> None:
    def of_both(output: Any, targets: Tensor) -> Tensor:
        one, two = output if kind == "tuple" else output.values()
        return loss(one, targets) + 0.3 * loss(two, targets)

    torch.manual_seed(0)
    check(TwoHeads(kind), *batch(), of=of_both)


class FailsOnLarge(nn.Module):
    """Fails on real examples, which are larger than those of a trial, after half of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        x, largest = self.first(x), float(x.max())
        if largest > 1:
            raise KeyboardInterrupt
        return self.second(x)


def test_the_module_is_as_it_was_after_an_interruption() -> None:
    model = FailsOnLarge()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        clipped_gradient_sum(model, loss, *batch(), C)
    assert snapshot(model) == before
    assert not model.seen


class AssertsOnSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 5, "wrong size of image"
        return self.layer(x)


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))


@pytest.mark.parametrize(
    ("model", "views", "words"),
    [
        (lambda: nn.LazyLinear(3), torch.rand(2, 1, 4), "has no shape yet"),
        (lambda: torch.jit.script(nn.Linear(4, 3)), torch.rand(2, 1, 4), "is a ScriptModule"),
        (lambda: torch.compile(nn.Linear(4, 3)), torch.rand(2, 1, 4), "is compiled.*_orig_mod"),
        (lambda: nn.Linear(4, 3), torch.rand(2, 1, 4).half(), "its forward fails.*float16"),
        (images, torch.rand(2, 1, 8, 8), r"give views.unsqueeze\(1\)"),
        (AssertsOnSize, torch.rand(2, 1, 4), "wrong size of image.*does it fit the image size"),
        (
            lambda: nn.Sequential(nn.AlphaDropout(0.5), nn.Linear(4, 3)),
            torch.rand(2, 1, 4),
            "'0' is a AlphaDropout.*use nn.Dropout",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_refusal_names_the_cause(model: Callable[[], nn.Module], views: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        clipped_gradient_sum(model(), loss, views, torch.zeros(2).long(), C)


@pytest.mark.parametrize("norm", [1e-24, float("inf"), float("nan"), "1", True])
def test_a_clipping_norm_is_a_number_that_can_be_clipped_to(norm: Any) -> None:
    with pytest.raises(InputError, match="max_grad_norm: must be a number from"):
        clipped_gradient_sum(nn.Linear(4, 3), loss, *batch(), norm)


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.25), nn.Linear(8, 3))


def test_dropout_leaves_the_global_generator_alone() -> None:
    model, sums = with_dropout(), []
    for _ in range(2):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        sums.append(flat(clipped_gradient_sum(model, loss, *batch(), C).gradients))
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*sums)


def test_dropout_of_an_example_is_its_own() -> None:
    model, (views, targets), ids = with_dropout(), batch(), torch.arange(EXAMPLES) + 100
    engine = ClippedGradient(model, loss, C, precision="float32", expected_batch_size=4)

    def summed(some: Tensor) -> tuple[Tensor, Tensor]:
        draws = ExampleKey(bytes(32)).of(ids[some])
        found = engine.sum(views[some], targets[some], draws)
        return flat(found.gradients), found.norms

    whole, norms = summed(torch.arange(EXAMPLES))
    for left_out in range(EXAMPLES):
        others = torch.arange(EXAMPLES)[torch.arange(EXAMPLES) != left_out]
        without, their_norms = summed(others)
        assert torch.equal(their_norms, norms[others])
        assert float((whole - without).norm()) <= C


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d])
def test_dropout_drops_at_its_rate_and_scales_what_is_left(kind: type[nn.Module], p: float) -> None:
    layer = kind(p)
    x = torch.ones(50, 40, *({nn.Dropout: (), nn.Dropout1d: (3,), nn.Dropout2d: (3, 2)}[kind]))
    with left_as_it_was(layer), dropout_drawn(layer, ExampleKey(bytes(32)).of(torch.arange(50))):
        out = layer(x).flatten(2) if x.ndim > 2 else layer(x)[:, :, None]
    assert torch.equal(out, out[:, :, :1].expand_as(out))  # channels are dropped as a whole
    dropped = out[:, :, 0] == 0
    assert abs(float(dropped.float().mean()) - p) < 4 * (p * (1 - p) / dropped.numel()) ** 0.5 + 1e-9
    assert p == 1 or torch.allclose(out[~dropped], torch.tensor(1 / (1 - p)))
