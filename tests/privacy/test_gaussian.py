"""`add_gaussian` against its definition in 512-bit arithmetic, of the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
import pytest
import torch

from dpvision.privacy import SeededRandom, gaussian

exact = mpmath.mp.clone()
exact.prec = 512
EDGE = 2**44  # _EXTREME of 63 bits


def normals(first: int, second: int, more: tuple[int, int]) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Box and Muller's pair of 63 bits of each uniform and 128 more."""
    u, v = ((exact.mpf(a * 2**128 + b) + 0.5) / 2**191 for a, b in zip((first, second), more, strict=True))
    radius = exact.sqrt(-2 * exact.log(u))
    return radius * exact.cos(2 * exact.pi * v), radius * exact.sin(2 * exact.pi * v)


class Bits:
    """Gives the bits of pairs first, then always the same more, and counts how often those are asked for."""

    def __init__(self, pairs: Sequence[tuple[int, int]], more: tuple[int, int]) -> None:
        self.pairs, self.more, self.refined = pairs, more, -1

    def __call__(self, count: int) -> bytes:
        self.refined += 1
        if self.refined:
            assert count == 16
            return self.more[(self.refined - 1) % 2].to_bytes(16, "big")
        drawn = [uniform for side in zip(*self.pairs, strict=True) for uniform in side]
        assert count == 8 * len(drawn)
        return b"".join(uniform.to_bytes(8, "little") for uniform in drawn)


def some_pairs(count: int) -> list[tuple[int, int]]:
    """Random ones, and others with U and V at the ends of where double precision is trusted."""
    drawn = torch.frombuffer(bytearray(SeededRandom(1).bytes(16 * count)), dtype=torch.int64)
    pairs = [(int(u), int(v)) for u, v in (drawn & (2**63 - 1)).view(-1, 2)]
    firsts = [0, 1, EDGE - 1, EDGE + 1, 2**50, 2**62, 2**63 - EDGE - 1024, 2**63 - EDGE + 1024, 2**63 - 1]
    seconds = [0, 1, 2**60, 2**61 - 1, 2**61, 2**62, 3 * 2**61, 2**63 - 1]
    near_ends = [end for power in range(20, 44) for end in (2**power, 2**63 - 2**power)]
    edges = [(u, v) for u in firsts for v in seconds]
    return pairs + edges + [(u, v) for u in near_ends for _, v in pairs[:10]]


@pytest.mark.parametrize("more", [(0, 0), (2**128 - 1, 2**128 - 1), (0, 2**128 - 1)])
def test_what_double_precision_decides_holds_for_every_continuation_of_the_bits(
    more: tuple[int, int],
) -> None:
    """At 2⁴⁰ steps to a σ, where an error of 2⁻⁴² is a quarter of a step, and not all pairs are decided."""
    pairs, scale = some_pairs(1500), 2.0**40
    bits = Bits(pairs, more)
    found = gaussian.rounded_normals(
        torch.zeros(2 * len(pairs), dtype=torch.float64), scale, bits, bits
    ).tolist()
    for place, pair in enumerate(pairs):
        for normal, rounded in zip(
            normals(*pair, more), (found[place], found[place + len(pairs)]), strict=True
        ):
            assert int(exact.nint(normal * scale)) == rounded
    assert 0.1 < bits.refined / 2 / len(pairs) < 0.9


@pytest.mark.parametrize("above", [False, True])
def test_a_boundary_within_the_error_is_decided_by_more_bits(above: bool) -> None:
    (pair,) = some_pairs(1)[:1]
    more, scale = (2**127, 2**127), 1.5 * 2.0**22
    normal, _ = normals(*pair, more)
    fraction = normal * scale - exact.nint(normal * scale)
    shift = float((-0.5 if fraction > 0 else 0.5) - fraction)  # nearly onto a boundary, in float64
    shift += (1 if above else -1) * 2.0**-40
    bits = Bits([pair], more)
    found = gaussian.rounded_normals(torch.tensor([shift, 0.0], dtype=torch.float64), scale, bits, bits)
    assert bits.refined == 2
    assert int(found[0]) == int(exact.nint(normal * scale + shift))
    assert int(found[0]) - int(exact.floor(normal * scale + shift)) == above


