from __future__ import annotations

import pytest
import torch

from dpvision.networks.generators import Generator
from dpvision.networks.image_generator import apportion
from dpvision.privacy import InputError

NAMES = tuple("abcdefghij")


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [((1, 28, 28), 449_261), ((3, 32, 32), 3_327_299)],  # the paper has 449 k and 3.3 M
)
def test_networks_are_those_of_the_paper(shape: tuple[int, int, int], parameters: int) -> None:
    generator = Generator(shape, NAMES, latent_size=90)
    assert sum(p.numel() for p in generator.parameters()) == parameters


def test_the_published_grey_network_is_the_one_of_the_papers_code() -> None:
    """By its definition there: UpsamplingBilinear2d keeps corners, and no ReLU follows the second norm."""
    generator = Generator((1, 28, 28), NAMES, latent_size=90, published_network=True).eval()
    linear1, norm1, _, linear2, norm2, _, _, _, conv1, _, _ = generator.network.layers
    noise, labels = torch.randn(3, 90), torch.tensor([0, 4, 9])
    x = torch.cat([torch.eye(10)[labels], noise], dim=1)
    x = norm2(linear2(norm1(linear1(x)).relu())).reshape(3, 16, 7, 7)
    up = torch.nn.UpsamplingBilinear2d(scale_factor=2)
    expected = torch.sigmoid(generator.network.last(up(conv1(up(x)).relu())))
    torch.testing.assert_close(generator(labels, noise), expected)


def test_the_published_residual_network_begins_by_xaviers_rule_and_ends_in_tanh() -> None:
    generator = Generator((3, 32, 32), NAMES, latent_size=90, published_network=True).eval()
    network = generator.network
    first = torch.nn.ConvTranspose2d(100, 512, 4, bias=False)
    layers = (network.blocks[0].conv1, network.blocks[1].shortcut, network.last)
    for weight, fresh in [(network.project.weight, first.weight), *((a.weight, a.weight) for a in layers)]:
        bound = float(torch.nn.init.xavier_uniform_(fresh.detach().clone()).abs().max())
        assert float(weight.detach().abs().max()) == pytest.approx(bound, rel=0.02)
    noise, labels = torch.randn(3, 90), torch.tensor([0, 4, 9])
    latent = torch.cat([torch.eye(10)[labels], noise], dim=1)
    x = network.blocks(network.project(latent).reshape(3, 512, 4, 4))
    expected = torch.tanh(network.last(network.norm(x).relu())) / 2 + 0.5
    torch.testing.assert_close(generator(labels, noise), expected)
    assert Generator.from_config(generator.config).published_network


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [(), ("x", "y")])
def test_images_have_the_shape_and_lie_in_the_unit_interval(
    side: int, channels: int, names: tuple[str, ...]
) -> None:
    generator = Generator((channels, side, side), names, latent_size=3)
    labels = torch.zeros(4, dtype=torch.int64)
    images = generator(labels, torch.randn(4, 3))
    assert images.shape == (4, channels, side, side)
    assert images.min() >= 0
    assert images.max() <= 1
    same = Generator.from_config(generator.config)
    same.load_state_dict(generator.state_dict())
    noise = torch.randn(2, 3)
    torch.testing.assert_close(same.eval()(labels[:2], noise), generator.eval()(labels[:2], noise))


@pytest.mark.parametrize("shape", [(1, 28, 32), (3, 20, 20), (3, 4, 4), (3, 256, 256)])
def test_other_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="squares of 28 or 8, 16, 32, 64, 128 pixels, not"):
        Generator(shape, NAMES, 5)


def test_samples_are_uint8_with_labels_by_share() -> None:
    generator = Generator((1, 8, 8), ("x", "y", "z"), latent_size=4).eval()
    generator.class_proportions.copy_(torch.tensor([0.5, 0.3, 0.2]))
    images = generator.sample(1003, seed=1)
    assert images.pixels.dtype == torch.uint8
    assert images.shape == (1, 8, 8)
    assert images.class_names == ("x", "y", "z")
    assert images.labels is not None
    assert images.labels.bincount().tolist() == [501, 301, 201]
    assert not torch.equal(images.labels, images.labels.sort().values)  # in random order
    assert torch.equal(generator.sample(1003, seed=1).pixels, images.pixels)
    assert not torch.equal(generator.sample(1003, seed=2).pixels, images.pixels)
    assert not torch.equal(generator.sample(1003).pixels, generator.sample(1003).pixels)


def test_the_label_decides_the_image_and_may_be_a_name() -> None:
    generator = Generator((1, 8, 8), ("x", "y"), latent_size=1).eval()
    by_name = generator.sample(3, labels=["y", "x", "y"], seed=0)
    by_index = generator.sample(3, labels=torch.tensor([1, 0, 1]), seed=0)
    assert torch.equal(by_name.pixels, by_index.pixels)
    assert by_name.labels is not None
    assert by_name.labels.tolist() == [1, 0, 1]
    with torch.no_grad():
        one, other = generator(torch.tensor([0, 1]), torch.zeros(2, 1))
    assert not torch.equal(one, other)


def test_without_classes_there_are_no_labels() -> None:
    images = Generator((1, 8, 8), (), latent_size=4).eval().sample(5)
    assert images.labels is None
    assert len(images) == 5


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (0, None, "at least 1, not 0"),
        (2, [0], "2 images need as many labels, not 1"),
        (1, [2], "knows no class 2; its classes are x, y"),
        (1, [-1], "knows no class -1"),
        (1, ["q"], "knows no class 'q'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(count: int, labels: list[int | str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Generator((1, 8, 8), ("x", "y"), 2).eval().sample(count, labels=labels)


def test_shares_are_rounded_by_the_largest_remainders() -> None:
    assert apportion(10, torch.tensor([0.26, 0.26, 0.48])).bincount().tolist() == [3, 2, 5]
    assert apportion(2, torch.tensor([1.0, 1.0, 1.0])).bincount(minlength=3).tolist() == [1, 1, 0]
    for count in range(1, 30):
        assert len(apportion(count, torch.rand(7))) == count
