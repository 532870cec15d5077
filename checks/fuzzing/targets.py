"""What the program reads, each kind with real files that the program or its libraries write."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

import dpvision
from checks.fuzzing import dicom_files
from checks.fuzzing.dicom_files import encoded
from dpvision.api.options import TrainOptions
from dpvision.api.pools import describe_pool
from dpvision.api.releases import open_earlier
from dpvision.cli.options import collect
from dpvision.images import Images, available_splits, image_sizes, open_images
from dpvision.images.series import POOL_RECORD, Series
from dpvision.images.write import image_files
from dpvision.methods import check_settings, find_method
from dpvision.networks import build_classifier, build_network
from dpvision.networks.generators import Generator
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import BLANK, safetensors_bytes
from dpvision.priors import Prior, build_encoder, load_prior, save_prior
from dpvision.priors.feature_classifier import build_feature_classifier
from dpvision.priors.phase_one.prior_file import PROVENANCE, body_weights
from dpvision.privacy import Budget, Ledger, gaussian_event
from dpvision.privacy.ledger import About
from dpvision.runs import FileCheckpoints, Metrics, RunDirectory, classifier_files
from dpvision.runs.files import json_bytes
from dpvision.runs.generator_release import generator_files
from dpvision.views.pool import pool_provenance

CLASSES = ("ant", "bee")


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        name: as in the table.
        kinds: of the files of an input, by which they are changed (`fuzzing.mutations.MUTATIONS`).
        seeds: makes inputs to begin with, each its files.
        write: puts the files of an input into an empty folder.
        read: reads the folder as the program does.
        of_images: whether it reads images, for which more memory is allowed.
        share: of all inputs, in proportion: quick ones get more.
    """

    name: str
    kinds: tuple[str, ...]
    seeds: Callable[[], list[list[bytes]]]
    write: Callable[[Path, Sequence[bytes]], None]
    read: Callable[[Path], None]
    of_images: bool = False
    share: int = 6


def _named(*names: str) -> Callable[[Path, Sequence[bytes]], None]:
    def write(folder: Path, parts: Sequence[bytes]) -> None:
        for name, part in zip(names, parts, strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)

    return write


@cache
def small_images() -> Images:
    """Six grey images of 8 x 8 in two classes."""
    pixels = torch.arange(6 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).view(6, 1, 8, 8)
    return Images(pixels, torch.tensor([0, 1, 0, 1, 0, 1]), CLASSES, "memory")


def _read_all(spec: Path) -> None:
    """As the commands data, train and predict do."""
    image_sizes(spec, available_splits(spec)[0])
    open_images(spec, available_splits(spec)[0], labelled=None)
    open_images(spec, available_splits(spec)[0], size=4, channels=3, labelled=False)


# Images


def _encoded(image_format: str, **options: Any) -> list[bytes]:
    gradient = np.linspace(0, 255, 24 * 20 * 3).reshape(24, 20, 3).astype(np.uint8)
    colour = Image.fromarray(gradient)
    made = []
    for mode in ("L", "RGB", "P", "RGBA", "1", "CMYK", "I;16", "LA"):
        stream = io.BytesIO()
        try:
            image = colour.convert("L").convert(mode) if mode in ("I;16", "LA") else colour.convert(mode)
            image.save(stream, image_format, **options)
        except (OSError, ValueError):  # not every format has every mode
            continue
        made.append(stream.getvalue())
    return made


def _pngs() -> list[list[bytes]]:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "text " * 50, zip=True)
    info.add_itxt("Title", "é" * 50, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, described = _encoded("PNG"), _encoded("PNG", pnginfo=info, exif=exif, icc_profile=bytes(200))
    return [[data] for data in plain + described]


def _jpegs() -> list[list[bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 8
    return [
        [d] for d in _encoded("JPEG") + _encoded("JPEG", progressive=True, exif=exif, icc_profile=bytes(200))
    ]


def _webps() -> list[list[bytes]]:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (20, 24), (value, 0, 0)) for value in (0, 99)]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return [[d] for d in (*_encoded("WEBP"), *_encoded("WEBP", lossless=True), stream.getvalue())]


def _tiffs() -> list[list[bytes]]:
    packed = [
        d
        for method in ("raw", "tiff_lzw", "tiff_deflate", "packbits")
        for d in _encoded("TIFF", compression=method)
    ]
    stream = io.BytesIO()
    frames = [Image.new("L", (20, 24), value) for value in (0, 99)]
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])
    return [[d] for d in (*packed, stream.getvalue())]


