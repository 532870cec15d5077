from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from dpvision.priors.processes import PROCESSES, generate, image_batches
from dpvision.privacy.errors import InputError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(*processes: str, seed: int = 0, first: int = 0, number: int = 4) -> list[Tensor]:
    stream = image_batches(processes, 16, seed, "cpu", batch_size=3, first=first)
    return list(itertools.islice(stream, number))


def test_the_names() -> None:
    assert list(PROCESSES) == [
        "dead-leaves-squares",
        "dead-leaves-oriented",
        "dead-leaves-mixed",
        "dead-leaves-textured",
        "statistical-spectrum",
        "statistical-wmm",
        "statistical-spectrum-colour",
        "statistical-spectrum-colour-wmm",
        "stylegan-random",
        "stylegan-high-frequency",
        "stylegan-sparse",
        "stylegan-oriented",
        "fractals",
    ]
    assert all(name == process.name for name, process in PROCESSES.items())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("size", [16, 36])
def test_every_process_makes_images(process: str, size: int) -> None:
    images = generate(process, 3, size, seeded(0))
    assert images.shape == (3, 3, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.std(dim=(1, 2, 3)) > 0.02).all(), "an image is blank"
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("process", PROCESSES)
def test_the_generator_decides_everything(process: str) -> None:
    torch.manual_seed(1)
    once = generate(process, 2, 16, seeded(7))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(generate(process, 2, 16, seeded(7)), once)
    assert not torch.equal(generate(process, 2, 16, seeded(8)), once)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "a random number came from elsewhere"


def test_batches_are_images_in_8_bits() -> None:
    (batch,) = batches("stylegan-sparse", number=1)
    assert batch.shape == (3, 3, 16, 16)
    assert batch.dtype == torch.uint8
    assert batch.max() > 128


def test_processes_take_turns() -> None:
    both = batches("stylegan-random", "dead-leaves-squares")
    assert torch.equal(both[0], batches("stylegan-random")[0])
    assert torch.equal(both[1], batches("dead-leaves-squares")[1])
    assert torch.equal(both[2], batches("stylegan-random")[2])


def test_a_stream_goes_on_where_another_ended() -> None:
    whole = batches("stylegan-random", "stylegan-oriented", number=4)
    rest = batches("stylegan-random", "stylegan-oriented", first=2, number=2)
    assert torch.equal(torch.stack(whole[2:]), torch.stack(rest))


def test_batches_differ_from_each_other_and_between_seeds() -> None:
    drawn = batches("stylegan-random") + batches("stylegan-random", seed=1)
    for one, other in itertools.combinations(drawn, 2):
        assert not torch.equal(one, other)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="no random process 'clouds'; choose among dead-leaves-squares, "):
        generate("clouds", 1, 16, seeded(0))
    with pytest.raises(InputError, match="at least 16 pixels wide, not 15"):
        generate("fractals", 1, 15, seeded(0))
    with pytest.raises(InputError, match="must be at least 1, not 0"):
        generate("fractals", 0, 16, seeded(0))


def test_bad_streams_are_refused_before_the_first_batch() -> None:
    with pytest.raises(InputError, match="no random process is named"):
        image_batches([], 16, 0, "cpu")
    with pytest.raises(InputError, match="no random process 'clouds'"):
        image_batches(["fractals", "clouds"], 16, 0, "cpu")
    with pytest.raises(InputError, match="seed must be at least 0, not -1"):
        image_batches(["fractals"], 16, -1, "cpu")
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        image_batches(["fractals"], 16, 0, "cpu", batch_size=0)
    with pytest.raises(InputError, match="first must be at least 0, not -1"):
        image_batches(["fractals"], 16, 0, "cpu", first=-1)
