"""A data set in files, as every reader offers one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dpvision.images.choices import Choices
from dpvision.images.images import Images
from dpvision.images.source_state import files_in


class DataSet(ABC):
    """A data set of one format. What is found out about it is kept, so nothing is parsed twice.

    Args:
        path: where it lies.
        choices: how it is to be read.
    """

    def __init__(self, path: Path, choices: Choices) -> None:
        self.path, self.choices = path, choices

    @staticmethod
    @abstractmethod
    def recognises(path: Path) -> bool:
        """Say whether what lies at path is of this format, by its name alone."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, Any]:
        """The splits that there are, by name."""

    @abstractmethod
    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of one of these splits by size (width, height)."""

    def files(self) -> Iterable[str]:
        """Return the absolute paths of all files that it may be read from, in some lasting order."""
        return files_in(self.path)

    @abstractmethod
    def read(self, split: str, labelled: bool) -> Images:
        """Read one of these splits."""
