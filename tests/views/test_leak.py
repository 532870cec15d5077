from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dpvision.privacy import ExampleDraws, InputError
from dpvision.views import check_no_leak

SHAPE = (1, 2, 2)


class TwoViews:
    """The image twice, then changed by a function of the batch; what the tests below get wrong on purpose."""

    views_per_example = 2

    def __init__(self, change: Callable[[Tensor, Tensor, ExampleDraws], tuple[Tensor, Tensor]]) -> None:
        self.change = change

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        views = (pixels.float() / 255)[:, None].repeat(1, 2, 1, 1, 1)
        return self.change(views, targets[:, None].repeat(1, 2), draws)


def mixes_across_the_batch(views: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
    partner = draws.uniform(1)[:, 0].argsort()
    return 0.9 * views + 0.1 * views[partner], targets


def subtracts_the_mean_of_the_batch(views: Tensor, targets: Tensor, _: ExampleDraws) -> tuple[Tensor, Tensor]:
    return views - views.mean(), targets


def takes_the_label_of_its_neighbour(
    views: Tensor, targets: Tensor, _: ExampleDraws
) -> tuple[Tensor, Tensor]:
    return views, torch.stack([targets[:, 0], targets[:, 0].roll(1)], dim=1)


def mixes_the_last_two_now_and_then(
    views: Tensor, targets: Tensor, draws: ExampleDraws
) -> tuple[Tensor, Tensor]:
    if draws.uniform(1)[0] > 0.5:  # not under the first seed
        views[-1, 1] = views[-2, 0]
    return views, targets


def shares_among_those_of_a_label(views: Tensor, targets: Tensor, _: ExampleDraws) -> tuple[Tensor, Tensor]:
    """Whoever leaves here changes nothing: there are never fewer than two to share."""
    sharing = targets[:, 0].bincount().clamp(min=2)[targets[:, 0]]
    return views / sharing.view(-1, 1, 1, 1, 1), targets


def counts_the_batch(views: Tensor, targets: Tensor, _: ExampleDraws) -> tuple[Tensor, Tensor]:
    return views / len(views), targets


def draws_in_the_order_of_the_batch(
    views: Tensor, targets: Tensor, draws: ExampleDraws
) -> tuple[Tensor, Tensor]:
    """What others change by leaving, and by nothing else."""
    generator = torch.Generator().manual_seed(0)
    return views * torch.rand(len(views), 2, 1, 1, 1, generator=generator), targets


@pytest.mark.parametrize(
    "change",
    [
        mixes_across_the_batch,
        subtracts_the_mean_of_the_batch,
        takes_the_label_of_its_neighbour,
        mixes_the_last_two_now_and_then,
        shares_among_those_of_a_label,
        counts_the_batch,
        draws_in_the_order_of_the_batch,
    ],
)
def test_a_leak_is_found(change: Callable[..., tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(InputError, match="TwoViews lets one private example into the views of another"):
        check_no_leak(TwoViews(change), SHAPE)


def test_views_mixed_within_an_example_are_no_leak() -> None:
    def mix_within(views: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        weight = draws.uniform(1)[:, :, None, None]
        views[:, 1] = weight * views[:, 0] + (1 - weight) * views[:, 1].flip(-1)
        return views, targets

    check_no_leak(TwoViews(mix_within), SHAPE)


def test_randomness_from_elsewhere_is_found() -> None:
    with pytest.raises(InputError, match="from the draws it is given"):
        check_no_leak(TwoViews(lambda views, targets, _: (views * torch.rand(()), targets)), SHAPE)


def test_a_wrong_number_of_views_is_found() -> None:
    with pytest.raises(InputError, match="K = 2"):
        check_no_leak(TwoViews(lambda views, targets, _: (views[:, :1], targets)), SHAPE)
