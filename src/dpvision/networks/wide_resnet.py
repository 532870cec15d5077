"""The wide residual network (Zagoruyko and Komodakis, arXiv 1605.07146) as De et al. train it privately
(arXiv 2204.13650): GroupNorm in place of BatchNorm, weight-standardised convolutions."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from dpvision.networks.weight_standardization import WeightStandardizedConv2d
from dpvision.privacy.errors import InputError

Order = Literal["activation_first", "norm_first", "norm_first_in_shortcuts", "activation_first_in_shortcuts"]


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of (depth − 4) / 6 blocks with 16·width, 32·width and 64·width channels.

    Args:
        depth: 6n + 4 for a whole n ≥ 1: 10, 16, 22, 28, 40, …
        width: the first stage has 16·width channels.
        in_channels: C of the images.
        num_classes: the number of logits.
        groups: groups of each GroupNorm: 1, 2, 4, 8 or 16.
        order: the order of activation and norm before each convolution. "activation_first", as in De et al.'s
            published code; "norm_first", as in He et al. (arXiv 1603.05027); "norm_first_in_shortcuts" and
            "activation_first_in_shortcuts", where only the shortcuts have the named order and the residual
            branches the other. Sander et al. (arXiv 2210.03403) number them 0, 1, 3 and 2 in their code. The
            norm before the classifier comes after its activation, unless the order is "norm_first".
        stem_stride: the stride of the first convolution. 2 quarters the cost, for larger images or slower
            machines.

    ``forward`` maps ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``. The parts are plain modules:
    ``stem``, ``stages``, ``final`` (activation and norm, "final.norm") and ``head`` (linear).

    Raises:
        InputError: for a depth, width, number of groups or order that does not exist.
    """

    SMALLEST_SIDE = 5
    """The smallest side of images, in pixels. Two halvings must leave every GroupNorm more than one position
    to take its statistics over.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        in_channels: int,
        num_classes: int,
        groups: int = 16,
        order: Order = "activation_first",
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InputError(
                f"a wide residual network has depth 10, 16, 22, 28 or another 6n + 4, not {depth}"
            )
        if width < 1:
            raise InputError(f"a wide residual network has a width of at least 1, not {width}")
        if groups not in (1, 2, 4, 8, 16):
            raise InputError(
                f"groups must be 1, 2, 4, 8 or 16, to divide the network's channels, not {groups}"
            )
        if stem_stride < 1:
            raise InputError(f"stem_stride must be at least 1, not {stem_stride}")
        if order not in get_args(Order):
            raise InputError(f"order must be one of {', '.join(get_args(Order))}, not {order!r}")
        norm_first_in_residual = order in ("norm_first", "activation_first_in_shortcuts")
        norm_first_in_shortcut = order in ("norm_first", "norm_first_in_shortcuts")
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.stem = WeightStandardizedConv2d(in_channels, channels[0], 3, stride=stem_stride, padding=1)
        self.stages = nn.Sequential()
        for stage in range(3):
            for block in range((depth - 4) // 6):
                self.stages.append(
                    ResidualBlock(
                        channels[stage] if block == 0 else channels[stage + 1],
                        channels[stage + 1],
                        stride=2 if stage > 0 and block == 0 else 1,
                        groups=groups,
                        project=block == 0,
                        norm_first_in_residual=norm_first_in_residual,
                        norm_first_in_shortcut=norm_first_in_shortcut,
                    )
                )
        self.final = NormAndActivation(channels[3], groups, norm_first=order == "norm_first")
        self.head = nn.Linear(channels[3], num_classes)
        nn.init.normal_(self.head.weight, std=channels[3] ** -0.5)
        nn.init.zeros_(self.head.bias)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features that the classifier reads: ``[B, in_channels, H, W] -> [B, 64·width]``."""
        return self.final(self.stages(self.stem(x))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


class ResidualBlock(nn.Module):
    """Shortcut + residual branch: ``[B, C_in, H, W] -> [B, C_out, H / stride, W / stride]``.

    The residual branch is two 3×3 convolutions, each after a norm and an activation of its own. The shortcut
    is the identity, or with ``project`` a norm, an activation and a 1×1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        project: bool,
        norm_first_in_residual: bool,
        norm_first_in_shortcut: bool,
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(
                NormAndActivation(in_channels, groups, norm_first_in_shortcut),
                WeightStandardizedConv2d(in_channels, out_channels, 1, stride=stride),
            )
        self.residual = nn.Sequential(
            NormAndActivation(in_channels, groups, norm_first_in_residual),
            WeightStandardizedConv2d(in_channels, out_channels, 3, stride=stride, padding=1),
            NormAndActivation(out_channels, groups, norm_first_in_residual),
            WeightStandardizedConv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class NormAndActivation(nn.Module):
    """GroupNorm and ReLU in the given order; keeps the shape."""

    def __init__(self, channels: int, groups: int, norm_first: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.activation = nn.ReLU()
        self.norm_first = norm_first

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x)) if self.norm_first else self.norm(self.activation(x))
