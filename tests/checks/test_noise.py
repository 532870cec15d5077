"""The command that tests randomness, on fewer draws: right generators pass, and every test can fail."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from checks import noise as checks
from dpvision.privacy import ExampleDraws, ExampleKey, SecureRandom, SeededRandom


def failed_names(results: list) -> set[str]:
    return {result.name for result in checks.failures(results)}


def call(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["noise.py", "--draws", "1000000", *options])
    return checks.main()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_million_draws_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]) == 52
    assert found["failed"] == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fault_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--seed", "1", "--fault", "tails") == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("deviation", "moment of order 2"),
        ("mean", "moment of order 1"),
        ("skewed", "moment of order 3"),
        ("uneven", "4096 equally probable cells"),
        ("coarse", "4096 equally probable cells"),
        ("shifted middle", "Kolmogorov–Smirnov"),
        ("tails", "above 4σ"),
        ("tails", "below −4σ"),
        ("pairs", "values 65536 apart"),
        ("pairs", "pairs of one Box–Muller step, 32 × 32 cells"),
        ("radius", "squares 65536 apart"),
        ("smoothed", "values 1 apart"),
        ("repeated release", "values of one release and the next"),
        ("repeated tensor", "values of two tensors of a release"),
        ("low bit", "low 8 bits of the multiples of the grid"),
        ("off the grid", "multiples of the grid"),
    ],
)
def test_wrong_normals_are_caught(fault: str, caught_by: str) -> None:
    """At a million draws, by the test that is meant to."""
    sigma, grid, half = checks.SIGMA, checks.GRID, checks._BLOCK // 2
    release = checks.release_with(SeededRandom(1))
    earlier = release({name: torch.zeros(shape) for name, shape in checks.SHAPES.items()})

    def opposite_radius(values: torch.Tensor) -> torch.Tensor:
        """Signs stay independent; only sizes are tied."""
        flat = values.flatten().clone()
        for block in flat.split(checks._BLOCK):
            if len(block) == 2 * half:
                some = half // 20
                block[half : half + some] = block[:some].abs() * block[half : half + some].sign()
        return flat.view_as(values)

    def odd_become_even(values: torch.Tensor) -> torch.Tensor:
        multiples = (values.double() / grid).round()
        return (
            (multiples - (multiples % 2 == 1) * (torch.rand(values.shape) < 0.05).double()) * grid
        ).float()

    def repeat_half(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        count = min(values.numel(), kept.numel()) // 2
        return torch.cat([kept.flatten()[:count], values.flatten()[count:]]).view_as(values)

    spoils = {
        "deviation": lambda x: x * 0.99,
        "mean": lambda x: x + 0.02 * sigma,
        "skewed": lambda x: x + 0.01 * (x.square() / sigma - sigma),
        "uneven": lambda x: torch.where(x.abs() < 1e-3 * sigma, x * 5, x),
        "coarse": lambda x: (x * 4096 / sigma).round() * sigma / 4096,
        "shifted middle": lambda x: torch.where(x.abs() < sigma / 2, x + 0.02 * sigma, x),
        "tails": checks.cut_tails,
        "pairs": checks.tie_pairs,
        "radius": opposite_radius,
        "smoothed": lambda x: (x + 0.02 * x.flatten().roll(1).view_as(x)) / (1 + 0.02**2) ** 0.5,
        "low bit": odd_become_even,
        "off the grid": lambda x: x + grid / 2,
    }
    if fault == "repeated release":
        spoiled = lambda sums: {name: repeat_half(x, earlier[name]) for name, x in release(sums).items()}  # noqa: E731
    elif fault == "repeated tensor":

        def spoiled(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            released = release(sums)
            return {**released, "bias": repeat_half(released["bias"], released["weight"])}
    else:
        spoiled = checks.spoiled(release, spoils[fault])
    assert caught_by in failed_names(checks.check_normals(spoiled, 1_000_000))


def test_the_attack_on_last_bits_is_real() -> None:
    random = SecureRandom()
    assert checks.attack(checks.floating_point_release, 100_000, random) > 0.2
    assert checks.attack(checks.grid_release, 100_000, random) == 0


class UnfairDraws(ExampleDraws):
    def bernoulli(self, probability: float) -> torch.Tensor:
        return super().bernoulli(probability / 0.98)


class UnfairKey(ExampleKey):
    def of(self, ids: torch.Tensor) -> ExampleDraws:
        return UnfairDraws(self.key, ids)


class Unfair(SeededRandom):
    """Uniforms a little too small, and never odd."""

    def uniform(self, shape: object) -> torch.Tensor:
        drawn = super().uniform(shape)  # type: ignore[arg-type]
        return (drawn * 0.98 * 2.0**52).floor() * 2.0**-52

    def by_example(self) -> ExampleKey:
        return UnfairKey(super().by_example().key)


class ClumpedKey(ExampleKey):
    def of(self, ids: torch.Tensor) -> ExampleDraws:
        return super().of(ids // 2)


class Clumped(SeededRandom):
    """Two neighbours have one id."""

    def by_example(self) -> ExampleKey:
        return ClumpedKey(super().by_example().key)


class Stuck(SeededRandom):
    """Always the same batch."""

    def by_example(self) -> ExampleKey:
        return SeededRandom(9).by_example()


def test_wrong_uniforms_and_batches_are_caught() -> None:
    unfair = failed_names(checks.check_uniforms(1_000_000, Unfair(1)))
    assert unfair == {"uniforms, highest 16 bits", "uniforms, lowest 16 bits", "uniforms, each of 53 bits"}
    assert "members of batches" in failed_names(checks.check_batches(3_000_000, Unfair(1)))
    clumped = failed_names(checks.check_batches(3_000_000, Clumped(1)))
    assert clumped == {"neighbours in a batch", "sizes of batches"}
    stuck = failed_names(checks.check_batches(1_000_000, Stuck(1)))
    assert {"batches an example is in", "an example in a batch and the next"} <= stuck


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_share_a_stream_are_caught() -> None:
    """A seeded source goes on alike in every forked child; the secure one must not."""
    assert len(failed_names(checks.check_processes(100_000, SeededRandom(1)))) == 3
    assert not failed_names(checks.check_processes(100_000, SecureRandom()))


def test_another_keystream_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.keystream
    monkeypatch.setattr(checks, "keystream", lambda key: right(key[::-1]))
    assert len(failed_names(checks.check_keystream())) == 2
