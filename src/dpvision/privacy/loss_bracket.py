"""Enclose ε between two bounds, by privacy losses on a grid that are once too small and once too large.

For releases of which the integral of `dpvision.privacy.second_accountant` does not converge: those for which
hardly any example is ever drawn. No code is shared with the accountant that states ε, nor with dp_accounting.

**One release.** A worst pair (P, Q) of `second_accountant` is cut at places of the real line into atoms
that have a probability under P and one under Q; log P/Q is an atom's loss. Cells between losses on the grid
are narrow where most of P is, and wider away from it. Then all atoms are brought onto the grid:

- `_spread`, for the upper bound: an atom is split between the ends of its cell so that both its probabilities
  remain. The atom is what one sees who cannot tell the two parts apart, so ε can only grow. What is
  cut off at both ends of the line has loss ∞.
- `_merge`, for the lower bound: neighbours are merged until their common loss is on the grid. Who sees
  the merged sees less, so ε can only shrink. What is cut off counts for nothing.

Both change ε in proportion to the square of the grid's step.

**All releases.** Losses add up: the transform of a composition is the product of transforms. Probabilities
are tilted first, by e^{τ·loss}, so that those near ε are large, and what is wrong with the result is small
beside the δ that is sought, however small that is. This is given away, in either direction:

- the rounding of two transforms of N points: a relative error of 8·log₂N·2⁻⁵³ each in the 2-norm (Higham,
  Accuracy and Stability of Numerical Algorithms, Theorem 24.2, has 6.7), which the power multiplies by the
  number of releases;
- what wraps around, by Chernoff's bound on what is beyond either end of the grid, from the very atoms;
- the rounding of an atom's probabilities: `_RELATIVE`·(1 + 1/σ²) of each, which is as much of δ, and twice as
  much of ε, for each release.

A single release needs no grid: its δ(ε) has a closed form, and what is given away is its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp, ndtri

from dpvision.privacy.second_accountant import GaussianSums, Pair

NARROW = 1e-4
"""The width, relative to ε, at which no finer grid is tried."""

_SIZES = (2**14, 2**17, 2**19, 2**21)  # points of the grid
_CELLS = 500  # cells of one step on either side of the losses of most; beyond, each is 1/500 wider
_NEARLY_LEAST = 1.5  # in logarithms
_MARGIN = 0.02  # of the window
_NOTHING = -1e9
_MOVES = 6  # of the offset
_RELATIVE = 1e-13  # rounding of a probability, and of a loss
_UNIT = 2.0**-53
_WRAPS = 28.0  # e^−28 of the tilted probability wraps around
_CUT_OFF = 1e-8  # of δ, by all releases
_TILTS = np.exp(np.arange(-35, 86) / 5)
_NEAR_ONE = np.exp(np.concatenate([np.arange(-10, 0), np.arange(1, 11)]) / 5)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True)
class Bracket:
    """An interval that contains ε. ``high`` is ∞ where the grid says nothing."""

    low: float
    high: float

    @property
    def is_narrow(self) -> bool:
        """True where the bounds are as near each other as the accountants can tell."""
        return self.high - self.low <= max(NARROW * self.low, 1e-9)


def bracket(events: Iterable[GaussianSums], delta: float, relation: str) -> Bracket:
    """Enclose the ε of all releases at δ, on grids as fine as it takes; a few seconds as a rule."""
    events = tuple(events)
    pairs: tuple[Pair, ...] = ("replace",) if relation == "replace_one" else ("remove", "add")
    directions = [_Direction(_kinds(events, pair), delta) for pair in pairs] if events else []
    for size in _SIZES:
        found = Bracket(*(max((one.found[end] for one in directions), default=0.0) for end in (0, 1)))
        if found.is_narrow:
            break
        for one in directions:
            if one.found[1] > found.low:  # else the other costs more
                one.refine(size)
    return Bracket(*(max((one.found[end] for one in directions), default=0.0) for end in (0, 1)))


# One release ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """``count`` releases whose worst pair is N(0, σ²) against a mixture, or two mixtures; see `Pair`."""

    pair: Pair
    sigma: float
    q: float
    count: int

    def place(self, loss: np.ndarray) -> np.ndarray:
        """Return where on the real line the loss is so large; ±∞ where it is nowhere."""
        sigma, q = self.sigma, self.q
        if self.pair == "replace":  # y = e^{x/σ²} solves c·y² − a·y − c·e^loss = 0, and x(−loss) = −x(loss)
            size = np.abs(loss)
            log_c = math.log(q) - 0.5 / sigma**2
            with np.errstate(divide="ignore"):
                log_a = math.log1p(-q) + size + np.log(-np.expm1(-size))
            root = np.logaddexp(2 * log_a, 2 * (math.log(2) + log_c) + size) / 2
            return np.sign(loss) * sigma**2 * (np.logaddexp(log_a, root) - math.log(2) - log_c)
        above = np.maximum(-loss if self.pair == "add" else loss, 0)
        below = np.minimum(-loss if self.pair == "add" else loss, 0)
        with np.errstate(divide="ignore"):
            exponent = above + np.log1p((1 - q) / q * -np.expm1(-above))
            exponent += np.log1p(np.maximum(np.expm1(below) / q, -1))
        return sigma**2 * exponent + 0.5

    def loss(self, x: float) -> float:
        """Return the privacy loss at a place."""
        mixture = self._log_mixture((2 * x - 1) / (2 * self.sigma**2))
        if self.pair == "replace":
            return mixture - self._log_mixture((-2 * x - 1) / (2 * self.sigma**2))
        return -mixture if self.pair == "add" else mixture

    def _log_mixture(self, exponent: float) -> float:
        return float(np.logaddexp(_log(1 - self.q), math.log(self.q) + exponent))

    def log_masses(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the logarithms of the probabilities of intervals, under P and under Q."""
        sigma, q = self.sigma, self.q

        def mixture(mean: float) -> np.ndarray:
            drawn = math.log(q) + _log_normal_mass((low - mean) / sigma, (high - mean) / sigma)
            return drawn if q == 1 else np.logaddexp(math.log1p(-q) + of_none, drawn)

        of_none = _log_normal_mass(low / sigma, high / sigma)
        if self.pair == "replace":
            return mixture(1), mixture(-1)
        return (of_none, mixture(1)) if self.pair == "add" else (mixture(1), of_none)


