"""Compares the accountants over a grid of noise, sample rates, numbers of releases, and both relations.

    python -m checks.accountants [--json]

ε by the integral of `dpvision.privacy.second_accountant` is taken as the truth. A row has how far ε by PLD,
which releases state, and the two bounds by Rényi divergences are above it. The command fails (exit code 1) if
PLD is below the integral by more than its error, or a bound by Rényi divergences is. docs/guarantee/verify.md
has what it prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median

from dpvision.privacy import epsilon, gaussian_event
from dpvision.privacy.second_accountant import exact_gaussian, numerical, renyi

NOISE = (0.5, 1.0, 2.0, 5.0)
RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
COUNTS = (1, 30, 1000, 30_000)
DELTA = 1e-5
RELATIONS = ("add_or_remove_one", "replace_one")
LARGEST = 200.0
"""The largest ε that is of any interest, by the bound that is computed first."""


@dataclass(frozen=True)
class Compared:
    """One place of the grid: ε by the integral and its error, None where it is not known; by PLD; the bounds
    by Rényi divergences of the first and the second accountant; the closed form where there is one.
    """

    noise_multiplier: float
    sample_rate: float
    count: int
    relation: str
    integral: float | None
    error: float
    pld: float
    rdp: float
    renyi: float
    exact: float | None
    seconds: float

    @property
    def contradicts(self) -> bool:
        """True where what must be an upper bound is below the integral."""
        if self.integral is None:
            return False
        least = self.integral - self.error - 1e-9 * self.integral
        return min(self.pld, self.rdp, self.renyi) < least


def compared() -> Iterator[Compared]:
    """Go through the grid, but for what costs nothing, or far too much."""
    for sigma, q, count, relation in product(NOISE, RATES, COUNTS, RELATIONS):
        events = [gaussian_event(sigma, q, count)]
        bound = renyi(events, DELTA, relation)
        if not 0 < bound <= LARGEST:
            continue
        started = time.perf_counter()
        found = numerical(events, DELTA, relation)
        seconds = time.perf_counter() - started
        yield Compared(
            *(sigma, q, count, relation),
            found.epsilon if found else None,
            found.error if found else 0.0,
            epsilon(events, DELTA, relation),
            epsilon(events, DELTA, relation, "rdp"),
            bound,
            exact_gaussian(events, DELTA, relation),
            seconds,
        )


def table(places: list[Compared]) -> str:
    """Return a row for each sample rate, as in docs/guarantee/verify.md."""
    lines = [
        "| sample rate | compared | not known | error of the integral | PLD above it, median | largest "
        "| Rényi above it, median | closed form from it | seconds, largest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        here = [one for one in places if one.sample_rate == rate]
        known = [one for one in here if one.integral]
        error = max(one.error / one.integral for one in known if one.integral)
        pld = [one.pld / one.integral - 1 for one in known if one.integral]
        bound = [one.renyi / one.integral - 1 for one in known if one.integral]
        closed = [abs(one.exact / one.integral - 1) for one in known if one.integral and one.exact]
        lines.append(
            f"| {rate:g} | {len(here)} | {sum(one.integral is None for one in here)} | {error:.0e} "
            f"| {median(pld):.1e} | {max(pld):.1e} | {median(bound):.1%} "
            f"| {f'{max(closed):.0e}' if closed else ''} | {max(one.seconds for one in here):.1f} |"
        )
    return "\n".join(lines)


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