def _image(name: str, kind: str, seeds: Callable[[], list[list[bytes]]]) -> Target:
    path = f"picture.{name}"
    return Target(name, (kind,), seeds, _named(path), lambda folder: _read_all(folder / path), of_images=True)


# Data sets


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def _idx_files() -> list[list[bytes]]:
    images = small_images()
    assert images.labels is not None
    return [[_idx(images.pixels[:, 0].numpy()), _idx(images.labels.numpy().astype(np.uint8))]]


def _zipped_idx_files() -> list[list[bytes]]:
    return [[gzip.compress(part, mtime=0) for part in parts] for parts in _idx_files()]


def _npz_files() -> list[list[bytes]]:
    images = small_images()
    made = [[image_files(images, "npz")["images.npz"]]]
    for arrays in (
        {"train_images": images.pixels[:, 0].numpy(), "train_labels": np.zeros((6, 1), np.uint8)},
        {"images": images.pixels.numpy(), "labels": np.array([object()] * 6)},
    ):
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        made.append([stream.getvalue()])
    return made


def _parquet_files() -> list[list[bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = image_files(small_images(), "parquet")["images.parquet"]
    made = [[content]]
    table = pq.read_table(pa.BufferReader(content))
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "gzip", "row_group_size": 2, "write_statistics": False},
        {"compression": "lz4", "store_schema": False},
        {
            "compression": "brotli",
            "column_encoding": {"label": "DELTA_BINARY_PACKED"},
            "use_dictionary": False,
        },
    ):
        stream = io.BytesIO()
        pq.write_table(table, stream, **options)
        made.append([stream.getvalue()])
    return made


_SAVED = ("data/data-00000-of-00001.arrow", "data/state.json", "data/dataset_info.json")


