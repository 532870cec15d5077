"""dpvision.verify: what holds is found to hold, and whatever was changed is found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api.verifying import Verification
from dpvision.cli.main import run
from dpvision.images import Images
from dpvision.privacy import Event, InputError, Ledger, default_ledger_path
from dpvision.privacy.events import merge_events
from dpvision.reports.guarantee_file import canonical
from dpvision.reports.html import card_html
from dpvision.reports.markdown import card_markdown

CONFIG = {"network": "linear", "steps": 30, "expected_batch_size": 20}
ROOT = Path(__file__).parents[2]


def some_images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(120) % 2, ("dark", "bright"), "made up")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    dpvision.train(some_images(), epsilon=2, out=out, config=CONFIG)
    return out


@pytest.fixture
def release(trained: Path, tmp_path: Path) -> Path:
    """A copy elsewhere, that may be changed."""
    return Path(shutil.copytree(trained / "release", tmp_path / "copy"))


def failing(found: Verification) -> list[str]:
    return [check.name for check in found.checks if not check.holds]


def rewrite(release: Path, change: Callable[[dict[str, Any]], object], card: bool = False) -> None:
    """Change guarantee.json, and with ``card`` the card first, with all digests made to fit."""
    stated = json.loads((release / "guarantee.json").read_bytes())
    if card:
        fields = json.loads((release / "card.json").read_bytes())
        change(fields)
        (release / "card.json").write_text(json.dumps(fields))
        (release / "card.md").write_text(card_markdown(fields))
        (release / "card.html").write_text(card_html(fields))
        for name in ("card.json", "card.md", "card.html"):
            stated["files"][name] = hashlib.sha256((release / name).read_bytes()).hexdigest()
    change(stated)
    (release / "guarantee.json").write_bytes(canonical(stated))


def test_a_release_holds_wherever_it_is(trained: Path, release: Path) -> None:
    for path in (trained, trained / "release", release):
        found = dpvision.verify(path)
        assert failing(found) == []
        assert found.sha256 == hashlib.sha256((release / "guarantee.json").read_bytes()).hexdigest()
    assert found.epsilons["integral"] == pytest.approx(found.epsilon, rel=1e-3)
    assert found.epsilons["integral"] < found.epsilon < found.epsilons["renyi"]


def test_it_needs_no_right_to_write(release: Path) -> None:
    for path in (*release.iterdir(), release):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert dpvision.verify(release).holds
    finally:
        release.chmod(0o755)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dp-ridge", {"config": {"encoder": "pixels"}}),
        ("dp-ridge", {"config": {"encoder": "pixels"}, "neighboring_relation": "replace_one"}),
        ("dp-sgd", {"config": CONFIG, "neighboring_relation": "replace_one", "num_examples": 110}),
        (
            "dp-randp",
            {"config": {"encoder": "random-wrn-10-1", "phase_iii": "full", "steps": 6, "augmult": 2}},
        ),
    ],
)
def test_every_event_that_was_spent_is_stated(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    images = some_images()
    dpvision.train(images, epsilon=3, out=tmp_path / "run", method=method, **options)
    assert failing(dpvision.verify(tmp_path / "run")) == []
    stated = json.loads((tmp_path / "run" / "release" / "guarantee.json").read_bytes())
    events = [Event.from_json(one["event"]) for one in stated["events"]]
    lines = default_ledger_path(images.digest).read_text().splitlines()
    recorded = [Event.from_json(fields["event"]) for line in lines if "event" in (fields := json.loads(line))]
    assert merge_events(events) == merge_events(recorded)
    assert Ledger(default_ledger_path(images.digest)).summary()["epsilon_spent"] > 0


def test_what_was_learned_of_units(tmp_path: Path) -> None:
    images = some_images().with_units(torch.arange(120) % 40)
    dpvision.train(images, epsilon=3, out=tmp_path / "run", config=CONFIG)
    first = dpvision.synthesize(images, epsilon=3, out=tmp_path / "first", count=6)
    dpvision.synthesize_from(first.release, out=tmp_path / "again", count=4)
    for name in ("run", "first", "again"):
        found = dpvision.verify(tmp_path / name)
        assert failing(found) == []
        assert found.unit == json.loads((tmp_path / name / "release" / "guarantee.json").read_text())["unit"]
        assert found.unit == "unit"


def test_synthetic_images_and_those_fitted_anew(tmp_path: Path) -> None:
    first = dpvision.synthesize(
        some_images(), epsilon=3, out=tmp_path / "first", count=6, formats=("png", "npz")
    )
    again = dpvision.synthesize_from(first.release, out=tmp_path / "again", count=4)
    for made in (first, again):
        found = dpvision.verify(made.release)
        assert failing(found) == []
        assert found.epsilons["exact Gaussian"] == pytest.approx(found.epsilon, rel=1e-3)
    names = json.loads((again.release / "guarantee.json").read_bytes())["files"]
    assert sum(name.startswith("images/png/") for name in names) >= 4


def test_a_changed_file_is_named(release: Path) -> None:
    with (release / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    found = dpvision.verify(release)
    assert failing(found) == ["files unchanged"]
    assert "model.safetensors" in next(check.found for check in found.checks if not check.holds)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    assert failing(dpvision.verify(release)) == ["no file missing"]


def test_without_its_card_a_release_does_not_hold(release: Path) -> None:
    (release / "card.json").unlink()
    assert failing(dpvision.verify(release)) == ["no file missing", "card"]


def _file(path: Path) -> None:
    path.write_bytes(b"")


def _deep(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").touch()


@pytest.mark.parametrize(
    "make",
    [_file, Path.mkdir, _deep, lambda path: path.symlink_to("/etc"), os.mkfifo],
    ids=["file", "folder", "folders", "link", "pipe"],
)
def test_what_is_not_listed_is_named(release: Path, make: Callable[[Path], object]) -> None:
    make(release / "more")
    assert failing(dpvision.verify(release)) == ["no file more"]


def test_a_link_in_place_of_a_file_is_not_followed(release: Path, tmp_path: Path) -> None:
    shutil.move(release / "model.safetensors", tmp_path / "elsewhere")
    (release / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert failing(dpvision.verify(release)) == ["files unchanged"]


@pytest.mark.parametrize("both", [False, True], ids=["there alone", "on the card too"])
def test_a_smaller_epsilon_is_found_out(release: Path, both: bool) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["epsilon"] *= 0.98

    rewrite(release, change, card=both)
    expected = ["epsilon, independently", "epsilon, as stated"]
    assert failing(dpvision.verify(release)) == ([] if both else ["card"]) + expected


def test_an_epsilon_just_below_the_truth_is_found_out(release: Path) -> None:
    """Less than versions of one accountant may differ by: only what is nearly exact can tell."""

    def change(fields: dict[str, Any]) -> None:
        fields["epsilon"] *= 0.999

    rewrite(release, change, card=True)
    assert failing(dpvision.verify(release)) == ["epsilon, independently"]


def test_a_release_for_which_hardly_anyone_was_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 6 steps at q = 0.25 the integral does not converge; another way encloses ε."""
    home = tmp_path / "home"
    options = ["bundled:digits", "--epsilon", "3", "--out", str(home), "--method", "dp-sgd"]
    settings = ["--set", "network=linear", "--set", "steps=6", "--set", "expected_batch_size=359"]
    assert run(["train", *options, *settings]) == 0
    assert run(["verify", str(home)]) == 0
    capsys.readouterr()
    found = dpvision.verify(home)
    low, high = (found.epsilons[f"grid, rounded {way}"] for way in ("down", "up"))
    assert low is not None
    assert high is not None
    assert low <= found.epsilon <= 1.001 * low
    assert low <= high <= 1.0001 * low

    def change(fields: dict[str, Any]) -> None:
        fields["epsilon"] *= 0.99

    rewrite(home / "release", change, card=True)
    assert run(["verify", str(home)]) == 1
    assert "epsilon, independently" in failing(dpvision.verify(home))


