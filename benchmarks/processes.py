"""What each random process is worth: Phase I at equal cost for each, then a private head on the encoder.

    python benchmarks/processes.py DATA --out priors [--epsilon 1] [--steps 200] [--count 8000] [--only …]

DATA has a test split and is treated as public here: its ledger is a new one for each row. The rows are the
same network untrained, every process alone, and the mixture that the bundled priors were learned from. The
priors stay in --out, and a later call goes on with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import dpvision
from dpvision.api.priors import train_prior
from dpvision.priors import PROCESSES, ContrastiveConfig, load_prior

NETWORK, NETWORK_OPTIONS = "wrn-10-4", {"stem_stride": 2}
MIXTURE = ("stylegan-oriented", "dead-leaves-mixed", "fractals", "statistical-spectrum-colour")
UNTRAINED = "untrained"


def prior_file(name: str, arguments: argparse.Namespace) -> Path:
    """The prior of a process, or of the mixture: from an earlier call, or trained now."""
    path: Path = arguments.out / f"{name}.safetensors"
    if not path.exists():
        config = ContrastiveConfig(
            network=NETWORK,
            network_options=NETWORK_OPTIONS,
            processes=MIXTURE if name == "mixture" else (name,),
            count=arguments.count,
            steps=arguments.steps,
            seed=arguments.seed,
            compile=True,
        )
        train_prior(config, path)
    return path


def row(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """The encoder's loss in Phase I, and the test accuracy of a private head on it."""
    if name == UNTRAINED:
        figure, encoder = "", f"random-{NETWORK}"
        options: dict[str, object] = {"network_options": NETWORK_OPTIONS}
    else:
        path = prior_file(name, arguments)
        figure, encoder, options = load_prior(path).provenance["figure"], str(path), {}
    with tempfile.TemporaryDirectory() as folder:
        result = dpvision.train(
            arguments.data,
            epsilon=arguments.epsilon,
            method="dp-randp",
            config={"encoder": encoder, "encoder_options": options},
            out=Path(folder) / "run",
            ledger=Path(folder) / "ledger.jsonl",
        )
    assert result.test_accuracy is not None
    low, high = result.test_accuracy.interval
    return {
        "name": name,
        "figure": figure,
        "epsilon": result.epsilon,
        "accuracy": result.test_accuracy.value,
        "interval": [low, high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the priors")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=200, help="of Phase I, each of 512 views")
    parser.add_argument("--count", type=int, default=8000, help="images that each process makes")
    parser.add_argument("--seed", type=int, default=0, help="of Phase I")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.only or [UNTRAINED, *PROCESSES, "mixture"]:
        rows.append(row(name, arguments))
        accuracy, (low, high) = rows[-1]["accuracy"], rows[-1]["interval"]
        line = (
            f"{name:32}  {100 * accuracy:5.2f} %  ({100 * low:.2f} to {100 * high:.2f})  {rows[-1]['figure']}"
        )
        print(line, flush=True, file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
