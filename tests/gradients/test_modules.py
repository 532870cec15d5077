"""Per-example gradients of whole modules are those of a micro-batch of one, however they are built."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import clipped_gradient_sum, reference_gradients
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.ownership import Ownership
from dpvision.gradients.proof import proved_ownership


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class Scale(nn.Module):
    """Parameters of its own, and an argument besides the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, offset: Tensor | float = 0.0) -> Tensor:
        return torch.tanh((x + offset) * self.weight)


class Head(nn.Module):
    """``body``, whose first output if there are several is averaged over positions and classified."""

    def __init__(self, body: nn.Module, features: int = 6) -> None:
        super().__init__()
        self.body, self.classify = body, nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return self.classify((out[0] if isinstance(out, tuple) else out).mean(dim=1))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(6, 6)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(1, 5, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patches(x)], dim=1)
        return self.head(self.norm(self.block(tokens + self.positions))[:, 0])


class TiedDecoder(nn.Module):
    """Token indices in; the decoder's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(5, 6), nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 5, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.mix(self.embedding(tokens))).mean(dim=1))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + torch.tanh(self.norm(self.mix(x)))
        return self.head(x.mean(dim=1))


class UsedOutside(nn.Module):
    """A weight is used again, outside its layer's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((torch.tanh(self.mix(x)) @ self.mix.weight).mean(dim=1))


class NeverCalled(nn.Module):
    """A layer that only lends its weights, and one that is not used at all."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head, self.unused = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(F.linear(x, self.mix.weight, self.mix.bias)).mean(dim=1))


class SequenceFirst(nn.Module):
    """Attention with the batch in the second dimension."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.attend, self.head = length, nn.MultiheadAttention(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.length].transpose(0, 1)
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(dim=0))


class SharedArgument(nn.Module):
    """A layer is called with a tensor that all examples share, of as many rows as there are positions."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.scale, self.head = nn.Parameter(torch.randn(4, 6)), Scale(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale(x, offset=self.offset).mean(dim=1))


class SharedInput(nn.Module):
    """A layer with a rule reads a parameter instead of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.mix, self.head = nn.Parameter(torch.randn(4, 2)), nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x + self.mix(self.offset)).mean(dim=1))


class PatchesAsRows(nn.Module):
    """Positions join the batch dimension on the way through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.scale, self.head = nn.Linear(6, 6), Scale(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale(self.mix(x.flatten(0, 1))).unflatten(0, (len(x), -1)).mean(dim=1))


class WithoutGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.mix(x)
        return self.head(features.mean(dim=1))


class InPlace(nn.Module):
    """An activation in place, of a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ReLU(inplace=True)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=1))


def frozen() -> nn.Module:
    model = VisionTransformer()
    model.patches.requires_grad_(False)
    model.cls_token.requires_grad_(False)
    model.block.self_attn.out_proj.bias.requires_grad_(False)
    return model


MODULES: dict[str, Callable[[], nn.Module]] = {
    "bare parameters": lambda: Head(nn.Sequential(nn.Linear(6, 6), Scale())),
    "vision transformer": VisionTransformer,
    "frozen parameters": frozen,
    "reused": Reused,
    "used outside its layer": UsedOutside,
    "never called": NeverCalled,
    "attention, batch second": lambda: SequenceFirst(3),
    "attention, batch second, as many positions as rows": lambda: SequenceFirst(4),
    "shared argument": SharedArgument,
    "shared input": SharedInput,
    "patches as rows": PatchesAsRows,
    "encoder, not in training": lambda: Head(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)).eval(),
    "LSTM": lambda: Head(nn.LSTM(6, 6, batch_first=True)),
    "GRU": lambda: Head(nn.Sequential(nn.Linear(6, 6), nn.GRU(6, 6, batch_first=True))),
    "weight norm": lambda: Head(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), 5),
    "without gradient": WithoutGradient,
    "in place": InPlace,
}


