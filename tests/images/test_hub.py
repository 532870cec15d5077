"""Specs of the Hugging Face Hub, with a stand-in for it: nothing is downloaded here."""

from __future__ import annotations

import inspect
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dpvision.images import forget_images, open_images
from dpvision.images.hub import pinned, placed, repository_of
from dpvision.images.image_set import ImageSet
from dpvision.images.released import provenance_with
from dpvision.privacy.errors import InputError
from tests.hub_stand_in import COMMIT, Hub, stand_in
from tests.images.test_parquet import save

OTHER = COMMIT[::-1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with one data set, of two configurations."""
    for name, values in (("plain", [1, 2]), ("hard", [3, 4, 5])):
        folder = tmp_path / "on-hub" / name
        folder.mkdir(parents=True)
        save(folder / "train-00000-of-00001.parquet", values, [0] * len(values))
    found = stand_in(monkeypatch)
    found.repositories["dataset", "someone/set"] = tmp_path / "on-hub"
    return found


def values(images: ImageSet) -> list[int]:
    return images.take(torch.arange(len(images)))[:, 0, 0, 0].tolist()


def test_a_data_set_is_read_from_the_folder_that_is_named(hub: Hub) -> None:
    assert values(open_images("hf:someone/set/plain")) == [1, 2]
    assert values(open_images("hf:datasets/someone/set/hard@main")) == [3, 4, 5]
    with pytest.raises(InputError, match="has several configurations"):
        open_images("hf:someone/set")


def test_what_is_guaranteed_of_images_comes_with_any_folder_of_them(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "on-hub" / "pool.json").write_text('{"kind": "made"}')
    assert provenance_with("hf:someone/set/plain") == {"kind": "made"}


def test_a_commit_is_downloaded_once_and_later_read_without_a_network(hub: Hub) -> None:
    spec = pinned("hf:someone/set/plain")
    assert spec == f"hf:datasets/someone/set/plain@{COMMIT}"
    open_images(spec)
    hub.asked.clear()
    hub.fails = ConnectionError("no network")
    assert values(open_images(spec)) == [1, 2]
    assert hub.asked == []


def test_what_is_named_stays_what_it_was_when_the_branch_moves(hub: Hub, tmp_path: Path) -> None:
    spec = pinned("hf:someone/set/plain")
    hub.commits["main"] = OTHER
    assert pinned("hf:someone/set/plain") == spec, "one process sees one commit of a branch"
    assert values(open_images(spec)) == [1, 2]


def test_only_the_owner_may_enter_where_downloads_lie(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0)
    try:
        open_images("hf:someone/set/plain")
    finally:
        os.umask(old)
    home = Path(os.environ["DPVISION_HOME"]) / "hub"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_download_that_was_interrupted_is_gone_on_with(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hub.snapshot_download

    def half(*args: Any, **named: Any) -> str:
        named["local_dir"].mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", half)
    with pytest.raises(KeyboardInterrupt):
        open_images("hf:someone/set/plain")
    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", whole)
    assert values(open_images("hf:someone/set/plain")) == [1, 2]


def test_forgetting_removes_what_was_downloaded(hub: Hub) -> None:
    folder = placed("hf:someone/set/plain")
    assert folder.is_dir()
    assert forget_images("hf:someone/set").bytes > 0
    assert not folder.exists()
    assert forget_images("hf:someone/set").bytes == 0


@pytest.mark.parametrize(
    "spec",
    [
        "hf:",
        "hf:name",
        "hf:a/b/../c",
        "hf:a/..",
        "hf:-a/b",
        "hf:a/b@x y",
        "hf:a/b\n",
        "hf:datasets/a",
        f"hf:{'a' * 300}/b",
        f"hf:a/{'b' * 97}",
        f"hf:a/b/{'c' * 256}",
        f"hf:a/b/{'ü' * 128}",
        f"hf:a/b{'/c' * 500}",
        f"hf:a/b@{'d' * 201}",
        f"hf:a/b@{'d' * 5000}",
    ],
)
def test_what_names_nothing_is_refused_before_anything_is_asked(spec: str, hub: Hub) -> None:
    with pytest.raises(InputError, match="names nothing on the Hugging Face Hub") as said:
        open_images(spec)
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 500
    assert hub.asked == []


def test_the_home_of_nobody_is_no_path() -> None:
    with pytest.raises(InputError, match=r"^hf:~no-such-user/x is no path: "):
        open_images("hf:~no-such-user/x")


def test_a_path_after_hf_is_that_path(tmp_path: Path) -> None:
    save(tmp_path / "images.parquet", [7], [0])
    assert values(open_images(f"hf:{tmp_path}/images.parquet")) == [7]
    assert pinned(f"hf:{tmp_path}") == f"hf:{tmp_path}"
    assert pinned("hf:./images.parquet") == f"hf:{Path.cwd()}/images.parquet"
    assert pinned(tmp_path) == str(tmp_path)
    assert repository_of(tmp_path, "dataset") is None


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: Hub) -> None:
    with pytest.raises(
        InputError, match=r"hf:datasets/some/other@main cannot be had .*404 Client Error\)"
    ) as said:
        open_images("hf:some/other")
    assert "\n" not in str(said.value)
    open_images("hf:someone/set/plain")
    hub.fails = ConnectionError("")
    with pytest.raises(InputError, match=rf"\(ConnectionError\).* that was downloaded: {COMMIT}$"):
        open_images("hf:someone/set/plain@v2")


def test_a_folder_that_a_repository_lacks_is_named(hub: Hub) -> None:
    with pytest.raises(InputError, match="there is no soft in it"):
        open_images("hf:someone/set/soft")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'dpvision\[hub\]'"):
        open_images("hf:someone/set")


def test_the_stand_in_is_called_as_the_library_may_be() -> None:
    """Or else the tests here would pass with calls that the library refuses."""
    library = pytest.importorskip("huggingface_hub")
    for name in ("repo_info", "create_repo", "upload_folder"):
        theirs = inspect.signature(getattr(library.HfApi, name)).parameters
        assert inspect.signature(getattr(Hub, name)).parameters.keys() <= theirs.keys()
    theirs = inspect.signature(library.snapshot_download).parameters
    assert inspect.signature(Hub.snapshot_download).parameters.keys() - {"self"} <= theirs.keys()
