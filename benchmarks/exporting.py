"""How an exported model compares with the model, network by network.

    python benchmarks/exporting.py [--only linear,wrn-16-4] [--json]

Each is built for its usual images, untrained, with a head that is not zero, and exported both ways as
`dpvision export` does. The table has the largest absolute difference of a logit, or of a pixel in [0, 1],
over random inputs at batches of 1, 2, 7 and 64, and the seconds that each export took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from dpvision.networks import build_classifier
from dpvision.networks.agreement import BATCH_SIZES, Agreement, compared
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.networks.generators import Generator
from dpvision.networks.graph_file import graph_of, loaded
from dpvision.networks.tracing import trace
from dpvision.priors.feature_classifier import build_feature_classifier
from dpvision.priors.taught_images import TaughtImages
from dpvision.runs.onnx_file import check_exporter, onnx_bytes, runner

NAMES = [str(number) for number in range(10)]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def _network(name: str, shape: tuple[int, int, int]) -> Any:
    return build_classifier(name, image_shape=shape, class_names=NAMES)


def _encoder(name: str, shape: tuple[int, int, int], **options: Any) -> Any:
    return build_feature_classifier(
        name, image_shape=shape, class_names=NAMES, options=options, mirror=True, fit=False
    )


def _law() -> ClampedNormal:
    law = ClampedNormal(COLOUR, NAMES, (16, 16), 20, 50)
    law.location.uniform_(0.2, 0.8)
    law.scale.uniform_(0.1, 0.4)
    law.root.normal_(0, 0.1)
    law.warps.fill_(0.05)
    law.set_details(torch.rand(50, *COLOUR))
    return law


MODELS: dict[str, Callable[[], Any]] = {
    "linear": lambda: _network("linear", GREY),
    "tanh-cnn": lambda: _network("tanh-cnn", GREY),
    "tanh-cnn-deep": lambda: _network("tanh-cnn-deep", COLOUR),
    "scatter-cnn": lambda: _network("scatter-cnn", COLOUR),
    "wrn-16-4": lambda: _network("wrn-16-4", COLOUR),
    "prior wrn-16-4": lambda: _encoder("wrn-16-4", COLOUR),
    "scattering": lambda: _encoder("scattering", COLOUR, cells=4),
    "patches": lambda: _encoder("patches", COLOUR),
    "dp-moments": _law,
    "dp-mepf": lambda: Generator(COLOUR, NAMES, 100, 128),
    "dp-distill": lambda: TaughtImages(_law(), _network("linear", COLOUR), 8),
    "dp-diffusion": lambda: DiffusionGenerator(GREY, NAMES, 16, 4, 64, 10),
}


def _filled(model: nn.Module) -> Any:
    """Give parameters that are all zero some numbers."""
    for tensor in model.parameters():
        if not tensor.any():
            nn.init.normal_(tensor, std=0.1)
    return model.eval()


def measure(make: Callable[[], Any]) -> dict[str, Any]:
    """Export a model both ways, and compare."""
    torch.manual_seed(0)
    model = _filled(make())
    began = time.process_time()
    module = loaded(*graph_of(trace(model, "float32")))
    for_torch = time.process_time() - began
    began = time.process_time()
    run = runner(onnx_bytes(trace(model), {}))
    assert run is not None, "onnxruntime is needed"
    in_onnx = time.process_time() - began
    return {
        "torch": _row(compared(model, lambda inputs: module(*inputs.values()), "it"), for_torch),
        "onnx": _row(compared(model, run, "it"), in_onnx),
    }


def _row(found: Agreement, seconds: float) -> dict[str, float]:
    return {
        "largest_difference": found.largest_difference,
        "differing": found.differing,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="some of the models, with commas between")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    check_exporter()
    names = options.only.split(",") if options.only else list(MODELS)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    if not options.json:
        print(", ".join(f"{name} {number}" for name, number in versions.items()))
        print(f"batches of {', '.join(map(str, BATCH_SIZES))}; seconds of one core\n")
        print("| model | torch alone | seconds | onnxruntime | seconds |\n|---|---|---|---|---|")
    rows = {}
    for name in names:
        rows[name] = found = measure(MODELS[name])
        if not options.json:
            cells = [f"{one['largest_difference']:.1e} | {one['seconds']:.0f}" for one in found.values()]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if options.json:
        print(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    main()
