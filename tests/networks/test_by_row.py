"""What is computed for a row does not depend on the others, to the last bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
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


@pytest.mark.parametrize("concurrent", [False, True])
def test_rows_are_the_functions_whoever_else_is_there(concurrent: bool) -> None:
    network = build_network("wrn-10-1", in_channels=3, image_size=(16, 16), num_classes=5)
    pixels = images(71)

    @torch.no_grad()
    def function(some: Tensor) -> Tensor:
        return network(some / 255)

    whole = torch.cat(list(by_row(function, pixels.split, SHAPE, CPU, concurrent=concurrent)))
    torch.testing.assert_close(whole, function(pixels))
    for left_out in (0, 35, 70):
        others = torch.arange(71) != left_out
        found = by_row(function, pixels[others].split, SHAPE, CPU, concurrent=concurrent)
        assert torch.equal(torch.cat(list(found)), whole[others])


def test_a_function_that_depends_on_the_place_is_given_rows_one_by_one() -> None:
    seen = []

    def function(some: Tensor) -> Tensor:
        seen.append(len(some))
        return some.float().mean(dim=(1, 2, 3)) + torch.arange(len(some))

    pixels = images(5)
    found = torch.cat(list(by_row(function, pixels.split, SHAPE, CPU)))
    torch.testing.assert_close(found, pixels.float().mean(dim=(1, 2, 3)))
    assert seen[-5:] == [1] * 5


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_keep_the_order_and_leave_torch_as_it_was() -> None:
    workers, grads, at_work, most = set(), set(), set(), 0

    def function(some: Tensor) -> Tensor:
        nonlocal most
        workers.add(threading.get_ident())
        grads.add(torch.is_grad_enabled())
        at_work.add(threading.get_ident())
        most = max(most, len(at_work))
        if most < 2:
            time.sleep(0.2)  # so that another thread takes the next batch, and ends earlier
        at_work.discard(threading.get_ident())
        return some.float().mean(dim=(1, 2, 3))

    pixels = images(200)
    with torch.no_grad():
        found = torch.cat(list(by_row(function, pixels.split, SHAPE, CPU, concurrent=True)))
    torch.testing.assert_close(found, pixels.float().mean(dim=(1, 2, 3)))
    assert most == 2
    assert threading.get_ident() not in workers
    assert grads == {False}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_what_a_thread_raises_is_raised() -> None:
    def function(some: Tensor) -> Tensor:
        if some.float().var() == 0:
            raise ValueError("blank")
        return some.float().flatten(1)

    pixels = images(64)
    pixels[32:] = 7
    with pytest.raises(ValueError, match="blank"):
        list(by_row(function, pixels.split, SHAPE, CPU, concurrent=True))
    assert torch.get_num_threads() == 2


def test_all_batches_have_one_shape() -> None:
    shapes = []

    def function(some: Tensor) -> Tensor:
        shapes.append(some.shape)
        return nn.functional.avg_pool2d(some.float(), 16).flatten(1)

    assert [len(part) for part in by_row(function, images(10).split, SHAPE, CPU, most=4)] == [4, 4, 2]
    assert set(shapes) == {torch.Size([4, 3, 16, 16])}


@torch.no_grad()
def test_a_head_of_few_classes_is_the_same_wherever_a_row_is() -> None:
    """A library's product of small matrices rounds some places otherwise, which few rows show."""
    generator = torch.Generator().manual_seed(1)
    rows = nn.functional.normalize(torch.randn(60, 30, generator=generator))
    for seed in range(400):
        torch.manual_seed(seed)
        head = nn.Linear(30, 3)

        def said(rows: Tensor, head: nn.Linear = head) -> Tensor:
            found = by_row(lambda some: head(some.float()), rows.split, (30,), CPU)
            return torch.cat(list(found))

        whole = said(rows)
        for kept in (torch.arange(60) > 2, torch.arange(60) > 38):
            assert said(rows[kept]).equal(whole[kept])
