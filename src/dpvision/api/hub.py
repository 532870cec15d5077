"""Lay a release out as a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from dpvision.api.publishable import private_card, verified
from dpvision.api.using import load_generator
from dpvision.evaluation.soft_labels import soft_labels
from dpvision.images import open_images
from dpvision.images.extras import import_extra
from dpvision.images.files import reading
from dpvision.images.hub import PREFIX, REPOSITORY, Kind
from dpvision.images.write import image_files
from dpvision.privacy.errors import InputError, reason_of
from dpvision.reports.guarantee_file import FILE, guarantee_file
from dpvision.reports.hub_card import README, check_license, hub_card
from dpvision.runs.digests import digests
from dpvision.runs.files import write_folder
from dpvision.runs.places import check_free, check_outside

PARQUET = "images/parquet/images.parquet"
"""The file of a release that has its images as the hub's viewer and `datasets` read them."""

ATTRIBUTES = ".gitattributes"
_ATTRIBUTES = "".join(
    f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "parquet", "npz", "png")
)
"""What that file says: which files Git LFS keeps. The hub would add one itself, which verify did not know."""


@dataclass(frozen=True)
class HubFolder:
    """A release as a repository.

    Attributes:
        folder: where it was written to.
        kind: of the repository: "model", or "dataset" for synthetic images.
        sha256: the SHA-256 of its guarantee.json, to be told to others by another way.
        pushed: what it was pushed as, "hf:…@COMMIT"; None where it was not.
    """

    folder: str
    kind: Kind
    sha256: str
    pushed: str | None


def write_hub_folder(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    license: str,
    push: str | None = None,
) -> HubFolder:
    """Write a release as a repository of the Hugging Face Hub: a model, or a data set of synthetic images.

    The folder has the files of the release and no others of the run; README.md, the card for the hub; of
    images that are not in Parquet also these. It is a release too: guarantee.json has the digests of all.

    Args:
        run: a run's directory or release directory.
        out: the folder, made here.
        license: the hub's name of the licence to give it away under, such as "apache-2.0".
        push: OWNER/NAME of a repository of the hub, made here and private. By default nothing leaves.

    Raises:
        InputError: there is no release, it is not private or not what it states; the place cannot be written;
            or the hub refuses.
    """
    check_free(out)
    check_license(license)
    check_repository(push)
    release, card = private_card(run, "it is not to be published")
    check_outside(out, release)
    verified(release, "it is not to be published")
    kind: Kind = "dataset" if "images" in card else "model"
    files = _released_files(release)
    if kind == "dataset" and PARQUET not in files:
        files[PARQUET] = _parquet(release)
    with reading(f"the card in {release}"):
        readme = hub_card(card, license, PARQUET if kind == "dataset" else None)
    files |= {README: readme.encode(), ATTRIBUTES: _ATTRIBUTES.encode()}
    folder = Path(os.path.abspath(out))
    guarantee = guarantee_file(card, files)
    write_folder(folder, files | {FILE: guarantee}, mode=0o755)
    sha256 = hashlib.sha256(guarantee).hexdigest()
    return HubFolder(str(folder), kind, sha256, None if push is None else _pushed(folder, push, kind))


def check_repository(push: str | None) -> None:
    """Raise InputError unless this is OWNER/NAME, or None."""
    if push is not None and not REPOSITORY.fullmatch(push):
        raise InputError(f"{push!r} names no repository of the Hugging Face Hub; write OWNER/NAME")


def _released_files(release: Path) -> dict[str, bytes]:
    """Read the files of a release that was verified, but for those that a repository has anew."""
    names = [name for name in digests(release) if name not in (FILE, README, ATTRIBUTES)]
    try:
        return {name: (release / name).read_bytes() for name in names}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror or error}") from error


def _parquet(release: Path) -> bytes:
    """Return the images of a release, with their labels if they have some, hard and soft, as Parquet."""
    images = open_images(release, labelled=None)
    (content,) = image_files(images, "parquet", soft_labels(load_generator(release), images)).values()
    return content


def _pushed(folder: Path, name: str, kind: Kind) -> str:
    """Push a folder to a new private repository, and return what it is called there."""
    hub = import_extra("huggingface_hub", "a push to the Hugging Face Hub", extra="hub")
    try:
        api = hub.HfApi()
        api.create_repo(name, repo_type=kind, private=True)
        commit = api.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message="A release of dpvision"
        ).oid
    except Exception as error:  # what the hub and the network raise is no closed set
        reason = reason_of(error)
        raise InputError(
            f"{folder} is complete, and could not be pushed ({reason}); push it with "
            f"`hf upload {name} {shlex.quote(str(folder))} --repo-type {kind}`"
        ) from error
    return f"{PREFIX}{kind}s/{name}@{commit}"
