"""Compute ε a second time, by other mathematics than `dpvision.privacy.accounting` and none of its code.

Two programs that share no line rarely share a mistake. This one takes what a release states of its Gaussian
sums (noise multiplier, sample rate, count) and knows no grid of losses, no FFT and no dp_accounting.

**What is computed.** L = log dP/dQ is the privacy loss of a worst pair (P, Q) of one release, under P, and
M(z) = E[e^{zL}] its moments, at complex z: those of a composition are the product. The pairs are those of
Zhu, Dong and Wang (arXiv 2106.08567), with N(m) = N(m, σ²) and q the sample rate:

    add or remove one   (1−q)·N(0) + q·N(1)  against  N(0), and the reverse: the larger ε counts
    replace one         (1−q)·N(0) + q·N(1)  against  (1−q)·N(0) + q·N(−1)

- `exact_gaussian`, where nothing is sampled: all releases together are one Gaussian, with mean
  μ = √(Σ count·s²/σ²) against 0 and unit variance, whose δ has a closed form (Balle and Wang, arXiv
  1805.06530). s is the distance of neighbouring sums: 1, or `replace_one_ratio`.
- `renyi`, an upper bound: δ(ε) ≤ M(t)·e^{−εt}·t^t/(1+t)^{1+t} for every real t > 0 (Canonne, Kamath and
  Steinke, arXiv 2004.00010, Proposition 12), so ε at the best t.
- `numerical`, ε itself. As (1 − e^{−u})₊ = 1/(2πi)·∫ e^{zu}/(z(z+1)) dz along any line Re z = τ > 0,

      δ(ε) = E[(1 − e^{ε−L})₊] = 1/(2πi) · ∫ M(z)·e^{−εz} / (z(z+1)) dz.

  τ is the saddle point, where nothing cancels. Both integrals, this one and that which is M, are of analytic
  functions, for which sums over equal steps converge exponentially.

**How the integral is made easy.** M decays slowly along a straight line where few examples are ever drawn: L
then nearly has an atom, at its end. So the path bends to the side on which e^{z(L−ε)} decays for this atom,
and M itself is taken along a line beside the real one, x + ic, on which the growth of its other part is
damped by e^{−Im z·c/σ²}. No path crosses a pole or a branch cut: c ≤ πσ²/2, half the distance to the zeros
of the mixtures.

**How sure it is.** ε is computed twice, with steps half as long the second time; what they differ by, and
what rounding may have done, is the error that is returned beside it: an estimate, not a bound. Where that is
not small, or would take too long, there is no answer: None, never a figure that may be wrong.
``tests/privacy/test_second_accountant.py`` compares it with closed forms, with PLD and with another program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_ndtr

Pair = Literal["remove", "add", "replace"]
"""A worst pair: of an example that is taken away, one that is added, or one that is replaced."""

LARGEST_ERROR = 1e-4
"""The largest relative error of ε with which `numerical` answers."""

FEW_DRAWN = 4.0
"""How often an image must be drawn in all, on average, for `numerical` to be worth a try: it does not
converge where hardly anyone is, and takes long to say so.
"""

NO_DELTA = 1e-7
"""The δ below which `delta_at` says 0."""

_SLOPES = (0.2, 0.05)
"""How far the path bends, tried in turn: the more, the sooner its ends count for nothing."""
_SHARES = (0.85, 0.3, 0.05)
"""What ε may be of its bound: by RDP it is far above where next to nobody is drawn."""
_MOST_POINTS = 25_000  # of the sum that is M at one place: a few milliseconds
_MOST_STEPS = 2048  # along the path
_AT_A_TIME = 16  # places of the path
_NEGLIGIBLE = 25.0  # e^−25 is nothing
_TAIL = 12.0  # standard deviations
_PRECISION = 4e-16


class GaussianSums(Protocol):
    """``count`` sums with Gaussian noise, each over a Poisson sample: the events of `dpvision.privacy.events`
    that have these attributes, which are described there.
    """

    @property
    def noise_multiplier(self) -> float: ...
    @property
    def sample_rate(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def replace_one_ratio(self) -> float: ...


@dataclass(frozen=True)
class Numerical:
    """An ε, and the estimate of what it may be off by, either way."""

    epsilon: float
    error: float


class _NotKnown(Exception):  # noqa: N818 (reads as what happened)
    """The integral did not converge within its bounds."""


def exact_gaussian(events: Iterable[GaussianSums], delta: float, relation: str) -> float | None:
    """Compute the ε of releases of which none is over a sample, exactly; None where one is."""
    events = tuple(events)
    if any(event.sample_rate < 1 for event in events):
        return None
    shift = _shift(events, relation)

    def excess(epsilon: float) -> float:
        return _exact_log_delta(events, epsilon, relation) - math.log(delta)

    if shift == 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, shift**2 / 2 + 40 * shift, xtol=1e-300, rtol=1e-14))


def renyi(events: Iterable[GaussianSums], delta: float, relation: str) -> float:
    """Compute an upper bound on ε from real moments, at the best of all orders."""
    events = tuple(events)
    return max(_renyi(events, pair, delta)[0] for pair in _pairs(relation)) if events else 0.0


def numerical(events: Iterable[GaussianSums], delta: float, relation: str) -> Numerical | None:
    """Compute ε by the integral of the module; None where it does not converge."""
    events = tuple(events)
    found = Numerical(0.0, 0.0)
    try:
        for pair in _pairs(relation) if events else ():
            if found.epsilon > 0 and _is_below(events, pair, delta, found.epsilon - found.error):
                continue  # the other direction costs more
            found = max(found, _numerical(events, pair, delta), key=lambda one: one.epsilon)
    except _NotKnown:
        return None
    return found


def log_moment(events: Iterable[GaussianSums], relation: str, t: float) -> float:
    """Compute log M(t) at real t > 0, of the direction that has the larger."""
    events = tuple(events)
    return max(_real(events, pair, t) for pair in _pairs(relation))


def least_epsilon(log_moment_at: Callable[[float], float], delta: float) -> float:
    """Compute an upper bound on ε from log M(t), at the best of all t > 0."""
    return _best_order(log_moment_at, delta)[0]


def delta_at(events: Iterable[GaussianSums], epsilon: float, relation: str) -> float | None:
    """Compute δ at ε > 0, of the direction that has the larger: in closed form where no release is over a
    sample, else by the integral; 0 where it is below `NO_DELTA`, None where the integral does not converge.
    """
    events = tuple(events)
    if all(event.sample_rate == 1 for event in events):
        return math.exp(_exact_log_delta(events, epsilon, relation))
    try:
        return max(
            0.0 if _is_below(events, pair, NO_DELTA, epsilon) else _delta(events, pair, epsilon)
            for pair in _pairs(relation)
        )
    except _NotKnown:
        return None


def _pairs(relation: str) -> tuple[Pair, ...]:
    return ("replace",) if relation == "replace_one" else ("remove", "add")


def _squared_shift(event: GaussianSums, relation: str) -> float:
    """Return (s/σ)² of a release over all examples."""
    return ((event.replace_one_ratio if relation == "replace_one" else 1.0) / event.noise_multiplier) ** 2


def _shift(events: Sequence[GaussianSums], relation: str) -> float:
    """Return μ, where all releases together are N(μ, 1) against N(0, 1)."""
    return math.sqrt(sum(event.count * _squared_shift(event, relation) for event in events))


def _exact_log_delta(events: Sequence[GaussianSums], epsilon: float, relation: str) -> float:
    """Return log δ(ε) of releases over all examples. Logarithms are subtracted, for e^ε overflows."""
    shift = _shift(events, relation)
    first, second = log_ndtr(shift / 2 - epsilon / shift), log_ndtr(-shift / 2 - epsilon / shift)
    ratio = epsilon + second - first
    return float(first + (math.log(-math.expm1(ratio)) if ratio < 0 else -math.inf))


# ε of one pair -------------------------------------------------------------------------------------------


def _renyi(events: Sequence[GaussianSums], pair: Pair, delta: float) -> tuple[float, float]:
    """Return the bound on ε, at least 0, and the t at which it is least."""
    return _best_order(lambda t: _real(events, pair, t), delta)


def _best_order(log_moment_at: Callable[[float], float], delta: float) -> tuple[float, float]:
    """Return the bound on ε from log M(t) for every t > 0, at least 0, and the t at which it is least."""

    def bound(log_t: float) -> float:
        t = math.exp(log_t)
        log_constant = t * math.log(t) - (1 + t) * math.log1p(t)
        return (log_moment_at(t) - math.log(delta) + log_constant) / t

    best = _least(bound)
    return max(bound(best), 0.0), math.exp(best)


def _is_below(events: Sequence[GaussianSums], pair: Pair, delta: float, epsilon: float) -> bool:
    """Say whether real moments already show that the pair's δ at ε is below ``delta``."""

    if pair == "add" and all(event.sample_rate < 1 for event in events):
        largest_loss = -sum(event.count * math.log1p(-event.sample_rate) for event in events)
        if epsilon >= largest_loss:
            return True

    def bound(log_t: float) -> float:
        t = math.exp(log_t)
        return _real(events, pair, t) - epsilon * t + t * math.log(t) - (1 + t) * math.log1p(t)

    return bound(_least(bound)) < math.log(delta)