def _saved_files() -> list[list[bytes]]:
    """As save_to_disk of Hugging Face's datasets writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(_parquet_files()[0][0]))
    state = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"})
    names = {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}
    made = []
    for compression, new, info in (
        (None, pa.ipc.new_stream, names),
        (None, pa.ipc.new_file, {}),
        ("zstd", pa.ipc.new_stream, {}),
    ):
        stream = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with new(stream, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=4)
        made.append([stream.getvalue(), state.encode(), json.dumps(info).encode()])
    return made


def _tables() -> list[list[bytes]]:
    picture = image_files(small_images(), "png")["ant/000000.png"]
    rows = [["path", "label", "split"], ["a.png", "cat, dog", "train"], ["b.png", "", "test"]]
    texts = []
    for delimiter, encoding in ((",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")):
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(rows)
        texts.append(text.getvalue().encode(encoding))
    return [[text, picture, picture] for text in texts]


def _cifar_archives() -> list[list[bytes]]:
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    labels = {"data": pixels, "fine_labels": [0, 1], "coarse_labels": [1, 0], "filenames": ["a", "b"]}
    names = {"fine_label_names": ["ant", "bee"], "coarse_label_names": ["insect", "beast"]}
    return [[pickle.dumps(labels, protocol), pickle.dumps(names, protocol)] for protocol in (0, 2, 3, 4)]


def _cifar_binaries() -> list[list[bytes]]:
    return [[bytes(range(2)) + bytes(3072) + bytes(3074), b"ant\nbee\n"]]


def _dicoms() -> list[list[bytes]]:
    window = {"WindowCenter": [100, 40], "WindowWidth": [200, 80]}
    values = {"RescaleSlope": "2", "RescaleIntercept": "-10", "PhotometricInterpretation": "MONOCHROME1"}
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    colour = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    ybr = {"PhotometricInterpretation": "YBR_FULL_422"}
    jpeg_2000 = dicom_files.frame_of(grey, "JPEG2000", no_jp2=True)
    made = [
        encoded(**window, **values),
        encoded(grey, **window),
        encoded(colour),
        encoded(VOILUTSequence=dicom_files.table(range(4096), 0, 12)),
        dicom_files.run_lengths(dicom_files.STORED, **window),
        dicom_files.compressed(jpeg_2000, dicom_files.JPEG_2000, grey),
        dicom_files.compressed(
            dicom_files.frame_of(colour, "JPEG"), dicom_files.JPEG_BASELINE, colour, **ybr
        ),
    ]
    return [[one] for one in made]


def _pool_files() -> list[list[bytes]]:
    picture = image_files(small_images(), "png")["ant/000000.png"]
    record = {
        "kind": "random processes",
        "processes": ["a"],
        "count": 1,
        "size": 8,
        "seed": 0,
        "command": None,
    }
    return [[json.dumps(record).encode(), picture]]


def _read_pool(folder: Path) -> None:
    pool_provenance(folder)
    record = {"kind": "random processes", "processes": ["a"], "count": 1, "size": 8, "seed": 0, "command": ""}
    Series(folder, POOL_RECORD, record, {".": 1}).written()
    describe_pool(folder)


# What a folder may hold: each byte is a thing, put where the ones before it say.
THINGS = 12


def _write_folder(folder: Path, parts: Sequence[bytes]) -> None:
    root = folder / "data"
    root.mkdir()
    (folder / "outside").mkdir()
    picture = image_files(small_images(), "png")["ant/000000.png"]
    (folder / "outside" / "secret.png").write_bytes(picture)
    place = root
    for index, thing in enumerate(parts[0][:64]):
        name = ("train", "test", "a", "b\x1b[31m", "é\udcff", ".hidden", "x" * 200, "pool.json")[
            thing // THINGS % 8
        ]
        path = place / f"{name}{index if thing & 128 else ''}"
        picture_path = path.with_name(path.name + ".png")
        try:
            match thing % THINGS:
                case 0 | 1:
                    path.mkdir()
                    place = path
                case 2:
                    place = place.parent if place != root else root
                case 3 | 4 if not picture_path.is_symlink() and not picture_path.exists():
                    picture_path.write_bytes(picture)
                case 3 | 4:
                    continue
                case 5:
                    picture_path.symlink_to(folder / "outside" / "secret.png")
                case 6:
                    path.symlink_to(folder / "outside")
                case 7:
                    picture_path.symlink_to(picture_path.name)
                case 8:
                    os.mkfifo(picture_path)
                case 9:
                    path.symlink_to("..")
                case 10:
                    os.mkfifo(place / ("train-images-idx3-ubyte", "train.parquet", "pool.json")[thing % 3])
                case _:
                    picture_path.symlink_to("/dev/zero")
        except OSError:  # it is there already, or the name is too long
            continue


def _read_folder(folder: Path) -> None:
    root = folder / "data"
    pool_provenance(root)
    _read_all(root)


# Releases


def _classifiers() -> list[list[bytes]]:
    networks = [
        build_classifier("linear", image_shape=(1, 8, 8), class_names=CLASSES),
        build_classifier("tanh-cnn-deep", image_shape=(1, 8, 8), class_names=CLASSES, options={"width": 2}),
        build_classifier("scatter-cnn", image_shape=(1, 8, 8), class_names=CLASSES, options={"width": 2}),
        build_classifier("wrn-10-1", image_shape=(1, 8, 8), class_names=CLASSES, options={"groups": 4}),
    ]
    for encoder, options in (
        ("pixels", {"products": True, "size": 2}),
        ("scattering", {"J": 1, "L": 2, "groups": 0}),
        ("random-wrn-10-1", {"cells": 1, "taps": [0]}),
        ("pixels+scattering", {"parts": [{}, {"J": 1, "L": 2, "groups": 1}]}),
    ):
        networks.append(
            build_feature_classifier(
                encoder,
                image_shape=(1, 8, 8),
                class_names=CLASSES,
                options=options,
                mirror=True,
                head="affine",
            )
        )
    made = []
    for network in networks:
        files = classifier_files(network)
        made.append([files["config.json"], files["model.safetensors"]])
    return made


def _read_classifier(folder: Path) -> None:
    model = dpvision.load(folder)
    with torch.no_grad():
        if isinstance(model, ImageGenerator):
            model.sample(2)
        else:
            model(torch.zeros(2, *model.image_shape, dtype=torch.uint8))


def _synthesis(method: str, **config: Any) -> dict[str, bytes]:
    """The files of a small run of synthesize."""
    with TemporaryDirectory() as folder:
        dpvision.synthesize(
            small_images(),
            epsilon=5.0,
            method=method,
            out=f"{folder}/run",
            ledger=f"{folder}/l.jsonl",
            count=4,
            config=config,
        )
        return {path.name: path.read_bytes() for path in Path(folder, "run", "release").glob("*.*")}


@cache
def _fitted() -> dict[str, bytes]:
    pixels = {"encoder_options": {"size": 2}, "num_details": 1}
    return _synthesis("dp-mepf", steps=1, batch_size=4, latent_size=2, **pixels)


def _generators() -> list[list[bytes]]:
    small = generator_files(Generator((1, 28, 28), (), 3))
    made = (_fitted(), small, _taught())
    return [[files["config.json"], files["generator.safetensors"]] for files in made]


@cache
def _taught() -> dict[str, bytes]:
    teacher = {"encoder": "pixels", "encoder_options": {"size": 2}, "steps": 1}
    law = {"moments": {"size": 2, "rank": 2}, "num_details": 1}
    return _synthesis("dp-distill", teacher=teacher, candidates=2, **law)


def _embeddings() -> list[list[bytes]]:
    files = _fitted()
    return [[files["embedding.safetensors"], files["encoder.safetensors"]]]


def _released(name: str, file: str, seeds: Callable[[], list[list[bytes]]]) -> Target:
    """What a run of synthesize released, in one file."""
    return Target(
        *(name, ("safetensors",), seeds, _named(file)),
        lambda folder: (None, open_earlier(folder / file))[0],
        share=1,
    )


@cache
def _moments() -> list[list[bytes]]:
    return [[_synthesis("dp-moments", size=2, rank=2, num_details=1)["moments.safetensors"]]]


@cache
def _denoisers() -> list[list[bytes]]:
    few = {"steps": 1, "expected_batch_size": 2, "pretraining_steps": 0, "warm_up_share": 0.0}
    files = _synthesis("dp-diffusion", width=8, patch=1, sampling_steps=1, **few)
    return [[files["denoiser.safetensors"]]]


def _teachers() -> list[list[bytes]]:
    return [[_taught()["teacher_and_moments.safetensors"]]]


def _priors() -> list[list[bytes]]:
    network = build_network("wrn-10-1", in_channels=3, image_size=(32, 32), num_classes=1, groups=8)
    provenance = dict.fromkeys(PROVENANCE, 0) | {
        "normalization": {"mean": 0.5, "std": 0.25},
        "processes": ["a"],
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        save_prior(path, Prior("p", "wrn-10-1", {"groups": 8}, body_weights(network), provenance))
        return [[path.read_bytes()]]


def _read_prior(folder: Path) -> None:
    load_prior(folder / "p.safetensors")
    build_encoder(str(folder / "p.safetensors"), (1, 8, 8))


@cache
def _squeezenet() -> bytes:
    """A file of squeezenet1_0's first layers."""
    encoder = build_encoder(
        "squeezenet1_0", (3, 32, 32), provenance={"source": "none"}, layers=["features.3"]
    )
    return safetensors_bytes({k.removeprefix("model."): v for k, v in encoder.state_dict().items()})


