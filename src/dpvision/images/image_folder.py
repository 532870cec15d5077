"""Folders of images with a table of metadata beside them, which Hugging Face calls imagefolder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpvision.images.data_set import DataSet
from dpvision.images.decode import count_sizes
from dpvision.images.extras import import_extra
from dpvision.images.files import SPLIT_WORDS, reading
from dpvision.images.images import Images
from dpvision.images.in_memory import encoded_image, image_column, images_from_dataset
from dpvision.images.text import listing
from dpvision.privacy.errors import InputError

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""What tables of metadata are called, in such a folder or in those of its splits."""


class ImageFolder(DataSet):
    """A folder that `datasets` reads as an imagefolder, to which it is given. Images are decoded here.

    What `datasets` writes meanwhile, the metadata as Arrow, goes to a temporary folder that only its owner
    may enter, and which is removed when the program ends at the latest.
    """

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a folder with a table of metadata in it, or in a folder in it."""
        forms = [form for table in TABLES for form in (table, f"*/{table}")]
        return path.is_dir() and any(True for form in forms for _ in path.glob(form))

    @cached_property
    def splits(self) -> dict[str, Any]:
        """The splits, as map-style data sets whose images are not decoded.

        Raises:
            InputError: `datasets` is not installed or cannot read them; a split is none that is known.
        """
        found = self._loaded()
        splits = {SPLIT_WORDS.get(str(name)): data_set for name, data_set in found.items()}
        if None in splits or len(splits) < len(found):
            raise InputError(
                f"{self.path} has the splits {listing(list(found))}, which are not each one of train, val "
                "and test; give the folder of one"
            )
        column = image_column(next(iter(found.values())), self.choices, str(self.path))
        image = self._datasets.Image(decode=False)
        return {str(name): data_set.cast_column(column, image) for name, data_set in splits.items()}

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images by size (width, height), by headers, as far as these can be read."""
        data_set = self.splits[split]
        images = data_set[image_column(data_set, self.choices, str(self.path))]
        return count_sizes((encoded_image(image) or b"", str(self.path)) for image in images)

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split; see `images_from_dataset`."""
        images = images_from_dataset(self.splits[split], labelled=labelled, **self.choices.given())
        return replace(images, source=str(self.path))

    @cached_property
    def _datasets(self) -> Any:
        return import_extra("datasets", f"{self.path} has a table of metadata, which", extra="hub")

    def _loaded(self) -> Mapping[str, Any]:
        self._written = TemporaryDirectory(prefix="dpvision-")
        datasets, place = self._datasets, self._written.name
        with reading(str(self.path)), _quietly(datasets):
            return datasets.load_dataset("imagefolder", data_dir=str(self.path), cache_dir=place)


@contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Keep `datasets` from drawing its bars, which it does on stderr whoever calls it."""
    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