def _least(function: Callable[[float], float], start: float = 0.0) -> float:
    """Return where a function with one valley is least: downhill from ``start``, then nearby."""
    at, value = start, function(start)
    right, left = function(start + 1), function(start - 1)
    side = 1 if right < left else -1
    ahead = min(right, left)
    while ahead < value and abs(at) < 40:
        at, value = at + side, ahead
        ahead = function(at + side)
    return float(
        minimize_scalar(function, bounds=(at - 1, at + 1), method="bounded", options={"xatol": 1e-4}).x
    )


def _numerical(events: Sequence[GaussianSums], pair: Pair, delta: float) -> Numerical:
    """Return ε of one pair. _NotKnown where no path makes the error small."""
    bound, tau = _renyi(events, pair, delta)
    if bound == 0:
        return Numerical(0.0, 0.0)
    if not math.isfinite(bound):
        raise _NotKnown
    for share in _SHARES:
        try:
            found = Numerical(share * bound, 0.0)
            for _ in range(2):  # first near the ε that is sought, then at it
                crossing = _crossing(events, pair, found.epsilon, tau)
                found = _on_some_path(events, pair, delta, crossing, found.epsilon, bound)
                if found.epsilon == 0:
                    break
            return found
        except _NotKnown:
            continue
    raise _NotKnown


