"""That an image's budget is one, in whatever data sets and ledgers it is: over splits, kills and races."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    Event,
    InputError,
    Ledger,
    epsilon,
    gaussian_event,
)
from dpvision.privacy.image_index import Cell, ImageIndex, IndexedImages

EVENT = gaussian_event(4.0, 0.1, 100)
LIMIT = Budget(1.0, 1e-5)
SPAWN = multiprocessing.get_context("spawn")
RACERS = 4


def sketches(numbers: Sequence[int]) -> NDArray[np.float16]:
    """Vectors of length one, and zero for every multiple of 10."""
    drawn = np.stack([np.random.default_rng(number).standard_normal(63) for number in numbers])
    drawn[np.asarray(numbers) % 10 == 0] = 0
    return (drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1)).astype(np.float16)


def digests(numbers: Sequence[int]) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in numbers]


class Machine:
    """Ledgers and the index in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = ImageIndex(folder / "images")

    def ledger(self, name: str) -> Ledger:
        return Ledger.for_dataset(self.folder / f"{name}.jsonl", (name.encode().hex() * 64)[:64], 1000)

    def account(
        self, run: str, ledger: str, numbers: Sequence[int], count: int = 100, *, first: bool = False
    ) -> Account:
        prints = self.index.fingerprints(sketches(numbers))
        images = IndexedImages(self.index, self.index.identities(digests(numbers)), prints)
        return Account(
            Budget(50.0, 1e-5), self.ledger(ledger), run, [EVENT.times(count)], images, first=first
        )

    def open(self, run: str, ledger: str, numbers: Sequence[int], count: int = 100) -> Account:
        account = self.account(run, ledger, numbers, count)
        account.open()
        return account

    def cover(self, ledger: Ledger, digests: Sequence[bytes]) -> None:
        self.index.cover(ledger, IndexedImages(self.index, self.index.identities(digests)))

    def cells(self, numbers: Sequence[int]) -> set[Cell]:
        return set(self.index.cells(self.index.identities(digests(numbers))))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_overlapping_sets_are_composed_as_by_hand(machine: Machine) -> None:
    one, two, three = (epsilon([EVENT.times(100 * number)], 1e-5) for number in (1, 2, 3))
    machine.ledger("a").set_limit(Budget(two * 1.001, 1e-5))
    machine.open("first", "a", range(100))
    machine.open("second", "b", range(95, 300))  # five images are at two now
    assert one < two < three
    machine.open("third", "c", range(300, 400))  # none that anybody has touched
    machine.open("fourth", "d", range(90))  # none of those five
    with pytest.raises(BudgetExceeded, match=rf"bring 5 of the images.* epsilon {three:.4g} "):
        machine.open("fifth", "e", [*range(94, 101), *range(400, 500)])
    with pytest.raises(BudgetExceeded, match="bring 1 of the images"):
        machine.open("sixth", "f", [0])
    machine.open("seventh", "g", range(100, 200))  # of b alone, where nobody has set a limit


def test_the_least_limit_of_all_owners_holds(machine: Machine) -> None:
    machine.open("first", "a", range(10))
    machine.ledger("b").set_limit(LIMIT)
    with pytest.raises(BudgetExceeded, match=r"b\.jsonl"):
        machine.open("second", "b", range(5, 15), count=1000)
    machine.ledger("a").set_limit(Budget(0.01, 1e-5))
    with pytest.raises(BudgetExceeded, match=r"a\.jsonl"):
        machine.open("third", "c", [9, 10], count=1)
    machine.open("fourth", "c", [10, 11], count=1)


def test_what_was_not_spent_is_free_again_and_what_was_spent_is_not(machine: Machine) -> None:
    machine.ledger("a").set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    account = machine.open("first", "a", range(10))
    with pytest.raises(BudgetExceeded):
        machine.open("second", "b", range(10))
    account.record(EVENT.times(60))
    account.close()
    machine.open("third", "b", range(10), count=40).close()
    with pytest.raises(BudgetExceeded):
        machine.open("fourth", "b", range(10), count=41)


