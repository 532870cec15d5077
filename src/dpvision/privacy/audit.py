"""Bound ε from below by the guesses about canaries in one run, as statistics of plain numbers.

Each of m canaries is in the data or not (or is one of two examples), by a fair coin of its own. Whoever sees
the run's output, and not the coins, gives every canary a score and guesses: "in" for those with the highest,
"out" for those with the lowest scores, and nothing for the others. How many guesses can be right is bounded

- by (ε, δ): Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846),
  Theorem 5.2 and the code of its Appendix D;
- by a trade-off curve f: Mahloujifar, Melis and Chaudhuri, "Auditing f-Differential Privacy in One Run"
  (arXiv 2410.22235), its recursion for the joint distribution of right and wrong guesses.

How many guesses are made is fixed before the scores are known: looking for the best number afterwards would
have to be paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom

from dpvision.privacy.accounting import epsilon
from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event
from dpvision.privacy.trade_off import NO_DIFFERENCE, TradeOff

Array = NDArray[np.float64]

FEWEST_CANARIES = 20

_TESTS = ((0.1, 0.8), (0.8, 0.2))
"""For each test of guesses, the share of the canaries that are guessed, and of the significance that it has.

Half of them are those with the highest scores, half those with the lowest. A tenth of the canaries is best,
or nearly so, for Gaussian scores at ε from 1 to 8 and m from 1,000 to 10,000. Most of them are for gross
faults: where scores tell the coins without error, only many guesses make a large bound; but not all, for the
coins are seldom half "in". That either test may decide is paid for (Bonferroni).
"""

_LARGEST_SCALE = 2.0**10  # so much more noise than planned is no different from nothing to see
_SCALE_ERROR = 0.005


@dataclass(frozen=True)
class Tally:
    """The guesses of one test: ``correct`` of ``guesses`` were right; it spends ``share`` of the
    significance.
    """

    guesses: int
    correct: int
    share: float


def tally(scores: Array, included: NDArray[np.bool_]) -> tuple[Tally, ...]:
    """Guess by the scores, and count.

    Args:
        scores: ``[m]``, the higher the likelier in. They may know of the coins what the run's output says.
        included: ``[m]``, the coins.

    Raises:
        InputError: there are fewer than 20 canaries, or a score is not a number.
    """
    check_canaries(len(scores))
    if np.isnan(scores).any():
        raise InputError("a canary's score is not a number; the run's output was not finite")
    # Equal scores fall by the canaries' numbers, which know nothing of the coins.
    order = np.argsort(scores, kind="stable")
    found = []
    for guessed, share in _TESTS:
        each = int(guessed * len(scores) / 2)
        correct = (~included[order[:each]]).sum() + included[order[len(order) - each :]].sum()
        found.append(Tally(2 * each, int(correct), share))
    return tuple(found)


def all_correct(canaries: int) -> tuple[Tally, ...]:
    """Return the best tallies that there can be: every guess is right."""
    coins = np.arange(canaries) % 2 == 1
    return tally(coins.astype(np.float64), coins)


def check_canaries(canaries: int) -> None:
    """Raise InputError for too few canaries to guess some of them."""
    if canaries < FEWEST_CANARIES:
        raise InputError(f"the number of canaries must be at least {FEWEST_CANARIES}, not {canaries}")


def check_confidence(confidence: float) -> None:
    """Raise InputError unless it is a probability that a bound can hold with."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie strictly between 0 and 1, not {confidence}")


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound the probability of so many right guesses, or more, from above, for any (ε, δ)-private algorithm.

    Theorem 5.2 of arXiv 2305.08846: P[Binomial(r, e^ε/(1 + e^ε)) ≥ v], and for δ at most
    2·m·δ·max over i ≥ 1 of P[v > Binomial ≥ v − i]/i more.
    """
    accuracy = expit(epsilon)
    tail = float(binom.sf(correct - 1, guesses, accuracy))
    steps = np.arange(1, correct + 1)
    nearly = binom.sf(correct - 1 - steps, guesses, accuracy) - tail
    return min(1.0, tail + 2 * canaries * delta * float(np.max(nearly / steps, initial=0.0)))


def epsilon_lower_bound(canaries: int, tallies: Sequence[Tally], delta: float, confidence: float) -> float:
    """Return a lower bound on ε at the given δ, for any algorithm: the largest that the guesses refute, or 0.

    >>> round(epsilon_lower_bound(1000, all_correct(1000), delta=1e-5, confidence=0.95), 2)
    5.09

    Raises:
        InputError: confidence is out of range.
    """
    check_confidence(confidence)

    def is_refuted(epsilon: float) -> bool:
        return any(
            p_value(canaries, found.guesses, found.correct, epsilon, delta) <= (1 - confidence) * found.share
            for found in tallies
        )

    if not is_refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while is_refuted(high):
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def refutes(canaries: int, tallies: Sequence[Tally], trade_off: TradeOff, confidence: float) -> bool:
    """Say whether so many right guesses refute that the run has this trade-off curve (or a better one).

    Flipping the coin of a canary that was guessed right makes it a wrong guess. So for the number C of right
    guesses, of r, any set T of numbers, and f̄ = 1 − f (concave), the mean over canaries gives the paper's

        Σ_{i∈T} i/m · P[C = i]  ≤  f̄( Σ_{i∈T} (r − i + 1)/m · P[C = i − 1] ).

    If P[C ≥ c] were the significance, these bounds for T = {i, i + 1, …}, i = c, …, 1, would make all numbers
    together more likely than one: its recursion rh_with_cap, and audit_rh_with_cap.
    """
    check_confidence(confidence)
    return any(_is_unlikely(canaries, found, trade_off, (1 - confidence) * found.share) for found in tallies)


def _is_unlikely(canaries: int, found: Tally, trade_off: TradeOff, significance: float) -> bool:
    """Say whether P[C ≥ correct] must be below the significance."""
    # The mean over canaries of P[guessed right, C ≥ i] and of P[guessed wrong, C ≥ i], where all that is at
    # `correct` or above is at `correct`.
    right = significance * found.correct / canaries
    wrong = significance * (found.guesses - found.correct) / canaries
    for i in range(found.correct - 1, -1, -1):
        more = trade_off.least(right) - wrong
        if more <= 0:
            return False  # nothing grows any more
        wrong += more
        right += i / (found.guesses - i) * more
        if right + wrong > found.guesses / canaries:
            return True
    return False


def f_dp_lower_bound(
    canaries: int,
    tallies: Sequence[Tally],
    events: Sequence[Event],
    delta: float,
    relation: NeighboringRelation,
    confidence: float,
) -> float:
    """Return the ε of the planned releases at the smallest noise that the guesses refute; 0 where they refute
    none.

    The curves compared with are those of the planned releases with all noise multiplied by one number. So
    this is a bound on ε if the run leaks as much as these releases do with some noise. That the plan itself
    is refuted, where the bound is above its ε, needs no such assumption.

    Args:
        events: everything that the run released, as it was planned.
        delta, relation: for which ε is stated.

    Raises:
        InputError: a value is out of range.
    """

    def is_refuted(scale: float) -> bool:
        return refutes(canaries, tallies, TradeOff.of(scaled(events, scale), relation), confidence)

    if not refutes(canaries, tallies, NO_DIFFERENCE, confidence):
        return 0.0
    # More noise makes a stronger claim, which is refuted sooner.
    high = 1.0
    while not is_refuted(high):
        high *= 2
        if high > _LARGEST_SCALE:
            return 0.0
    low = high / 2
    while is_refuted(low):
        low, high = low / 2, low
    while high / low > 1 + _SCALE_ERROR:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_refuted(middle) else (middle, high)
    return epsilon(scaled(events, high), delta, relation)


def scaled(events: Sequence[Event], scale: float) -> list[Event]:
    """Return the same releases with all noise multiplied by ``scale``."""
    return [event.scaled(scale) for event in events]
