"""Bad input: one clear sentence, exit code 2, no budget spent, nothing half written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpvision.cli.main import run

CheckSentence = Callable[[list[str], str], None]

FAST = ["--set", "network=linear", "--set", "steps=4", "--set", "expected_batch_size=8"]
PIXELS = np.arange(40 * 8 * 8, dtype=np.uint8).reshape(40, 8, 8)
LABELS = np.arange(40) % 2
KNOWN = ["--sample-rate", "1", "--steps", "1", "--delta", "1e-5"]


def traces() -> dict[str, bytes]:
    """The ledgers, as files."""
    home = Path(os.environ["DPVISION_HOME"])
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def check_refused(arguments: list[str], out: Path, message: str, check_sentence: CheckSentence) -> None:
    before, beside = traces(), sorted(out.parent.rglob("*")) if out.parent.is_dir() else []
    check_sentence(arguments, message)
    assert traces() == before
    assert (sorted(out.parent.rglob("*")) if out.parent.is_dir() else []) == beside


def missing(folder: Path) -> Path:
    return folder / "no-such-data"


def truncated_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "data.npz", images=PIXELS, labels=LABELS)
    whole = (folder / "data.npz").read_bytes()
    (folder / "data.npz").write_bytes(whole[: len(whole) // 2])
    return folder / "data.npz"


def corrupt_image(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for index in range(20):
            Image.fromarray(PIXELS[index]).save(folder / name / f"{index}.png")
    whole = (folder / "dog" / "13.png").read_bytes()
    (folder / "dog" / "13.png").write_bytes(whole[:45])  # within the pixels
    return folder


def archive(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "no-such-data does not exist"),
        (truncated_npz, "data.npz cannot be read"),
        (corrupt_image, "13.png"),
        (archive(images=PIXELS / 255, labels=LABELS), "not uint8"),
        (archive(images=PIXELS.astype(object), labels=LABELS), "never unpickled"),
        (archive(images=PIXELS, labels=LABELS[:39]), "40 images but 39 labels"),
        (archive(images=PIXELS, labels=LABELS * 0), "one class only"),
    ],
)
def test_data_that_cannot_be_used(
    make: Callable[[Path], Path], message: str, tmp_path: Path, check_sentence: CheckSentence
) -> None:
    (tmp_path / "data").mkdir()
    data = make(tmp_path / "data")
    out = tmp_path / "runs" / "new" / "run"
    (tmp_path / "runs").mkdir()
    check_refused(
        ["train", str(data), "--epsilon", "2", "--out", str(out), *FAST], out, message, check_sentence
    )
    check_refused(["plan", str(data), "--epsilon", "2", *FAST], out, message, check_sentence)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilon", "0"], "epsilon must be a positive"),
        (["--epsilon", "-1"], "epsilon must be a positive"),
        (["--epsilon", "nan"], "epsilon must be a positive"),
        (["--epsilon", "much"], "--epsilon"),
        (["--epsilon", "2", "--delta", "0.025"], "not below 1/N"),
        (["--epsilon", "2", "--delta", "0"], "delta"),
        (["--epsilon", "2", "--relation", "none"], "neighboring_relation"),
        (["--epsilon", "2", "--frobnicate"], "--frobnicate"),
        (["--epsilon", "2", "--set", "frobnicate=1"], "no setting 'frobnicate'"),
        (["--epsilon", "2", "--set", "steps"], "key=value"),
        (["--epsilon", "2", "--set", "steps=many"], "steps takes a whole number"),
        (["--epsilon", "2", "--set", "steps=0"], "steps must be"),
        (["--epsilon", "2", "--set", "network.depth=3"], "network is no table"),
        (["--epsilon", "2", "--set", "network=resnet"], "no network 'resnet'"),
        (["--epsilon", "2", "--set", "class_weight=equal"], "class_weight must be none, balanced or"),
        (["--epsilon", "2", "--set", "class_weight.magic=3"], "class_weight: there is no class 'magic'"),
        (["--epsilon", "2", "--set", "class_weight.0=0"], "class_weight of 0 must be a number from"),
        (["--epsilon", "2", "--method", "magic"], "no method 'magic'"),
        (["--epsilon", "2", "--device", "abacus"], "abacus"),
        (["--epsilon", "2", "--size", "0"], "size"),
        (["--epsilon", "2", "--channels", "2"], "channels"),
        (["--epsilon", "2", "--test", "nowhere"], "nowhere does not exist"),
        (["--epsilon", "2", "--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        ([], "--epsilon is missing"),
    ],
)
def test_options_that_cannot_be_used(
    options: list[str], message: str, tmp_path: Path, check_sentence: CheckSentence
) -> None:
    data = archive(images=PIXELS, labels=LABELS)(tmp_path)
    out = tmp_path / "run"
    check_refused(["train", str(data), "--out", str(out), *FAST, *options], out, message, check_sentence)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epsilom = 2", "no option 'epsilom'"),
        ("epsilon = '2'", "epsilon must be"),
        ("epsilon = 2\n[config]\nstepz = 3", "no setting 'stepz'"),
        ("epsilon = ", "is not TOML"),
    ],
)
def test_files_that_cannot_be_used(
    content: str, message: str, tmp_path: Path, check_sentence: CheckSentence
) -> None:
    data = archive(images=PIXELS, labels=LABELS)(tmp_path)
    (tmp_path / "recipe.toml").write_text(content)
    out = tmp_path / "run"
    arguments = ["train", str(data), "--config", str(tmp_path / "recipe.toml"), "--out", str(out)]
    check_refused(arguments, out, message, check_sentence)


def test_output_that_cannot_be_written(tmp_path: Path, check_sentence: CheckSentence) -> None:
    data = archive(images=PIXELS, labels=LABELS)(tmp_path)
    arguments = ["train", str(data), "--epsilon", "2", *FAST]
    check_refused(arguments, tmp_path / "run", "--out is missing", check_sentence)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        check_refused([*arguments, "--out", str(out)], out, str(tmp_path / "file"), check_sentence)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thing").touch()
    check_refused(
        [*arguments, "--out", str(tmp_path / "taken")], tmp_path / "taken", "not empty", check_sentence
    )
    out, ledger = tmp_path / "run", tmp_path / "file" / "ledger"
    check_refused(
        [*arguments, "--out", str(out), "--ledger", str(ledger)], out, "cannot be written", check_sentence
    )


def test_an_exhausted_budget(
    tmp_path: Path, check_sentence: CheckSentence, capsys: pytest.CaptureFixture[str]
) -> None:
    data = archive(images=PIXELS, labels=LABELS)(tmp_path)
    assert run(["ledger", str(data), "--limit-epsilon", "2.5"]) == 0
    assert run(["train", str(data), "--epsilon", "2", "--out", str(tmp_path / "first"), *FAST]) == 0
    capsys.readouterr()
    out = tmp_path / "second"
    arguments = ["train", str(data), "--epsilon", "2", "--out", str(out), *FAST]
    check_refused(arguments, out, "over its owner's limit of 2.5", check_sentence)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "frobnicate"),
        (["resume", "{folder}"], "no run directory"),
        (["evaluate", "{folder}", "bundled:digits"], "missing"),
        (["predict", "{folder}", "bundled:digits"], "missing"),
        (["data", "{folder}"], "no images in it"),
        (["data", "bundled:digits", "--split", "val"], "no split 'val'"),
        (["ledger", "{folder}/no.jsonl"], "no ledger"),
        (["ledger", "bundled:letters"], "does not exist"),
        (
            ["epsilon", "--noise-multiplier", "0", "--sample-rate", "0.1", "--steps", "1", "--delta", "1e-5"],
            "noise",
        ),
        (
            ["epsilon", "--noise-multiplier", "1", "--sample-rate", "2", "--steps", "1", "--delta", "1e-5"],
            "rate",
        ),
        (["epsilon", "--noise-multiplier", "1", "--sample-rate", "1", "--steps", "1"], "--delta"),
        (
            ["noise", "--target-epsilon", "0", "--sample-rate", "1", "--steps", "1", "--delta", "1e-5"],
            "epsilon",
        ),
        (["noise", "--target-epsilon", "1", *KNOWN, "--accountant", "abacus"], "abacus"),
    ],
)
def test_other_commands(
    arguments: list[str], message: str, tmp_path: Path, check_sentence: CheckSentence
) -> None:
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    check_refused(filled, tmp_path / "any", message, check_sentence)


@pytest.mark.parametrize("command", ["verify", "resume", "ledger"])
def test_names_that_no_file_can_have(command: str, check_sentence: CheckSentence) -> None:
    check_sentence([command, "a" * 5000 + (".jsonl" if command == "ledger" else "")], "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--positive", "emu"], "there is no class 'emu' to be positive; choose from 0, 1"),
        (["--threshold", "0.5"], "needs the positive class"),
        (["--positive", "3", "--threshold", "2"], "threshold must be from 0 to 1, not 2"),
        (["--neighbours"], "--neighbours is for images"),
        (["--hard-labels"], "--hard-labels is for images"),
    ],
)
def test_figures_that_cannot_be_measured(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    check_sentence: CheckSentence,
) -> None:
    out = str(tmp_path / "run")
    assert run(["train", "bundled:digits", "--epsilon", "2", "--out", out, *FAST]) == 0
    capsys.readouterr()
    check_sentence(["evaluate", out, "bundled:digits", *options], message)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nGPU 0 has 16 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_too_little_memory_is_told_in_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, check_sentence: CheckSentence
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("dpvision.api.plan", refuse)
    check_sentence(["plan", "bundled:digits", "--epsilon", "1"], "more memory than there is")


def test_memory_that_there_is_not_is_refused_by_pytorch_with_these_words() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.zeros(2**60, dtype=torch.uint8)
