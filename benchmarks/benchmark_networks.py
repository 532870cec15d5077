"""Networks whose gradients are timed: ours, and three common ones in plain PyTorch, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpvision.networks import build_network

NETWORKS = {
    "wrn-16-4": 32, "wrn-40-4": 32, "tanh-cnn": 32, "resnet18": 32, "convnext-t": 224, "vit-s": 224,
}  # fmt: skip
"""The sides of their images, in pixels."""

CLASSES = 10


def build(name: str) -> nn.Module:
    """Build a network for colour images of `NETWORKS`' side in ten classes."""
    if name == "resnet18":
        return ResNet18()
    if name == "convnext-t":
        return ConvNeXt()
    if name == "vit-s":
        return VisionTransformer()
    side = NETWORKS[name]
    return build_network(name, in_channels=3, image_size=(side, side), num_classes=CLASSES)


class BasicBlock(nn.Module):
    """``[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]`` (He et al., arXiv 1512.03385)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.GroupNorm(32, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.GroupNorm(32, channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.GroupNorm(32, channels)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 with GroupNorm, and a stem for small images."""

    def __init__(self) -> None:
        channels = [64, 128, 256, 512]
        blocks: list[nn.Module] = []
        for before, after in zip([64, *channels], channels, strict=False):
            blocks += [BasicBlock(before, after, 1 if after == 64 else 2), BasicBlock(after, after, 1)]
        super().__init__(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(32, 64), nn.ReLU(), *blocks,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES),
        )  # fmt: skip


class ChannelNorm(nn.LayerNorm):
    """LayerNorm of the channels of ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7 convolution and a perceptron of each position, scaled (Liu et al., arXiv 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.scale = nn.Parameter(torch.full((channels,), 1e-1))

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.perceptron(found)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Sequential):
    """ConvNeXt-T: stages of 3, 3, 9 and 3 blocks with 96, 192, 384 and 768 channels."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
        for number, channels, before in ((3, 96, 96), (3, 192, 96), (9, 384, 192), (3, 768, 384)):
            if channels != before:
                layers += [ChannelNorm(before, eps=1e-6), nn.Conv2d(before, channels, 2, 2)]
            layers += [ConvNeXtBlock(channels) for _ in range(number)]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768, eps=1e-6),
            nn.Linear(768, CLASSES),
        )  # fmt: skip


class Attention(nn.Module):
    """Self-attention of six heads, ``[B, T, D] -> [B, T, D]``."""

    def __init__(self, size: int, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(size), Attention(size))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.perceptron(x)


class VisionTransformer(nn.Module):
    """ViT-S/16: twelve blocks of 384 features; the mean of the tokens is classified (Dosovitskiy et al.,
    arXiv 2010.11929).
    """

    def __init__(self, size: int = 384, patch: int = 16, side: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, size))
        self.blocks = nn.Sequential(*(TransformerBlock(size) for _ in range(12)), nn.LayerNorm(size))
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(tokens).mean(dim=1))
