"""So many images as are published have room: in memory, and in a guarantee.json that is read again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dpvision.api.images_to_publish import REST_OF_GUARANTEE, most_files, to_publish
from dpvision.api.options import FinishOptions
from dpvision.images.files import MAX_GUARANTEE_BYTES, MAX_TEXT_BYTES, physical_memory, read_json
from dpvision.images.released import check_as_released
from dpvision.privacy import InputError
from dpvision.reports.guarantee_file import canonical

SHAPE = (1, 28, 28)
DIGITS = tuple("0123456789")


@pytest.mark.parametrize("names", [(), DIGITS, ("ü" * 40, "x"), ('"' * 100,)])
def test_the_most_files_can_be_listed_and_read_again(names: tuple[str, ...], tmp_path: Path) -> None:
    longest = max(names, key=len, default="")
    listed = {f"images/png/{longest}/{n:06d}.png": "0" * 64 for n in range(most_files(names))}
    content = canonical({"files": listed})
    assert len(content) > 0.9 * (MAX_GUARANTEE_BYTES - REST_OF_GUARANTEE)
    assert len(content) <= MAX_GUARANTEE_BYTES - REST_OF_GUARANTEE + 16
    (tmp_path / "guarantee.json").write_bytes(content)
    assert len(read_json(tmp_path / "guarantee.json", MAX_GUARANTEE_BYTES)["files"]) == len(listed)


def test_as_many_images_as_large_data_sets_have_are_a_release_that_is_read_again(tmp_path: Path) -> None:
    """60,000 of ten classes: their guarantee.json is larger than other JSON may be."""
    count = 60_000
    assert to_publish(FinishOptions(), DIGITS, SHAPE, count).count == count
    digest = hashlib.sha256(b"").hexdigest()
    names = [f"images/png/{n % 10}/{n // 10:06d}.png" for n in range(count)]
    for name in DIGITS:
        (tmp_path / "images" / "png" / name).mkdir(parents=True)
    for name in names:
        (tmp_path / name).touch()
    content = canonical({"files": dict.fromkeys(names, digest)})
    assert len(content) > MAX_TEXT_BYTES
    (tmp_path / "guarantee.json").write_bytes(content)
    check_as_released(tmp_path)
    (tmp_path / names[-1]).write_bytes(b"other")
    with pytest.raises(InputError, match="was changed since the release"):
        check_as_released(tmp_path)


def test_more_images_than_there_is_room_for_are_refused() -> None:
    most = most_files(DIGITS)
    assert to_publish(FinishOptions(count=most), DIGITS, SHAPE, None).count == most
    with pytest.raises(InputError, match=r"more files than guarantee.json can list, .*give npz or parquet"):
        to_publish(FinishOptions(count=most + 1), DIGITS, SHAPE, None)
    drawn = to_publish(FinishOptions(count=most + 1), DIGITS, SHAPE, None, is_release=False)
    assert drawn.count == most + 1, "nothing lists the files of what sample draws"
    others = FinishOptions(count=most + 1, formats=("npz", "parquet"))
    assert to_publish(others, DIGITS, SHAPE, None).count == most + 1
    too_many = FinishOptions(count=physical_memory() // (28 * 28), formats=("npz",))
    with pytest.raises(InputError, match=r"images to be made would take .* GiB of memory here"):
        to_publish(too_many, DIGITS, SHAPE, None)
