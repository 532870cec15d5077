from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpvision.images import Images, NoLabelsError, available_splits, open_images
from dpvision.images import files as files_module
from dpvision.privacy.errors import InputError


def save(path: Path, value: int = 0, *, colour: bool = True, size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if colour else "L", size, (value, 0, 0) if colour else value).save(path)
    return path


def labels_by_name(images: Images) -> dict[str, str]:
    assert images.names is not None
    assert images.labels is not None
    return {name: images.class_names[i] for name, i in zip(images.names, images.labels.tolist(), strict=True)}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for i, name in enumerate(["dog/2.png", "cat/1.PNG", "dog/more/1.bmp", "cat/b.tiff"]):
        save(tmp_path / name, 10 * i)
    return tmp_path


def test_class_folders_in_the_order_of_their_names(pets: Path) -> None:
    (pets / "README.md").write_text("not in a class folder")
    (pets / "dog" / ".DS_Store").write_bytes(b"clutter")
    (pets / "dog" / "Thumbs.db").write_bytes(b"clutter")
    images = open_images(pets)
    assert images.class_names == ("cat", "dog")
    assert images.names == ("cat/1.PNG", "cat/b.tiff", "dog/2.png", "dog/more/1.bmp")
    assert set(labels_by_name(images).items()) == {(n, n.split("/")[0]) for n in images.names}
    assert images.pixels[:, 0, 0, 0].tolist() == [10, 30, 0, 20]
    assert images.shape == (3, 3, 4)
    assert available_splits(pets) == ("train",)


