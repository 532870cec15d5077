"""`doctor`: what is unsound is said, each thing damaged once, and nothing is changed by looking."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import dpvision
from dpvision.api import diagnosing
from dpvision.api.diagnosing import Diagnosis
from dpvision.api.installation import FOR_DEVELOPERS, Library, extras
from dpvision.api.machine import file_system
from dpvision.cli.main import run
from dpvision.privacy import Ledger, default_ledger_path, gaussian_event
from dpvision.privacy.image_index import ImageIndex, IndexedImages
from dpvision.privacy.ledger import About

FAST = {"network": "linear", "steps": 3, "expected_batch_size": 64, "augmult": 1}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of somebody who has made a run."""
    folder = tmp_path_factory.mktemp("used")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPVISION_HOME", str(folder / "home"))
        dpvision.train("bundled:digits", epsilon=2, out=folder / "run", config=FAST)
    return folder / "home"


@pytest.fixture
def home(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(used, tmp_path / "home")
    monkeypatch.setenv("DPVISION_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(diagnosing, "libraries", dict)  # importing them takes seconds
    return tmp_path / "home"


def only_ledger(home: Path) -> Path:
    (path,) = (home / "ledgers").glob("*.jsonl")
    return path


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """The mode, the time of the last change and the content of all there is."""
    return {
        str(one): (one.lstat().st_mode, one.lstat().st_mtime_ns, content(one))
        for one in [folder, *folder.rglob("*")]
    }


def content(path: Path) -> bytes:
    """Of a file that is no terabyte."""
    return path.read_bytes() if path.is_file() and path.stat().st_size < 2**30 else b""


def test_a_home_that_is_sound(home: Path) -> None:
    before = state(home)
    found = dpvision.doctor()
    assert (found.faults, found.notes, found.sound) == ((), (), True)
    assert (found.ledgers.paths, found.ledgers.has_index) == ((only_ledger(home),), True)
    assert state(home) == before


def test_a_home_that_nothing_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPVISION_HOME", str(tmp_path / "none"))
    assert dpvision.doctor().sound
    assert not (tmp_path / "none").exists()


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def of_index(home: Path, command: str) -> None:
    with closing(sqlite3.connect(home / "images" / "index.sqlite")) as database, database:
        database.execute(command)


def renamed(home: Path) -> None:
    only_ledger(home).rename(home / "ledgers" / f"{'0' * 64}.jsonl")


def index_gone(home: Path) -> None:
    shutil.rmtree(home / "images")


def index_damaged(home: Path) -> None:
    path = home / "images" / "index.sqlite"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + b"\xff" * (size - size // 2))


def notes_for_a_ledger(home: Path) -> None:
    (home / "notes").write_text("my notes\n")
    (home / "notes").chmod(0o644)  # so they are to stay
    of_index(home, "UPDATE runs SET ledger = 'notes'")


def pipe_for(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a byte of a ledger flipped": (
        lambda home: flip(only_ledger(home), 300),
        "ledgers/",
        "was changed or damaged at byte .*; restore it from a copy",
    ),
    "a ledger of another data set": (renamed, "ledgers/000", "is the ledger of another data set"),
    "a ledger that others may read": (
        lambda home: only_ledger(home).chmod(0o644),
        "ledgers/",
        r"others than its owner may use it \(644\); chmod 600",
    ),
    "ledgers that others may list": (
        lambda home: (home / "ledgers").chmod(0o755),
        "ledgers:",
        r"others than its owner may use it \(755\); chmod 700",
    ),
    "a folder in the place of a ledger": (
        lambda home: (home / "ledgers" / "x.jsonl").mkdir(mode=0o700),
        "x.jsonl",
        "is no regular file; restore it from a copy, or move it away",
    ),
    "another file in the place of a ledger": (
        lambda home: only_ledger(home).write_text("my notes\n"),
        "ledgers/",
        "was changed or damaged",
    ),
    "a ledger that is gone": (
        lambda home: only_ledger(home).unlink(),
        "ledgers/",
        "is gone, though the index",
    ),
    "a ledger cut to its first line": (
        lambda home: only_ledger(home).write_bytes(only_ledger(home).read_bytes().splitlines(True)[0]),
        "ledgers/",
        "has lost 1 of the 1 runs that the index knows of.*; restore it from a copy",
    ),
    "a pipe in the place of a ledger": (
        lambda home: os.mkfifo(home / "ledgers" / "x.jsonl", 0o600),
        "x.jsonl",
        "is no regular file",
    ),
    "a hole of a terabyte at the end of a ledger": (
        lambda home: os.truncate(only_ledger(home), 2**40),
        "ledgers/",
        f"was not read, for it has {2**40} bytes",
    ),
    "a pipe in the place of the index": (
        lambda home: pipe_for(home / "images" / "index.sqlite"),
        "index.sqlite",
        "is no regular file",
    ),
    "a pipe in the place of the index's lock": (
        lambda home: pipe_for(home / "images" / "lock"),
        "images/lock",
        "is no regular file; move it away",
    ),
    "an empty ledger": (
        lambda home: (home / "ledgers" / "x.jsonl").touch(0o600),
        "x.jsonl",
        "does not say which data set it belongs to; restore it from a copy, or move it away",
    ),
    "a link that leads nowhere in the place of a ledger": (
        lambda home: (home / "ledgers" / "x.jsonl").symlink_to("nowhere"),
        "x.jsonl",
        "cannot be read: No such file or directory; restore it from a copy, or move it away",
    ),
    "another file's name in the index": (
        notes_for_a_ledger,
        "notes:",
        "was changed or damaged at byte .*; restore it from a copy$",
    ),
    "a name in the index that is too long": (
        lambda home: of_index(home, f"UPDATE runs SET ledger = '{'x' * 300}'"),
        "xxx:",
        "cannot be read: File name too long; restore it from a copy$",
    ),
    **{
        f"a ledger in the index called {name}": (
            partial(of_index, command=f"UPDATE runs SET ledger = {name}"),
            "index.sqlite",
            "is damaged: it has a run without a name or a ledger",
        )
        for name in ("x'00ff'", "''", "'a' || char(0) || 'b'")
    },
    "the index gone": (index_gone, "index.sqlite", "is missing though ledgers have runs"),
    "the index damaged": (index_damaged, "index.sqlite", "is damaged|cannot be read"),
    "the index's key gone": (lambda home: (home / "images" / "key").unlink(), "images/key", "is missing"),
    "the index's key cut": (
        lambda home: (home / "images" / "key").write_bytes(b"k"),
        "images/key",
        "is damaged",
    ),
    "the index's key for all": (
        lambda home: (home / "images" / "key").chmod(0o640),
        "images/key",
        "others than its owner",
    ),
    "images gone from the index": (
        lambda home: of_index(
            home, "DELETE FROM images WHERE identity IN (SELECT identity FROM images LIMIT 1)"
        ),
        "index.sqlite",
        "other numbers of images",
    ),
    "images in the index of no run": (
        lambda home: of_index(home, "DELETE FROM members"),
        "index.sqlite",
        "images that no run has touched",
    ),
    "a run gone from the index": (
        lambda home: of_index(home, "DELETE FROM runs"),
        "index.sqlite",
        "names runs of which it says nothing",
    ),
    "a write to the index cut off": (
        lambda home: (home / "images" / "index.sqlite-journal").write_bytes(b"x"),
        "index.sqlite",
        "a write to it was cut off",
    ),
    "a file in the place of the ledgers": (
        lambda home: (shutil.rmtree(home / "ledgers"), (home / "ledgers").write_text("")),
        "ledgers",
        "is no folder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said(damage: str, home: Path) -> None:
    do, where, what = DAMAGES[damage]
    do(home)
    before = state(home)
    found = dpvision.doctor()
    said = [str(one) for one in found.faults]
    (line,) = [one for one in said if re.search(what, one)]
    assert (
        len([one for one in said if one.startswith(line.split(": ")[0] + ": ")]) == 1
    )  # no other advice for it
    assert where in line
    assert state(home) == before
    assert not found.sound


@pytest.fixture
def home_of_another_user(used: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that everybody can reach, while this process is a user who does not own it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user for a while")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(used, home)
        for one in (home, home.parent):
            one.chmod(0o755)
        monkeypatch.setenv("DPVISION_HOME", str(home))
        monkeypatch.setattr(diagnosing, "libraries", dict)
        yield home


def as_another_user() -> str:
    """What is found then."""
    os.seteuid(65534)
    try:
        return "\n".join(map(str, dpvision.doctor().faults))
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_said(home_of_another_user: Path) -> None:
    home = home_of_another_user
    said = as_another_user()
    for folder in ("ledgers", "images"):
        assert f"{home / folder}: cannot be read and written; chmod 700" in said
    (home / "ledgers").chmod(0o777)
    assert f"{only_ledger(home)}: cannot be read: Permission denied" in as_another_user()
    home.chmod(0o700)
    assert f"{home / 'ledgers'}: cannot be reached: Permission denied" in as_another_user()


def with_an_open_run(folder: Path | None) -> Ledger:
    digest = "ab" * 32
    ledger = Ledger.for_dataset(default_ledger_path(digest), digest, 1000)
    ledger.open_run("some-run", [gaussian_event(2.0, 0.05, 4)], About(folder and str(folder)))
    return ledger


def test_a_run_whose_folder_is_gone_holds_its_reservation(home: Path, tmp_path: Path) -> None:
    ledger = with_an_open_run(tmp_path / "gone")
    (fault,) = dpvision.doctor().faults
    assert f"its folder {tmp_path / 'gone'} is gone" in fault.what
    assert f"dpvision ledger {ledger.path} --close some-run" in fault.mend
    assert run(["ledger", str(ledger.path), "--close", "some-run"]) == 0
    assert dpvision.doctor().sound


def test_a_run_that_can_go_on_is_no_fault(home: Path, used: Path) -> None:
    with_an_open_run(used.parent / "run")
    found = dpvision.doctor()
    assert found.sound
    assert f"dpvision resume {used.parent / 'run'}" in found.notes[0]


def test_a_run_that_is_worked_on_is_no_matter(home: Path, used: Path) -> None:
    from dpvision.runs import RunDirectory

    with_an_open_run(used.parent / "run")
    with RunDirectory.open(used.parent / "run").locked():
        assert (dpvision.doctor().faults, dpvision.doctor().notes) == ((), ())


def test_a_line_that_was_cut_off_stays_and_is_sound(home: Path) -> None:
    path = only_ledger(home)
    path.write_bytes(path.read_bytes() + b'{"previous": "ab')
    before = path.read_bytes()
    assert dpvision.doctor().sound
    assert path.read_bytes() == before


def test_what_the_index_knows_besides_runs_is_not_looked_for_in_ledgers(home: Path) -> None:
    """Limits, public images, and a run whose process was killed before its ledger had it."""
    index = ImageIndex(home / "images")
    digest = "ab" * 32
    ledger = Ledger.for_dataset(default_ledger_path(digest), digest, 1000)
    images = IndexedImages(index, index.identities([b"a" * 32]))
    index.cover(ledger, images)
    index.note_public("a use", images.identities)
    with pytest.raises(KeyboardInterrupt), index.admitting("killed", ledger, [], images):
        raise KeyboardInterrupt
    assert dpvision.doctor().faults == ()


def test_a_library_that_cannot_be_imported_is_a_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"timm": [Library("timm", "1.0", "built for another torch")]}
    monkeypatch.setattr(diagnosing, "libraries", lambda: broken)
    (fault,) = dpvision.doctor().faults
    assert (fault.where, fault.mend) == ("timm", "install one that fits: pip install 'dpvision[timm]'")


def test_every_extra_for_users_is_asked_for() -> None:
    known = set(importlib.metadata.metadata("dpvision").get_all("Provides-Extra") or ())
    assert set(extras()) == known - FOR_DEVELOPERS
    assert extras()["dicom"] == ["pydicom"]


def test_the_file_system_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert file_system(tmp_path / "not" / "there") == file_system(tmp_path)


def test_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["ledgers"]["count"], found["ledgers"]["open_runs"]) == (True, 1, 0)
    assert found["versions"]["dpvision"] == importlib.metadata.version("dpvision")
    assert found["computing"]["cores"] >= 1
    only_ledger(home).chmod(0o666)
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert text.endswith("something is unsound\n")
    assert f"  - {only_ledger(home)}: others than its owner may use it (666); chmod 600" in text


def test_nothing_of_the_images_is_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor of the index's key and identities."""
    assert isinstance(dpvision.doctor(), Diagnosis)
    run(["doctor", "--json"])
    said = capsys.readouterr().out
    with closing(sqlite3.connect(home / "images" / "index.sqlite")) as database:
        (identity,) = database.execute("SELECT identity FROM images").fetchone()
    for secret in ((home / "images" / "key").read_bytes(), identity):
        assert secret.hex() not in said
        assert repr(secret)[2:-1] not in said
