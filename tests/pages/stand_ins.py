"""What the pages speak of as if it were there: photos, scans, runs, made of the bundled digits.

A page names its data as a reader would, `photos` or `scans.csv`. The folder of the page gets what its blocks
name.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dpvision
from checks.doc_blocks import DOCS, Block, blocks, commands
from dpvision.cli.main import run

PRIOR = Path(dpvision.__path__[0]) / "priors" / "weights" / "wrn-10-4-small.safetensors"

_LINEAR = ("train", "--method", "dp-sgd", "--set", "network=linear", "--set", "steps=3")
QUICK = {
    "train": _LINEAR,
    "tune": _LINEAR,
    "synthesize": ("synthesize", "--set", "rank=2", "--set", "num_details=0", "--count", "20"),
}
"""For commands that learn, what leaves the like in a second: a command, and its options beside data and ε."""

_KEPT = tempfile.TemporaryDirectory(prefix="dpvision-pages-")

CLASSES = {
    "docs/guide/rare-classes.md": ("ill", "well"),
    "docs/guide/your-files.md": ("normal", "pneumonia"),
    "docs/reference/figures.md": ("sick", "well"),
}
"""What a page calls the classes; of the others, a cat and a dog."""


def make(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put into a folder what the blocks of a page name and do not make, and install its package."""
    text = "\n".join(code for block in blocks(page) if block.mark != "not run" for code in _code(block))
    maker = _Maker(folder, CLASSES.get(blocks(page)[0].page, ("cat", "dog")))
    if page.name == "own-method.md":
        install(blocks(page), folder / "installed", patch)
    for block in blocks(page, "toml"):
        for name in re.findall(r"[\w-]+\.toml", text):
            (folder / name).write_text(block.text)
    for name, made in MAKERS.items():
        first = re.search(rf"""(--out |out=")?(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)""", text)
        if first and not first[1]:
            made(maker)


def _code(block: Block) -> list[str]:
    """Return what a block runs: of a console not what it shows."""
    if block.language == "console":
        return [command.text for command in commands(block)]
    return [block.text] if block.language == "python" else []


