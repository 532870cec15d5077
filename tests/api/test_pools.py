"""Pools are made as they would be by the libraries; most tests have a stand-in for diffusers."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpvision.api.pools import describe_pool, image_seed, make_pool, make_process_pool
from dpvision.images import open_images
from dpvision.priors import image_batches
from dpvision.privacy import InputError
from dpvision.views import open_pool

CLASSES = ("cat", "wild_dog")
PROCESSES = ("dead-leaves-squares", "statistical-spectrum")


def make(out: Path, **options: Any) -> None:
    make_pool("painter", CLASSES, out, **({"per_class": 5, "batch_size": 2, "device": "cpu"} | options))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_a_model_makes(pipeline: Any, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    make(tmp_path, seed=3, command="typed", progress=lambda *told_now: told.append(told_now))
    names = {f"{name}/{index:06d}.png" for name in CLASSES for index in range(5)}
    assert set(contents(tmp_path)) == {"pool.json", *names}
    assert told == [("images", done, 10) for done in (2, 4, 5, 7, 9, 10)]
    assert pipeline.prompts == ["a photo of a cat"] * 5 + ["a photo of a wild dog"] * 5
    assert pipeline.seeds == [image_seed(3, name, index) for name in CLASSES for index in range(5)]
    assert json.loads((tmp_path / "pool.json").read_text()) == {
        "kind": "text-to-image",
        "model": "painter",
        "prompt": "a photo of a {class}",
        "classes": list(CLASSES),
        "per_class": 5,
        "count": 10,
        "size": None,
        "seed": 3,
        "inference_steps": None,
        "guidance_scale": None,
        "versions": {"diffusers": "0.0", "dpvision": version("dpvision")},
        "command": "typed",
    }


def test_every_image_has_a_seed_of_its_own() -> None:
    names = ["a", "ab", "a\x00b", "ä", "cat", "cat 1"]
    seeds = {image_seed(seed, name, index) for seed in (0, 1) for name in names for index in range(100)}
    assert len(seeds) == 2 * len(names) * 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_image_depends_on_its_seed_class_and_number_alone(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path / "all", seed=3)
    make_pool("painter", ["wild_dog"], tmp_path / "one", per_class=3, batch_size=8, seed=3, device="cpu")
    whole = contents(tmp_path / "all")
    assert len(set(whole.values())) == 11
    for name, content in contents(tmp_path / "one").items():
        assert (content == whole[name]) == (name != "pool.json")
    make(tmp_path / "other", seed=4)
    assert not set(contents(tmp_path / "other").values()) & set(whole.values())


def test_the_pool_is_opened_with_its_classes_and_provenance(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path)
    pool = open_pool(tmp_path, (3, 8, 8), CLASSES)
    assert pool.targets.argmax(dim=1).tolist() == [0] * 5 + [1] * 5
    assert pool.provenance == json.loads((tmp_path / "pool.json").read_text())


def test_a_size_is_that_of_the_readers(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path / "as made")
    make(tmp_path / "small", size=8)
    assert open_images(tmp_path / "as made").shape == (3, 12, 16)
    found = open_images(tmp_path / "small").pixels
    assert torch.equal(found, open_images(tmp_path / "as made", size=8).pixels)


def test_options_reach_the_model(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path / "a", inference_steps=7, prompt="{class}, {size}", per_class=1)
    assert pipeline.steps == [7, 7]
    assert pipeline.prompts == ["cat, {size}", "wild dog, {size}"]
    with pytest.raises(InputError, match="painter takes no guidance_scale; leave it out"):
        make(tmp_path / "b", guidance_scale=2.0)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("calls", [0, 1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_files(calls: int, pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path / "whole")
    pipeline.fails_after = calls
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts")
    written = len(contents(tmp_path / "parts")) - 1
    assert written == (0, 2, 4, 5, 7, 9)[calls]
    if written:
        with pytest.raises(InputError, match=rf"has {written} images and not the 10 of its pool.json"):
            open_pool(tmp_path / "parts", (3, 8, 8), CLASSES)
    if calls == 1:  # as if it had been killed in the middle of a batch, while it wrote a file
        (tmp_path / "parts/cat/000001.png").rename(tmp_path / "parts/cat/.partial")
    pipeline.fails_after = None
    make(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_pool_is_left_alone(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path, command="first")
    before = contents(tmp_path)
    make(tmp_path, command="second", batch_size=3)
    assert contents(tmp_path) == before
    assert pipeline.loaded == ["painter"]


def test_pools_made_otherwise_are_refused(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    for options in (
        {"per_class": 6},
        {"seed": 1},
        {"size": 8},
        {"prompt": "{class}"},
        {"inference_steps": 7},
    ):
        with pytest.raises(InputError, match=r"made with other settings .*; give another folder"):
            make(tmp_path, **options)
    with pytest.raises(InputError, match="made with other settings"):
        make_process_pool(PROCESSES, tmp_path, count=10)
    (tmp_path / "cat/000007.png").touch()
    with pytest.raises(InputError, match=r"cat/000007\.png is not one of the images to come"):
        make(tmp_path)
    (tmp_path / "cat/000007.png").rename(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match=r"holds something else \('thesis.tex'\)"):
        make(tmp_path)
    (tmp_path / "thesis.tex").unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("model", "class_names", "options", "message"),
    [
        ("missing", ["cat"], {}, r"missing cannot be loaded \(no file named model_index.json\)"),
        ("painter", [], {}, "give at least one"),
        ("painter", ["cat", "cat"], {}, "two classes of the pool have the same name"),
        *(
            ("painter", [name], {}, "cannot be the name of a folder")
            for name in ("", ".", "..", "a/b", "a\\b", "a\0b", ".hidden", "pool.json", "Thumbs.db", "ä" * 128)
        ),
        ("painter", ["cat"], {"prompt": "a photo"}, r"'a photo' does not say \{class\}"),
        ("painter", ["cat"], {"per_class": 0}, "per_class must be at least 1, not 0"),
        ("painter", ["cat"], {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ("painter", ["cat"], {"inference_steps": 0}, "inference_steps must be at least 1, not 0"),
        ("painter", ["cat"], {"seed": -1}, "seed must be at least 0, not -1"),
        ("painter", ["cat"], {"guidance_scale": float("nan")}, "guidance_scale must be at least 0"),
        ("painter", ["cat"], {"guidance_scale": -1.0}, "guidance_scale must be at least 0"),
        ("painter", ["cat"], {"size": 0}, "size must be 1 to"),
        ("painter", ["cat"], {"device": "abacus"}, "abacus"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    model: str,
    class_names: list[str],
    options: dict[str, Any],
    message: str,
    pipeline: Any,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        make_pool(model, class_names, tmp_path / "out", **options)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_without_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"a text-to-image model needs diffusers.*'dpvision\[diffusers\]'"):
        make(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_pool_of_processes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    make_process_pool(
        PROCESSES, tmp_path, count=9, size=16, seed=5, progress=lambda *told_now: told.append(told_now)
    )
    assert set(contents(tmp_path)) == {"pool.json", *(f"{index:06d}.png" for index in range(9))}
    stream = image_batches(PROCESSES, 16, 5, "cpu", batch_size=5)
    expected = torch.cat([next(stream), next(stream)])[:9]
    pool = open_pool(tmp_path, (3, 16, 16), ("cat", "dog"))
    assert torch.equal(pool.images.take(torch.arange(9)), expected)
    assert pool.targets.tolist() == [[0.5, 0.5]] * 9
    assert pool.provenance == {
        "kind": "random processes",
        "processes": list(PROCESSES),
        "count": 9,
        "size": 16,
        "seed": 5,
        "versions": {"dpvision": version("dpvision")},
        "command": None,
    }
    assert told == [("images", 5, 9), ("images", 9, 9)]


def test_an_interrupted_pool_of_processes_goes_on(tmp_path: Path) -> None:
    make_process_pool(PROCESSES, tmp_path / "whole", count=9, size=16)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_process_pool(PROCESSES, tmp_path / "parts", count=9, size=16, progress=interrupt)
    (tmp_path / "parts/000004.png").unlink()  # as if it had been killed in the middle of a batch
    make_process_pool(PROCESSES, tmp_path / "parts", count=9, size=16)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    (tmp_path / "parts/notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt is not one of the images to come"):
        make_process_pool(PROCESSES, tmp_path / "parts", count=9, size=16)


@pytest.mark.parametrize(
    ("processes", "options", "message"),
    [
        ([], {}, "no random process is named"),
        (["clouds"], {}, "no random process 'clouds'"),
        (PROCESSES, {"count": 1}, "1 images are too few for 2 processes"),
        (PROCESSES, {"count": 0}, "too few"),
        (PROCESSES, {"size": 8}, "at least 16 pixels"),
        (PROCESSES, {"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_input_for_processes(
    processes: list[str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        make_process_pool(processes, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_description(pipeline: Any, tmp_path: Path) -> None:
    make(tmp_path)
    assert describe_pool(tmp_path) == {
        "images": 10,
        "classes": {"cat": 5, "wild_dog": 5},
        "sizes": {"16 x 12": 10},
        "provenance": json.loads((tmp_path / "pool.json").read_text()),
    }


def test_a_description_of_images_of_any_shape(tmp_path: Path) -> None:
    for index, shape in enumerate([(5, 4, 3), (4, 5, 3), (5, 4)]):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(tmp_path / f"{index}.png")
    assert describe_pool(tmp_path) == {
        "images": 3,
        "classes": None,
        "sizes": {"4 x 5": 2, "5 x 4": 1},
        "provenance": {"source": tmp_path.name},
    }


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Stable Diffusion of few and random weights, saved as the published ones are, for 16 x 16 pixels."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("stable-diffusion")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    diffusers.StableDiffusionPipeline(
        tokenizer=transformers.CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32
        ),
        text_encoder=transformers.CLIPTextModel(text),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=16,
        ),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model")
    return str(folder / "model")


def test_a_real_pipeline(stable_diffusion: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "per_class": 3,
        "batch_size": 2,
        "inference_steps": 2,
        "guidance_scale": 2.0,
        "device": "cpu",
    }
    make_pool(stable_diffusion, CLASSES, tmp_path / "whole", **options)
    images = open_images(tmp_path / "whole")
    assert images.shape == (3, 16, 16)
    assert len({image.numpy().tobytes() for image in images.pixels}) == 6

    # What an interrupted run left, and another batch than the one that was interrupted.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/wild_dog")
    for index in (1, 2):
        (tmp_path / f"parts/cat/00000{index}.png").unlink()
    make_pool(stable_diffusion, CLASSES, tmp_path / "parts", **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")

    # Alone or in a batch, an image is the same but for rounding.
    make_pool(stable_diffusion, CLASSES, tmp_path / "alone", **options | {"batch_size": 1})
    alone = open_images(tmp_path / "alone").pixels
    assert (alone.int() - images.pixels.int()).abs().max() <= 1


def test_what_a_real_library_cannot_load(stable_diffusion: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(stable_diffusion, broken)
    weights = broken / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    for model in ("broken", "empty"):
        with pytest.raises(InputError, match=f"{model} cannot be loaded") as raised:
            make_pool(str(tmp_path / model), CLASSES, tmp_path / "out")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