def _delta(events: Sequence[GaussianSums], pair: Pair, epsilon: float) -> float:
    """Return δ of one pair at ε. _NotKnown where two steps, along every path, give two answers."""
    tau = _crossing(events, pair, epsilon, 1.0)
    for slope in _SLOPES:
        with suppress(_NotKnown):
            coarse, fine = (
                math.exp(_Path(events, pair, tau, epsilon, slope, per_step).log_delta(epsilon))
                for per_step in (1, 2)
            )
            if abs(coarse - fine) <= LARGEST_ERROR * fine:
                return fine
    raise _NotKnown


def _crossing(events: Sequence[GaussianSums], pair: Pair, epsilon: float, start: float) -> float:
    """Return where to cross the real axis: at the saddle point, or up to some e⁵ higher up on its left side,
    if there the steps may be longer. That is so where hardly any example is drawn, and M explodes at once.
    """

    def height(log_t: float) -> float:
        t = math.exp(log_t)
        return _real(events, pair, t) - epsilon * t - math.log(t) - math.log1p(t)

    saddle = _least(height, math.log(start))
    near = [
        math.exp(one)
        for one in saddle - np.array([0, 0.1, 0.2, 0.4, 0.7, 1.0])
        if height(one) < height(saddle) + 5
    ]
    return min(near, key=lambda t: _period(events, pair, t, epsilon, _real(events, pair, t)))


