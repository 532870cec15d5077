"""The command that searches for an example longer than C: a sample finds none; broken engines are found."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Tensor

from checks import clip as checks
from dpvision.gradients import rounding

# A point whose gradient is clipped: large equal views, a large loss.
PLAIN = checks.Point(
    kind="plain",
    level=0.6,
    difference=-8.0,
    pull=1.0,
    weights=0.0,
    offset=-8.0,
    loss=4.0,
    clipping_norm=0.0,
    place=1,
    seed=0,
)


def greatest(setting: checks.Setting) -> float:
    trial = checks.Trial("linear", setting, "float32", "cpu")
    levels = (0.5, 0.658, 0.804, 0.9)
    return max(trial.ratio(checks.replace(PLAIN, level=level)) for level in levels)


SMALL = checks.Setting(side=8, views=2, classes=2, soft=False)
LARGE = checks.Setting(side=512, views=1, classes=2, soft=False)


def test_a_sample_of_the_search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checks, "SIDES", {"linear": (8,), "tanh-cnn": (16,)})
    monkeypatch.setattr(sys, "argv", ["clip.py", "--trials", "8", "--json"])
    assert checks.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]) == 4
    assert all(0.99 < each["ratio"] <= 1 for each in found["results"])  # clipped at all


@pytest.mark.parametrize("setting", [SMALL, LARGE])
def test_plain_views_are_clipped_to_c(setting: checks.Setting) -> None:
    assert 0.999 < greatest(setting) <= 1


def test_gradients_clipped_to_more_than_c_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dpvision.gradients.clipped.ROUNDING_MARGIN", -1e-6)
    monkeypatch.setattr(checks, "SIDES", {"linear": (8,)})
    monkeypatch.setattr(sys, "argv", ["clip.py", "--trials", "20"])
    # Norms are reported as up to 2.5·10⁻⁵ more than they are, which would hide so small a fault.
    monkeypatch.setattr(rounding, "squared_norms", lambda rows: rows.double().square().sum(dim=1))
    assert checks.main() == 1
    assert "2 above 1" in capsys.readouterr().out


def test_norms_of_one_float32_sum_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def norms(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=1).double().square()

    monkeypatch.setattr(rounding, "squared_norms", norms)
    assert greatest(LARGE) > 1