def test_split_folders(tmp_path: Path) -> None:
    for name in [
        "train/cat/1.png",
        "train/dog/1.png",
        "Validation/dog/1.png",
        "test/dog/1.png",
    ]:
        save(tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "licence.txt").write_text("no image")
    assert set(available_splits(tmp_path)) == {"train", "val", "test"}
    assert len(open_images(tmp_path)) == 2
    test = open_images(tmp_path, "test")
    assert test.class_names == ("cat", "dog")  # those of train
    assert labels_by_name(test) == {"dog/1.png": "dog"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ["train/1.png", "plane/1.png"]:
        save(tmp_path / name)
    assert open_images(tmp_path).class_names == ("plane", "train")


def test_a_test_split_that_is_not_there(pets: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'test' \(it has: train\)"):
        open_images(pets, "test")


def test_a_test_class_that_train_lacks(tmp_path: Path) -> None:
    for name in ["train/cat/1.png", "train/dog/1.png", "test/dgo/1.png"]:
        save(tmp_path / name)
    with pytest.raises(InputError, match="dgo is a class that the train folder does not have"):
        open_images(tmp_path, "test")


def test_unlabelled_images_at_any_depth(pets: Path) -> None:
    save(pets / "loose.png", 99)
    images = open_images(pets, labelled=False)
    assert images.labels is None
    assert images.names == ("cat/1.PNG", "cat/b.tiff", "dog/2.png", "dog/more/1.bmp", "loose.png")


def test_one_image_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "picture.png", 7)
    images = open_images(path, labelled=False)
    assert (len(images), images.names) == (1, ("picture.png",))
    with pytest.raises(InputError, match="single image without a class"):
        open_images(path)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    for i in range(200):
        save(tmp_path / "all" / f"{i:03}.png", i, size=(1, 1))
    assert open_images(tmp_path).pixels[:, 0, 0, 0].tolist() == list(range(200))


@pytest.mark.parametrize("beside", ["other/1.png", "other/deep/er/1.JPG", "loose.png"])
@pytest.mark.parametrize("labelled", [True, False])
def test_images_beside_the_splits_are_refused(tmp_path: Path, beside: str, labelled: bool) -> None:
    for name in ["train/cat/1.png", "train/dog/1.png", "test/dog/1.png", beside]:
        save(tmp_path / name)
    named = beside.split("/")[0]
    with pytest.raises(InputError, match=rf"images in {named} beside the folders test and train"):
        open_images(tmp_path, labelled=labelled)


def test_a_class_called_train_with_folders_is_refused_beside_others(tmp_path: Path) -> None:
    for name in ["bus/0.png", "car/0.png", "train/steam/0.png", "train/diesel/0.png"]:
        save(tmp_path / name)
    with pytest.raises(InputError, match="images in bus, car beside the folder train"):
        open_images(tmp_path)


def test_a_test_split_without_labels_hinders_no_training(tmp_path: Path) -> None:
    for name in ["train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png"]:
        save(tmp_path / name)
    assert available_splits(tmp_path) == ("test", "train")
    assert len(open_images(tmp_path)) == 2
    test = open_images(tmp_path, "test", labelled=None)
    assert (len(test), test.labels) == (2, None)


def test_a_corrupt_image_among_good_ones_is_named(pets: Path) -> None:
    bad = pets / "dog" / "3.png"
    bad.write_bytes((pets / "dog" / "2.png").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"dog/3\.png is not an image that can be read: it is a damaged PNG"):
        open_images(pets)


def test_the_first_image_of_another_size_is_named(pets: Path) -> None:
    save(pets / "dog" / "2.png", size=(5, 3))
    save(pets / "dog" / "3.png", size=(6, 3))
    named = r"3 shapes: 3 like .*cat/1\.PNG, colour, 4 x 3; 1 like .*dog/2\.png, .* 5 x 3; .*alike with size="
    with pytest.raises(InputError, match=named):
        open_images(pets)
    assert open_images(pets, size=8).shape == (3, 8, 8)


def test_grey_among_colour_asks_for_channels(pets: Path) -> None:
    save(pets / "dog" / "2.png", colour=False)
    with pytest.raises(
        InputError, match=r"3 like .*cat/1\.PNG, colour.*1 like .*dog/2\.png, grey.*alike with channels="
    ):
        open_images(pets)
    assert open_images(pets, channels=1).shape == (1, 3, 4)
    assert open_images(pets, channels=3).shape == (3, 3, 4)


def test_nothing_is_left_out_unsaid(pets: Path) -> None:
    (pets / "cat" / "photo.heic").write_bytes(b"?")
    with pytest.raises(InputError, match=r"photo\.heic is not an image that can be read"):
        open_images(pets)


def test_an_image_outside_the_class_folders(pets: Path) -> None:
    save(pets / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png lies outside any class folder"):
        open_images(pets)


@pytest.mark.parametrize("record", ["images.json", "pool.json"])
def test_a_record_beside_the_images_is_passed_over(tmp_path: Path, record: str) -> None:
    save(tmp_path / "cat/1.png")
    save(tmp_path / "dog/1.png")
    (tmp_path / record).write_text("{}")
    assert open_images(tmp_path).class_names == ("cat", "dog")
    assert len(open_images(tmp_path, labelled=False)) == 2


def test_images_without_labels_are_told_from_a_mistake(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    with pytest.raises(NoLabelsError, match="has no class folders in it"):
        open_images(tmp_path)
    (tmp_path / "cat").mkdir()
    for mistake in (r"1\.png lies outside any class folder", "cat is a class folder without images"):
        with pytest.raises(InputError, match=mistake) as raised:
            open_images(tmp_path)
        assert not isinstance(raised.value, NoLabelsError)
        (tmp_path / "1.png").unlink(missing_ok=True)


def test_an_empty_class_folder(pets: Path) -> None:
    (pets / "New folder").mkdir()
    with pytest.raises(InputError, match="New folder is a class folder without images"):
        open_images(pets)


@pytest.mark.parametrize("labelled", [True, False])
def test_an_empty_folder(tmp_path: Path, labelled: bool) -> None:
    with pytest.raises(InputError, match="has no"):
        open_images(tmp_path, labelled=labelled)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("what", ["image", "folder", "broken"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, what: str, labelled: bool) -> None:
    root = tmp_path / "data"
    save(root / "cat" / "1.png")
    outside = save(tmp_path / "secret" / "1.png")
    target = {"image": outside, "folder": outside.parent, "broken": tmp_path / "nowhere.png"}[what]
    (root / "cat" / "link.png").symlink_to(target)
    with pytest.raises(InputError, match=r"link\.png links to"):
        open_images(root, labelled=labelled)


def test_a_whole_split_may_not_be_a_link_out_of_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "data" / "train" / "cat" / "1.png")
    save(tmp_path / "elsewhere" / "cat" / "1.png")
    (tmp_path / "data" / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="links to"):
        open_images(tmp_path / "data", "test")


def test_a_loop_of_links_is_refused(pets: Path) -> None:
    (pets / "cat" / "again").symlink_to(pets)
    with pytest.raises(InputError, match="links to"):
        open_images(pets)


def test_a_link_that_stays_inside_is_followed(pets: Path) -> None:
    (pets / "cat" / "also.png").symlink_to(pets / "dog" / "2.png")
    assert labels_by_name(open_images(pets))["cat/also.png"] == "cat"


def test_a_pipe_does_not_block(pets: Path) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is not a regular file"):
        open_images(pets)


def test_more_than_fits_in_memory(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "physical_memory", lambda: 4 * 3 * 4 * 3 - 1)
    with pytest.raises(InputError, match="use fewer or smaller images"):
        open_images(pets)
    assert open_images(pets, size=2).pixels.numel() == 4 * 3 * 2 * 2


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "all").mkdir()
    Image.fromarray(noise).save(tmp_path / "all" / "1.png")
    np.testing.assert_array_equal(open_images(tmp_path).pixels[0].numpy(), noise.transpose(2, 0, 1))
