"""What tests of runs that take up an earlier one read of runs and ledgers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpvision.api.releases import open_earlier
from dpvision.images import Images
from dpvision.methods import Learned
from dpvision.privacy import Event, Ledger, default_ledger_path


def released(place: Path) -> Learned:
    return open_earlier(place)[1]


def card_of(run: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((run / "release" / "card.json").read_text())
    return card


def spent_on(images: Images, ledger: Path | None = None) -> list[Event]:
    counted = Ledger(ledger or default_ledger_path(images.digest)).counted()
    return [event for events in counted.values() for event in events]
