"""Record and replay of every method, as users call it, on all neighbours of both relations: by the first, a
middle and the last example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpvision.images import Images, open_images
from dpvision.methods import calibration, known_methods
from dpvision.privacy import NeighboringRelation
from dpvision.testing import check_guarantee, method_run

FEW = 12
GRADIENTS = {"steps": 6, "expected_batch_size": 4, "learning_rate": 0.5, "precision": "float32"}
VIEWS = {"network": "linear", "augmult": 2, "pad": 1}
PIXELS = {"encoder": "pixels", "encoder_options": {"size": 4}}
FIT = {"steps": 2, "batch_size": 4, "precision": "float32"}
MIXED = GRADIENTS | VIEWS | {"k_self": 2}
BALANCED = {"class_weight": "balanced"}
DENOISED = GRADIENTS | {
    "width": 8,
    "noise_levels": 2,
    "pretraining_steps": 2,
    "warm_up_steps": 2,
    "warm_up": {"size": 4},
    "sampling_steps": 2,
}
HEAD = GRADIENTS | PIXELS | {"expected_batch_size": FEW, "steps": 3}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "dp-sgd": [
        GRADIENTS | VIEWS,
        GRADIENTS | VIEWS | {"optimizer": "adam", "color_jitter": 0.2, "cutout": 3, "momentum": 0.0},
        GRADIENTS | VIEWS | {"network": "wrn-10-1", "steps": 5},
        GRADIENTS | VIEWS | BALANCED,
    ],
    "dp-mix-self": [MIXED, MIXED | BALANCED],
    "dp-mix-diff": [MIXED | {"k_diff": 2}],
    "dp-randp": [
        HEAD,
        HEAD | BALANCED,
        GRADIENTS | PIXELS | {"phase_ii": "sampled", "augmult": 2, "pad": 1},
        GRADIENTS | {"encoder": "random-wrn-10-1", "phase_iii": "full", "phase_ii": "sampled", "steps": 4},
    ],
    "dp-ridge": [PIXELS, PIXELS | BALANCED],
    "dp-mepf": [
        FIT | PIXELS,
        FIT | {"encoder": "pixels", "encoder_options": {"size": 8, "products": True}},
        FIT | PIXELS | {"second_moment_weight": 1.5},
        FIT | PIXELS | {"labelled": False},
    ],
    "dp-moments": [{}, {"labelled": False, "size": 4}, {"emphasis": 1.0, "clip": 0.5}],
    "dp-diffusion": [
        DENOISED,
        DENOISED | {"warm_up_share": 0.0, "warm_up": {}, "flip": True, "unlabelled": 0.5},
    ],
    "dp-distill": [{"teacher": HEAD, "moments": {"size": 4}, "candidates": 2}],
}
EXAMPLES = [0, 5, FEW - 1]


def is_more(method: str, number: int, example: int) -> bool:
    """Whether a case is more than the default tests have time for."""
    return example > 0 and (number > 0 or (method in {"dp-diffusion", "dp-distill"} and example < FEW - 1))


CASES = [
    # The first example with all settings; the others with a method's first, those that take long the last
    # alone. The rest takes minutes.
    pytest.param(
        method, config, example, marks=[pytest.mark.slow] if is_more(method, number, example) else []
    )
    for method, configs in SETTINGS.items()
    for number, config in enumerate(configs)
    for example in EXAMPLES
]


@pytest.fixture(scope="module")
def digits() -> Images:
    """Twelve images of three classes."""
    images = open_images("bundled:digits")
    assert images.labels is not None
    few = (images.labels < 3).nonzero().flatten()[:FEW]
    return Images(images.pixels[few], images.labels[few], images.class_names[:3], "digits")


def test_every_method_is_checked() -> None:
    assert SETTINGS.keys() == known_methods().keys()


@pytest.mark.parametrize("neighboring_relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize(("method", "config", "example"), CASES)
def test_neighbours_differ_by_what_is_paid_for(
    method: str,
    config: dict[str, Any],
    example: int,
    neighboring_relation: NeighboringRelation,
    digits: Images,
    pool: Path,
) -> None:
    if "k_diff" in config:
        config = config | {"pool": str(pool)}
    run = method_run(
        method, num_examples=FEW, config=config, neighboring_relation=neighboring_relation, seed=1
    )
    found = check_guarantee(run, digits, neighboring_relation, example)
    assert {comparison.neighbours for comparison in found} == {
        "add_or_remove_one": {"one image less", "a class without its only image"},
        "replace_one": {"another image", "a black image", "another label", "another image and label"},
    }[neighboring_relation]
    releases = config["steps"] if method in ONE_EACH_STEP else 1
    if method == "dp-randp" and "phase_ii" not in config:
        releases += calibration.STEPS
    if "class_weight" in config and method != "dp-ridge":  # which counts the classes anyway
        releases += 1
    if method == "dp-moments":
        releases += 1
    if method == "dp-diffusion" and "warm_up_share" not in config:
        releases += 2
    if method == "dp-distill":  # the moments' two, where there was one
        releases += config["teacher"]["steps"] + calibration.STEPS + 1
    assert all(comparison.releases == releases for comparison in found)


ONE_EACH_STEP = {"dp-sgd", "dp-mix-self", "dp-mix-diff", "dp-randp", "dp-diffusion"}