def test_fewer_events_are_found_out(release: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        for one in fields["events"]:
            one["event"]["count"] -= 12
        for one in fields.get("mechanisms", []):
            one["count"] -= 12

    rewrite(release, change, card=True)
    assert failing(dpvision.verify(release)) == ["epsilon, as stated", "epsilon, not above RDP"]


def test_other_mechanisms_on_the_card_than_events(release: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        for one in fields.get("mechanisms", []):
            one["noise_multiplier"] *= 2

    rewrite(release, change, card=True)
    assert failing(dpvision.verify(release)) == ["card"]


def test_a_card_in_other_words(release: Path) -> None:
    text = (release / "card.md").read_text().replace("add_or_remove_one", "replace_one")
    (release / "card.md").write_text(text)

    def change(fields: dict[str, Any]) -> None:
        fields["files"]["card.md"] = hashlib.sha256(text.encode()).hexdigest()

    rewrite(release, change)
    assert failing(dpvision.verify(release)) == ["card in words"]


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda fields: fields.update(neighbours="data sets that differ in ALL images"), "card"),
        (lambda fields: fields.update(noise="a fixed seed"), "card"),
        (lambda fields: fields["mechanisms"][0].update(rounds=7), "card"),
        (lambda fields: fields.update(groups=[]), "card"),
        (lambda fields: fields["groups"][1].update(epsilon=fields["epsilon"]), "card"),
        (lambda fields: fields.update(unit="unit"), "card"),
        (lambda fields: fields["accountant"].update(epsilon_by_rdp=0.001), "epsilon by RDP, no less"),
    ],
    ids=[
        "another relation",
        "a seed",
        "a fact more",
        "no groups",
        "a group that has less",
        "of units",
        "another bound",
    ],
)
def test_words_and_facts_that_do_not_follow(
    release: Path, change: Callable[[dict[str, Any]], object], fails: str
) -> None:
    both = {"neighbours", "noise", "mechanisms", "groups", "accountant"}

    def change_what_is_there(fields: dict[str, Any]) -> None:
        if both <= fields.keys() or fails != "card":
            change(fields)

    rewrite(release, change_what_is_there, card=True)
    assert failing(dpvision.verify(release)) == [fails]


