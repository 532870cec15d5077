"""Files of weights, and the configs beside them, that claim what is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from checks.fuzzing.targets import TARGETS
from dpvision.networks import build_classifier
from dpvision.networks.generators import Generator
from dpvision.networks.weights import read_tensors
from dpvision.priors.encoders import rebuild_encoder
from dpvision.privacy.errors import InputError
from dpvision.runs import classifier_files, load_release
from dpvision.runs.generator_release import generator_files

CheckRefused = Callable[..., None]
WEIGHTS, CONFIG = classifier_files(
    build_classifier("linear", image_shape=(1, 4, 4), class_names=("a", "b"))
).values()


def file(header: object, tensors: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def tensor(dtype: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little"),
        file({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        file({"a": tensor("F32", [2], 4, 12)}, bytes(12)),
        file({"a": tensor("F32", [2**31, 2**33], 0, 8)}, bytes(8)),
        file({"a": tensor("F32", [2**40], 0, 2**42)}, bytes(8)),
        file({"a": tensor("F32", [-1], 0, 8)}, bytes(8)),
        file({"a": tensor("PICKLE", [2], 0, 8)}, bytes(8)),
        file(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}',
            bytes(8),
        ),
        file(b"[" * 10**5),
        file(b"\xff\xfe"),
        file(b"null"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, check_refused: CheckRefused) -> None:
    check_refused("checkpoint", [content], most_mib=64)
    check_refused("classifier", [CONFIG, content], most_mib=64)


def test_a_pipe_in_place_of_weights_is_not_opened(tmp_path: Path) -> None:

    (tmp_path / "config.json").write_bytes(CONFIG)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="missing"):
        load_release(tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        read_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.int32, torch.bool, torch.float8_e4m3fn]
)
def test_weights_of_another_type_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    weights = {name: value.to(dtype) for name, value in safetensors.torch.load(WEIGHTS).items()}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="should be of type"):
        load_release(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    weights = safetensors.torch.load(WEIGHTS)
    next(iter(weights.values())).fill_(value)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not finite"):
        load_release(tmp_path)


def encoder(name: str, shape: list[int], **options: Any) -> dict[str, Any]:
    described = {"name": name, "image_shape": shape, "provenance": {"source": "x"}, **options}
    rest = {"class_names": ["a", "b"], "mirror": False, "head": "affine", "feature_norm": 1.0}
    return {"network": "encoder", "encoder": described, **rest}


def network(name: str, shape: list[int], classes: object = ("a", "b"), **options: Any) -> dict[str, Any]:
    return {"network": name, "image_shape": shape, "class_names": classes, "options": options}


@pytest.mark.parametrize(
    "config",
    [
        network("linear", [3, 8192, 8192], [str(i) for i in range(1000)]),
        network("linear", [3, 2**40, 2**40]),
        network("linear", [1, -4, -4]),
        network("linear", [1, 4.0, 4]),
        network("linear", [1, 4, 4], "ab"),
        network("linear", [1, 4, 4], ["a", "\x1b[2J"]),
        network("linear", [1, 4, 4], ["a", "a"]),
        network("linear", [1, 4, 4], [["a"], "b"]),
        network("linear", [1, 4, 4], [{"a": 1}, 2]),
        network("wrn-94-99", [3, 32, 32]),
        network("wrn-99999994-1", [3, 32, 32]),
        network("wrn-" + "9" * 5000 + "-1", [3, 32, 32]),
        network("tanh-cnn", [1, 28, 28], width=10**9),
        network("tanh-cnn", [1, 28, 28], width=10**30),
        network("scatter-cnn", [1, 8192, 8192]),
        encoder("pixels", [3, 4096, 4096], products=True),
        encoder("scattering", [3, 8000, 8000]),
        encoder("scattering", [1, 64, 64], J=10**12),
        encoder("scattering", [1, 64, 64], L=10**9),
        encoder("+".join(["pixels"] * 10**4), [1, 4, 4]) | {"provenance": {"parts": [{}] * 10**4}},
        encoder("vgg19", [3, 32, 32], size=10**6),
        encoder("random-wrn-10-1", [3, 32, 32], seed=10**30),
        encoder("wrn-10-4-small", [3, 32, 32], provenance={"network": "wrn-94-99"}),
    ],
)
def test_a_config_of_absurd_size_takes_no_memory(config: dict[str, Any], check_refused: CheckRefused) -> None:
    check_refused("classifier", [json.dumps(config).encode(), WEIGHTS], most_mib=250)


@pytest.mark.parametrize(
    "change",
    [
        {"latent_size": 10**9},
        {"latent_size": 10**30},
        {"latent_size": -5},
        {"network_width": 2**40, "image_shape": [1, 32, 32]},
        {"image_shape": [2**50, 28, 28]},
        {"class_names": ["a\nb"]},
        {"start": {"num_classes": 10**6, "small_shape": [3, 999, 999], "size": [28, 28], "rank": 999}},
    ],
)
def test_a_generator_of_absurd_size_takes_no_memory(
    change: dict[str, Any], check_refused: CheckRefused
) -> None:
    files = generator_files(Generator((1, 28, 28), (), 3))
    config = json.loads(files["config.json"])
    config["generator"] |= change
    check_refused("generator", [json.dumps(config).encode(), files["generator.safetensors"]], most_mib=64)


@pytest.mark.parametrize("bad", [[0.0], [-1.0]])
def test_a_generator_without_classes_to_draw_is_refused(bad: list[float], tmp_path: Path) -> None:
    generator = Generator((1, 28, 28), (), 3)
    generator.class_proportions.copy_(torch.tensor(bad))
    for name, content in generator_files(generator).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="class_proportions"):
        load_release(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "wrn-10-4-small", "provenance": None},
        {"name": "/etc/passwd.safetensors", "provenance": None},
        {"name": "vgg19", "weights": "/etc/passwd", "provenance": None},
        {"name": "pixels+vgg19", "provenance": {"parts": [{"source": "x"}, None]}},
        {"name": "timm:hf-hub:someone/something"},
        {"name": "timm:resnet18", "provenance": {}},
    ],
)
def test_a_released_encoder_is_never_fetched(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not fetched"):
        rebuild_encoder(
            {"name": "pixels", "image_shape": [3, 32, 32], "provenance": {"source": "x"}} | changes
        )


@pytest.mark.parametrize("dtype", ["F8_E4M3", "C64", "F4", "I64"])
def test_a_prior_of_another_type_is_refused(dtype: str, check_refused: CheckRefused) -> None:
    ((content,),) = TARGETS["prior"].seeds()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = header["stem.bias"]["data_offsets"][1] - header["stem.bias"]["data_offsets"][0]
    size = {"F8_E4M3": 1, "C64": 8, "F4": 0.5, "I64": 8}[dtype]
    header["stem.bias"] |= {"dtype": dtype, "shape": [int(end / size)]}
    check_refused("prior", [file(header, content[8 + length :])])


@pytest.mark.parametrize("facts", ["null", "[]", "{}", "[" * 10**5, '{"class_names": ["a"], "noise": NaN}'])
def test_an_embedding_of_nothing_known_is_refused(facts: str, check_refused: CheckRefused) -> None:
    content = safetensors.torch.save({"first": torch.zeros(1, 4)}, {"dpvision": facts})
    check_refused("embedding", [content, b""])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 10**9},
        {"size": -1},
        {"share_of_means": 2.0},
        {"emphasis": "1"},
        {"noise": [1.0]},
        {"noise": [1.0, -1.0]},
        {"noise": None},
        {"num_examples": 0},
        {"image_shape": [2, 4, 4]},
        {"image_shape": [1, 4]},
        {"class_names": ["ant", "ant"]},
        {"class_names": ["ant"] * 3},
        {"method": "dp-sgd"},
        {"method": "refine:" * 10**4},
        {"method": ["dp-moments"]},
        {"guarantee": {}},
    ],
)
def test_moments_that_are_none_are_refused(changes: dict[str, Any], check_refused: CheckRefused) -> None:
    ((content,),) = TARGETS["moments"].seeds()
    facts = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["dpvision"]
    )
    tensors = safetensors.torch.load(content)
    check_refused(
        "moments", [safetensors.torch.save(tensors, {"dpvision": json.dumps(facts | changes)})], most_mib=64
    )


@pytest.mark.parametrize("change", [torch.nan, None])
def test_moments_of_other_numbers_are_refused(change: float | None, check_refused: CheckRefused) -> None:
    ((content,),) = TARGETS["moments"].seeds()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors = safetensors.torch.load(content)
    sums = tensors["second.moments"]
    tensors["second.moments"] = sums[:, 1:].contiguous() if change is None else sums * change
    check_refused("moments", [safetensors.torch.save(tensors, metadata)])
