"""Gaussian noise whose last bits give nothing away: rounded sums of exact normals.

**The attack.** A floating-point sampler cannot return every number, and which numbers ``total + noise`` can
become depends on ``total``. Whoever sees one that only one of two data sets could have led to knows which it
was, whatever ε says (Mironov, CCS 2012; for the Gaussian mechanism Jin et al., arXiv 2112.05307).

**The construction.** Let the grid g be the largest power of two ≤ 2⁻²²·σ. For every coordinate s of the sums,

    y = g·round((s + σ·Z) / g),   Z ~ N(0, 1) exact, a real number,

is computed without error, and y rounded to float32 is returned: exact noise first, then a rounding that
depends on the exact result alone. So the released value is post-processing of the ideal mechanism s + σ·Z. It
has the guarantee of that for the sensitivity of s, no wider, under every neighbouring relation and sampling:
there is no margin to pay for.

*How a computer rounds a real number.* Z is a function of two real uniforms (Box and Muller, 1958),

    R = √(−2·ln U),   Z = R·cos(2πV),   Z′ = R·sin(2πV),

of which the first 63 bits are drawn. With them Z is known to within 2⁻⁴² (see `_ERROR`), and unless a
boundary between two multiples of g lies that near, every continuation of the bits has the same rounding: it
is decided. For 4 to 6 of a million numbers it is not. Then 128 further bits of U and V are drawn and decide,
in 512-bit arithmetic. This is interval refining (Haney et al., arXiv 2207.13793), with one refinement.

*Proof that y is that function of s + σZ.* Division by g, a power of two, is exact: t = s/g. A float64 is an
integer w = round(t) plus a remainder r, both exact in float64, and round(t + Zσ/g) = w + round(r + Zσ/g),
where σ/g is exact as well. The last term m is decided as above. Floating-point addition of w and m, the
product with g and the conversion to float32 each round an exact result, so they are functions of w + m, once
a zero has lost its sign. ∎

**What it rests on.** (1) The bits are uniform and independent: AES-256-CTR is a secure stream cipher and its
key is secret. (2) PyTorch's double-precision log, cos and sin are right to 4 units in the last place; the
libraries behind it state 1, and tests compare with 512-bit arithmetic. (3) 191 bits of U and V stand for all
of them, that is, a cell of side 2⁻¹⁹¹ for the point in it. A boundary, Z or Z′ = b, is two monotone curves in
the unit square of (U, V), and a monotone curve meets fewer than 2·2¹⁹¹ of its 2³⁸² cells. There are fewer
than 2³⁰ boundaries, so all but 2⁻¹⁵⁹ of the cells have one rounding, and 2⁻¹⁹¹ are those with U next to 0,
where the boundaries have no end. So a pair is within a total variation distance of 2⁻¹⁵⁸ of the ideal, and T
releases of d numbers add less than (1 + e^ε)·T·d·2⁻¹⁵⁸ to δ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import torch
from torch import Tensor

_FINENESS = 22  # σ/g lies in [2²², 2²³): as fine as float32 is near 2σ
_BITS, _MORE_BITS = 63, 128  # of each uniform: at first, and where they do not decide
# For U at least _EXTREME from 0 and 1, and thus 2⁻⁹ ≤ R ≤ 5.2, the Z computed in double precision (unit u =
# 2⁻⁵³) is within _ERROR of the real one. Errors of R: of the bits of U not drawn, 2⁻⁶³/(U·R) < 2⁻⁴⁶; of
# rounding U, u/R ≤ 2⁻⁴⁴; of log to 4 units in the last place, 4u·R; of the root, u·R. Of Z besides: of V and
# 2πV, 2π·3u·R; of cos and sin, 8u·R; of products and sums, 4u·R. All together below 1.6·2⁻⁴⁴.
_EXTREME = 2.0**-19
_ERROR = 2.0**-42
_BLOCK = 1 << 17  # numbers at a time: keeps the temporaries in cache

Draw = Callable[[int], bytes]
"""A function that returns so many new random bytes."""

_exact = mpmath.mp.clone()
_exact.prec = 512


def add_gaussian(sums: Tensor, deviation: float, draw: Draw, draw_more: Draw) -> Tensor:
    """Return ``sums`` + N(0, deviation²), rounded to the grid and then to float32, as the module says.

    Args:
        sums: sums of any shape and floating-point type, on the CPU, finite in float32; not changed.
        deviation: σ, between 1e-30 and 1e30.
        draw: 8 bytes a number, and 16 more for an odd last one of a block.
        draw_more: 32 bytes for a pair that is not decided. How many are not depends on the sums: from a
            stream of its own, they move no other draw.

    Returns:
        float32, of the same shape.
    """
    grid = 2.0 ** (math.frexp(deviation)[1] - 1 - _FINENESS)
    noisy = torch.empty(sums.shape, dtype=torch.float32)
    for block, part in zip(noisy.view(-1).split(_BLOCK), sums.reshape(-1).split(_BLOCK), strict=True):
        scaled = part.double() * (1 / grid)
        whole = scaled.round()
        noise = rounded_normals(scaled.sub_(whole), deviation / grid, draw, draw_more)
        # Adding 0 makes −0 a 0: its sign would tell that `whole` was −0, and so on which side of 0 a sum was.
        block.copy_(noise.add_(whole).add_(0.0).mul_(grid))
    return noisy


def rounded_normals(shifts: Tensor, scale: float, draw: Draw, draw_more: Draw) -> Tensor:
    """Draw round(shift + scale·Z) for shifts in [−½, ½]: float64 integers of the same shape ``[n]``."""
    pairs = (len(shifts) + 1) // 2
    if pairs == 0:
        return shifts
    drawn = torch.frombuffer(bytearray(draw(16 * pairs)), dtype=torch.int64).view(2, pairs)
    drawn &= 2**_BITS - 1
    first, second = drawn.double().mul_(2.0**-_BITS)
    extreme = (first - 0.5).abs_() > 0.5 - _EXTREME
    radius = first.log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi)
    values = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)])[: len(shifts)]
    values.mul_(scale).add_(shifts)
    rounded = values.round()
    near = values.sub_(rounded).abs_() > 0.5 - _ERROR * scale  # a boundary between two integers
    undecided = {*extreme.nonzero()[:, 0].tolist(), *(near.nonzero()[:, 0] % pairs).tolist()}
    for pair in sorted(undecided):
        normals = refined_pair(int(drawn[0, pair]), int(drawn[1, pair]), draw_more)
        for place, normal in zip((pair, pair + pairs), normals, strict=True):
            if place < len(shifts):
                rounded[place] = int(_exact.nint(normal * scale + float(shifts[place])))
    return rounded


def refined_pair(first: int, second: int, draw_more: Draw) -> tuple[Any, Any]:
    """Compute Z and Z′ in 512-bit arithmetic, of the first 63 bits of U and V and of 128 more that
    it draws.
    """
    u, v = (
        # The middle of what those bits leave open, so that U is never 0.
        (_exact.mpf(bits << _MORE_BITS | int.from_bytes(draw_more(_MORE_BITS // 8), "big")) + 0.5)
        / 2 ** (_BITS + _MORE_BITS)
        for bits in (first, second)
    )
    radius = _exact.sqrt(-2 * _exact.log(u))
    cosine, sine = _exact.cos_sin(2 * _exact.pi * v)
    return radius * cosine, radius * sine
