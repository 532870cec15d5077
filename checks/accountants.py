"""Compares the accountants over a grid of noise, sample rates, numbers of releases, and both relations.

    python -m checks.accountants [--json]

ε by the integral of `dpvision.privacy.second_accountant` is taken as the truth; where hardly anyone is drawn,
the middle of the interval of `dpvision.privacy.loss_bracket`, whose half width is then the error. A row says
how far ε by PLD, which releases state, and bounds by Rényi divergences are above it. The command fails
(exit code 1) if one of them is below the truth by more than its error. docs/guarantee/verify.md has what it
prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median

from dpvision.privacy import epsilon, gaussian_event
from dpvision.privacy.loss_bracket import Bracket, bracket
from dpvision.privacy.second_accountant import FEW_DRAWN, Numerical, exact_gaussian, numerical, renyi

NOISE = (0.5, 1.0, 2.0, 5.0)
RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
COUNTS = (1, 30, 1000, 30_000)
DELTA = 1e-5
RELATIONS = ("add_or_remove_one", "replace_one")
LARGEST = 200.0
"""The largest ε that is of any interest, by the bound that is computed first."""


@dataclass(frozen=True)
class Compared:
    """One place of the grid: ε and its error, and whether by the integral or a grid; by PLD; the bounds by
    Rényi divergences of the first and the second accountant; the closed form where there is one.
    """

    noise_multiplier: float
    sample_rate: float
    count: int
    relation: str
    true: float
    error: float
    by_integral: bool
    pld: float
    rdp: float
    renyi: float
    exact: float | None
    seconds: float

    @property
    def contradicts(self) -> bool:
        """True where what must be an upper bound is below the truth."""
        return min(self.pld, self.rdp, self.renyi) < (1 - 1e-9) * self.true - self.error


def compared() -> Iterator[Compared]:
    """Go through the grid, but for what costs nothing, or far too much."""
    for sigma, q, count, relation in product(NOISE, RATES, COUNTS, RELATIONS):
        events = [gaussian_event(sigma, q, count)]
        bound = renyi(events, DELTA, relation)
        if not 0 < bound <= LARGEST:
            continue
        started = time.perf_counter()
        integral = numerical(events, DELTA, relation) if q == 1 or q * count > FEW_DRAWN else None
        found = integral or _middle(bracket(events, DELTA, relation))
        seconds = time.perf_counter() - started
        yield Compared(
            *(sigma, q, count, relation),
            found.epsilon,
            found.error,
            integral is not None,
            epsilon(events, DELTA, relation),
            epsilon(events, DELTA, relation, "rdp"),
            bound,
            exact_gaussian(events, DELTA, relation),
            seconds,
        )


def _middle(interval: Bracket) -> Numerical:
    return Numerical((interval.low + interval.high) / 2, (interval.high - interval.low) / 2)


def table(places: list[Compared]) -> str:
    """Return a row for each sample rate, as in docs/guarantee/verify.md."""
    lines = [
        "| sample rate | compared | by the integral | its error | by a grid | its error, median | largest "
        "| PLD above, median | largest | Rényi above, median | closed form from it | seconds, largest |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        here = [one for one in places if one.sample_rate == rate]
        known = [one for one in here if one.true > 0]
        errors = {
            by: [one.error / one.true for one in known if one.by_integral == by] for by in (True, False)
        }
        pld = [one.pld / one.true - 1 for one in known]
        bound = [one.renyi / one.true - 1 for one in known]
        closed = [abs(one.exact / one.true - 1) for one in known if one.exact]
        lines.append(
            f"| {rate:g} | {len(here)} | {sum(one.by_integral for one in here)} | {_of(max, errors[True])} "
            f"| {sum(not one.by_integral for one in here)} | {_of(median, errors[False])} "
            f"| {_of(max, errors[False])} | {median(pld):.1e} | {max(pld):.1e} | {median(bound):.1%} "
            f"| {_of(max, closed)} | {max(one.seconds for one in here):.1f} |"
        )
    return "\n".join(lines)


def _of(which: Callable[[list[float]], float], values: list[float]) -> str:
    return f"{which(values):.0e}" if values else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="every place, on the last line of stdout")
    options = parser.parse_args()
    places = list(compared())
    print(table(places))
    wrong = [one for one in places if one.contradicts]
    for one in wrong:
        print(f"CONTRADICTED: {one}")
    if options.json:
        print(json.dumps([asdict(one) for one in places]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