def gradients_agree(model: nn.Module, views: Tensor, targets: Tensor) -> Ownership:
    ownership = proved_ownership(model, loss, views, targets)
    found = per_example_gradients(model, loss, ownership, views, targets).gradients
    expected = reference_gradients(model, loss, views, targets)
    assert found.keys() == expected[0].keys()
    for name, gradient in found.items():
        reference = torch.stack([each[name] for each in expected])
        with torch.no_grad():
            torch.testing.assert_close(gradient.instantiate(), reference, rtol=1e-8, atol=1e-11)
    return ownership


@pytest.mark.parametrize("per_view", [1, 4])
@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_modules(name: str, per_view: int) -> None:
    torch.manual_seed(0)
    model = MODULES[name]().double()
    gradients_agree(model, torch.randn(3, per_view, 4, 6).double(), torch.randint(3, (3, per_view)))


@pytest.mark.parametrize("name", MODULES)
def test_modules_run_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    model, views, targets = MODULES[name](), torch.randn(3, 2, 4, 6), torch.randint(3, (3, 2))
    if name == "LSTM" and not torch.cpu._is_avx512_supported():
        pytest.skip("PyTorch has no LSTM in bfloat16 for this processor")
    half, full = (
        clipped_gradient_sum(model, loss, views, targets, 1e9, precision=p) for p in ("bfloat16", "float32")
    )
    torch.testing.assert_close(half.norms, full.norms, rtol=0.1, atol=0)
    assert all(gradient.dtype == torch.float64 for gradient in half.gradients.values())


@pytest.mark.parametrize("per_view", [1, 4])
def test_tied_weights(per_view: int) -> None:
    torch.manual_seed(0)
    gradients_agree(
        TiedDecoder().double(), torch.randint(5, (3, per_view, 4)), torch.randint(5, (3, per_view))
    )


def test_a_shared_argument_with_as_many_rows_as_the_batch_is_not_taken_for_views() -> None:
    # Otherwise contributions would change with the batch size: one example more could move all of them.
    torch.manual_seed(0)
    model = SharedArgument().double()
    ownership = proved_ownership(model, loss, torch.randn(1, 1, 4, 6).double(), torch.zeros(1, 1).long())
    views, targets = torch.randn(4, 1, 4, 6).double(), torch.randint(3, (4, 1))
    gradients = per_example_gradients(model, loss, ownership, views, targets).gradients
    expected = reference_gradients(model, loss, views, targets)
    found = gradients["scale.weight"].instantiate()
    torch.testing.assert_close(found, torch.stack([each["scale.weight"] for each in expected]))


def test_layers_are_left_to_their_rules_where_these_are_right() -> None:
    torch.manual_seed(0)
    views, targets = torch.randn(2, 2, 4, 6).double(), torch.randint(3, (2, 2))
    ownership = gradients_agree(UsedOutside().double(), views, targets)
    assert ownership.owners == {
        "mix": {"bias": "mix.bias"},
        "head": {"weight": "head.weight", "bias": "head.bias"},
        "": {"mix.weight": "mix.weight"},
    }
    ownership = gradients_agree(Reused().double(), views, targets)
    assert ownership.used_once == {"head.weight", "head.bias"}


@pytest.mark.parametrize("per_view", [1, 4])
def test_soft_targets(per_view: int) -> None:
    torch.manual_seed(0)
    targets = torch.rand(3, per_view, 3).double().softmax(dim=2)
    gradients_agree(VisionTransformer().double(), torch.randn(3, per_view, 4, 6).double(), targets)


def test_one_target_for_all_views() -> None:
    torch.manual_seed(0)
    model, views, targets = Reused(), torch.randn(3, 4, 4, 6), torch.tensor([2, 0, 1])
    once = clipped_gradient_sum(model, loss, views, targets, 0.1)
    spread = clipped_gradient_sum(model, loss, views, targets[:, None].repeat(1, 4), 0.1)
    assert all(torch.equal(once.gradients[name], spread.gradients[name]) for name in once.gradients)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_number_of_channels_go_through_with_channels_last(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 3)).double()
    views, targets = torch.randn(5, 2, channels, 6, 6).double(), torch.randint(3, (5, 2))
    gradients_agree(model, views, targets)
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    clipped_gradient_sum(model, loss, views, targets, 1.0)
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)