def test_a_limit_covers_images_that_no_run_has_touched(machine: Machine) -> None:
    ledger = machine.ledger("a")
    ledger.set_limit(LIMIT)
    identities = machine.index.identities(digests(range(10)))
    machine.index.cover(ledger, IndexedImages(machine.index, identities))
    machine.index.cover(ledger, IndexedImages(machine.index, identities))
    with pytest.raises(BudgetExceeded):
        machine.open("first", "b", range(9, 12), count=1000)
    machine.open("second", "b", range(10, 12), count=1000)


def test_a_lost_ledger_gives_no_budget_back(machine: Machine) -> None:
    two = epsilon([EVENT.times(200)], 1e-5)
    machine.ledger("b").set_limit(Budget(two * 1.001, 1e-5))
    account = machine.open("first", "a", range(10))
    account.record(EVENT.times(50))
    machine.ledger("a").path.unlink()
    with pytest.raises(BudgetExceeded):  # all that was reserved
        machine.open("second", "b", range(10), count=101)
    machine.open("third", "b", range(10), count=100)


def test_another_ledger_in_the_place_of_one_gives_no_budget_back(machine: Machine) -> None:
    one = epsilon([EVENT], 1e-5)
    machine.ledger("b").set_limit(Budget(one * 1.001, 1e-5))
    machine.open("first", "a", range(10))
    path = machine.ledger("a").path
    path.unlink()
    Ledger.for_dataset(path, "ef" * 32, 7)  # as of other images, by the same name
    with pytest.raises(BudgetExceeded):
        machine.open("second", "b", [9], count=1)


