"""Runs of a benchmark in a JSON file, so that a later call goes on with those that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class KeptRuns:
    """The runs in a file, by title, and what all of them were made with.

    Args:
        path: the file, made by the first `add`.
        made_with: JSON types. Runs made otherwise must not be counted with these.

    Raises:
        SystemExit: the file has runs made otherwise.
    """

    def __init__(self, path: Path, made_with: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {"made_with": made_with, "runs": {}}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content.get("made_with") != made_with:
                raise SystemExit(f"{path} has runs made otherwise than with {made_with}; name another --out")

    @property
    def by_title(self) -> dict[str, list[dict[str, Any]]]:
        return self.content["runs"]

    def count(self, title: str) -> int:
        """How many runs there are of that title."""
        return len(self.by_title.get(title, []))

    def add(self, title: str, run: dict[str, Any]) -> None:
        """Keep a run, as JSON types, at once."""
        self.by_title.setdefault(title, []).append(run)
        self.path.write_text(json.dumps(self.content))