def leave_the_hub_alone(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let Hugging Face's libraries, here and in programs, call no hub; put their cache into a folder."""
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    patch.setenv("HF_HUB_OFFLINE", "1")  # last: the libraries read it when they are imported


def leave(command: str, data: str, place: Path) -> None:
    """Put at a place what a command leaves that learns from data, and into the ledgers what it spends.

    It is learned once, by a quick command in a folder of its own, and copied.
    """
    folders = sorted(one.name for one in Path(data).rglob("*") if one.is_dir())
    kept = Path(_KEPT.name) / "-".join([command, data.replace(":", "-"), *folders])
    if not kept.exists():
        kept.mkdir()
        if Path(data).is_dir():
            shutil.copytree(data, kept / data)
        name, *options = QUICK[command]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(kept)
            patch.setenv("DPVISION_HOME", str(kept / "home"))
            assert run([name, data, "--epsilon", "2", *options, "--out", "made"]) == 0, (command, data)
    shutil.copytree(kept / "made", place)
    shutil.copytree(kept / "home", os.environ["DPVISION_HOME"], dirs_exist_ok=True)


def install(package: Sequence[Block], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Do as pip does with a package whose module and entry points are the first blocks of a page."""
    module, entry_points = package[0].text, tomllib.loads(package[1].text)["project"]["entry-points"]
    ((group, entries),) = entry_points.items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    for name, text in {
        "their_package/class_directions.py": module,
        "their_package-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: their_package\nVersion: 1\n",
        "their_package-1.dist-info/entry_points.txt": "\n".join(lines),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    patch.syspath_prepend(folder)


class _Maker:
    """Writes stand-ins into a folder."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        self.of_split = {split: dpvision.open_images("bundled:digits", split) for split in ("train", "test")}

    def images(self, name: str, split: str, places: range, *, by_class: bool = True) -> list[Path]:
        """Write some of the digits, 0 to 4 as the first class; return the files."""
        written = []
        digits = self.of_split[split].subset(places)
        for number, (pixels, label) in enumerate(zip(digits.pixels, digits.labels.tolist(), strict=True)):
            place = self.folder / name / (self.classes[label // 5] if by_class else "") / f"p{number:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(place)
            written.append(place)
        return written

    def photos(self, name: str) -> None:
        self.images(f"{name}/train", "train", range(80))
        self.images(f"{name}/test", "test", range(40))

    def others(self, name: str) -> None:
        """Write images that are no digits."""
        random = np.random.default_rng(0)
        for split, label, number in itertools.product(("train", "test"), (0, 1), range(30)):
            place = self.folder / name / split / self.classes[label] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(100, size=(8, 8), dtype=np.uint8) + 100 * label
            Image.fromarray(pixels).save(place)

    def damaged(self) -> None:
        """Write scans of which two are in colour, one is a GIF and one is empty, and a text among them."""
        files = self.images("scans", "train", range(120))
        for path in files:
            Image.open(path).resize((32, 32)).save(path)
        well, ill = ([path for path in files if path.parent.name == name] for name in self.classes)
        Image.open(well[3]).save(well[3], "GIF")
        ill[3].write_bytes(b"")
        for path in ill[:2]:
            Image.open(path).convert("RGB").save(path)
        (self.folder / "scans" / self.classes[0] / "notes.txt").write_text("p003 came by mail")

    def scans(self) -> None:
        if self.classes == CLASSES["docs/guide/your-files.md"]:
            self.damaged()
        else:
            self.photos("scans")

    def table(self) -> None:
        files = self.images("files", "train", range(80))
        with (self.folder / "scans.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "split", "patient"])
            for number, path in enumerate(files):
                split = "test" if number >= 60 else "train"
                rows.writerow([path.relative_to(self.folder), path.parent.name, split, f"p{number // 3}"])

    def learned(self, command: str, name: str) -> None:
        if not (self.folder / "photos").exists():
            self.photos("photos")
        leave(command, "photos", self.folder / name)

    def abandoned(self) -> None:
        """Interrupt a run before its first step."""

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        self.photos("photos")
        options: dict[str, Any] = {"method": "dp-sgd", "config": {"network": "linear", "steps": 3}}
        with contextlib.suppress(KeyboardInterrupt):
            dpvision.train("photos", epsilon=1, out="abandoned", progress=stop, **options)

    def recipe(self) -> None:
        """Write one, where the page does not show it."""
        path = self.folder / "recipe.toml"
        if not path.exists():
            path.write_text('data = "bundled:digits"\nepsilon = 2\n')

    def audit(self) -> None:
        """Write that of the sample card."""
        card = json.loads((DOCS / "sample-card" / "card.json").read_text(encoding="utf-8"))
        (self.folder / "audit.json").write_text(json.dumps(card["beside"]["audit"]))


MAKERS: dict[str, Callable[[_Maker], object]] = {
    "photos": lambda maker: maker.photos("photos"),
    "scans": lambda maker: maker.scans(),
    "scans.csv": lambda maker: maker.table(),
    "new-photos": lambda maker: maker.images("new-photos", "test", range(40, 60), by_class=False),
    "labelled-photos": lambda maker: maker.images("labelled-photos", "test", range(60, 100)),
    "run": lambda maker: maker.learned("train", "run"),
    "synthetic": lambda maker: maker.learned("synthesize", "synthetic"),
    "other-run": lambda maker: maker.learned("train", "other-run"),
    "downloaded-release": lambda maker: shutil.copytree(
        maker.folder / "run" / "release", maker.folder / "downloaded-release"
    ),
    "runs": lambda maker: maker.learned("train", "runs/first"),
    "abandoned": lambda maker: maker.abandoned(),
    "audit.json": lambda maker: maker.audit(),
    "recipe.toml": lambda maker: maker.recipe(),
    "small.safetensors": lambda maker: shutil.copy(PRIOR, maker.folder / "small.safetensors"),
    "pool": lambda maker: maker.images("pool", "test", range(100, 200)),
    "public": lambda maker: maker.images("public", "test", range(100, 200)),
    "cifar": lambda maker: maker.others("cifar"),
}