def test_limits_hold_where_the_home_was_moved(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine.ledger("a").set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    machine.open("first", "a", range(10))
    moved = Machine(machine.folder.rename(tmp_path_factory.mktemp("elsewhere") / "home"))
    with pytest.raises(BudgetExceeded, match=r"elsewhere.*a\.jsonl"):
        moved.open("second", "b", [9], count=1)


def test_a_run_that_is_taken_up_again_is_entered_once(machine: Machine) -> None:
    machine.ledger("a").set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    machine.open("first", "a", range(10)).record(EVENT.times(30))
    again = machine.open("first", "a", range(10))
    assert again.left(EVENT) == 70
    assert machine.cells(range(20)) == {Cell(10, frozenset({"first"}))}


def test_a_run_from_before_the_index_counts(machine: Machine) -> None:
    ledger = machine.ledger("a")
    ledger.set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    old = Account(Budget(50.0, 1e-5), ledger, "old", [EVENT])
    old.open()
    old.record(EVENT.times(10))
    machine.open("old", "a", range(10))  # taken up: its own reservation is not held against it
    with pytest.raises(BudgetExceeded):
        machine.open("new", "b", range(10))


@pytest.mark.parametrize("by", ["a run", "a limit"])
def test_a_ledger_from_before_the_index_is_taken_over(machine: Machine, by: str) -> None:
    """Its runs count for their images in other data sets too."""
    ledger = machine.ledger("a")
    old = Account(Budget(50.0, 1e-5), ledger, "old", [EVENT.times(100)])
    old.open()
    old.record(EVENT.times(100))
    old.close()
    if by == "a run":
        machine.open("next", "a", range(10), count=1)
    else:
        images = machine.account("none", "a", range(10)).images
        assert images is not None
        machine.index.cover(ledger, images)
    assert {"old"} <= next(iter(machine.cells([9]))).runs
    machine.ledger("b").set_limit(Budget(epsilon([EVENT.times(100)], 1e-5) * 1.001, 1e-5))
    with pytest.raises(BudgetExceeded, match="bring 1 of the images"):
        machine.open("elsewhere", "b", range(9, 20), count=100)
    machine.open("apart", "c", range(10, 20), count=100)
    assert "old" not in next(iter(machine.cells([10]))).runs


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6))
def test_cells_are_what_the_same_runs_have_touched(
    tmp_path_factory: pytest.TempPathFactory, runs: list[set[int]]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    for number, images in enumerate(runs):
        machine.open(f"run {number}", f"ledger {number}", sorted(images) * 2)
    touched: dict[frozenset[str], int] = {}
    for image in range(31):
        of = frozenset(f"run {number}" for number, images in enumerate(runs) if image in images)
        if of:
            touched[of] = touched.get(of, 0) + 1
    assert machine.cells(range(31)) == {Cell(size, runs) for runs, size in touched.items()}


def test_an_image_takes_less_than_forty_bytes_and_no_digest_shows(machine: Machine) -> None:
    count = 20_000
    machine.open("first", "a", range(count))
    machine.open("second", "b", range(count // 3, count, 2))
    content = (machine.folder / "images" / "index.sqlite").read_bytes()
    assert len(content) / count < 40
    assert not any(digest[:8] in content for digest in digests(range(1, 200)))
    other = Machine(machine.folder / "other")
    assert other.index.identities(digests([1])) != machine.index.identities(digests([1]))


def kept(machine: Machine, besides: Sequence[int] = ()) -> set[bytes]:
    found = machine.index.private_besides(machine.index.identities(digests(besides)))
    return {one.tobytes() for one in found}


def prints(machine: Machine, numbers: Sequence[int]) -> set[bytes]:
    return {one.tobytes() for one in machine.index.fingerprints(sketches(numbers)) if one.any()}


def test_fingerprints_of_private_images_alone_are_given(machine: Machine) -> None:
    machine.open("first", "a", range(100))
    public = machine.index.identities(digests(range(90, 200)))
    machine.index.note_public("a prior", public, machine.index.fingerprints(sketches(range(90, 200))))
    assert kept(machine) == prints(machine, range(100))
    assert kept(machine, besides=range(50)) == prints(machine, range(50, 100))
    machine.open("second", "b", range(150, 300))
    assert kept(machine) == prints(machine, [*range(100), *range(150, 300)])


def test_an_index_from_before_there_were_fingerprints_is_taken_over(machine: Machine) -> None:
    machine.open("first", "a", range(20))
    path = machine.folder / "images" / "index.sqlite"
    database = sqlite3.connect(path)
    database.execute("ALTER TABLE images DROP COLUMN fingerprint")
    database.close()
    assert machine.cells(range(30)) == {Cell(20, frozenset({"first"}))}
    assert kept(machine) == set()
    machine.open("second", "b", range(15, 30))
    assert machine.cells([15]) == {Cell(1, frozenset({"first", "second"}))}
    assert kept(machine) == prints(machine, range(15, 30))


def test_key_and_index_are_for_the_owner_alone(machine: Machine) -> None:
    before = os.umask(0)
    try:
        machine.open("first", "a", range(3))
    finally:
        os.umask(before)
    folder = machine.folder / "images"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"key", "index.sqlite", "lock"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


def test_an_index_that_another_process_makes_meanwhile_is_not_one_without_its_key(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def outrun(path: Path) -> bool:
        found = exists(path)
        if path.name == "key":
            monkeypatch.undo()
            machine.open("other", "b", range(3))
        return found

    monkeypatch.setattr(Path, "exists", outrun)
    machine.open("first", "a", range(3))
    assert machine.cells(range(3)) == {Cell(3, frozenset({"first", "other"}))}


@pytest.mark.parametrize("name", ["key", "index.sqlite"])
def test_a_damaged_index_is_refused_and_nothing_is_spent(machine: Machine, name: str) -> None:
    machine.open("first", "a", range(3))
    (machine.folder / "images" / name).write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="restore it from a copy"):
        machine.open("second", "b", range(3))
    assert machine.ledger("b").counted() == {}
    (machine.folder / "images" / "key").unlink()  # with another one the index would know no image
    with pytest.raises(InputError, match="restore it from a copy"):
        machine.open("second", "b", range(3))


def die_while_opening(folder: Path) -> None:
    """Killed between index and ledger."""
    machine = Machine(folder)
    account = machine.account("killed", "a", range(10))
    ledger = account.ledger
    assert ledger is not None
    ledger.open_run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    account.open()


def test_a_run_that_was_killed_before_it_was_open_counts_for_nothing(machine: Machine) -> None:
    machine.ledger("a").set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    run_in_processes(1, die_while_opening, machine.folder, expected=-signal.SIGKILL)
    assert machine.cells(range(10)) == {Cell(10, frozenset({"killed"}))}
    machine.open("next", "b", range(10))
    with pytest.raises(BudgetExceeded):
        machine.open("last", "c", range(10))


def test_a_run_that_was_killed_before_it_was_open_is_checked_when_it_is_taken_up(machine: Machine) -> None:
    ledger = machine.ledger("owner")
    ledger.set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    machine.cover(ledger, digests(range(10)))
    run_in_processes(1, die_while_opening, machine.folder, expected=-signal.SIGKILL)
    other = machine.open("next", "b", range(10))
    with pytest.raises(BudgetExceeded):
        machine.open("killed", "a", range(10))
    other.close()
    machine.open("killed", "a", range(10))  # its own entry is not held against it


def try_to_open(folder: Path, number: int) -> None:
    """Take long over the check, all at once: whoever did not wait would find nothing spent."""
    machine = Machine(folder)
    account = machine.account(f"run {number}", f"ledger {number}", range(number, number + 50))
    ledger = account.ledger
    assert ledger is not None
    counted = ledger.counted

    def slowly() -> dict[str, tuple[Event, ...]]:
        time.sleep(0.5)
        return counted()

    ledger.counted = slowly  # type: ignore[method-assign]
    (folder / f"ready {number}").touch()
    while len(list(folder.glob("ready *"))) < RACERS:
        time.sleep(0.01)
    try:
        account.open()
    except BudgetExceeded:
        (folder / f"refused {number}").touch()


def test_of_runs_that_open_at_once_on_some_of_the_same_images_one_is_admitted(machine: Machine) -> None:
    ledger = machine.ledger("owner")
    ledger.set_limit(Budget(epsilon([EVENT], 1e-5) * 1.001, 1e-5))
    machine.cover(ledger, digests(range(100)))
    run_in_processes(RACERS, try_to_open, machine.folder)
    assert len(list(machine.folder.glob("refused *"))) == RACERS - 1


def run_in_processes(count: int, target: Callable[..., None], folder: Path, expected: int = 0) -> None:
    many = [
        SPAWN.Process(target=target, args=(folder,) if count == 1 else (folder, number))
        for number in range(count)
    ]
    for process in many:
        process.start()
    for process in many:
        process.join()
        assert process.exitcode == expected


def test_a_run_that_is_to_be_the_first_is_refused_where_another_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    refusal = "earlier runs have learned from 2 of the images"
    machine.cover(machine.ledger("limited"), digests(range(10, 20)))  # by which nothing is spent
    begun = machine.account("begun", "a", range(8, 12), first=True)
    begun.open()
    late = machine.account("late", "b", range(10, 20), first=True)
    with pytest.raises(BudgetExceeded, match=refusal):
        late.open()  # also while the other has spent nothing, for it may
    begun.record(EVENT)
    begun.close()
    with pytest.raises(BudgetExceeded, match=refusal):
        late.open()
    assert set(machine.ledger("b").counted()) == set()
    machine.open("insisting", "b", range(10, 20)).close()
    machine.account("elsewhere", "c", range(20, 30), first=True).open()


def test_a_run_that_ended_without_spending_was_not_the_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.open("nothing", "a", range(10)).close()
    machine.account("first", "b", range(10), first=True).open()


def test_a_name_is_of_one_run_on_one_set_of_images(machine: Machine) -> None:
    """Else the second would be taken for the first, and its images for none that a run has learned from."""
    account = machine.open("mine", "a", range(10))
    account.record(EVENT)
    account.close()
    with pytest.raises(InputError, match=r"'mine' is in the ledger .*a\.jsonl already"):
        machine.open("mine", "b", range(20, 30))
    assert machine.ledger("b").counted() == {}
    with pytest.raises(BudgetExceeded):
        machine.account("other", "b", range(5, 30), first=True).open()


@pytest.mark.parametrize("name", ["public demo", "limit /a"])
def test_a_run_has_no_name_that_means_something_else(machine: Machine, name: str) -> None:
    with pytest.raises(InputError, match="call it otherwise"):
        machine.open(name, "a", range(10))
    assert machine.index.count_private(machine.index.identities(digests(range(10)))) == 0
