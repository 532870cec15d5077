"""What is computed for a row does not depend on the others, to the last bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpvision.networks import build_network
from dpvision.networks.by_row import by_row

CPU = torch.device("cpu")
SHAPE = (3, 16, 16)


def images(count: int) -> Tensor:
    return torch.randint(
        256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_rows_are_the_functions_whoever_else_is_there() -> None:
    network = build_network("wrn-10-1", in_channels=3, image_size=(16, 16), num_classes=5)
    pixels = images(71)

    @torch.no_grad()
    def function(some: Tensor) -> Tensor:
        return network(some / 255)

    whole = torch.cat(list(by_row(function, pixels.split, SHAPE, CPU)))
    torch.testing.assert_close(whole, function(pixels))
    for left_out in (0, 35, 70):
        others = torch.arange(71) != left_out
        assert torch.equal(torch.cat(list(by_row(function, pixels[others].split, SHAPE, CPU))), whole[others])


def test_a_function_that_depends_on_the_place_is_given_rows_one_by_one() -> None:
    seen = []

    def function(some: Tensor) -> Tensor:
        seen.append(len(some))
        return some.float().mean(dim=(1, 2, 3)) + torch.arange(len(some))

    pixels = images(5)
    found = torch.cat(list(by_row(function, pixels.split, SHAPE, CPU)))
    torch.testing.assert_close(found, pixels.float().mean(dim=(1, 2, 3)))
    assert seen[-5:] == [1] * 5


def test_all_batches_have_one_shape() -> None:
    shapes = []

    def function(some: Tensor) -> Tensor:
        shapes.append(some.shape)
        return nn.functional.avg_pool2d(some.float(), 16).flatten(1)

    assert [len(part) for part in by_row(function, images(10).split, SHAPE, CPU, most=4)] == [4, 4, 2]
    assert set(shapes) == {torch.Size([4, 3, 16, 16])}
