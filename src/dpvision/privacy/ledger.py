"""The ledger of one data set: everything that was ever released about it, written before it is released.

An append-only file of JSON lines. Each line holds the SHA-256 of the line before it and of itself, so that an
edit anywhere is noticed. Every change happens under an exclusive lock and is on disk before the call returns.
The lines, by ``kind``:

    dataset   the first line: the data set's digest, its public number of examples, and if these are units
    limit     what the data set's owner allows in total; the last one counts
    open      a run begins and reserves all it plans to release; what the run is, for people
    spend     a run is about to release something
    close     a run has ended; from now on it counts for what it spent

What is released is an `Event`, of a kind that is registered, and is written as the event says.

A run that dies stays open and keeps its reservation until it is taken up again or closed.

What remains unnoticed: there is no secret key, so whoever may write the file can also write it anew. A file
that is deleted, put back from an older copy, or cut off after a whole line or within the last one looks like
a ledger to which less was written. A process that is using it notices; so does a run that is taken up again,
by its own record (`Ledger.check_spent`); a new run does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, get_args, get_type_hints

from dpvision.privacy.accounting import epsilon
from dpvision.privacy.budget import Budget, default_delta
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, UnknownEvent, merge_events, written
from dpvision.privacy.facts import Unit
from dpvision.privacy.reservation import Reservation
from dpvision.privacy.standing import Limit, Standing, check_limits
from dpvision.privacy.values import fits

_NO_LINE = "0" * 64
_BEGINNING = b'{"previous": "'
"""The beginning of every line. A file whose end is something else is not cut: it is somebody's other file."""


@dataclass(frozen=True)
class About:
    """What a run is, for people who read the ledger. It is private, and nothing depends on it.

    Attributes:
        folder: the run's directory, absolute, as it was when the run began; None where it has none.
        method: what learns; None of a run from before ledgers held it.
        images: how many there are; None likewise.
    """

    folder: str | None = None
    method: str | None = None
    images: int | None = None

    @classmethod
    def of_line(cls, entry: dict[str, Any]) -> About:
        """Read it from a line. ValueError where a field is of the wrong type."""
        for name, hint in get_type_hints(cls).items():
            if not fits(entry.get(name), hint):
                raise ValueError(f"{name} is of the wrong type")
        return cls(*(entry.get(name) for name in ("folder", "method", "images")))


@dataclass
class LedgerRun:
    """The ledger's record of one run."""

    reservation: Reservation
    opened: datetime
    about: About
    is_open: bool = True

    @property
    def counted(self) -> tuple[Event, ...]:
        """The events held against the limit: all that an open run reserved, a closed run's spending."""
        return self.reservation.reserved if self.is_open else self.reservation.spent

    @property
    def state(self) -> str:
        """Whether the run may still spend, in words."""
        if self.is_open:
            return "open, may spend the rest"
        if self.reservation.spent == self.reservation.reserved:
            return "complete"
        return "ended early" if self.reservation.spent else "ended, nothing spent"


