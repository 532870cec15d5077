"""The card of a release, with what was measured of it beside its guarantee."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpvision.api.publishing import card_files
from dpvision.images.files import read_json, reading
from dpvision.privacy.errors import InputError
from dpvision.reports.beside import KINDS, for_card, result_kind
from dpvision.reports.markdown import sheet_of
from dpvision.runs.files import write_atomically, writing
from dpvision.runs.places import check_free, check_outside, find_release

logger = logging.getLogger("dpvision")


def write_card(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    results: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Write the card of a release, as HTML, Markdown and JSON, with results of other commands in it.

    The release's own card stays as it is. No guarantee covers the results, for they are exact: whether the
    images that they are of may be published is the publisher's to say.

    Args:
        run: a run's directory or release directory.
        out: the folder for card.html, card.md and card.json, made here.
        results: files of what `dpvision evaluate`, `audit` and `membership` print with --json, and
            private/test.json of the run: one of each kind.

    Returns:
        The card.

    Raises:
        InputError: there is no release, a result is none, or the place cannot be written.
    """
    check_free(out)
    release = find_release(run)
    check_outside(out, release)
    card = read_json(release / "card.json")
    if "strength" not in card:
        raise InputError(
            f"{release / 'card.json'} was written by an earlier version, which did not say what an attacker "
            "could gain; make the release again, or use that version"
        )
    beside: dict[str, Any] = {}
    private = []
    for result in map(Path, results):
        found = read_json(result)
        kind = result_kind(found, str(result))
        if kind in beside:
            raise InputError(f"{result} is a second result of {KINDS[kind]}; give one")
        beside[kind] = for_card(kind, found)
        if "notice" in beside[kind]:
            private.append(f"{result.name}: {beside[kind]['notice']}")
    card |= {"beside": beside} if beside else {}
    folder = Path(out)
    drawn = sheet_of(release) if "images" in card else None
    with reading(f"what is to be on the card of {release}"):
        files = card_files(card, drawn)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    if private:
        logger.warning(f"{out} has results on it that say of themselves: {'; '.join(private)}")
    return card
