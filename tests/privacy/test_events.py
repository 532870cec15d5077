"""Events of any kind are composed, planned, spent and written alike; Gaussian ones as they always were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np
import pytest

from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    Event,
    FullBatch,
    GaussianEvent,
    InputError,
    Ledger,
    PoissonGaussianEvent,
    PoissonSampler,
    calibrate_noise_multiplier,
    epsilon,
    gaussian_event,
    ledger,
    merge_events,
)
from dpvision.privacy.audit import scaled
from dpvision.privacy.events import UnknownEvent, event, register, written
from dpvision.privacy.trade_off import TradeOff

DIGEST = "ab" * 32
BEFORE_KINDS = Path(__file__).with_name("ledger-before-kinds.jsonl")
"""Written by a version that knew one kind of events."""


@dataclass(frozen=True)
class LaplaceEvent(Event):
    """``count`` releases with Laplace noise: a kind that dpvision does not know.

    Under ``replace_one`` it is accounted for as any (2/b, 0)-private release.
    """

    kind: ClassVar[str] = "laplace"
    noise: ClassVar[str] = "Laplace noise"

    scale: float

    def scaled(self, scale: float) -> Self:
        return replace(self, scale=scale * self.scale)

    def to_dp_event(self, neighboring_relation: str) -> dp_accounting.DpEvent:
        one = dp_accounting.LaplaceDpEvent(self.scale)
        if neighboring_relation == "replace_one":
            one = dp_accounting.RandomizedResponseDpEvent(2 / (1 + math.exp(2 / self.scale)), 2)
        return dp_accounting.SelfComposedDpEvent(one, self.count)

    def renyi_divergences(self, orders: Sequence[float], neighboring_relation: str) -> np.ndarray:
        """Mironov (arXiv 1702.07476), Table II; for two-point distributions, his Proposition 5."""
        order = np.asarray(orders)
        if neighboring_relation == "replace_one":
            p = 1 / (1 + math.exp(-2 / self.scale))
            logs = [order * math.log(a) + (1 - order) * math.log(b) for a, b in ((p, 1 - p), (1 - p, p))]
        else:
            logs = [
                np.log(order / (2 * order - 1)) + (order - 1) / self.scale,
                np.log((order - 1) / (2 * order - 1)) - order / self.scale,
            ]
        return self.count * (1 + 1e-12) * np.logaddexp(*logs) / (order - 1)

    @property
    def largest_loss(self) -> float:
        return 2 / self.scale


register("laplace", LaplaceEvent)

STEP = LaplaceEvent(30.0)
PLAN = [LaplaceEvent(30.0, count=10), PoissonGaussianEvent(2.0, 0.05, count=20), GaussianEvent(9.0)]


@pytest.fixture
def kept(tmp_path: Path) -> Ledger:
    return Ledger.for_dataset(tmp_path / "data.jsonl", DIGEST, 1000)


# What was always there ------------------------------------------------------------------------------------


class Stopped(datetime):
    """A clock."""

    @classmethod
    def now(cls, zone: tzinfo | None = None) -> Stopped:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=zone)


def test_a_ledger_is_written_byte_by_byte_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "datetime", Stopped)
    sampled, full = PoissonSampler(1000, 0.05), FullBatch(1000)
    steps = sampled.event(2.0, 4)
    found = Ledger.for_dataset(tmp_path / "data.jsonl", DIGEST, 1000)
    found.set_limit(Budget(8, 1e-5))
    always = PoissonSampler(1000, 1.0).event(10.0, 3, 1.5)
    found.open_run("one", [steps, full.event(10.0, 2, 1.5), sampled.event(1.9, 3, 1.25), always])
    found.record("one", sampled.event(2.0))
    found.record("one", full.event(10.0, replace_one_ratio=1.5))
    found.close_run("one")
    found.open_run("two", [steps])
    found.record("two", sampled.event(2.0, 2))
    assert found.path.read_bytes() == BEFORE_KINDS.read_bytes()


def test_a_ledger_from_before_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(BEFORE_KINDS.read_bytes())
    before = Ledger(path)
    one, two = (before._runs[name].reservation for name in ("one", "two"))
    assert one.reserved == (
        PoissonGaussianEvent(1.9, 0.05, 1.25, count=3),
        PoissonGaussianEvent(2.0, 0.05, count=4),
        GaussianEvent(10.0, 1.5, count=5),
    )
    assert one.spent == (PoissonGaussianEvent(2.0, 0.05), GaussianEvent(10.0, 1.5))
    assert before.open_run("two", two.reserved) == (PoissonGaussianEvent(2.0, 0.05, count=2),)
    before.record("two", PoissonGaussianEvent(2.0, 0.05, count=2))
    before.open_run("three", [STEP])
    assert path.read_bytes().startswith(BEFORE_KINDS.read_bytes())
    with pytest.raises(BudgetExceeded):
        Ledger(path).record("two", PoissonGaussianEvent(2.0, 0.05))


def test_a_sample_of_all_is_no_sample() -> None:
    assert gaussian_event(2.0, 1.0, 3, 1.5) == GaussianEvent(2.0, 1.5, count=3)
    assert gaussian_event(2.0, 0.5, 3) == PoissonGaussianEvent(2.0, 0.5, count=3)
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="sample_rate"):
            PoissonGaussianEvent(2.0, rate)


# What anybody adds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_another_kind_is_composed_and_calibrated(relation: Any) -> None:
    budget = Budget(2.0, 1e-5, relation)

    def stages(noise: float) -> list[Event]:
        return [LaplaceEvent(10 * noise, count=5), gaussian_event(noise, 0.02, 100)]

    noise = calibrate_noise_multiplier(stages, budget)
    spent = epsilon(stages(noise), 1e-5, relation)
    assert 0.99 * 2.0 <= spent <= 2.0
    assert epsilon(stages(noise)[1:], 1e-5, relation) < 0.98 * spent
    assert epsilon(stages(noise), 1e-5, relation, "rdp") > spent
    assert TradeOff.of(stages(noise), relation).least(0.5) > 0
    assert scaled(stages(1.0), 3.0) == [LaplaceEvent(30.0, count=5), gaussian_event(3.0, 0.02, 100)]


def test_what_it_costs_is_what_it_says() -> None:
    """δ(ε) = 1 − exp((ε − 1/b)/2) of one release (Balle et al., arXiv 1807.01647, Theorem 3), and pure
    ε = 2/b by randomised response.
    """
    one = [LaplaceEvent(2.0)]
    exact = 0.5 + 2 * math.log1p(-1e-3)
    assert exact <= epsilon(one, 1e-3) <= exact * 1.002
    assert exact <= epsilon(one, 1e-3, accountant="rdp")
    assert epsilon(one, 1e-3, "replace_one") == pytest.approx(1.0, rel=5e-3)


def test_it_is_planned_written_read_back_and_resumed(kept: Ledger) -> None:
    budget = Budget(8, 1e-5)
    kept.set_limit(budget)
    account = Account(budget, kept, "run", [*PLAN, STEP])
    account.open()
    for _ in range(3):
        account.record(STEP)
    account.record(GaussianEvent(9.0))
    again = Account(budget, Ledger(kept.path), "run", [STEP, *PLAN])
    again.open()
    assert again.spent == account.spent == (GaussianEvent(9.0), LaplaceEvent(30.0, count=3))
    assert again.epsilon_spent() == epsilon([LaplaceEvent(30.0, count=3), GaussianEvent(9.0)], 1e-5)
    assert (again.left(STEP), again.left(LaplaceEvent(31.0))) == (8, 0)
    Ledger(kept.path).check_spent("run", [STEP] * 3)
    with pytest.raises(InputError, match="has lost some"):
        Ledger(kept.path).check_spent("run", [STEP] * 4)
    with pytest.raises(BudgetExceeded, match="8 more releases of Laplace noise at scale 30, not 9"):
        again.record(STEP.times(9))
    with pytest.raises(BudgetExceeded, match="0 more releases of Gaussian noise at noise multiplier 3 and"):
        again.record(PoissonGaussianEvent(3.0, 0.05))
    again.close()
    assert kept.summary()["epsilon_counted"] == again.epsilon_spent()


def test_the_owners_limit_counts_it(kept: Ledger) -> None:
    kept.set_limit(Budget(1.5 * epsilon([LaplaceEvent(2.0)], 1e-5), 1e-5))
    kept.open_run("one", [LaplaceEvent(2.0)])
    before = kept.path.read_bytes()
    with pytest.raises(BudgetExceeded, match="owner's limit"):
        kept.open_run("two", [LaplaceEvent(2.0)])
    assert kept.path.read_bytes() == before


def test_kinds_are_never_counted_together() -> None:
    events = [
        LaplaceEvent(2.0, count=2),
        GaussianEvent(2.0),
        PoissonGaussianEvent(2.0, 0.5),
        LaplaceEvent(1.0),
    ]
    merged = merge_events([*events, *events])
    assert merged == merge_events([*events[::-1], *events])
    assert set(merged) == {one.times(2 * one.count) for one in events}


def test_a_kind_that_nobody_registered_is_refused(kept: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.open_run("run", PLAN)
    kept.record("run", STEP)
    before = kept.path.read_bytes()
    with monkeypatch.context() as later:
        later.delitem(event._READERS, "laplace")
        for use in (lambda: Ledger(kept.path), lambda: Ledger.for_dataset(kept.path, DIGEST, 1000)):
            with pytest.raises(UnknownEvent) as refused:
                use()
            assert str(refused.value) == (
                f"the ledger {kept.path} cannot be read: events of kind 'laplace' are not known to this "
                "program; import what registers them (dpvision.privacy.events.register)."
            )
        assert kept.path.read_bytes() == before
    assert Ledger(kept.path).open_run("run", PLAN) == (STEP,)


def test_what_could_not_be_read_back_is_not_written(kept: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.path.read_bytes()
    monkeypatch.delitem(event._READERS, "laplace")
    with pytest.raises(UnknownEvent, match="laplace"):
        kept.open_run("run", PLAN)
    monkeypatch.setitem(event._READERS, "laplace", lambda scale, count: LaplaceEvent(2 * scale, count=count))
    with pytest.raises(InputError, match="loses some"):
        kept.open_run("run", PLAN)
    assert kept.path.read_bytes() == before
    assert written(GaussianEvent(2.0)) == GaussianEvent(2.0).to_json()


def test_a_name_is_given_once() -> None:
    for kind in ("laplace", "gaussian"):
        with pytest.raises(InputError, match="already"):
            register(kind, LaplaceEvent)


@pytest.mark.parametrize("count", [0, 1.5, 10**8])
def test_a_count_is_a_count(count: Any) -> None:
    with pytest.raises(InputError, match="count"):
        LaplaceEvent(1.0, count=count)


def test_events_are_values() -> None:
    assert len({LaplaceEvent(2.0), LaplaceEvent(2.0), LaplaceEvent(2.0, count=2)}) == 2
    with pytest.raises(AttributeError):
        STEP.count = 0  # type: ignore[misc]
    assert (STEP.times(5).single, STEP.times(5).count) == (STEP, 5)
