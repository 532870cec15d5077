"""Vision transformers and ConvNeXts: their clipped sums are the reference's, whatever part of them learns."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, reference_clipped_sum, reference_gradients
from dpvision.gradients.chunks import bytes_per_example
from dpvision.gradients.clipped import ROUNDING_MARGIN

WIDTH, CLASSES = 8, 3


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class LinearAttention(nn.Module):
    """Self-attention of two heads, written with linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)  # [N, heads, tokens, D] each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LibraryAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


class TransformerBlock(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(WIDTH), attention()
        self.norm_2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class VisionTransformer(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(WIDTH))
        self.positions = nn.Parameter(torch.randn(5, WIDTH))
        self.blocks = nn.Sequential(TransformerBlock(attention), TransformerBlock(attention))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(x), 1, -1), patches], dim=1) + self.positions
        return self.norm(self.blocks(tokens)[:, 0])


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.layer_scale = nn.Parameter(torch.full((WIDTH,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.layer_scale * self.mlp(self.norm(channels_last))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.blocks = nn.Sequential(ConvNeXtBlock(), ConvNeXtBlock())
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.stem(x)).mean(dim=(2, 3)))


BODIES: dict[str, Callable[[], nn.Module]] = {
    "ViT of linear layers": lambda: VisionTransformer(LinearAttention),
    "ViT of MultiheadAttention": lambda: VisionTransformer(LibraryAttention),
    "ConvNeXt": ConvNeXt,
}
LEARNS: dict[str, Callable[[str], bool]] = {
    "everything": lambda name: True,
    "parameters of no layer": lambda name: name.endswith(("class_token", "positions", "layer_scale")),
    "the last block and the head": lambda name: name.startswith(("0.blocks.1", "0.norm", "1.")),
    "the head": lambda name: name.startswith("1."),
}


def network(body: str, learns: str) -> nn.Sequential:
    """A body and a linear head."""
    torch.manual_seed(0)
    model = nn.Sequential(BODIES[body](), nn.Linear(WIDTH, CLASSES)).double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(LEARNS[learns](name))
    return model


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft targets"])
@pytest.mark.parametrize("per_view", [1, 3])
@pytest.mark.parametrize("learns", LEARNS)
@pytest.mark.parametrize("body", BODIES)
def test_clipped_sums_are_the_references(
    body: str, learns: str, per_view: int, soft: bool, training: bool
) -> None:
    model = network(body, learns).train(training)
    views = torch.randn(4, per_view, 3, 8, 8).double()
    targets = torch.randint(CLASSES, (4, per_view))
    if soft:
        targets = torch.randn(4, per_view, CLASSES).double().softmax(dim=2)

    gradients = reference_gradients(model, loss, views, targets)
    norms = torch.stack([torch.cat([g.flatten() for g in each.values()]).norm() for each in gradients])
    bound = float(norms.median())  # so that some are clipped and some are not
    found = ClippedGradient(model, loss, bound, precision="float32").sum(views, targets)
    expected = reference_clipped_sum(model, loss, views, targets, bound * (1 - ROUNDING_MARGIN))
    torch.testing.assert_close(found.norms, norms, rtol=1e-6, atol=0)
    assert found.gradients.keys() == expected.keys()
    for name, gradient in found.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9 * bound)


@pytest.mark.parametrize("body", BODIES)
def test_a_frozen_body_keeps_nothing_for_a_backward_pass(body: str) -> None:
    model = network(body, "the head")
    engine = ClippedGradient(model, loss, 1.0)
    views, targets = torch.randn(4, 2, 3, 8, 8).double(), torch.randint(CLASSES, (4, 2))
    engine.sum(views, targets)  # owners are found
    calls: list[tuple[nn.Module, bool]] = []
    for module in model[0].modules():
        module.register_forward_hook(lambda module, args, out: calls.append((module, out[0].requires_grad)))
    engine.sum(views, targets)
    assert not any(keeps for _, keeps in calls)
    assert len({module for module, _ in calls}) == len(calls), "a layer of a frozen body is run once"


@pytest.mark.parametrize("body", BODIES)
def test_only_what_learns_takes_more_memory_the_deeper_it_is(body: str) -> None:
    def added_by_depth(learns: str) -> int:
        shallow, views = network(body, learns), torch.zeros(1, 50, 3, 8, 8).double()
        deep = copy.deepcopy(shallow)
        deep[0].blocks.extend(copy.deepcopy(shallow[0].blocks))
        return bytes_per_example(deep, views) - bytes_per_example(shallow, views)

    assert added_by_depth("the head") == 0
    assert added_by_depth("everything") > 0