class Ledger:
    """The ledger at ``path``, which must exist; `for_dataset` makes one.

    Safe to use from several processes at once.

    Args:
        path: the file.
        read_only: leave the file as it is: also who may read it, and a line that was cut off. Nothing can be
            written.

    Guarantee: what a run records is on disk before `record` returns; what all runs have spent, and what open
    ones have reserved, never costs more than a limit that was set before they opened. It holds as long as
    nobody takes the file away or puts an older one in its place (see above). ``tests/privacy/test_ledger.py``
    kills processes and runs several at once; ``python -m checks.kill`` and ``checks.race`` do so for hours.

    Raises:
        InputError: from any method, when the file cannot be read or written, or was tampered with.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._read_only = read_only
        self._forget()
        if not os.path.isfile(self.path):
            raise InputError(f"there is no ledger at {self.path}; restore it from a copy if there was one.")
        with self._locked():
            pass

    @classmethod
    def for_dataset(cls, path: Path | str, digest: str, num_examples: int, unit: Unit = "image") -> Ledger:
        """Open the ledger at ``path`` for the data set with this digest; begun now if there is none.

        Args:
            path: the file; missing folders are made.
            digest: identifies the data set (SHA-256, hex).
            num_examples: N, public.
            unit: what N counts, and the runs protect.

        Raises:
            InputError: the ledger at this path is another data set's, or the path cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent == default_ledger_path(digest).parent:
                path.parent.chmod(0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        ledger = cls.__new__(cls)
        ledger.path, ledger._read_only = path, False
        ledger._forget()
        with ledger._locked() as file:
            if ledger._dataset is None:
                of_units = {} if unit == "image" else {"unit": unit}
                ledger._append(file, kind="dataset", digest=digest, num_examples=num_examples, **of_units)
                try:
                    sync_folder(path.parent)
                except OSError as error:
                    raise _unusable(path, error) from error
        ledger.check_is_of(digest, num_examples, unit)
        return ledger

    def check_is_of(self, digest: str, num_examples: int, unit: Unit = "image") -> None:
        """Raise InputError unless this is the ledger of the data set with this digest, and so many units or
        images.
        """
        if (self.digest, self.num_examples, self.unit) != (digest, num_examples, unit):
            raise InputError(
                f"the ledger {self.path} belongs to another data set ({self.num_examples} {self.unit}s, "
                f"digest {self.digest[:12]}…, not {num_examples} {unit}s and {digest[:12]}…); "
                "name another file."
            )

    @property
    def digest(self) -> str:
        """The digest of the data set that this ledger belongs to (SHA-256, hex)."""
        return str(self._header["digest"])

    @property
    def num_examples(self) -> int:
        """The number of examples N of that data set."""
        return int(self._header["num_examples"])

    @property
    def unit(self) -> Unit:
        """What its runs protect, and its limit holds for."""
        found: Unit = self._header.get("unit", "image")
        return found

    @property
    def limit(self) -> Budget | None:
        """The budget that the owner allows in total; None when nothing was set."""
        return self._limits[-1][1] if self._limits else None

    def set_limit(self, limit: Budget) -> None:
        """Allow at most this much in total, from now on. It may be lowered below what is spent already."""
        limit.check_against(self.num_examples)
        with self._locked() as file:
            self._append(file, kind="limit", **asdict(limit))

    def open_run(
        self, run_id: str, planned: Sequence[Event], about: About | None = None
    ) -> tuple[Event, ...]:
        """Reserve everything the run plans to release, or take up again a run that is open with the same
        plan.

        Args:
            run_id: the run's name, which no other has.
            planned: what it plans to release.
            about: what it is, for people.

        Returns:
            What the run has spent already: empty for a new one.

        Raises:
            BudgetExceeded: with all that counts already, the plan would exceed the owner's limit.
            InputError: the run is closed, or open with another plan. In every case nothing was written.
        """
        planned = merge_events(planned)
        with self._locked() as file:
            run = self._runs.get(run_id)
            if run is None:
                self._check_limit(planned)
                said = {name: value for name, value in asdict(about or About()).items() if value is not None}
                plan = [written(event) for event in planned]
                self._append(file, kind="open", run=run_id, planned=plan, **said)
                return ()
            if not run.is_open:
                raise InputError(f"run {run_id} is closed in the ledger {self.path}; start a new one.")
            if run.reservation.reserved != planned:
                raise InputError(f"run {run_id} is open in the ledger {self.path} with another plan.")
            return run.reservation.spent

    def record(self, run_id: str, event: Event) -> None:
        """Write down a release before it is made; on disk when this returns.

        Raises:
            BudgetExceeded: the run's plan does not hold (any more of) this event. Nothing was written.
        """
        with self._locked() as file:
            self._open_run(run_id).reservation.check(event)
            self._append(file, kind="spend", run=run_id, event=written(event))

    def check_spent(self, run_id: str, released: Sequence[Event]) -> None:
        """Refuse to go on where the ledger lacks releases that were made: it was replaced, or cut off.

        Args:
            run_id: the id of the run that made them.
            released: what its own record shows.

        Raises:
            InputError: as said. Nothing was written.
        """
        with self._locked():
            run = self._runs.get(run_id)
            spent = {event.single: event.count for event in run.reservation.spent} if run else {}
            for event in merge_events(released):
                found = spent.get(event.single, 0)
                if found < event.count:
                    raise InputError(
                        f"the ledger {self.path} holds {found} of the {event.count} releases that run "
                        f"{run_id} has made, so it has lost some; restore it from a copy."
                    )

    def counted(self) -> dict[str, tuple[Event, ...]]:
        """Return the events that are held against limits, by the id of their run."""
        with self._locked():
            return {run_id: run.counted for run_id, run in self._runs.items()}

    def open_runs(self) -> dict[str, About]:
        """Return what the runs that may still spend are, by their id."""
        with self._locked():
            return {run_id: run.about for run_id, run in self._runs.items() if run.is_open}

    def close_run(self, run_id: str) -> None:
        """End a run: what it planned but did not spend is free again.

        Only for a run that no process is still working on.
        """
        with self._locked() as file:
            self._open_run(run_id)
            self._append(file, kind="close", run=run_id)

    def summary(self) -> dict[str, Any]:
        """Return what was spent, what is reserved and what the owner allows, as JSON would have it.

        ε is stated at the limit's δ and relation, or without one at `default_delta` and
        add-or-remove-one. Times are in UTC.
        """
        with self._locked():
            at = self.stated_at

            def total(events: Sequence[Event]) -> float:
                return epsilon(events, at.delta, at.neighboring_relation)

            runs = list(self._runs.values())
            return {
                "path": str(self.path),
                "digest": self.digest,
                "num_examples": self.num_examples,
                "unit": self.unit,
                "delta": at.delta,
                "neighboring_relation": at.neighboring_relation,
                "epsilon_limit": self.limit.epsilon if self.limit else None,
                "limits": [{"time": time.isoformat(), **asdict(limit)} for time, limit in self._limits],
                "epsilon_spent": total([event for run in runs for event in run.reservation.spent]),
                "epsilon_counted": total([event for run in runs for event in run.counted]),
                "runs": [
                    {
                        "run": run_id,
                        "opened": run.opened.isoformat(),
                        "open": run.is_open,
                        "state": run.state,
                        "epsilon_spent": total(run.reservation.spent),
                        "epsilon_planned": total(run.reservation.reserved),
                        **asdict(run.about),
                    }
                    for run_id, run in self._runs.items()
                ],
            }

    @property
    def stated_at(self) -> Budget:
        """The budget whose δ and relation ε is stated at: the limit, or what one would be by default."""
        return self.limit or Budget(1.0, default_delta(self.num_examples))

    def _check_limit(self, planned: Sequence[Event]) -> None:
        if self.limit is not None:
            counted = merge_events(event for run in self._runs.values() for event in run.counted)
            limits = (Limit(self.limit, self.path),)
            check_limits([Standing(self.num_examples, counted, limits, unit=self.unit)], planned)

    def _open_run(self, run_id: str) -> LedgerRun:
        run = self._runs.get(run_id)
        if run is None or not run.is_open:
            raise InputError(f"run {run_id} is not open in the ledger {self.path}.")
        return run

    @property
    def _header(self) -> dict[str, Any]:
        if self._dataset is None:
            raise InputError(f"the ledger {self.path} does not say which data set it belongs to.")
        return self._dataset

    # Reading and writing the file -------------------------------------------------------------------------

    def _forget(self) -> None:
        self._offset = 0  # bytes read and verified so far
        self._last_line = b""
        self._last_hash = _NO_LINE
        self._dataset: dict[str, Any] | None = None
        self._limits: list[tuple[datetime, Budget]] = []
        self._runs: dict[str, LedgerRun] = {}

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """Open the file under an exclusive lock, with whatever other processes appended taken in."""
        try:
            file = self.path.open("rb" if self._read_only else "r+b", buffering=0)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            if not self._read_only:
                with suppress(OSError):  # of who may write, but is not the owner
                    os.fchmod(file.fileno(), 0o600)  # whatever the umask, and who wrote it before
            try:
                fcntl.flock(file, fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX)
            except OSError as error:
                raise InputError(
                    f"the ledger {self.path} cannot be locked: {error.strerror or error}; keep it on a file "
                    "system with locks, as a local disk or NFS 4."
                ) from error
            try:
                self._catch_up(file)
            except OSError as error:
                raise self._unusable(error) from error
            yield file
        finally:
            try:
                file.close()
            except OSError as error:  # that of an earlier write, over a network
                raise self._unusable(error) from error

    def _catch_up(self, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        if size < self._offset:
            raise InputError(f"the ledger {self.path} has become shorter; restore it from a copy.")
        start = self._offset - len(self._last_line)
        file.seek(start)
        content = file.read(size - start)
        if not content.startswith(self._last_line):
            raise InputError(f"the ledger {self.path} was replaced while in use; restore it from a copy.")
        *lines, torn = content[len(self._last_line) :].split(b"\n")
        for line in lines:
            self._take_in(line + b"\n")
        if _exceeds_json(torn):
            self._take_in(torn)  # a line whose end was changed
        elif torn and not torn.startswith(_BEGINNING[: len(torn)]):
            raise InputError(f"{self.path} is no ledger; name another file.")
        elif torn and not self._read_only:
            # Its writer died within the write, so before any noise was drawn for it.
            file.truncate(self._offset)

    def _take_in(self, line: bytes) -> None:
        """Verify the next line and count what it says."""
        try:
            if not line.endswith(b"\n"):
                raise ValueError("a line does not end")
            entry = json.loads(line)
            own_hash = entry.pop("sha256")
            if own_hash != _hash(entry) or entry["previous"] != self._last_hash:
                raise ValueError("the chain of hashes is broken")
            self._apply(entry)
        except UnknownEvent as error:
            raise UnknownEvent(f"the ledger {self.path} cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(
                f"the ledger {self.path} was changed or damaged at byte {self._offset} or after ({error}); "
                "restore it from a copy."
            ) from error
        self._offset += len(line)
        self._last_line, self._last_hash = line, own_hash

    def _apply(self, entry: dict[str, Any]) -> None:
        match entry["kind"]:
            case "dataset":
                if not (isinstance(entry["digest"], str) and default_delta(entry["num_examples"])):
                    raise ValueError("it names no data set")
                if entry.get("unit", "image") not in get_args(Unit):
                    raise ValueError("its unit is none that is known")
                self._dataset = entry
            case "limit":
                limit = Budget(entry["epsilon"], entry["delta"], entry["neighboring_relation"])
                self._limits.append((datetime.fromisoformat(entry["time"]), limit))
            case "open":
                self._runs[entry["run"]] = LedgerRun(
                    Reservation(map(Event.from_json, entry["planned"])),
                    datetime.fromisoformat(entry["time"]),
                    About.of_line(entry),
                )
            case "spend":
                self._runs[entry["run"]].reservation.spend(Event.from_json(entry["event"]))
            case "close":
                self._runs[entry["run"]].is_open = False
            case kind:
                raise ValueError(f"unknown kind {kind!r}")

    def _append(self, file: IO[bytes], **fields: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"previous": self._last_hash, "time": time, **fields}
        line = json.dumps({**entry, "sha256": _hash(entry)}).encode() + b"\n"
        try:
            file.seek(self._offset)
            written = file.write(line)
            if written != len(line):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # a line that stays counts, though nothing is released for it
                file.truncate(self._offset)
            raise self._unusable(error) from error
        self._take_in(line)

    def _unusable(self, error: OSError) -> InputError:
        return _unusable(self.path, error, "read" if self._read_only else "written")


def default_ledger_path(digest: str) -> Path:
    """Return the path of a data set's ledger unless told otherwise, so that all runs on it share one.

    ``$DPVISION_HOME/ledgers/<digest>.jsonl``; the home is by default ``dpvision`` under ``$XDG_DATA_HOME``,
    or under ``~/.local/share``.
    """
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    home = os.environ.get("DPVISION_HOME") or Path(data_home) / "dpvision"
    return Path(home) / "ledgers" / f"{digest}.jsonl"


def _exceeds_json(content: bytes) -> bool:
    """Say whether more follows a whole JSON value, which is not so of a line that was cut off."""
    text = content.decode(errors="replace")
    try:
        return json.JSONDecoder().raw_decode(text)[1] < len(text)
    except (ValueError, RecursionError):
        return False


def _hash(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _unusable(path: Path, error: OSError, what_fails: str = "written") -> InputError:
    return InputError(f"the ledger {path} cannot be {what_fails}: {error.strerror or error}.")


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable, not only its contents. OSError as of the system."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
