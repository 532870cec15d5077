"""Runs in several processes: the release of one process, one account, and nobody waits for the dead."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import dpvision
from checks.points import spends
from tests.parallel.processes import Ended, in_processes, start_processes, wait_for

IMAGES = """
import sys, torch, dpvision
from pathlib import Path
from dpvision.images import Images
from dpvision.parallel import peers

def made(count, units=None):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    pixels = torch.randint(100, (count, 1, 16, 16), generator=generator) + 100 * labels[:, None, None, None]
    images = Images(pixels.to(torch.uint8), labels, ("dark", "bright"), "made up")
    return images if units is None else images.with_units([index // units for index in range(count)])

out = Path(sys.argv[1])
linear = {"network": "linear", "steps": 6, "expected_batch_size": 20, "engine": "by-size"}
budget = {"epsilon": 4.0, "delta": 1e-3}

def train(name, images=made(120), *, method="dp-sgd", config=linear, **more):
    return dpvision.train(images, method=method, config=config, out=out / name, **budget, **more)
"""

RUNS = """
train("units", made(120, units=3), seed=3)
pixels = {"encoder": "pixels", "steps": 8, "expected_batch_size": 20, "engine": "by-size"}
train("randp", method="dp-randp", config={**pixels, "phase_iii": "full", "phase_ii_share": 0.5}, seed=3)
train("ridge", made(120, units=4), method="dp-ridge", config={"encoder": "pixels"}, seed=3)
train("weighed", config={**linear, "class_weight": "balanced"}, seed=3)
small = {"steps": 2, "batch_size": 8, "network_width": 128, "encoder_options": {"products": False}}
dpvision.synthesize(made(120), method="dp-mepf", config=small, count=4, out=out / "mepf", seed=3, **budget)
denoised = {
    "steps": 3, "expected_batch_size": 20, "width": 8, "noise_levels": 2, "pretraining_steps": 2,
    "warm_up_steps": 2, "sampling_steps": 2, "engine": "by-size",
}
dpvision.synthesize(
    made(120), method="dp-diffusion", config=denoised, count=4, out=out / "diffusion", seed=3, **budget
)
moments = {"size": 4}
dpvision.synthesize(
    made(120, units=3), method="dp-moments", config=moments, count=4, out=out / "moments", seed=3, **budget
)
taught = {"teacher": {"encoder": "pixels", "steps": 3}, "moments": moments, "candidates": 2}
dpvision.synthesize(
    made(120), method="dp-distill", config=taught, count=4, out=out / "distilled", seed=3, **budget
)
search = {"learning_rate": [0.1, 0.3]}
dpvision.tune(
    made(120), method="dp-sgd", config=linear, search=search, trials=3, out=out / "tuned", seed=3, **budget
)
train("randp-on", method="dp-randp", config={}, from_run=out / "randp", seed=4)
train("tiny", made(3), config={**linear, "expected_batch_size": 1}, seed=3)
"""


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(out)} {name}": tensor
        for file in sorted(out.rglob("release/*.safetensors"))
        for name, tensor in safetensors.torch.load_file(file).items()
    }


def ended_well(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("alone")
    ended_well(in_processes(IMAGES + RUNS, folder, size=1, folder=folder))
    return weights_of(folder)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_release_what_one_does(
    size: int, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Of 3 images, four processes have none or one each."""
    ended = in_processes(IMAGES + RUNS, tmp_path, size=size, folder=tmp_path)
    ended_well(ended)
    together = weights_of(tmp_path)
    assert together.keys() == alone.keys()
    assert len({name.split("/")[0] for name in together}) == 11
    for name, tensor in together.items():
        one = alone[name].double()
        # Sums in float64 in another order, with noise, rounded to float32: a last bit at a step.
        bound = 2e-6 * float(one.abs().max()) if one.numel() else 0.0
        assert float((tensor.double() - one).abs().max() if one.numel() else 0.0) <= bound, name


def test_the_others_keep_nothing_and_say_nothing(tmp_path: Path) -> None:
    program = IMAGES + ('print("a result" if train("run") else None)')
    ended = in_processes(program, tmp_path, size=3, folder=tmp_path)
    ended_well(ended)
    assert [one.output for one in ended] == ["a result\n", "None\n", "None\n"]
    assert [one.errors for one in ended[1:]] == ["", ""]
    assert list((tmp_path / "home-0" / "ledgers").glob("*.jsonl"))
    assert not any((tmp_path / f"home-{rank}").exists() for rank in (1, 2))
    assert dpvision.verify(tmp_path / "run")


ODD = """
from contextlib import nullcontext
from unittest import mock

here = "dpvision.api.together."
cases = (
    nullcontext(),
    mock.patch(here + "_digest_of_code", lambda: "another"),
    mock.patch("torch.__version__", "2.0"),
    mock.patch(here + "open_again", side_effect=dpvision.InputError("the disk is out")),
)
for number, case in enumerate(cases):
    images, odd = made(120), peers().rank == 1
    images.pixels[0, 0, 0, 0] += odd and number == 0
    with case if odd else nullcontext():
        try:
            train("run", images)
        except dpvision.InputError as error:
            print(error)
"""


def test_a_process_that_has_something_else_is_found_out_before_anything_is_spent(tmp_path: Path) -> None:
    ended = in_processes(IMAGES + ODD, tmp_path, size=3, folder=tmp_path)
    ended_well(ended)
    assert len({one.output for one in ended}) == 1
    said = ended[0].output.splitlines()
    expected = ("other images", "other code of dpvision", "another version of torch", "the disk is out")
    for line, what in zip(said, expected, strict=True):
        assert line.startswith("process 1, on ")
        assert what in line
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("home-*/ledgers/*"))


NOT_SEEN = """
from contextlib import nullcontext
from unittest import mock

moments = {"method": "dp-moments", "count": 4, "config": {"size": 4}, **budget}
dpvision.synthesize(made(120), out=out / "first", **moments)
there = "dpvision.methods.refined.open_release"
not_there = mock.patch(there, side_effect=dpvision.InputError("there is no such release here"))
with not_there if peers().rank == 1 else nullcontext():
    try:
        dpvision.synthesize(made(120), out=out / "refined", refine=out / "first", count=4, **budget)
    except dpvision.InputError as error:
        print(error)
"""


def test_a_process_that_does_not_see_the_release_to_refine_says_so(tmp_path: Path) -> None:
    ended = in_processes(IMAGES + NOT_SEEN, tmp_path, size=2, folder=tmp_path)
    ended_well(ended)
    for one in ended:
        assert one.output.startswith("process 1, on ")
        assert "cannot take part: there is no such release here" in one.output
    assert not (tmp_path / "refined").exists()


def test_what_the_first_refuses_all_refuse(tmp_path: Path) -> None:
    program = IMAGES + (
        "try:\n"
        '    train("run", config={"stepz": 3})\n'
        "except dpvision.InputError as error:\n    print(error)\n"
    )
    ended = in_processes(program, tmp_path, size=2, folder=tmp_path)
    ended_well(ended)
    assert ended[0].output == ended[1].output
    assert "stepz" in ended[0].output


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_others_and_the_run_goes_on_with_another_number(
    victim: int, tmp_path: Path
) -> None:
    kills = IMAGES + (
        "import os\n"
        "from dpvision.training import PrivateTrainer\n"
        "added, steps = PrivateTrainer._sum_of_batch, 0\n"
        "def dying(self, keys):\n"
        "    global steps\n"
        "    steps += 1\n"
        f"    if steps == 4 and peers().rank == {victim}:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return added(self, keys)\n"
        "PrivateTrainer._sum_of_batch = dying\n"
        "try:\n"
        '    train("run", seed=3)\n'
        "except dpvision.InputError as error:\n    print(error)\n"
    )
    home = {rank: {"DPVISION_HOME": str(tmp_path / "home")} for rank in range(3)}
    began = time.monotonic()
    ended = wait_for(start_processes(kills, [tmp_path], 2, tmp_path, home), seconds=60)
    assert time.monotonic() - began < 60
    assert ended[victim].code == -signal.SIGKILL
    assert ended[1 - victim].output.startswith("another process of this run has ended")
    assert len(spends(tmp_path / "home")) == 3

    goes_on = IMAGES + 'dpvision.resume(out / "run", data=made(120))\n'
    ended_well(in_processes(goes_on, tmp_path, size=3, folder=tmp_path, each=home))
    assert len(spends(tmp_path / "home")) == 6
    card = json.loads((tmp_path / "run" / "release" / "card.json").read_text())
    assert card["lost_steps"] == (0 if victim == 1 else card["lost_steps"])


CLI = "from dpvision.cli.main import main; main()"


def test_commands_in_several_processes(tmp_path: Path) -> None:
    train = ["train", "bundled:digits", "--epsilon", "4", "--method", "dp-ridge", "--set", "encoder=pixels"]
    ended = in_processes(CLI, *train, "--json", "--out", tmp_path / "run", size=2, folder=tmp_path)
    ended_well(ended)
    assert json.loads(ended[0].output)["epsilon"] <= 4
    assert (ended[1].output, ended[1].errors) == ("", "")

    again = in_processes(CLI, *train, "--out", tmp_path / "run", size=2, folder=tmp_path)
    assert [one.code for one in again] == [2, 2]
    assert again[0].errors.startswith("error: ")
    assert again[1].errors == ""

    others = in_processes(CLI, "methods", "--json", size=2, folder=tmp_path)
    ended_well(others)
    assert json.loads(others[0].output)
    assert others[1].output == ""


@pytest.mark.slow
def test_a_prior_learned_by_several_processes_is_that_of_one(tmp_path: Path) -> None:
    program = """
import sys
from dpvision.api.priors import train_prior
from dpvision.priors import ContrastiveConfig
config = ContrastiveConfig(
    network="wrn-10-1", processes=("dead-leaves-squares",), count=40, image_size=16, view_size=16,
    steps=3, batch_size=9, precision="float32",
)
train_prior(config, sys.argv[1])
"""
    found = []
    for size in (1, 3):
        prior = tmp_path / f"prior-{size}.safetensors"
        ended_well(in_processes(program, prior, size=size, folder=tmp_path))
        found.append(safetensors.torch.load_file(prior))
    for name, tensor in found[0].items():
        assert float((found[1][name] - tensor).norm()) <= 1e-3 * float(tensor.norm())  # steps in float32