def _on_some_path(
    events: Sequence[GaussianSums], pair: Pair, delta: float, tau: float, near: float, bound: float
) -> Numerical:
    """Return ε along the first path through τ on which the error is small."""
    for slope in _SLOPES:
        try:
            coarse, fine = (
                _Path(events, pair, tau, near, slope, per_step).epsilon(delta, bound) for per_step in (1, 2)
            )
        except _NotKnown:
            continue
        error = abs(coarse.epsilon - fine.epsilon) + fine.error
        if error <= LARGEST_ERROR * fine.epsilon or fine.epsilon == coarse.epsilon == 0:
            return Numerical(fine.epsilon, error)
    raise _NotKnown


class _Path:
    """The integral along one path: M is computed once, and serves for every ε near ``near``.

    Args:
        events, pair: whose M it is.
        tau: where the path crosses the real axis.
        near: an ε near that which is sought.
        slope: how far the path bends.
        per_step: by how much finer all steps are.
    """

    def __init__(
        self, events: Sequence[GaussianSums], pair: Pair, tau: float, near: float, slope: float, per_step: int
    ) -> None:
        self._tau, self._near, self._log_top = tau, near, _real(events, pair, tau)
        step = 2 * math.pi / _period(events, pair, tau, near, self._log_top) / per_step
        side = -slope if pair == "add" else slope
        parts, noises = [], []
        for first in range(0, _MOST_STEPS, _AT_A_TIME):
            place = step * np.arange(first, first + _AT_A_TIME)
            root = np.sqrt(1 + (place / (2 * tau)) ** 2)
            z = tau + side * 2 * tau * (root - 1) + 1j * place
            towards = side * place / (2 * tau) / root + 1j
            log_moment, noise = _log_moment(events, pair, z, per_step)
            weight = step * towards / (z * (z + 1)) / math.pi
            if first == 0:
                weight[0] /= 2
            parts.append((z, weight, log_moment - self._log_top))
            size = np.abs(weight) * np.exp((log_moment - self._log_top).real - near * (z.real - tau))
            noises.append(noise + _PRECISION)
            first_size = abs(parts[0][1][0])
            if not np.isfinite(size).all() or (size * noise).max() > 1e-6 * first_size:
                raise _NotKnown
            if size.max() * (place[-1] / step) < 1e-10 * first_size:
                break
        else:
            raise _NotKnown
        self._z, self._weight, self._moment = (np.concatenate(one) for one in zip(*parts, strict=True))
        self._noise = np.concatenate(noises)

    def log_delta(self, epsilon: float) -> float:
        """Return log δ(ε). _NotKnown where ε is so far from ``near`` that nothing but rounding is left."""
        terms = self._weight * np.exp(self._moment - epsilon * (self._z - self._tau))
        total = float(np.sum(terms.imag))
        if not total > 10 * float(np.sum(np.abs(terms) * self._noise)):
            raise _NotKnown
        return self._log_top - epsilon * self._tau + math.log(total)

    def epsilon(self, delta: float, bound: float) -> Numerical:
        """Return ε at δ, between 0 and ``bound``, with what rounding of M may have done to it."""
        goal, low, high = math.log(delta), self._near, self._near
        while self.log_delta(low) <= goal:
            if low == 0:
                return Numerical(0.0, 0.0)
            low, high = (0.7 * low if low > 1e-4 * bound else 0.0), low
        while self.log_delta(high) > goal:
            if high > bound:
                raise _NotKnown
            low, high = high, 1.2 * high
        found = float(brentq(lambda one: self.log_delta(one) - goal, low, high, xtol=1e-300, rtol=1e-13))
        # log δ falls with ε, near τ times as fast.
        terms = np.abs(self._weight * np.exp(self._moment - found * (self._z - self._tau)))
        height = math.exp(goal - self._log_top + found * self._tau)
        return Numerical(found, float(np.sum(terms * self._noise)) / height / self._tau)


