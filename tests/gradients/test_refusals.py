"""Networks without per-example gradients, or that keep private values, are refused with the fix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import clipped_gradient_sum, refuse_cross_example_layers
from dpvision.privacy.errors import InputError


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def run(model: nn.Module, *size: int) -> None:
    """On images of this size, by default [4]."""
    clipped_gradient_sum(model, loss, torch.rand(3, 2, *(size or (4,))), torch.zeros(3).long(), 1.0)


class Centre(nn.Module):
    """Subtracts the mean over the batch, and scales by ``gain``."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * (x - x.mean(dim=0))


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_(x.mean(dim=0))
        return x


class Offset(nn.Module):
    """Joins two parameters, and is run again for their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.cat([self.left, self.right])


class ChangesTheInputOf(nn.Module):
    """Modifies what ``layer`` has read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(4, 4), layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.layer(x) + x.mul_(2)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class DropoutBesideParameters(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)
        self.left, self.right = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x + torch.cat([self.left, self.right]))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(4), "'1.0' is a BatchNorm1d.*use nn.GroupNorm"),
        (nn.BatchNorm2d(4), "'1.0' is a BatchNorm2d.*use nn.GroupNorm"),
        (nn.BatchNorm3d(4), "'1.0' is a BatchNorm3d.*use nn.GroupNorm"),
        (nn.SyncBatchNorm(4), "'1.0' is a SyncBatchNorm.*use nn.GroupNorm"),
        (nn.LazyBatchNorm2d(), "'1.0' is a LazyBatchNorm2d.*use nn.GroupNorm"),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), "'1.0' is a BatchNorm2d"),
        (
            nn.InstanceNorm2d(4, track_running_stats=True),
            "'1.0' keeps running statistics.*set track_running_stats=False",
        ),
        (nn.Embedding(4, 4, max_norm=1.0), "'1.0' rescales the weights.*set max_norm=None"),
    ],
)
def test_layers_known_to_mix_examples_are_named(layer: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words):
        refuse_cross_example_layers(nn.Sequential(nn.Identity(), nn.Sequential(layer), nn.Linear(4, 3)))


def test_the_engine_refuses_such_layers() -> None:
    with pytest.raises(InputError, match="'1' is a BatchNorm1d"):
        run(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))


def test_instance_norm_without_statistics_is_taken() -> None:
    run(nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.Flatten(), nn.Linear(36, 3)), 4, 3, 3)


def test_a_layer_that_mixes_the_batch_is_found_out() -> None:
    with pytest.raises(
        InputError, match=r"changes with the other examples.*normalises or attends over the batch"
    ):
        run(nn.Sequential(nn.Linear(4, 4), Centre()))


def test_a_layer_that_mixes_the_batch_is_found_out_behind_weights_of_zero() -> None:
    # Both start with an output that does not show it, and would leak as soon as training moves the zeros.
    with pytest.raises(InputError, match="changes with the other examples"):
        run(nn.Sequential(nn.Linear(4, 4), Centre(gain=0.0)))
    head = nn.Linear(4, 3)
    nn.init.zeros_(head.weight)
    with pytest.raises(InputError, match="changes with the other examples"):
        run(nn.Sequential(nn.Linear(4, 4), Centre(), head))


def test_a_forward_that_keeps_private_values_is_refused() -> None:
    with pytest.raises(InputError, match=r"changes buffer '0.mean'.*switch its statistics off"):
        run(nn.Sequential(Remembers(), nn.Linear(4, 3)))


def test_an_input_changed_in_place_is_refused() -> None:
    with pytest.raises(InputError, match=r"input of a Offset layer is modified in place.*set inplace=False"):
        run(ChangesTheInputOf(Offset()))
    # Here plain autograd misses the input, too.
    with pytest.raises(InputError, match=r"backward pass fails.*set inplace=False"):
        run(ChangesTheInputOf(nn.Linear(4, 4)))


def test_random_numbers_in_the_forward_are_refused() -> None:
    with pytest.raises(InputError, match=r"draws random numbers.*set that dropout to 0"):
        run(nn.Sequential(Noisy(), nn.Linear(4, 3)))
    attention = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)  # whose dropout is 0.1
    with pytest.raises(InputError, match="set that dropout to 0"):
        run(nn.Sequential(attention, nn.Flatten(), nn.Linear(8, 3)), 2, 4)


def test_dropout_is_refused_only_where_a_module_is_run_again() -> None:
    with pytest.raises(InputError, match=r"parameter '0.left'.*set p=0"):
        run(nn.Sequential(DropoutBesideParameters(0.5), nn.Linear(4, 3)))
    run(nn.Sequential(DropoutBesideParameters(0.0), nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)))


def test_activation_checkpointing_is_refused() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            inner = torch.utils.checkpoint.checkpoint(lambda x: self.mix(x).tanh(), x, use_reentrant=False)
            return self.head(inner)

    with pytest.raises(InputError, match="activation checkpointing"):
        run(Checkpointed())


def test_networks_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(InputError, match="no parameter requires a gradient"):
        run(nn.Linear(4, 3).requires_grad_(False))
    with pytest.raises(InputError, match="does it fit the image size"):
        run(nn.Linear(5, 3))


def test_bad_arguments_are_refused() -> None:
    model, views, targets = nn.Linear(4, 3), torch.rand(3, 2, 4), torch.zeros(3).long()
    with pytest.raises(InputError, match="max_grad_norm"):
        clipped_gradient_sum(model, loss, views, targets, 0.0)
    with pytest.raises(InputError, match="precision"):
        clipped_gradient_sum(model, loss, views, targets, 1.0, precision="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as many targets"):
        clipped_gradient_sum(model, loss, views, targets[:2], 1.0)
    with pytest.raises(InputError, match=r"expected \[B, K"):
        clipped_gradient_sum(model, loss, views[0], targets, 1.0)
    with pytest.raises(InputError, match="reduction='none'"):
        clipped_gradient_sum(model, F.cross_entropy, views, targets, 1.0)