def test_the_guarantee_itself_is_no_link(release: Path, tmp_path: Path) -> None:
    (release / "guarantee.json").rename(tmp_path / "elsewhere.json")
    (release / "guarantee.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="a link"):
        dpvision.verify(release)


def test_a_card_that_says_two_things(release: Path) -> None:
    card = release / "card.json"
    content = b'{"epsilon": 0.01, ' + card.read_bytes().lstrip()[1:]
    card.write_bytes(content)

    def change(fields: dict[str, Any]) -> None:
        fields["files"]["card.json"] = hashlib.sha256(content).hexdigest()

    rewrite(release, change)
    assert failing(dpvision.verify(release)) == ["card"]


def test_claims_that_the_program_does_not_make(release: Path) -> None:
    rewrite(release, lambda fields: fields["proved"].append({"says": "all is well", "see": "nowhere"}))
    assert failing(dpvision.verify(release)) == ["card"]


@pytest.mark.parametrize(
    ("fields", "fails"),
    [
        ({"is_private": False, "not_private_because": ["of a seed"]}, "private"),
        ({"not_private_because": ["a pool was public by mistake"]}, "private"),
        ({"target_epsilon": 1.0}, "target"),
        ({"num_examples": 10**6}, "delta"),
    ],
)
def test_promises_that_are_none(release: Path, fields: dict[str, Any], fails: str) -> None:
    rewrite(release, lambda stated: stated.update(fields), card=False)
    assert fails in failing(dpvision.verify(release))


def test_a_seeded_run_does_not_pass(tmp_path: Path) -> None:
    dpvision.train(some_images(), epsilon=2, out=tmp_path / "run", config=CONFIG, seed=3)
    found = dpvision.verify(tmp_path / "run")
    assert failing(found) == ["private"]
    assert found.proved == ()


def test_events_of_others_cannot_be_recomputed(release: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["events"][0]["event"]["kind"] = "laplace of somebody"

    rewrite(release, change, card=True)
    found = dpvision.verify(release)
    assert failing(found) == ["events"]
    assert "cannot be recomputed" in found.checks[-1].found
    assert not found.epsilons


def test_a_release_from_before(release: Path) -> None:
    (release / "guarantee.json").unlink()
    card = json.loads((release / "card.json").read_bytes())
    del card["events"]
    (release / "card.json").write_text(json.dumps(card))
    found = dpvision.verify(release)
    assert failing(found) == ["files"]
    assert found.epsilons["integral"] == pytest.approx(found.epsilon, rel=1e-3)
    assert found.sha256 is None


# Bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 2},
        {"format": True},
        {"format": 1.0},
        {"more": 1},
        {"unit": "person"},
        {"epsilon": 10**400},
        {"target_epsilon": 10**400},
        {"num_examples": 10**400},
        {"epsilon": "2"},
        {"epsilon": -1.0},
        {"epsilon": True},
        {"delta": 0.0},
        {"delta": 1e-12},
        {"neighboring_relation": "replace"},
        {"num_examples": 0},
        {"num_examples": 1.5},
        {"events": []},
        {"events": [1]},
        {"events": [{"event": {"noise_multiplier": 1.0}}] * 33},
        {"events": [{"event": {"noise_multiplier": 1.0, "count": 10**8}}]},
        {"events": [{"event": {"noise_multiplier": "1"}}]},
        {"events": [{"event": {"noise_multiplier": 1.0, "more": 1}}]},
        {"files": ["card.json"]},
        {"files": {"card.json": 3}},
        {"files": {"../card.json": "0" * 64}},
        {"files": {"/etc/passwd": "0" * 64}},
        {"files": {"guarantee.json": "0" * 64}},
        {"proved": "all"},
        {"assumed": [{"says": 1, "see": ""}]},
    ],
    ids=str,
)
def test_a_guarantee_of_other_values_is_refused(release: Path, fields: dict[str, Any]) -> None:
    rewrite(release, lambda stated: stated.update(fields))
    with pytest.raises(InputError):
        dpvision.verify(release)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]\n",
        b"{",
        b'{"epsilon": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (2**23 + 1),
        b'{"format":1,"format":1}\n',
        b'{"epsilon":1e999}\n',
    ],
    ids=range(9),
)
def test_what_is_no_guarantee_is_refused(release: Path, content: bytes) -> None:
    (release / "guarantee.json").write_bytes(content)
    with pytest.raises(InputError, match=r"guarantee\.json"):
        dpvision.verify(release)