def _weights() -> list[list[bytes]]:
    content = _squeezenet()
    return [[content[: 8 + int.from_bytes(content[:8], "little")]]]


def _write_weights(folder: Path, parts: Sequence[bytes]) -> None:
    """Of the file only the header is an input. Zeros follow."""
    path = folder / "w.safetensors"
    path.write_bytes(parts[0])
    os.truncate(path, len(parts[0]) + len(_squeezenet()) - len(_weights()[0][0]))


def _read_weights(folder: Path) -> None:
    build_encoder("squeezenet1_0", (3, 32, 32), weights=str(folder / "w.safetensors"), layers=["features.3"])


# Runs


@cache
def _training() -> dict[str, bytes]:
    """The files of a small run of train."""
    with TemporaryDirectory() as folder:
        config = {"network": "linear", "steps": 2, "expected_batch_size": 2}
        dpvision.train(
            "bundled:digits",
            epsilon=5.0,
            out=f"{folder}/run",
            ledger=f"{folder}/l.jsonl",
            config=config,
            size=2,
        )
        run = Path(folder, "run")
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def _run_files() -> list[list[bytes]]:
    files = _training()
    # Its data are not those that the record speaks of: it is never trained.
    private = {"run_id": "x", "digest": "0" * 64, "ledger": "/nowhere/ledger.jsonl"}
    rest = [files[f"release/{name}"] for name in ("card.json", "config.json", "model.safetensors")]
    return [[files["config.json"], json.dumps(private).encode(), *rest]]


