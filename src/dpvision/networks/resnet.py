"""Residual networks (He et al., arXiv 1512.03385): ResNet-18 without its classifier, and for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dpvision.networks.small_images import normed_stem, small_image_network


class BasicBlock(nn.Module):
    """``[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]``: two 3×3 convolutions, and a 1×1
    convolution beside them where the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()  # modules of their own, so that what they give can be asked for
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample = nn.Sequential()  # nothing
        if stride != 1 or in_channels != channels:
            self.downsample.append(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(branch + self.downsample(x))


def resnet18() -> nn.Sequential:
    """Build ``[B, 3, H, W] -> [B, 512, H / 32, W / 32]``, with torchvision's names (table 1 of the paper)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            **_stages_of_resnet18(),
        )
    )


def resnet18_small() -> nn.Sequential:
    """Build ``[B, 3, H, W] -> [B, 512, H / 8, W / 8]``: ResNet-18 as it is used for images of 32 pixels.

    Its first convolution is 3×3 and leaves their size, and no pool follows it. Names are torchvision's.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            **_stages_of_resnet18(),
        )
    )


def _stages_of_resnet18() -> dict[str, nn.Module]:
    return {
        "layer1": nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)),
        "layer2": nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1)),
        "layer3": nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1)),
        "layer4": nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1)),
    }


def small_resnet(in_channels: int, num_classes: int, depth: int = 110) -> nn.Sequential:
    """Build the network for small images of section 4.2: ``[B, in_channels, H, W]`` to logits ``[B,
    num_classes]``.

    Three stages of (depth − 2) / 6 blocks have 16, 32 and 64 channels. ResNet-110 has 1.7 million parameters.
    """
    stem, blocks = normed_stem(in_channels, 16), (depth - 2) // 6
    return small_image_network(stem, (16, 16, 32, 64), blocks, BasicBlock, (), num_classes)