def test_there_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="release"):
        dpvision.verify(tmp_path)


def test_the_command(release: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["verify", str(release)]) == 0
    text = capsys.readouterr().out
    assert "FAILS" not in text
    assert all(word in text for word in ("SHA-256", "Proved", "Measured", "Assumed", "all holds"))
    (release / "more").touch()
    assert run(["verify", str(release), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] is False
    assert [check["name"] for check in told["checks"] if not check["holds"]] == ["no file more"]
    assert run(["verify", str(release)]) == 1
    assert "FAILS  not listed: more" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "nothing")]) == 2


def test_words_of_others_do_not_act(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"says": "x\nverdict  all holds\x1b[2K", "see": ""}
    rewrite(release, lambda stated: stated.update(proved=[words]))
    assert run(["verify", str(release)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nverdict  all holds" not in out


def test_what_is_said_to_show_it_exists(trained: Path) -> None:
    found = dpvision.verify(trained)
    for one in (*found.proved, *found.measured, *found.assumed):
        assert (ROOT / one["see"]).is_file(), one["see"]


def test_nothing_private_is_in_the_guarantee(tmp_path: Path) -> None:
    """Other images of the same public facts: but for digests of what was released, the file is the same."""
    images, told = some_images(), []
    other = replace(images, pixels=images.pixels // 2, labels=(torch.arange(120) < 30).long())
    for name, of in (("one", images), ("other", other)):
        dpvision.train(of, epsilon=2, out=tmp_path / name, config=CONFIG, num_examples=150, seed=3)
        fields = json.loads((tmp_path / name / "release" / "guarantee.json").read_bytes())
        told.append({key: value for key, value in fields.items() if key != "files"})
    assert told[0] == told[1]
