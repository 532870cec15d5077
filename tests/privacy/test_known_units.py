"""That a unit's budget is one, whichever of its images runs learn from, and whatever they protect."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from dpvision.privacy import Account, Budget, BudgetExceeded, InputError, Ledger, epsilon, gaussian_event
from dpvision.privacy.events import merge_events
from dpvision.privacy.image_index import ImageIndex, IndexedImages
from dpvision.privacy.roles import Role
from dpvision.privacy.standing import Standing

EVENT = gaussian_event(40.0, 0.1, 100)
ONE, TWO = (epsilon([EVENT.times(100 * number)], 1e-5) for number in (1, 2))


def digest(what: object) -> bytes:
    return hashlib.sha256(repr(what).encode()).digest()


class Machine:
    """Ledgers and the index in a folder. Data sets are images by number: of units, by these, or of none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, ImageIndex(folder / "images")

    def images(self, data: Mapping[int, str] | range) -> IndexedImages:
        identities = self.index.identities(map(digest, data))
        units = (
            None if isinstance(data, range) else self.index.identities_of_units(map(digest, data.values()))
        )
        return IndexedImages(self.index, identities, units=units)

    def ledger(self, name: str, data: Mapping[int, str] | range) -> Ledger:
        unit = "image" if isinstance(data, range) else "unit"
        return Ledger.for_dataset(self.folder / f"{name}.jsonl", (name.encode().hex() * 64)[:64], 50, unit)  # type: ignore[arg-type]

    def open(self, name: str, data: Mapping[int, str] | range, count: int = 100) -> Account:
        ledger = self.ledger(name, data)
        account = Account(Budget(50.0, 1e-5), ledger, name, [EVENT.times(count)], self.images(data))
        account.open()
        return account

    def limit(self, name: str, data: Mapping[int, str] | range, limit: float) -> None:
        ledger = self.ledger(name, data)
        ledger.set_limit(Budget(limit * 1.001, 1e-5))
        self.index.cover(ledger, self.images(data))

    def standing(self, name: str, data: Mapping[int, str] | range) -> list[Standing]:
        return self.index.standings([self.ledger(name, data)], None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


FIRST = {1: "ann", 2: "ann", 3: "bob", 4: "cleo"}
OTHERS = {11: "ann", 12: "bob", 13: "dan"}


def test_runs_on_other_images_of_the_same_unit_compose(machine: Machine) -> None:
    machine.limit("first", FIRST, ONE)
    machine.open("first", FIRST)
    with pytest.raises(BudgetExceeded, match=rf"bring 2 of the units.* to epsilon {TWO:.4g} "):
        machine.open("others", OTHERS)
    machine.open("elsewhere", {11: "eve", 12: "eve", 13: "dan"})
    assert machine.standing("first", FIRST)[0].counted == (EVENT,)


def test_a_limit_covers_units_by_images_that_nobody_has_seen(machine: Machine) -> None:
    machine.limit("first", FIRST, ONE / 2)
    with pytest.raises(BudgetExceeded, match="bring 2 of the units"):
        machine.open("others", OTHERS)
    machine.open("dan", {13: "dan"})


def test_a_limit_of_units_holds_for_runs_that_protect_images(machine: Machine) -> None:
    """Of ann two images were learned from: a group of two."""
    group = epsilon(Role(2).cost([EVENT]), 1e-5)
    assert group > 2 * ONE
    machine.limit("first", FIRST, group * 0.99)
    with pytest.raises(BudgetExceeded, match=rf"bring 1 of the units.* to epsilon {group:.4g} "):
        machine.open("images", range(1, 5))
    machine.open("one of hers", range(2, 5))
    machine.limit("first", FIRST, TWO * 0.99)
    with pytest.raises(BudgetExceeded, match=rf"bring 1 of the units.* to epsilon {TWO:.4g} "):
        machine.open("the other", range(1, 2))  # hers, who has one run already
    machine.open("nobody's", range(20, 30))


def test_what_was_spent_before_anybody_knew_whose_images_they_are_counts(machine: Machine) -> None:
    group = epsilon([*Role(2).cost([EVENT]), EVENT], 1e-5)
    machine.open("images", range(1, 5))
    machine.limit("first", FIRST, group * 0.99)
    with pytest.raises(BudgetExceeded, match=rf"bring 1 of the units.* to epsilon {group:.4g} "):
        machine.open("first", FIRST)
    with pytest.raises(BudgetExceeded, match="bring 1 of the units"):
        machine.open("others", OTHERS)  # none of these images, but ann's others count for her


def test_a_limit_of_images_holds_for_runs_that_protect_units(machine: Machine) -> None:
    """An image that leaves changes its unit's content, which costs more than a unit that leaves."""
    replaced = epsilon(Role(mixed=True).cost([EVENT]), 1e-5)
    assert replaced > 1.5 * ONE
    machine.limit("images", range(1, 4), replaced * 0.99)
    with pytest.raises(BudgetExceeded, match=rf"bring 3 of the images.* to epsilon {replaced:.4g} "):
        machine.open("first", FIRST)
    machine.open("others", OTHERS)
    machine.limit("images", range(1, 4), replaced)
    machine.open("first", FIRST)
    with pytest.raises(BudgetExceeded, match="bring 3 of the images"):
        machine.open("images", range(1, 4))


def test_a_unit_by_another_name_is_known_by_its_images(machine: Machine) -> None:
    machine.limit("first", FIRST, ONE)
    with pytest.raises(BudgetExceeded, match="bring 1 of the units"):
        machine.open("renamed", {1: "A", 2: "A"}, count=50)
    machine.open("renamed", {1: "A"}, count=10)
    assert machine.index.count_of_other_kind(machine.images({1: "ann"})) == 0


def test_without_a_limit_runs_of_either_kind_are_admitted_and_counted(machine: Machine) -> None:
    machine.open("images", range(1, 4)).close()
    assert machine.index.count_of_other_kind(machine.images(FIRST)) == 0  # nothing was spent
    machine.open("again", range(1, 4))
    assert machine.index.count_of_other_kind(machine.images(FIRST)) == 3
    assert machine.index.count_of_other_kind(machine.images(range(1, 4))) == 0
    machine.open("first", FIRST)
    assert machine.index.count_of_other_kind(machine.images(range(1, 9))) == 4
    spent = {one.counted: one.images for one in machine.standing("first", FIRST)}
    # Cleo's image was in the last run alone, bob's one in both, and ann's two.
    assert spent == {(EVENT,): 1, (EVENT.times(200),): 1, merge_events([*Role(2).cost([EVENT]), EVENT]): 1}


def test_a_unit_is_no_image(machine: Machine) -> None:
    machine.open("first", FIRST)
    (unit,), (image,) = (
        machine.index.identities_of_units([digest("x")]),
        machine.index.identities([digest("x")]),
    )
    assert unit != image
    of_units = machine.index.identities_of_units([digest("ann")])
    assert machine.index.count_private(of_units) == 1
    assert machine.index.count_private(machine.index.identities([digest("ann")])) == 0


def test_a_ledger_of_units_is_none_of_images(machine: Machine) -> None:
    machine.ledger("first", FIRST)
    with pytest.raises(InputError, match=r"50 units, digest .* not 50 images"):
        machine.ledger("first", range(3))
    assert Ledger(machine.folder / "first.jsonl").summary()["unit"] == "unit"


def test_an_index_from_before_there_were_units(machine: Machine) -> None:
    machine.open("images", range(1, 4))
    database = sqlite3.connect(machine.folder / "images" / "index.sqlite")
    for table in ("belongs", "unit_runs"):
        database.execute(f"DROP TABLE {table}")
    database.commit()
    database.close()
    before = machine.ledger("images", range(1, 4))
    (one,) = machine.index.standings([before], None)
    assert (one.images, one.counted) == (3, (EVENT,))
    found = machine.index.standings([], [digest(1), digest(2)], [digest("ann"), digest("ann")])
    assert [one.counted for one in found] == [Role(2).cost([EVENT])]
    machine.limit("first", FIRST, ONE)
    with pytest.raises(BudgetExceeded):
        machine.open("first", FIRST)