def _period(events: Sequence[GaussianSums], pair: Pair, tau: float, epsilon: float, log_top: float) -> float:
    """Return W such that sums with steps of 2π/W along Re z = τ add nothing but what is negligible.

    By Poisson's formula such a sum adds δ(ε + nW)·e^{nτW} for n = ±1, ±2, …, and real moments at t = τ ± d
    bound these by e^{log M(t) − tε ∓ dW}.
    """

    def least(sign: int, shares: Sequence[float]) -> float:
        ways = [
            (_real(events, pair, tau + sign * d) - log_top - sign * d * epsilon + _NEGLIGIBLE) / d
            for d in (share * tau for share in shares)
        ]
        return min(ways)

    # On the left δ is also at most 1, whatever its moments.
    left = (_NEGLIGIBLE + max(0.0, epsilon * tau - log_top)) / tau
    return max(left, least(1, (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0)), 1e-300)


# M --------------------------------------------------------------------------------------------------------


def _real(events: Sequence[GaussianSums], pair: Pair, t: float) -> float:
    """Return log M(t) at real t > 0, or infinity where so large a t would take too many points."""
    try:
        return float(_log_moment(events, pair, np.array([complex(t)]), 1)[0][0].real)
    except _NotKnown:
        return math.inf


def _log_moment(
    events: Sequence[GaussianSums], pair: Pair, z: np.ndarray, per_step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log M(z) of the composition, and a bound on what rounding did to it, for each z."""
    relation = "replace_one" if pair == "replace" else "add_or_remove_one"
    total, noise = np.zeros(len(z), dtype=np.complex128), np.zeros(len(z))
    for event in events:
        if event.sample_rate == 1:
            one = z * (z + 1) * (_squared_shift(event, relation) / 2)
            error = _PRECISION * np.abs(one)
        else:
            one, error = _sampled(event.noise_multiplier, event.sample_rate, pair, z, per_step)
        total += event.count * one
        noise += event.count * error
    return total, noise


def _sampled(
    sigma: float, q: float, pair: Pair, z: np.ndarray, per_step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log M(z) of one release over a sample, and the rounding error, for each z with Im z ≥ 0.

    M(z) = ∫ P·e^{zL} dx along x + ic, by the trapezoidal rule. c grows from 0 with the angle of z: near the
    real axis the real line is best.
    """
    slope = (2 if pair == "replace" else 1) / sigma**2  # of L
    turns = float(z.imag.max()) * slope / (2 * math.pi)
    step = 1 / (5 / min(sigma, sigma**2) + turns) / per_step
    right, left = max(float(z.real.max()), 0.0), max(-float(z.real.min()), 0.0)
    first, last = {
        "remove": (-left, 1 + right),
        "add": (-right, 1 + left),
        "replace": (-1 - right - 2 * left, 1 + 2 * right + left),
    }[pair]
    first, last = first - _TAIL * sigma, last + _TAIL * sigma
    if (last - first) / step > _MOST_POINTS:
        raise _NotKnown
    c = min(math.pi * sigma**2 / 2, sigma) * min(1.0, float(z.imag.min()) / (1 + max(right, left)))
    x = np.arange(first, last, step) + (-1j if pair == "add" else 1j) * c
    drawn = _log_mixture(q, (2 * x - 1) / (2 * sigma**2))
    other = _log_mixture(q, (-2 * x - 1) / (2 * sigma**2)) if pair == "replace" else np.zeros_like(x)
    loss, log_p = (-drawn, other) if pair == "add" else (drawn - other, drawn)
    log_p = log_p - x**2 / (2 * sigma**2) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
    exponent = log_p + z[:, None] * loss
    top = exponent.real.max(axis=1)
    terms = np.exp(exponent - top[:, None])
    total = terms.sum(axis=1)
    # An exponent is rounded in proportion to its size, and its term with it.
    rounding = (np.abs(terms) * (1 + np.abs(exponent))).sum(axis=1)
    with np.errstate(divide="ignore"):
        return top + np.log(total), _PRECISION * rounding / np.abs(total)


def _log_mixture(q: float, w: np.ndarray) -> np.ndarray:
    """Return log(1 − q + q·e^w) for |Im w| ≤ π/2, where it has no zero."""
    high = w.real > 0
    small, large = np.where(high, 0, w), np.where(high, w, 0)
    return np.where(high, large + np.log(q + (1 - q) * np.exp(-large)), np.log1p(q * np.expm1(small)))