_RELEASED = (
    "config.json",
    "private/run.json",
    "release/card.json",
    "release/config.json",
    "release/model.safetensors",
)


def _read_run(folder: Path) -> None:
    _seal_records(folder)
    dpvision.resume(folder)


def _seal_records(folder: Path) -> None:
    """Whoever forges the records of a run can compute their seal too."""
    path = folder / "private" / "run.json"
    with suppress(OSError, ValueError, RecursionError):
        config, private = json.loads((folder / "config.json").read_bytes()), json.loads(path.read_bytes())
        if isinstance(private, dict):
            path.write_bytes(json_bytes(private | {"seal": RunDirectory(folder, config, private).seal}))


def _unfinished_run_files() -> list[list[bytes]]:
    return [_run_files()[0][:2]]


def _ledgers() -> list[list[bytes]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        ledger = Ledger.for_dataset(path, "0" * 64, 100)
        ledger.set_limit(Budget(8.0, 1e-5))
        event = gaussian_event(2.0, 0.1, 3)
        ledger.open_run("one", [event], About("/run", "dp-sgd", 100))
        ledger.record("one", gaussian_event(2.0, 0.1, 1))
        ledger.close_run("one")
        ledger.open_run("two", [event])
        return [[path.read_bytes()]]


def _read_ledger(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    content = path.read_bytes()
    try:
        ledger = Ledger(path)
    except Exception:
        assert path.read_bytes() == content, "a file that is refused is changed"
        raise
    _ = ledger.digest, ledger.num_examples, ledger.limit


def _recipes() -> list[list[bytes]]:
    folder = Path(__file__).parents[2] / "recipes"
    return [[path.read_bytes()] for path in sorted(folder.glob("*.toml"))[:4]]


def _read_recipe(folder: Path) -> None:
    options = collect(folder / "recipe.toml", ["a=1"])
    del options["config"]["a"]
    names = {one.name for one in fields(TrainOptions)}
    options = {name: value for name, value in options.items() if name in names}
    given = TrainOptions.of({"epsilon": 1.0, "out": folder / "run"} | options)
    check_settings(find_method(given.method).config_class, options["config"])


def _metrics() -> list[list[bytes]]:
    return [[_training()["private/metrics.jsonl"]]]


def _checkpoints() -> list[list[bytes]]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        state = {"model.weight": torch.ones(2, 3), "steps_done": torch.tensor(2)}
        FileCheckpoints(path).save(lambda: state, final=True)
        return [[path.read_bytes()]]


def _read_checkpoint(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    content = path.read_bytes()
    for checksum in re.findall(rb'"sha256\\": \\"([0-9a-f]{64})', content)[:1]:  # a forger computes it too
        blanked = content.replace(checksum, BLANK.encode(), 1)
        path.write_bytes(content.replace(checksum, sha256(blanked).hexdigest().encode(), 1))
    checkpoints = FileCheckpoints(path)
    checkpoints.load()
    checkpoints.spent()


def _read_metrics(folder: Path) -> None:
    _ = Metrics(folder / "metrics.jsonl").seconds


TARGETS = {
    target.name: target
    for target in (
        _image("png", "png", _pngs),
        _image("jpg", "raw", _jpegs),
        _image("webp", "raw", _webps),
        _image("bmp", "raw", lambda: [[data] for data in _encoded("BMP")]),
        _image("tiff", "tiff", _tiffs),
        Target(
            *("folder", ("raw",), lambda: [[bytes([0, 3, 2, 13, 15])], [bytes(range(64))]]),
            *(_write_folder, _read_folder),
            of_images=True,
            share=3,
        ),
        Target(
            *("idx", ("idx", "idx"), _idx_files),
            *(_named("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), _read_all),
            of_images=True,
        ),
        Target(
            *("idx.gz", ("gzip", "gzip"), _zipped_idx_files),
            *(_named("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"), _read_all),
            of_images=True,
        ),
        Target(
            *("npz", ("npz",), _npz_files, _named("data.npz")),
            lambda folder: _read_all(folder / "data.npz"),
            of_images=True,
        ),
        Target(
            *("parquet", ("parquet",), _parquet_files, _named("data.parquet")),
            lambda folder: _read_all(folder / "data.parquet"),
            of_images=True,
        ),
        Target(
            *("saved", ("arrow", "json", "json"), _saved_files, _named(*_SAVED)),
            lambda folder: _read_all(folder / "data"),
            of_images=True,
        ),
        Target(
            *("table", ("raw", "png", "png"), _tables, _named("list.csv", "a.png", "b.png")),
            lambda folder: _read_all(folder / "list.csv"),
            of_images=True,
        ),
        Target(
            *("cifar", ("raw", "raw"), _cifar_archives, _named("data/train", "data/meta")),
            lambda folder: _read_all(folder / "data"),
            of_images=True,
        ),
        Target(
            *("cifar.bin", ("raw", "raw"), _cifar_binaries),
            _named("data/train.bin", "data/fine_label_names.txt"),
            lambda folder: _read_all(folder / "data"),
            of_images=True,
        ),
        _image("dcm", "raw", _dicoms),
        Target(
            *("pool", ("json", "png"), _pool_files, _named("pool.json", "000000.png"), _read_pool),
            of_images=True,
        ),
        Target(
            *("classifier", ("json", "safetensors"), _classifiers),
            *(_named("config.json", "model.safetensors"), _read_classifier),
            share=1,
        ),
        Target(
            *("generator", ("json", "safetensors"), _generators),
            *(_named("config.json", "generator.safetensors"), _read_classifier),
            share=1,
        ),
        Target(
            *("embedding", ("safetensors", "safetensors"), _embeddings),
            _named("embedding.safetensors", "encoder.safetensors"),
            lambda folder: (None, open_earlier(folder / "embedding.safetensors"))[0],
            share=1,
        ),
        _released("moments", "moments.safetensors", _moments),
        _released("denoiser", "denoiser.safetensors", _denoisers),
        _released("teacher", "teacher_and_moments.safetensors", _teachers),
        Target("prior", ("safetensors",), _priors, _named("p.safetensors"), _read_prior, share=1),
        Target("weights", ("safetensors",), _weights, _write_weights, _read_weights, share=1),
        Target(
            "checkpoint", ("safetensors",), _checkpoints, _named("checkpoint.safetensors"), _read_checkpoint
        ),
        Target(
            "run",
            ("json", "json", "json", "json", "safetensors"),
            _run_files,
            _named(*_RELEASED),
            _read_run,
            share=1,
        ),
        Target(
            "unfinished", ("json", "json"), _unfinished_run_files, _named(*_RELEASED[:2]), _read_run, share=2
        ),
        Target("metrics", ("lines",), _metrics, _named("metrics.jsonl"), _read_metrics),
        Target("ledger", ("ledger",), _ledgers, _named("ledger.jsonl"), _read_ledger),
        Target("recipe", ("toml",), _recipes, _named("recipe.toml"), _read_recipe),
    )
}
"""By name."""
