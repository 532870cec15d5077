"""Record and replay of every method where a unit leaves, or changes: one of 1, of 3 and of 40 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpvision.images import Images, open_images
from dpvision.methods import known_methods
from dpvision.privacy import NeighboringRelation
from dpvision.testing import check_guarantee, method_run

SIZES = [3, 40, 1, 2, 1, 3, 1, 2]
UNITS = len(SIZES)
GRADIENTS = {"steps": 9, "expected_batch_size": 4, "learning_rate": 0.5, "precision": "float32"}
VIEWS = {"network": "linear", "augmult": 4, "pad": 1}
PIXELS = {"encoder": "pixels", "encoder_options": {"size": 4}}
FIT = {"steps": 2, "batch_size": 4, "precision": "float32"}
MIXED = GRADIENTS | VIEWS | {"k_self": 2}
BALANCED = {"class_weight": "balanced"}
DENOISED = {
    "width": 8,
    "noise_levels": 2,
    "pretraining_steps": 1,
    "warm_up_steps": 1,
    "warm_up": {"size": 4},
    "sampling_steps": 2,
}
HEAD = GRADIENTS | PIXELS | {"expected_batch_size": UNITS, "steps": 3}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "dp-sgd": [GRADIENTS | VIEWS, GRADIENTS | VIEWS | BALANCED],
    "dp-mix-self": [MIXED],
    "dp-mix-diff": [MIXED | {"k_diff": 2}],
    "dp-randp": [
        HEAD,
        GRADIENTS | PIXELS | {"phase_ii": "sampled", "augmult": 2, "pad": 1},
        GRADIENTS | {"encoder": "random-wrn-10-1", "phase_iii": "full", "steps": 9, "expected_batch_size": 3},
    ],
    "dp-ridge": [PIXELS, PIXELS | BALANCED],
    "dp-mepf": [FIT | PIXELS, FIT | PIXELS | {"second_moment_weight": 1.5, "labelled": False}],
    "dp-moments": [{}],
    "dp-diffusion": [GRADIENTS | DENOISED],
    "dp-distill": [{"teacher": HEAD, "moments": {"size": 4}, "candidates": 2}],
}
CASES = [
    # A method's first settings with units of three images; the rest takes minutes.
    pytest.param(method, config, size, marks=[] if number == 0 and size == 3 else [pytest.mark.slow])
    for method, configs in SETTINGS.items()
    for number, config in enumerate(configs)
    for size in (1, 3, 40)
] + [
    pytest.param("dp-sgd", SETTINGS["dp-sgd"][1], 40),
    pytest.param("dp-randp", SETTINGS["dp-randp"][0], 40),
    pytest.param("dp-ridge", PIXELS, 40),
]


@pytest.fixture(scope="module")
def units() -> Images:
    """Images of three classes, of units whose images are of several, and lie apart from each other."""
    images = open_images("bundled:digits")
    assert images.labels is not None
    few = (images.labels < 3).nonzero().flatten()[: sum(SIZES)]
    names = torch.repeat_interleave(torch.arange(UNITS), torch.tensor(SIZES))
    order = torch.randperm(len(few), generator=torch.Generator().manual_seed(1))
    chosen = Images(images.pixels[few], images.labels[few], images.class_names[:3], "digits")
    found = chosen.with_units(names[order])
    assert isinstance(found, Images)
    return found


def test_every_method_is_checked() -> None:
    assert SETTINGS.keys() == known_methods().keys()


@pytest.mark.parametrize("neighboring_relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize(("method", "config", "size"), CASES)
def test_a_unit_is_covered_as_a_whole(
    method: str,
    config: dict[str, Any],
    size: int,
    neighboring_relation: NeighboringRelation,
    units: Images,
    pool: Path,
) -> None:
    if "k_diff" in config:
        config = config | {"pool": str(pool)}
    run = method_run(
        method, num_examples=UNITS, config=config, neighboring_relation=neighboring_relation, seed=1
    )
    assert units.units is not None
    example = int((units.units.sizes[units.units.of_image] == size).nonzero()[-1])
    found = check_guarantee(run, units, neighboring_relation, example)
    names = {
        "add_or_remove_one": {"one unit less", "a class without its only unit"},
        "replace_one": {
            *("another image", "a black image", "another label", "another image and label"),
            *("one of its images alone", "its images twice", "images more"),
        },
    }[neighboring_relation]
    assert {comparison.neighbours for comparison in found} <= names
    assert {"one unit less", "images more"} & {comparison.neighbours for comparison in found}
