"""The benchmark commands start and print what they promise."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import dpvision
from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.networks import build_classifier

ROOT = Path(__file__).parents[1]


def load_benchmark(name: str) -> Any:
    """The module of a script, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_gradients_benchmark_compares_all_contestants(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    options = ["--network", "tanh-cnn", "--views", "1", "2", "--examples", "2", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gradients.py"), *options, "--json", str(found)]
    subprocess.run(command, capture_output=True, check=True, timeout=600)
    of_one, of_two = json.loads(found.read_text())["tables"]
    assert (of_one["views"], of_two["views"]) == (1, 2)
    for table in (of_one, of_two):
        assert table["failed"] == {}
        rows = {row["name"]: row for row in table["rows"]}
        assert [*rows] == [
            *("ours", "plain", "compiled", "opacus-hooks", "opacus-ghost", "vmap", "vmap-compiled"),
        ]
        assert all(row["views_per_second"] > 0 for row in rows.values())
        assert rows["ours"]["error"] < 3e-4  # of which 1e-4 is the margin for rounding
        assert all(rows[name]["error"] < 1e-5 for name in ("opacus-hooks", "vmap", "vmap-compiled"))
    # It clips every view by itself: with one view an example that is the same.
    errors = [row["error"] for table in (of_one, of_two) for row in table["rows"] if "ghost" in row["name"]]
    assert errors[0] < 1e-5
    assert errors[1] is None


def test_the_blind_attack_is_tried_on_every_change() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "blind.py"), "--count", "100", "--pairs", "2"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=100, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    (brighter,) = (line for line in lines if line.startswith("brighter by 8"))
    assert brighter.endswith(")  differ")
    assert lines[-1] in [f"unchanged pairs said to differ: {count} of 2" for count in range(2)]


@pytest.mark.slow
def test_shares_of_a_step_come_to_one() -> None:
    options = ["--network", "tanh-cnn", "--views", "2", "--examples", "2", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "step_shares.py"), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    kinds = {row["kind"]: row["share"] for row in json.loads(finished.stdout)["kinds"]}
    assert abs(sum(kinds.values()) - 1) < 1e-6
    assert kinds["convolutions"] > 0
    assert kinds["matrix products"] > 0


@pytest.mark.slow
def test_tuning_benchmark_has_a_row_for_each_budget_and_number_of_trials() -> None:
    options = ["--method", "dp-sgd", "--search", "steps=5,10", "--epsilon", "2", "8", "--trials", "2"]
    command = [sys.executable, str(ROOT / "benchmarks" / "tuning.py"), *options, "--seeds", "2", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [(row["epsilon"], row["trials"]) for row in rows] == [(2, 2), (8, 2)]
    assert all(len(row[name]) == 2 for row in rows for name in ("defaults", "tuned", "best"))
    assert all(len(row["drawn"]) == 4 for row in rows)


@pytest.mark.slow
def test_heads_benchmark_has_a_line_for_each_budget_and_computes_features_once(tmp_path: Path) -> None:
    recipe, folder = tmp_path / "digits-head.toml", tmp_path / "features"
    recipe.write_text(
        'epsilon = 1\ndelta = 1e-5\nmethod = "dp-randp"\n[config]\nencoder = "pixels"\nsteps = 20\n'
        "expected_batch_size = 1437\n"
    )
    options = ["bundled:digits", "--recipe", str(recipe), "--seeds", "2", "--features", str(folder)]
    command = [sys.executable, str(ROOT / "benchmarks" / "heads.py"), *options, "--epsilon", "2", "20"]

    def lines(*options: str) -> list[str]:
        finished = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=True, timeout=600
        )
        return finished.stdout.splitlines()

    first, second = lines("--held-out", "200")
    assert first.startswith("digits-head")
    assert "ε = 2:" in first
    assert "ε = 20:" in second
    assert "n = 200" in first
    assert float(second.split("20:")[1].split()[0]) > float(first.split("2:")[1].split()[0]) > 30
    (of_training,) = folder.iterdir()
    written = of_training.stat().st_mtime_ns
    assert "n = 360" in lines("--test")[0]
    assert of_training.stat().st_mtime_ns == written
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_other_heads_benchmark_has_a_line_for_each_way_and_none_guesses(tmp_path: Path) -> None:
    recipe = tmp_path / "digits.toml"
    recipe.write_text('[config]\nencoder = "pixels"\n')
    options = ["bundled:digits", "--recipe", str(recipe), "--held-out", "400", "--seeds", "2"]
    command = [sys.executable, str(ROOT / "benchmarks" / "other_heads.py"), *options, "--epsilon", "20"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    lines = finished.stdout.splitlines()
    assert len(lines) == 19
    assert all(line.startswith("ε = 20 ") for line in lines)
    accuracies = {line[7:40].strip(): float(line[40:].split()[0]) for line in lines}
    assert min(accuracies.values()) > 85, accuracies


@pytest.mark.slow
def test_processes_benchmark_has_a_row_for_each(tmp_path: Path) -> None:
    options = ["bundled:digits", "--out", str(tmp_path), "--steps", "2", "--count", "256", "--json"]
    names = ["untrained", "fractals", "mixture"]
    command = [sys.executable, str(ROOT / "benchmarks" / "processes.py"), *options, "--only", *names]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    rows = json.loads(finished.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == names
    assert all(
        row["epsilon"] <= 1 and row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in rows
    )
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "fractals.safetensors",
        "mixture.safetensors",
    ]


@pytest.mark.slow
def test_mixing_benchmark_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Every row has as many runs as asked for, and a second call makes only those that are missing."""
    out = tmp_path / "runs.json"
    options = ["bundled:digits", "--out", str(out), "--epsilon", "2"]
    options += ["--set", "network=linear", "steps=3", "expected_batch_size=100", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "mixing.py"), *options]
    for seeds, only in ((1, ["one view"]), (2, ["one view", "self-augmentation", "DP-Mix_Self"])):
        finished = subprocess.run(
            [*command, "--seeds", str(seeds), "--only", *only],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        runs = json.loads(finished.stdout.splitlines()[-1])["runs"]
        assert {title: len(found) for title, found in runs.items()} == {
            f"{name}, ε = 2": seeds for name in only
        }
        if seeds == 1:
            first = runs["one view, ε = 2"][0]
    assert runs["one view, ε = 2"][0] == first
    assert all(0 < found["accuracy"] < 1 and found["epsilon"] <= 2 for row in runs.values() for found in row)


@pytest.mark.slow
def test_several_laws_are_measured_by_the_classes_of_their_groups(tmp_path: Path) -> None:
    options = ["bundled:digits", "--held-out", "300", "--count", "1000", "--laws", "1", "2"]
    options += ["--epsilon", "50"]
    command = [sys.executable, str(ROOT / "benchmarks" / "several_laws.py"), *options]
    out = tmp_path / "runs.json"
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, timeout=600)
    runs = json.loads(out.read_text())["runs"]
    assert list(runs) == ["ε = 50, 1 laws", "ε = 50, 2 laws"]
    assert all(found["accuracy"] > 0.8 for (found,) in runs.values())


@pytest.mark.slow
def test_synthesis_benchmark_keeps_its_runs_and_mixes_none(tmp_path: Path) -> None:
    """A second call makes the run that is missing; one with other settings is refused and changes nothing."""
    out = tmp_path / "runs.json"
    options = ["bundled:digits", "--out", str(out), "--epsilon", "8", "--count", "60", "--held-out", "100"]
    command = [sys.executable, str(ROOT / "benchmarks" / "synthesis.py"), *options]
    samples = tmp_path / "sheets"
    calls = []
    for seeds in (1, 2):
        finished = subprocess.run(
            [*command, "--seeds", str(seeds), "--samples", str(samples), "--json", "--reference",
             "--set", "steps=2"],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        calls.append(json.loads(finished.stdout.splitlines()[-1])["runs"])
    first, runs = (found["8"] for found in calls)
    assert (len(first), len(runs)) == (1, 2)
    assert runs[0] == first[0]
    assert [row["name"] for row in runs[0]["rows"]][:2] == ["accuracy of logistic", "accuracy of mlp"]
    assert all(found["epsilon"] <= 8 and found["rows"][0]["num_real"] == 100 for found in runs)
    assert (samples / "epsilon-8.png").stat().st_size > 0
    (reference,) = calls[1]["private images"]
    assert [row["name"] for row in reference["rows"]] == [row["name"] for row in runs[0]["rows"]]
    assert reference["rows"][0]["num_synthetic"] == 60, "as many private images in place of synthetic ones"
    assert reference["rows"][0]["value"] > 0.6
    assert calls[0]["private images"] == calls[1]["private images"], "measured once"
    kept = out.read_text()
    refused = subprocess.run([*command, "--set", "steps=3"], capture_output=True, text=True, timeout=600)
    assert refused.returncode != 0
    assert "has runs made otherwise" in refused.stderr
    assert out.read_text() == kept


def test_made_sets_are_read_and_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = ["strokes", "doodles", "letters", "solids", "textures", "scans"]

    def make(folder: str, *options: str) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        options = ("--count", "60", "--test-count", "30", "--out", str(tmp_path / folder), *options)
        monkeypatch.setattr(sys, "argv", ["made_sets.py", *names, *options])
        load_benchmark("made_sets").main()
        return {name: dict(np.load(tmp_path / folder / f"{name}.npz")) for name in names}

    first, again, other = make("first"), make("again"), make("other", "--seed", "1")
    for name in names:
        for part, array in first[name].items():
            assert np.array_equal(array, again[name][part])
            assert not np.array_equal(array, other[name][part])
        assert not np.array_equal(first[name]["train_images"][:30], first[name]["test_images"])
        written = (tmp_path / "first" / f"{name}.txt").read_text().split()
        train, test = (
            dpvision.open_images(str(tmp_path / "first" / f"{name}.npz"), split, classes=written)
            for split in ("train", "test")
        )
        assert (len(train), len(test)) == (60, 30)
        assert train.shape == test.shape == ((3, 32, 32) if name in ("solids", "textures") else (1, 28, 28))
        assert train.class_names == (*written,)
        assert train.labels is not None
        pixels = train.take(torch.arange(60)).float()
        assert pixels.flatten(1).std(dim=1).min() > 2  # there is something in each
        assert len(pixels.flatten(1).unique(dim=0)) == 60  # and no two are alike
        sheet = (tmp_path / "first" / f"{name}.png").read_bytes()
        assert sheet.startswith(b"\x89PNG")


@pytest.mark.slow
def test_naive_mixup_costs_more_than_it_claims(tmp_path: Path) -> None:
    """The measured sensitivity lies between one clipping norm and the bound, and the bound is reached."""
    command = [sys.executable, str(ROOT / "benchmarks" / "naive_mixup.py"), "bundled:digits"]
    options = ["--steps", "3", "--batch-size", "64", "--runs", "1", "--draws", "20", "--network", "linear"]
    finished = subprocess.run(
        [*command, *options, "--json"], capture_output=True, text=True, check=True, timeout=600
    )
    found = json.loads(finished.stdout.splitlines()[-1])
    assert "lets one private example into the views of another" in found["refusal"]
    assert 1 < found["sensitivity"]["greatest"] <= found["sensitivity"]["bound"] == 3
    assert 2.99 < found["sensitivity"]["made_for_it"] <= 3
    assert found["epsilon"]["claimed"] * 2 < found["epsilon"]["real"]
    assert all(len(accuracies) == 1 for accuracies in found["accuracies"].values())


@pytest.mark.slow
def test_release_benchmark_compares_with_a_forward_pass(tmp_path: Path) -> None:
    """Images of 16 pixels, the least that VGG-19 takes."""
    images = np.random.default_rng(0).integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "made.npz", images=images, labels=np.arange(60) % 2)
    options = [str(tmp_path / "made.npz"), "--count", "50", "--threads", "1", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "release.py"), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(finished.stdout)
    assert "50 images of 3×16×16, 2 classes" in found["setting"]
    assert [(row["encoder"], row["features"], row["name"]) for row in found["rows"]] == [
        (encoder, features, name)
        for encoder, features in (("vgg19", 75_776), ("pixels", 18_721))
        for name in ("forward", "φ1", "φ1, φ2")
    ]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in found["rows"])
    assert all(row["of_forward"] == 1 for row in found["rows"][::3])


@pytest.mark.slow
def test_defaults_benchmark_has_a_row_for_each_method_and_epsilon() -> None:
    options = ["--method", "dp-sgd", "dp-randp", "dp-ridge", "--only", "digits, 300 images", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "defaults.py"), *options, "--epsilon", "1", "50"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [(row["method"], row["epsilon"]) for row in rows] == [
        (method, epsilon) for method in ("dp-sgd", "dp-randp", "dp-ridge") for epsilon in (1, 50)
    ]
    assert all(row["images"] == 300 and row["accuracy"] > 0.5 for row in rows if row["epsilon"] == 50)


@pytest.mark.slow
def test_what_calibration_brings_is_printed_for_every_way() -> None:
    options = ["--only", "digits", "--epsilon", "0.2", "2", "--seeds", "2", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "calibration.py"), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [row["way"] for row in rows] == 2 * ["before", "free", "after", "best", "shifted"]
    for before, free, after, best, shifted in (rows[:5], rows[5:]):
        assert before["divided_by"] == 1 < free["divided_by"]
        assert before["accuracy"] == free["accuracy"] > 0.1
        assert after["accuracy"] == best["accuracy"] > 0.1
        assert shifted["loss"] <= best["loss"] <= after["loss"] < 1.02 * before["loss"]
        assert all(len(row["runs"]) == 2 for row in (before, after))


@pytest.mark.slow
def test_every_rule_is_right_on_this_machine_and_a_wrong_one_is_seen() -> None:
    script = str(ROOT / "benchmarks" / "device_rules.py")
    finished = subprocess.run([sys.executable, script, "--device", "cpu"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
    # In float64 it stays right: there the network is tried before it is trained, and would be run again.
    broken = (
        "import runpy, sys, torch; from dpvision.gradients import group_norm; right = group_norm.by_sums\n"
        "def by_sums(*given):\n    of_x, of_weight, of_bias = right(*given)\n"
        "    return of_x, (1 + 0.3 * (of_weight.dtype == torch.float32)) * of_weight, of_bias\n"
        "group_norm.by_sums = by_sums; sys.argv = ['', '--device', 'cpu']\n"
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True)
    assert finished.returncode == 1
    wrong = {line.split()[0] for line in finished.stdout.splitlines() if "WRONG" in line}
    assert wrong == {"GroupNorm"}


RECIPE = """epsilon = 2
delta = 1e-5
method = "dp-randp"
[config]
encoder = "patches"
encoder_options = { size = 4, cells = 2, centroids = 20 }
phase_ii = "sampled"
phase_iii = "full"
phase_ii_share = 0.5
"""


@pytest.mark.slow
def test_the_gpu_report_goes_on_where_it_ended(tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "report"
    recipe.write_text(RECIPE)
    options = ["--data", "bundled:digits", "--recipe", str(recipe), "--device", "cpu", "--small"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_report.py"), *options, "--out", str(out)]

    def run(seconds: str) -> dict[str, Any]:
        subprocess.run([*command, "--seconds", seconds], check=True, capture_output=True, timeout=300)
        parts: dict[str, Any] = json.loads((out / "report.json").read_text())["parts"]
        return parts

    assert {found["status"] for found in run("2").values()} == {"cut off"}
    parts = run("250")
    assert {name: found["status"] for name, found in parts.items()} == dict.fromkeys(
        ["rules", "clip search", "gradients of tanh-cnn", "shares of a step", "recipe"], "done"
    )
    assert parts["rules"]["seconds"] > 2  # both times
    assert parts["recipe"]["result"]["seconds_by_phase"].keys() == {"Phase II", "Phase III"}
    told = (out / "report.md").read_text()
    assert "| recipe | done |" in told
    assert f"test accuracy {parts['recipe']['result']['test_accuracy']:.2%}" in told
    assert run("250") == parts


def test_the_gpu_report_takes_up_a_run_that_it_cut_off(tmp_path: Path) -> None:
    report = load_benchmark("gpu_report")
    options = Namespace(
        out=tmp_path, device="cpu", small=True, recipe=tmp_path / "recipe.toml", data="bundled:digits"
    )
    assert "train" in list(report.parts(options))[-1].command
    (tmp_path / "recipe" / "private").mkdir(parents=True)
    (tmp_path / "recipe" / "private" / "run.json").write_text("{}")
    assert list(report.parts(options))[-1].command[-3:] == ["resume", str(tmp_path / "recipe"), "--json"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("import time; time.sleep(60)", "cut off"),
        ("raise SystemExit('no such device')", "failed"),
        ("print('{}'); raise SystemExit(1)", "failed"),
        ("print('some line'); print('{}')", "done"),
    ],
)
def test_the_gpu_report_says_how_a_part_ended(command: str, status: str) -> None:
    report = load_benchmark("gpu_report")
    found = report.work(report.Part("a part", [sys.executable, "-c", command]), seconds=2)
    assert found["status"] == status
    assert ("result" in found) == ("print" in command)


def test_the_chart_has_a_bar_for_each_contestant_as_long_as_its_ratio() -> None:
    rows = [
        {"name": name, "of_plain": ratio} for name, ratio in (("ours", 0.8), ("plain", 1.0), ("vmap", 0.2))
    ]
    chart = load_benchmark("gradients_chart")
    table = {"network": "vit-s", "views": 4, "precision": "float32", "rows": rows}
    drawn = ElementTree.fromstring(chart.chart([table, {**table, "views": 1}]))
    space = "{http://www.w3.org/2000/svg}"
    bars = [
        bar for bar in drawn.iter(f"{space}rect") if bar.get("x") == str(chart.LEFT) and bar.get("y") != "14"
    ]
    lengths = [float(bar.get("width", "")) for bar in bars]
    assert len(lengths) == 4
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=0.01)
    assert {"vit-s, K = 4, float32", "0.80", "0.20"} <= {text.text for text in drawn.iter(f"{space}text")}


def test_what_a_classifier_says_of_very_many_images_is_all_that_is_held() -> None:
    """By the images that the benchmark of memory makes up."""
    images = load_benchmark("peak_memory").MadeUp(30_000)  # of 88 MiB
    some = torch.tensor([5, 1014, 5 + 256 * 1009, 5])
    assert [len(images.take(some).flatten(1).unique(dim=0)), *images.take(some).shape] == [3, 4, 3, 32, 32]
    model = build_classifier("linear", image_shape=images.shape, class_names=images.class_names)
    log_probabilities(model, images.subset(range(1000)))
    before = reset_peak()
    assert log_probabilities(model, images).shape == (30_000, 10)
    assert peak_bytes() - before <= 16 * 2**20


@pytest.mark.slow
def test_memory_benchmark_has_a_line_for_each_job() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "peak_memory.py"),
        "--count",
        "20000",
        "--memory",
        "0.01",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = {line.split()[0]: line.split() for line in finished.stdout.splitlines()[1:]}
    assert [*found] == ["sampling", "index", "head", "evaluation"]
    assert all(0 < int(cells[2]) <= int(cells[4]) < 1000 for cells in found.values())