def _kinds(events: Iterable[GaussianSums], pair: Pair) -> list[_Kind]:
    """Return the releases as kinds. Those over all examples are, together, one Gaussian."""
    squared = 0.0
    kinds = []
    for event in events:
        if event.sample_rate < 1:
            kinds.append(_Kind(pair, event.noise_multiplier, event.sample_rate, event.count))
            continue
        distance = event.replace_one_ratio if pair == "replace" else 1.0
        squared += event.count * (distance / event.noise_multiplier) ** 2
    return [*kinds, _Kind("remove", squared**-0.5, 1.0, 1)] if squared else kinds


def _log_normal_mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the logarithm of the probability of intervals under N(0, 1), to the last digits.

    Narrow ones by Gauss's quadrature, where a difference of two tails would leave next to nothing.
    """
    is_left = low + high < 0
    low, high = np.where(is_left, -high, low), np.where(is_left, -low, high)
    half = (high - low) / 2
    narrow = half * (1 + high) < 0.5
    middle, half = np.where(narrow, (low + high) / 2, 0.0), np.where(narrow, half, 0.5)
    from_middle = half[:, None] * _NODES
    density = np.exp(-from_middle * middle[:, None] - from_middle**2 / 2) @ _WEIGHTS
    with np.errstate(divide="ignore", invalid="ignore"):
        by_quadrature = np.log(half * density / math.sqrt(2 * math.pi)) - middle**2 / 2
        first, last = log_ndtr(-low), log_ndtr(-high)
        by_tails = first + np.log(-np.expm1(last - first))
    return np.where(narrow, by_quadrature, by_tails)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


@dataclass(frozen=True)
class _Atoms:
    """A kind, cut into atoms. The cells lie between ``knots``, which are ascending whole numbers of steps
    away from a loss ``offset``; atom j, with probability ``mass[j]`` and loss ``loss[j]``, is in the cell
    above knot ``cell[j]``. Knot ``origin`` is 0.
    """

    offset: float
    knots: np.ndarray
    origin: int
    cell: np.ndarray
    mass: np.ndarray
    loss: np.ndarray


def _cut(kind: _Kind, step: float, deviations: float, offset: float) -> _Atoms:
    """Cut what is within so many standard deviations into two atoms for each cell."""
    first, last = -deviations * kind.sigma, 1 + deviations * kind.sigma
    least, most = sorted((kind.loss(first), kind.loss(last)))
    knots = _knots((least - offset) / step, (most - offset) / step)
    edges = np.append(np.stack([knots[:-1], (knots[:-1] + knots[1:]) / 2], axis=1).ravel(), knots[-1])
    places = np.clip(kind.place(offset + step * edges), first, last)
    low, high = np.minimum(places[:-1], places[1:]), np.maximum(places[:-1], places[1:])
    there = np.flatnonzero(high > low)
    log_p, log_q = kind.log_masses(low[there], high[there])
    origin = int(np.searchsorted(knots, 0))
    return _Atoms(offset, knots, origin, there // 2, np.exp(log_p), log_p - log_q)


def _knots(least: float, most: float) -> np.ndarray:
    """Return whole numbers from below ``least`` to above ``most``: all of them near 0."""
    reach = max(most, -least, 0.0) + 3
    growing = math.ceil(max(0.0, math.log(reach / _CELLS)) * _CELLS) + 1
    away = np.rint(_CELLS * np.exp(np.arange(growing + 1) / _CELLS))
    away = np.unique(np.concatenate([np.arange(_CELLS), away]))
    knots = np.concatenate([-away[:0:-1], away])
    first, last = np.searchsorted(knots, [min(least, -1), max(most, 1)])
    return knots[first - 1 : last + 1]


def _spread(atoms: _Atoms, step: float) -> np.ndarray:
    """Return the probability at each knot if every atom is split between the ends of its cell."""
    lower = atoms.knots[atoms.cell]
    width = atoms.knots[atoms.cell + 1] - lower
    above = atoms.loss - atoms.offset - lower * step
    share = np.clip(np.expm1(-above) / np.expm1(-width * step), 0, 1)
    size = len(atoms.knots)
    upper = np.bincount(atoms.cell + 1, share * atoms.mass, size)
    return upper + np.bincount(atoms.cell, (1 - share) * atoms.mass, size)


def _merge(atoms: _Atoms, step: float) -> tuple[np.ndarray, float]:
    """Merge neighbours until their loss is that of a knot, and what remains in the centre at the origin.

    Merging goes from both tails to the centre, for the other way a knot that lacks little would take it from
    far out in a tail.

    Returns:
        The probability at each knot, and the loss of what is put at the origin. If that is less than the
        origin's, it is put lower; if more, it is rounded down.
    """
    knots = atoms.offset + step * atoms.knots
    merged = np.zeros(len(knots))
    inside = int(np.searchsorted(atoms.cell, atoms.origin))
    rest = _merge_inwards(
        atoms.mass[:inside], atoms.loss[:inside], atoms.cell[:inside] + 1, atoms.origin, knots, merged
    ) + _merge_inwards(
        atoms.mass[inside:][::-1],
        atoms.loss[inside:][::-1],
        atoms.cell[inside:][::-1],
        atoms.origin,
        knots,
        merged,
    )
    gathered, surplus = rest
    if gathered == 0:
        return merged, atoms.offset
    loss = atoms.offset - math.log1p(-surplus / gathered)
    merged[atoms.origin if surplus >= 0 else np.searchsorted(knots, loss) - 1] += gathered  # never higher
    return merged, loss


def _merge_inwards(
    mass: np.ndarray,
    loss: np.ndarray,
    next_knot: np.ndarray,
    origin: int,
    knots: np.ndarray,
    merged: np.ndarray,
) -> np.ndarray:
    """Merge atoms, the outermost first, each group until its loss has come inwards to that of a knot.

    Args:
        mass, loss: of the atoms, all on one side of the origin.
        next_knot: for each atom, the nearest knot further in.
        origin: the knot for which nothing is gathered.
        knots: the losses of all knots.
        merged: where the groups' probabilities are put.

    Returns:
        Of what remains, P and P − e^offset·Q.
    """
    losses = knots.tolist()
    way = 1 if len(loss) and loss[0] < losses[origin] else -1
    knot: int | None = None
    group: list[tuple[float, float]] = []
    lacking = 0.0  # what the group lacks of P − e^knot·Q = 0, on the outer side
    rest: list[tuple[float, float]] = []
    for left, its_loss, its_knot in zip(mass.tolist(), loss.tolist(), next_knot.tolist(), strict=True):
        while left > 0:
            if not group:
                further = its_knot if knot is None else knot + way
                knot, lacking = (max if way > 0 else min)(its_knot, further), 0.0
            if knot == origin:
                rest.append((left, its_loss))
                break
            lacks = way * math.expm1(losses[knot] - its_loss) * left
            if lacking + lacks > 0 or lacks >= 0:
                group.append((left, its_loss))
                lacking += lacks
                break
            share = min(-lacking / lacks, 1.0)
            merged[knot] += sum(probability for probability, _ in group) + share * left
            left, group = (1 - share) * left, []
    rest += group
    probabilities, its_losses = np.array(rest).reshape(-1, 2).T
    surplus = -np.expm1(losses[origin] - its_losses) * probabilities
    return np.array([probabilities.sum(), surplus.sum()])


# All releases --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OnGrid:
    """``count`` releases with losses of so many steps more than ``offset``, and their probabilities."""

    count: int
    offset: float
    losses: np.ndarray
    log_mass: np.ndarray


class _Direction:
    """The search for the ε of one worst pair; ``found`` are its bounds up to now."""

    def __init__(self, kinds: Sequence[_Kind], delta: float) -> None:
        self.found = 0.0, math.inf
        if len(kinds) == 1 and kinds[0].count == 1:
            self.found = _of_one_release(kinds[0], delta)
            return
        self._kinds, self._delta = kinds, delta
        self._cut_off = _CUT_OFF * delta
        self._deviations = -float(ndtri(self._cut_off / sum(kind.count for kind in kinds) / 2))
        self._rounding = sum(kind.count * _RELATIVE * (1 + 1 / kind.sigma**2) for kind in kinds)
        ends = [
            kind.loss(x)
            for kind in kinds
            for x in (-self._deviations * kind.sigma, 1 + self._deviations * kind.sigma)
        ]
        step = (max(ends) - min(ends)) / _SIZES[-1]
        self._cumulants = _Cumulants([_on_grid(kind, step, self._deviations)[0] for kind in kinds], step)
        self._tau = self._cumulants.best_tilt(delta)

    def refine(self, size: int) -> None:
        """Bring the bounds closer by a grid of so many points."""
        window = self._cumulants.window(self._tau)
        step = (window[1] - window[0]) / (size - 2)
        both = [_on_grid(kind, step, self._deviations) for kind in self._kinds]
        upper, lower = (_Composed(one, step, size, window[0], self._tau) for one in zip(*both, strict=True))
        low, high = self.found
        high = min(
            high,
            upper.at_most((self._delta - self._cut_off) * math.exp(-self._rounding)) + 2 * self._rounding,
        )
        near = high if math.isfinite(high) else window[1]
        low = max(low, lower.at_least(self._delta * math.exp(self._rounding), near) - 2 * self._rounding)
        self.found = low, high
        if math.isfinite(high):
            self._tau = self._cumulants.tilt_near(high)


def _on_grid(kind: _Kind, step: float, deviations: float) -> tuple[_OnGrid, _OnGrid]:
    """Return the losses of a kind, too large and too small.

    The offset is moved to where the merged centre is, which may hold nearly all.
    """
    offset = kind.loss(0.0)
    for _ in range(_MOVES):
        atoms = _cut(kind, step, deviations, offset)
        lower, centre = _merge(atoms, step)
        if 0 <= centre - atoms.offset <= 1e-4 * step:
            break
        offset = centre - 3e-5 * step  # just below it, so that it is rounded by next to nothing
    with np.errstate(divide="ignore"):
        logs = np.log(_spread(atoms, step)), np.log(lower)
    above, below = (_OnGrid(kind.count, atoms.offset, atoms.knots, one) for one in logs)
    return above, below


def _log_constant(t: np.ndarray) -> np.ndarray:
    """Return the logarithm of the largest e^{−tu}·(1 − e^{−u})."""
    return t * np.log(t) - (1 + t) * np.log1p(t)


class _Cumulants:
    """log E[e^{tL}; L finite] of a composition, at the t among which τ is chosen, and their opposites."""

    def __init__(self, kinds: Sequence[_OnGrid], step: float) -> None:
        self._ways = np.concatenate([-_TILTS[::-1], _TILTS])
        self._there = _cumulants(kinds, step, self._ways)
        self._at = self._there[len(_TILTS) :]

    def best_tilt(self, delta: float) -> float:
        """Return the t at which the bound on ε from moments is least."""
        return float(_TILTS[np.argmin((self._at - math.log(delta) + _log_constant(_TILTS)) / _TILTS)])

    def tilt_near(self, epsilon: float) -> float:
        """Return the t with the narrowest window, of those at which the bound on δ(ε) is nearly least."""
        bound = self._at - _TILTS * epsilon + _log_constant(_TILTS)
        near = _TILTS[bound <= bound.min() + _NEARLY_LEAST]
        return float(min(near, key=lambda t: -np.subtract(*self.window(t))))

    def window(self, tau: float) -> tuple[float, float]:
        """Return losses below and above which there is only e^−28 of the tilted probability, and some more
        below, for the grid's losses are spread out.
        """
        away = self._ways - tau
        here = self._at[np.searchsorted(_TILTS, tau)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (self._there - here + _WRAPS) / away
        first, last = float(np.max(ends[away < 0])), float(np.min(ends[away > 0]))
        return first - _MARGIN * (last - first), last


def _cumulants(kinds: Sequence[_OnGrid], step: float, ways: np.ndarray) -> np.ndarray:
    """Return log E[e^{tL}; L finite] of a composition at each t."""
    total = np.zeros(len(ways))
    for kind in kinds:
        loss = kind.offset + step * kind.losses
        total += kind.count * np.array([logsumexp(kind.log_mass + t * loss) for t in ways])
    return total


class _Composed:
    """The tilted probabilities of the composition on ``size`` losses, ``step`` apart, from ``first`` up."""

    def __init__(self, kinds: Sequence[_OnGrid], step: float, size: int, first: float, tau: float) -> None:
        self._tau, self._log_total = tau, float(_cumulants(kinds, step, np.array([tau]))[0])
        transform = np.ones(size // 2 + 1, dtype=np.complex128)
        error = 1.0
        for kind in kinds:
            tilted = kind.log_mass + tau * (kind.offset + step * kind.losses)
            places = np.mod(kind.losses, size).astype(np.int64)
            folded = np.bincount(places, np.exp(tilted - logsumexp(tilted)), size)
            error += kind.count * float(np.linalg.norm(folded))
            once = np.fft.rfft(folded)
            transform *= np.abs(once) ** kind.count * np.exp(1j * kind.count * np.angle(once))
        self._error = error * 8 * (math.log2(size) + 1) * _UNIT  # in the 2-norm
        offset = sum(kind.count * kind.offset for kind in kinds)
        start = math.floor((first - offset) / step)
        self._mass = np.roll(np.fft.irfft(transform, size), -start)
        self._losses = offset + step * np.arange(start, start + size)
        away = np.concatenate([-_TILTS[::4], tau * _NEAR_ONE]) - tau
        beyond = _cumulants(kinds, step, away + tau) - self._log_total
        below, above = (
            float(np.min((beyond - away * self._losses[end])[side]))
            for end, side in ((0, away < 0), (-1, away > 0))
        )
        wrapped = np.logaddexp(below, above) + _log_constant(np.array(tau))
        self._wrapped = math.exp(min(float(wrapped), 0.0))

    def at_most(self, delta: float) -> float:
        """Return an ε at which δ is at most this, with what may be wrong with it added."""
        last = float(self._losses[-1])
        if last <= 0 or self._excess(0.0, delta, 1) <= 0:
            return 0.0
        return math.inf if self._excess(last, delta, 1) > 0 else self._root(0.0, last, delta, 1)

    def at_least(self, delta: float, near: float) -> float:
        """Return an ε not above ``near`` at which δ is at least this, with what may be wrong taken away; 0 if
        there is none. Far below, what may be wrong is all there is.
        """
        above = near
        for share in np.logspace(-7, -0.05, 24):
            below = near * (1 - share)
            if self._excess(below, delta, -1) > 0:
                return below if self._excess(above, delta, -1) > 0 else self._root(below, above, delta, -1)
            above = below
        return 0.0

    def _root(self, low: float, high: float, delta: float, sign: int) -> float:
        return float(brentq(self._excess, low, high, args=(delta, sign), xtol=1e-300, rtol=1e-12))

    def _excess(self, epsilon: float, delta: float, sign: int) -> float:
        """Return log δ(ε) − log δ, with what may be wrong with δ(ε) added to it (1) or taken away (−1)."""
        above = self._losses[np.searchsorted(self._losses, epsilon, side="right") :] - epsilon
        weight = np.exp(-self._tau * above) * -np.expm1(-above)
        error = self._error * float(np.linalg.norm(weight)) + self._wrapped
        total = float(weight @ self._mass[len(self._mass) - len(above) :]) + sign * error
        if total <= 0:
            return _NOTHING
        return math.log(total) + self._log_total - self._tau * epsilon - math.log(delta)


def _of_one_release(kind: _Kind, delta: float) -> tuple[float, float]:
    """Enclose the ε of a single release by its δ(ε) = P(L > ε) − e^ε·Q(L > ε), off by rounding alone."""
    rounding = 8 * _RELATIVE * (1 + 1 / kind.sigma**2)

    def excess(epsilon: float, sign: int) -> float:
        place = kind.place(np.array([epsilon]))
        if not np.isfinite(place[0]):  # no loss is so large
            return -delta
        ends = (np.array([-math.inf]), place) if kind.pair == "add" else (place, np.array([math.inf]))
        log_p, log_q = (float(one[0]) for one in kind.log_masses(*ends))
        p, q = math.exp(log_p), math.exp(min(epsilon + log_q, log_p))
        return p - q + sign * rounding * p - delta

    def bound(sign: int) -> float:
        last = max(kind.loss(x) for x in (-40 * kind.sigma, 1 + 40 * kind.sigma))
        if excess(0.0, sign) <= 0:
            return 0.0
        return float(brentq(excess, 0.0, last, args=(sign,), xtol=1e-300, rtol=1e-14))

    return bound(-1), bound(1)
