from __future__ import annotations

import pytest

from dpvision.privacy import Account, Budget, BudgetExceeded, InputError, Ledger, epsilon, gaussian_event

STEP = gaussian_event(2.0, 0.05)
RELEASE = gaussian_event(10.0)
PLAN = [gaussian_event(2.0, 0.05, 10), RELEASE]


@pytest.fixture
def ledger(tmp_path):
    return Ledger.for_dataset(tmp_path / "data.jsonl", "ab" * 32, 1000)


@pytest.mark.parametrize("kept_on_disk", [True, False])
def test_counts_down_the_plan(ledger, kept_on_disk):
    account = Account(Budget(3, 1e-5), ledger if kept_on_disk else None, "run", PLAN)
    account.open()
    assert account.spent == ()
    assert account.epsilon_spent() == 0
    for _ in range(4):
        account.record(STEP)
    account.record(RELEASE)
    assert account.spent == (gaussian_event(2.0, 0.05, 4), RELEASE)
    assert account.left(STEP) == 6
    assert account.left(RELEASE) == 0
    assert account.epsilon_spent() == epsilon(account.spent, 1e-5) < account.epsilon_planned() <= 3
    with pytest.raises(BudgetExceeded):
        account.record(RELEASE)


def test_an_interrupted_run_goes_on_where_it_stopped(ledger):
    first = Account(Budget(3, 1e-5), ledger, "run", PLAN)
    first.open()
    first.record(STEP)
    second = Account(Budget(3, 1e-5), Ledger(ledger.path), "run", PLAN)
    second.open()
    assert second.spent == (STEP,)
    assert second.left(STEP) == 9


def test_the_ledger_is_written_before_the_event_counts(ledger, monkeypatch):
    account = Account(Budget(3, 1e-5), ledger, "run", PLAN)
    account.open()

    def fail(run_id, event):
        raise InputError("the disk is full.")

    monkeypatch.setattr(ledger, "record", fail)
    with pytest.raises(InputError):
        account.record(STEP)
    assert account.spent == ()


def test_a_plan_over_budget_is_refused_and_nothing_is_written(ledger):
    before = ledger.path.read_bytes()
    planned = epsilon(PLAN, 1e-5)
    with pytest.raises(BudgetExceeded, match="budget"):
        Account(Budget(0.999 * planned, 1e-5), ledger, "run", PLAN).open()
    with pytest.raises(BudgetExceeded):
        Account(Budget(1.01 * planned, 1e-5, "replace_one"), ledger, "run", PLAN).open()
    assert ledger.path.read_bytes() == before
    Account(Budget(planned, 1e-5), ledger, "run", PLAN).open()


def test_nothing_is_recorded_before_opening_or_after_closing(ledger):
    account = Account(Budget(3, 1e-5), ledger, "run", PLAN)
    with pytest.raises(RuntimeError):
        account.record(STEP)
    account.open()
    account.record(STEP)
    account.close()
    with pytest.raises(RuntimeError):
        account.record(STEP)
    assert ledger.summary()["runs"][0]["open"] is False
