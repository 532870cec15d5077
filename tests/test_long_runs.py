"""The scripts of the guide to long runs do what it says, with stand-ins for what starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.points import spends
from checks.requeue import SCRIPT

GUIDE = (Path(__file__).parents[1] / "docs" / "guide" / "long-runs.md").read_text(encoding="utf-8")
STEPS = 400
STAND_INS = {
    "srun": 'exec "$@"',
    "torchrun": f'while [ "$1" != -m ]; do shift; done; exec {sys.executable} "$@"',
    "scontrol": 'echo "$@" >> "$REQUESTS"',
}
"""One process takes the place of several."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def manifest() -> Any:
    (text,) = blocks("yaml")
    return yaml.safe_load(text)


def container() -> Any:
    (found,) = manifest()["spec"]["template"]["spec"]["containers"]
    return found


class Scheduler:
    """Starts a script of the guide on the bundled digits."""

    def __init__(self, script: str, folder: Path) -> None:
        self.folder, self.run, self.home = folder, folder / "run", folder / "home"
        self.requests = folder / "requests"
        job = f"bundled:digits --method dp-sgd --set network=linear --set steps={STEPS} --device cpu"
        script, count = re.subn(r"/(project/)?photos/images", job, script)
        assert count == 1
        self.script = script.replace("/project/photos/run", str(self.run))
        self.script = self.script.replace("/project/photos/dpvision", str(self.home))
        for name, body in STAND_INS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RUN": str(self.run),
            "DPVISION_HOME": str(self.home),
            "REQUESTS": str(self.requests),
            "SLURM_JOB_ID": "1234",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            ["bash", "-c", self.script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end_and_start_again(self, code: int) -> None:
        """Send SIGTERM to the script within the run, then let it go on; check how both end."""
        first = self.start()
        ends = time.monotonic() + 120
        while len(spends(self.home)) < 5:
            assert time.monotonic() < ends
            assert first.poll() is None, first.communicate()
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=60)
        assert said.splitlines()[-1] == f"terminated; go on with: dpvision resume {self.run}"
        assert first.returncode == code
        assert 5 <= len(spends(self.home)) < STEPS
        for _ in range(2):  # the second finds it complete
            again = self.start()
            _, said = again.communicate(timeout=120)
            assert again.returncode == 0, said
            assert len(spends(self.home)) == STEPS
            assert (self.run / "release").is_dir()


def test_the_script_of_the_check_is_that_of_the_guide() -> None:
    (script,) = blocks("sh")
    assert script == SCRIPT.format(train="train photos --epsilon 2", dpvision="dpvision")


@pytest.mark.parametrize("script", [*blocks("bash"), *blocks("sh")])
def test_shells_understand_the_scripts(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_job_of_slurm_is_requeued_when_its_time_is_up(tmp_path: Path) -> None:
    scheduler = Scheduler(blocks("bash")[0], tmp_path)
    scheduler.end_and_start_again(143)
    assert scheduler.requests.read_text() == "requeue 1234\n"


def test_a_job_of_slurm_that_fails_is_not_requeued(tmp_path: Path) -> None:
    scheduler = Scheduler(blocks("bash")[0].replace("--epsilon 2", "--epsilon nothing"), tmp_path)
    failed = scheduler.start()
    _, said = failed.communicate(timeout=60)
    assert (failed.returncode, said.count("\n")) == (2, 1)
    assert not scheduler.requests.exists()


@pytest.mark.slow
def test_a_pod_is_ended_and_another_goes_on(tmp_path: Path) -> None:
    *shell, script = container()["command"]
    assert shell == ["bash", "-c"]
    Scheduler(script, tmp_path).end_and_start_again(143)


def test_what_a_pod_must_keep_is_on_its_volume() -> None:
    assert manifest()["kind"] == "Job"
    pod = manifest()["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    lasting = [mounts[v["name"]] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    for variable in container()["env"]:
        assert any(Path(variable["value"]).is_relative_to(place) for place in lasting), variable
    assert pod["terminationGracePeriodSeconds"] > 30
    assert json.dumps(manifest())  # nothing in it that a manifest cannot have
