from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from dpvision.privacy import ExampleDraws, InputError, SeededRandom
from dpvision.views import SelfAugmentation, check_no_leak


def random_batch(count: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    pixels = torch.randint(
        256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return pixels, torch.arange(count)


def draws_of(count: int, seed: int = 0) -> ExampleDraws:
    return SeededRandom(seed).by_example().of(torch.arange(count))


def one_image_at_a_time(policy: SelfAugmentation, pixels: Tensor, draws: ExampleDraws) -> Tensor:
    """The same policy in plain loops: pad, crop, flip."""
    B, _, H, W = pixels.shape
    views = []
    for index, image in enumerate(pixels.float() / 255):
        own = draws[index : index + 1]
        padded = F.pad(image[None], [policy.pad] * 4, mode="reflect")[0]
        for k in range(policy.augmult):
            u = own.uniform(3)[0].tolist()
            top, left = (int(u_i * (2 * policy.pad + 1)) for u_i in u[:2])
            view = padded[:, top : top + H, left : left + W]
            if policy.flip and u[2] < 0.5:
                view = view.flip(-1)
            if policy.include_original and k == 0:
                view = image
            views.append(view)
    return torch.stack(views).view(B, policy.augmult, *pixels.shape[1:])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (3, 5, 32)])
@pytest.mark.parametrize(
    "policy",
    [
        SelfAugmentation(),
        SelfAugmentation(augmult=4, pad=2, include_original=True),
        SelfAugmentation(augmult=3, pad=1, flip=False),
        SelfAugmentation(augmult=5, pad=0),
    ],
)
def test_equals_the_plain_loop(policy: SelfAugmentation, shape: tuple[int, int, int]) -> None:
    pixels, targets = random_batch(7, shape)
    views, view_targets = policy(pixels, targets, draws_of(7, 3))
    assert torch.equal(views, one_image_at_a_time(policy, pixels, draws_of(7, 3)))
    assert torch.equal(view_targets, targets[:, None].expand(7, policy.views_per_example))
    assert views.dtype == torch.float32


def test_offsets_and_flips_are_uniform_and_independent() -> None:
    # On a ramp, a view's centre gives away the crop and its direction the flip.
    pad, side, count = 1, 5, 18_000
    ramp = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side)
    policy = SelfAugmentation(augmult=count, pad=pad)
    views, _ = policy(ramp, torch.zeros(1, dtype=torch.int64), draws_of(1))
    views = (views[0, :, 0] * 255).round().long()  # [count, side, side]
    centre = views[:, side // 2, side // 2]
    top, left = centre // side - 1, centre % side - 1
    flipped = (views[:, 2, 1] > views[:, 2, 3]).long()
    cells = torch.bincount((top * 3 + left) * 2 + flipped, minlength=18)
    assert len(cells) == 18
    assert chisquare(cells).pvalue > 1e-3


def test_views_of_different_examples_are_drawn_independently() -> None:
    policy, count = SelfAugmentation(augmult=1, pad=0), 4_000
    pixels = torch.tensor([0, 255], dtype=torch.uint8).expand(2 * count, 1, 1, 2)
    views, _ = policy(pixels, torch.zeros(2 * count, dtype=torch.int64), draws_of(2 * count))
    flipped = (views[:, 0, 0, 0, 0] == 1).long().view(count, 2)
    assert chisquare(torch.bincount(flipped[:, 0] * 2 + flipped[:, 1], minlength=4)).pvalue > 1e-3


def test_a_batch_in_parts_gets_the_same_views() -> None:
    pixels, targets = random_batch(7, (1, 8, 8))
    policy = SelfAugmentation(augmult=3)
    draws = draws_of(7)
    whole, _ = policy(pixels, targets, draws)
    parts = [policy(pixels[some], targets[some], draws[some])[0] for some in torch.arange(7).split(3)]
    assert torch.equal(whole, torch.cat(parts))


def test_without_padding_and_flip_the_view_is_the_image() -> None:
    pixels, targets = random_batch(4, (3, 6, 7))
    policy = SelfAugmentation(augmult=1, pad=0, flip=False)
    views, view_targets = policy(pixels, targets, draws_of(4))
    assert torch.equal(views[:, 0], pixels.float() / 255)
    assert torch.equal(view_targets[:, 0], targets)


def test_the_original_comes_first_if_asked_for() -> None:
    pixels, targets = random_batch(4, (3, 8, 8))
    views, _ = SelfAugmentation(include_original=True)(pixels, targets, draws_of(4))
    assert torch.equal(views[:, 0], pixels.float() / 255)
    assert not torch.equal(views[:, 1], pixels.float() / 255)


def test_an_empty_batch_has_no_views() -> None:
    pixels, targets = random_batch(0, (3, 8, 8))
    views, view_targets = SelfAugmentation()(pixels, targets, draws_of(0))
    assert views.shape == (0, 16, 3, 8, 8)
    assert view_targets.shape == (0, 16)


def test_memory_layout_does_not_matter() -> None:
    pixels, targets = random_batch(4, (3, 8, 8))
    strided = pixels.contiguous(memory_format=torch.channels_last)
    policy = SelfAugmentation()
    expected, _ = policy(pixels, targets, draws_of(4))
    assert torch.equal(policy(strided, targets, draws_of(4))[0], expected)


def test_views_depend_on_their_example_only() -> None:
    check_no_leak(SelfAugmentation(), (3, 8, 8))
    check_no_leak(SelfAugmentation(augmult=1, pad=0, flip=False), (1, 8, 8))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="augmult"):
        SelfAugmentation(augmult=0)
    with pytest.raises(InputError, match="pad"):
        SelfAugmentation(pad=-1)
    with pytest.raises(InputError, match="pad is 4 and the images are 9×4"):
        SelfAugmentation(pad=4)(*random_batch(1, (1, 9, 4)), draws_of(1))