def middle(count: int) -> bytes:
    """More bits, for those that are not decided."""
    assert count == 16
    return (2**127).to_bytes(16, "big")


@pytest.mark.parametrize("deviation", [1e-30, 1e-3, 0.91, 1.0, 3.0, 1e9, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_is_the_definition(deviation: float, dtype: torch.dtype) -> None:
    """float32(g·round((s + σZ)/g)), for sums from far below the grid to far above 2⁵³ of its steps."""
    grid = 2.0 ** (math.floor(math.log2(deviation)) - 22)
    assert 2**22 <= deviation / grid < 2**23
    magnitudes = torch.logspace(-12, 5, 200, dtype=torch.float64) * deviation
    largest = torch.tensor([3e38, -3e38, 0.0, 5 * grid, -0.5 * grid, 2.5 * grid], dtype=torch.float64)
    sums = torch.cat([magnitudes * torch.linspace(-1, 1, 200, dtype=torch.float64).sign(), largest]).to(dtype)
    found = gaussian.add_gaussian(sums, deviation, SeededRandom(2).bytes, middle)
    drawn = torch.frombuffer(bytearray(SeededRandom(2).bytes(8 * len(sums))), dtype=torch.int64)
    first, second = (drawn & (2**63 - 1)).view(2, -1).tolist()
    pairs = [normals(*pair, (2**127, 2**127)) for pair in zip(first, second, strict=True)]
    of_each = [cosine for cosine, _ in pairs] + [sine for _, sine in pairs]
    for total, normal, released in zip(sums.tolist(), of_each, found, strict=True):
        multiple = int(exact.nint((exact.mpf(total) + exact.mpf(deviation) * normal) / grid))
        assert np.float32(float(multiple) * grid) == released.item()


def test_the_type_and_shape_of_the_sums_do_not_matter() -> None:
    for shape in [(), (0,), (1,), (3, 5), (2, 0, 4)]:
        sums = torch.ones(shape, dtype=torch.float64)
        before = sums.clone()
        expected = gaussian.add_gaussian(sums, 2.0, SeededRandom(3).bytes, middle)
        assert expected.shape == shape
        assert expected.dtype == torch.float32
        assert torch.equal(sums, before)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            assert torch.equal(
                gaussian.add_gaussian(sums.to(dtype), 2.0, SeededRandom(3).bytes, middle), expected
            )
    matrix = torch.arange(15.0).view(3, 5)
    by_columns = gaussian.add_gaussian(matrix.T, 1.0, SeededRandom(3).bytes, middle)
    by_rows = gaussian.add_gaussian(matrix.T.contiguous(), 1.0, SeededRandom(3).bytes, middle)
    assert torch.equal(by_columns, by_rows)


@pytest.mark.parametrize("name", ["log", "cos", "sin"])
def test_elementary_functions_are_as_exact_as_the_bound_assumes(name: str) -> None:
    """Within 4 units in the last place: the proof's (2), on this machine."""
    uniform = SeededRandom(4).uniform((8192,))
    points = uniform if name == "log" else uniform * 2 * math.pi
    points = torch.cat([points, 1 - uniform[:2000] * 2.0**-15, uniform[:2000] * 2.0**-15])
    function: Callable[[mpmath.mpf], mpmath.mpf] = getattr(exact, name)
    worst = 0.0
    for point, found in zip(points.tolist(), getattr(torch, name)(points).tolist(), strict=True):
        value = function(exact.mpf(point))
        unit = math.ulp(found) if name == "log" else 2.0**-52  # near a root of cos, the error of Z counts
        worst = max(worst, abs(float(value - found)) / unit)
    assert worst <= 4


def test_a_zero_has_no_sign() -> None:
    """−0 would tell that a sum was just below 0: 0 and g would never lead to it."""
    half, quarter = 2**62, 2**61  # U = 1/2 and V = 1/4: Z is nearly 0
    for below in (-0.3, -0.0, 0.0, 0.3):
        sums = torch.tensor([below * 2.0**-22, 5.0])
        released = gaussian.add_gaussian(sums, 1.0, Bits([(half, quarter)], (0, 0)), middle)
        assert released[0] == 0
        assert not released[0].signbit()
