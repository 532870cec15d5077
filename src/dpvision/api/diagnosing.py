"""Say what is installed, what a machine computes with, and whether its ledgers are sound."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dpvision.api.installation import Library, libraries, versions
from dpvision.api.machine import computing, file_system, room
from dpvision.api.soundness import Fault, Ledgers, look_over_ledgers
from dpvision.privacy.errors import InputError
from dpvision.privacy.ledger import About
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run

SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "lustre", "gpfs"})
"""File systems that several machines may share."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        versions: of Python, of this package and of what it is built on.
        extras: the libraries of each extra.
        computing: see `dpvision.api.machine.computing`.
        room: see `dpvision.api.machine.room`.
        ledgers: what was found of the ledgers and the index of images.
        file_system: the kind that the ledgers are on; None where that is not known.
        faults: all that is unsound, of libraries and ledgers.
        notes: what to know or do, though nothing is unsound.
    """

    versions: dict[str, str]
    extras: dict[str, list[Library]]
    computing: dict[str, Any]
    room: dict[str, Any]
    ledgers: Ledgers
    file_system: str | None
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is unsound."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON would have it."""
        return {
            "sound": self.sound,
            "faults": [asdict(one) for one in self.faults],
            "notes": list(self.notes),
            "versions": self.versions,
            "extras": {extra: [asdict(one) for one in found] for extra, found in self.extras.items()},
            "computing": self.computing,
            "room": self.room,
            "ledgers": {
                "folder": str(self.ledgers.folder),
                "file_system": self.file_system,
                "count": len(self.ledgers.paths),
                "open_runs": len(self.ledgers.open_runs),
                "has_index": self.ledgers.has_index,
            },
        }


def doctor() -> Diagnosis:
    """Look over what is installed, what this machine computes with, and the ledgers of whoever asks. Changes
    nothing. What it says of ledgers is private.

    The libraries of extras are imported to see whether they can be, which takes seconds.

    >>> doctor().computing["device"] in ("cpu", "cuda", "mps")
    True
    """
    extras, ledgers = libraries(), look_over_ledgers()
    faults, notes = [*_broken(extras), *ledgers.faults], []
    for ledger, run, about in ledgers.open_runs:
        found = _unfinished(ledger, run, about)
        if isinstance(found, Fault):
            faults.append(found)
        elif found is not None:
            notes.append(found)
    kind = file_system(ledgers.folder)
    if kind in SHARED:
        notes.append(
            f"{ledgers.folder} is on {kind}, which machines may share: its locks must hold between them, as "
            "those of NFS 4 do (docs/guarantee/faults.md)"
        )
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        notes.append(
            "this machine has NVIDIA's driver and this torch is built without CUDA, so runs take the CPU: "
            "install a build with it (docs/guide/installing.md)"
        )
    return Diagnosis(
        versions(), extras, computing(), room(ledgers.folder), ledgers, kind, tuple(faults), tuple(notes)
    )


def _broken(extras: dict[str, list[Library]]) -> list[Fault]:
    """Return the libraries that are installed and cannot be imported."""
    return [
        Fault(
            one.name,
            f"version {one.version} is installed and cannot be imported ({one.error})",
            f"install one that fits: pip install 'dpvision[{extra}]'",
        )
        for extra, found in extras.items()
        for one in found
        if one.error is not None
    ]


def _unfinished(ledger: Path, run: str, about: About) -> Fault | str | None:
    """Say what is to be done about a run that is open in its ledger; None where a process works on it."""
    close = f"dpvision ledger {ledger} --close {run}"
    if about.folder is None:
        return f"run {run} is open in {ledger}, which does not say where it is; if it has ended: {close}"
    if not is_run(about.folder):
        gone = (
            f"run {run} is open and its folder {about.folder} is gone: what it did not spend stays reserved"
        )
        return Fault(str(ledger), gone, f"put the folder back and resume the run, or free it: {close}")
    try:
        if RunDirectory.open(about.folder).is_worked_on:
            return None
    except InputError as error:
        return Fault(
            about.folder, f"the run is open and cannot go on: {error}", f"mend that, or free it: {close}"
        )
    return (
        f"no process of this machine works on {about.folder}, which is open: dpvision resume {about.folder}"
    )
