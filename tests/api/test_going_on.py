"""train with from_run: training goes on from a released classifier, and the images pay for both runs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import torch
from torch import Tensor, nn

import dpvision
from dpvision.api import Result
from dpvision.api.earlier import earlier_of
from dpvision.api.options import TrainOptions
from dpvision.api.publishing import card_files
from dpvision.api.recomputing import MOST_EVENTS
from dpvision.cli.main import run as command
from dpvision.images import Images
from dpvision.methods import Calibrated, Learned, Stage
from dpvision.methods.dp_randp import DPRandP
from dpvision.methods.going_on import GoingOn
from dpvision.methods.registry import find_method
from dpvision.privacy import Event, FullBatch, GaussianSumMechanism, InputError, Ledger, default_ledger_path
from dpvision.privacy.accounting import epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.group_privacy import group_epsilons
from dpvision.privacy.second_accountant import exact_gaussian
from dpvision.privacy.strength import strength
from dpvision.reports.card import strength_of
from dpvision.reports.guarantee_file import FILE, UNPAID, guarantee_file
from dpvision.testing import check_guarantee, method_run
from tests.api.taken_up import card_of, spent_on

UNPAID_BEFORE = UNPAID.replace("(unpaid)", "(`sweep --unpaid`)")
"""As cards had it before other runs than those of a sweep could be unpaid."""
N, DELTA, LEDGER = 90, 1e-3, "ledger.jsonl"
LINEAR = {"network": "linear", "steps": 3, "expected_batch_size": N, "learning_rate": 0.05}
STILL = {"learning_rate": 1e-12}
UNTRAINED = {"encoder": "random-wrn-10-1", "steps": 2}
PIXELS = {"encoder": "pixels", "encoder_options": {"size": 4}, "steps": 3, "calibration_share": 0.0}


def made(seed: int = 0, count: int = N, names: tuple[str, ...] = ("left", "right"), side: int = 8) -> Images:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(names)
    pixels = (
        torch.randint(128, (count, 1, side, side), generator=generator) + 60 * labels[:, None, None, None]
    )
    return Images(pixels.to(torch.uint8), labels, names, f"made with {seed}")


def train(images: Images, out: Path, **options: Any) -> Result:
    return dpvision.train(images, out=out, **{"epsilon": 1.0, "delta": DELTA, **options})


def events_of(*cards: Mapping[str, Any]) -> list[Event]:
    return [Event.from_json(one["event"]) for card in cards for one in card["events"]]


def weights_of(run: Path) -> dict[str, Tensor]:
    return dpvision.load(run).state_dict()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one that went on from it, and one that went on from that, on the same images."""
    folder = tmp_path_factory.mktemp("runs")
    kept: dict[str, Any] = {"ledger": folder / LEDGER}
    train(made(), folder / "one", test=made(1), config=LINEAR, **kept)
    train(made(), folder / "two", epsilon=2.0, from_run=folder / "one", **kept)
    train(made(), folder / "three", from_run=folder / "two" / "release", config={"steps": 2}, **kept)
    train(made(), folder / "head", method="dp-randp", config=PIXELS, **kept)
    train(made(), folder / "ridge", method="dp-ridge", config={"encoder": "pixels"}, **kept)
    images: dict[str, Any] = {"epsilon": 1, "delta": DELTA, "count": 4, "formats": ("npz",)}
    dpvision.synthesize(made(), config={"size": 4}, out=folder / "images", **images, **kept)
    return folder


def test_the_card_states_what_both_cost_and_so_does_the_ledger(tmp_path: Path) -> None:
    images = made(7)
    first = train(images, tmp_path / "one", test=made(1), config=LINEAR)
    own = card_of(tmp_path / "one")
    second = train(images, tmp_path / "two", epsilon=2.0, from_run=tmp_path / "one")
    card = card_of(tmp_path / "two")
    assert len(spent_on(images)) == 2
    both = epsilon(spent_on(images), DELTA)
    assert second.epsilon == card["epsilon"] == both
    # All images are in every batch, so that both runs are Gaussian and there is a closed form.
    exact = exact_gaussian(spent_on(images), DELTA, "add_or_remove_one")
    assert both == pytest.approx(exact, rel=1e-3)
    assert 2 < both < 3
    assert first.epsilon == own["epsilon"] < 1.01
    assert [part["epsilon"] for part in card["parts"]] == pytest.approx([own["epsilon"], 2], rel=1e-2)
    assert card["events"][0] == own["events"][0]
    assert events_of(card) == [*events_of(own), *(e for e in spent_on(images) if e not in events_of(own))]


def test_each_figure_of_the_card_is_of_both_runs(runs: Path) -> None:
    card, text = card_of(runs / "two"), (runs / "two" / "release" / "card.md").read_text()
    both, at = events_of(card), (card["delta"], card["neighboring_relation"])
    assert len(both) == len(card["mechanisms"]) == 2
    groups = {one["images"]: one["epsilon"] for one in card["groups"]}
    assert groups == pytest.approx(group_epsilons(both, *at))
    gives_away = strength(both, Budget(card["target_epsilon"], *at))
    assert card["strength"] == strength_of(card)
    for name in ("true_positive_rates", "odds", "mu", "epsilon_unsampled", "epsilon_by_relation", "alone"):
        assert card["strength"][name] == gives_away[name]
    assert gives_away["odds"] > card_of(runs / "one")["strength"]["odds"]
    assert card["accountant"]["epsilon_by_rdp"] == epsilon(both, *at, "rdp")
    assert card["target_epsilon"] == 3
    assert "Training went on from an earlier release" in text
    assert "Training began with the weights" in (runs / "two" / "release" / "card.html").read_text()
    assert "test images" not in " ".join(card["not_covered"])  # of the first run alone
    assert dpvision.verify(runs / "two").holds


def test_in_a_chain_each_run_is_counted_once(runs: Path) -> None:
    card = card_of(runs / "three")
    assert [part["events"] for part in card["parts"]] == [1, 1, 1]
    assert len(events_of(card)) == 3
    assert card["epsilon"] == epsilon(events_of(card), DELTA)
    assert dpvision.verify(runs / "three").holds
    # The one between is in what the last has released, also where two others are compared.
    together = dpvision.compare(runs / "one", runs / "three").together
    assert together.epsilons == {"add_or_remove_one": card["epsilon"]}
    with_head = dpvision.compare(runs / "head", runs / "three").together
    assert with_head.epsilons["add_or_remove_one"] > card["epsilon"]
    assert dpvision.runs_in(runs).rows[-1].method == "from:dp-sgd"


def test_runs_in_a_folder_cost_what_they_have_taken_up_too_and_once(runs: Path) -> None:
    (every,) = dpvision.runs_in(runs).same_data
    assert (every.taken_up, every.delta) == (0, DELTA)
    assert every.epsilon == pytest.approx(epsilon(spent_on(made(), runs / LEDGER), DELTA), rel=1e-6)
    (last,) = dpvision.runs_in(runs / "three").same_data
    assert (last.epsilon, last.taken_up) == (card_of(runs / "three")["epsilon"], 2)
    assert "with 2 earlier that they go on from" in last.in_words()


@pytest.mark.slow
def test_where_an_earlier_run_is_gone_it_is_not_told_what_both_cost(tmp_path: Path) -> None:
    images = made(13)
    for name, more in (("one", {"config": LINEAR}), ("two", {"from_run": tmp_path / "one"})):
        train(images, tmp_path / name, **more)
    train(images, tmp_path / "other", config=LINEAR)
    shutil.rmtree(tmp_path / "one")
    together = dpvision.compare(tmp_path / "two", tmp_path / "other").together
    assert together.epsilons == {}
    assert "whose run is not there" in together.says
    assert "cannot be told" in dpvision.runs_in(tmp_path).notes[0]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


class Net(nn.Module):
    def __init__(self, in_channels: int, image_size: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        height, width = image_size
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * height * width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"config": LINEAR | {"class_weight": "balanced"}}, {"config": {"class_weight": "none"}}),
        slow({"config": LINEAR}, {}),
        slow({"config": LINEAR}, {"method": "dp-mix-self", "config": {"augmult": 2, "steps": 2}}),
        slow({"config": {"steps": 3, "learning_rate": 0.05}, "network": Net}, {"network": Net}),
        (
            {"method": "dp-randp", "config": UNTRAINED | {"calibration_share": 0.0}},
            {"config": {"phase_iii": "full", "phase_iii_learning_rate": 1e-12, "steps": 2}},
        ),
        slow(
            {"method": "dp-randp", "config": UNTRAINED | {"phase_iii": "full"}},
            {"config": {"phase_iii_learning_rate": 1e-12}},
        ),
    ],
)  # fmt: skip
def test_training_begins_where_the_earlier_run_ended(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    """Steps of no length leave the weights as they were released; those of an encoder too."""
    images = made(side=16)
    train(images, tmp_path / "one", **first)
    config = {**second.get("config", {}), **STILL}
    config = {name: value for name, value in config.items() if name not in ("encoder", "encoder_options")}
    train(images, tmp_path / "two", from_run=tmp_path / "one", **{**second, "config": config})
    before, after = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)
    assert dpvision.load(tmp_path / "two").offsets is None
    assert dpvision.verify(tmp_path / "two").holds


@pytest.mark.parametrize(
    "first",
    [
        {"method": "dp-randp", "config": PIXELS | {"calibration_share": 0.3}},
        {"method": "dp-ridge", "config": {"encoder": "pixels", "encoder_options": {"size": 4}}},
    ],
)
def test_a_linear_head_is_learned_anew_and_averaged_with_the_earlier_one(
    first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by the square of its N/σ, of a Gaussian release with its ε. In a chain the earlier ones count
    together.
    """
    learn, heads = DPRandP.learn_from, list[Tensor]()

    def learned(*arguments: Any) -> Learned:
        found = learn(*arguments)
        heads.append(found.tensors["network.head.weight"])
        return found

    images, settings = made(), {"method": "dp-randp", "config": {"steps": 3}}
    train(images, tmp_path / "one", **first)
    monkeypatch.setattr(DPRandP, "learn_from", learned)
    train(images, tmp_path / "two", from_run=tmp_path / "one", epsilon=2.0, **settings)
    train(images, tmp_path / "three", from_run=tmp_path / "two", **settings)
    monkeypatch.undo()
    heads.insert(0, weights_of(tmp_path / "one")["network.head.weight"])
    parts = card_of(tmp_path / "three")["parts"]
    precision = [N**2 / dp_accounting.get_sigma_gaussian(part["epsilon"], DELTA) ** 2 for part in parts]
    for name, count in (("two", 2), ("three", 3)):
        shares = torch.tensor(precision[:count]) / sum(precision[:count])
        expected = sum(share * head for share, head in zip(shares, heads, strict=False))
        found = weights_of(tmp_path / name)["network.head.weight"]
        largest = max(float(head.abs().max()) for head in heads[:count])  # which may nearly cancel
        torch.testing.assert_close(found, expected.float(), rtol=0.01, atol=0.01 * largest)
        assert dpvision.verify(tmp_path / name).holds
    anew = dpvision.plan(images, epsilon=2, delta=DELTA, from_run=tmp_path / "one", **settings).config
    fresh = dpvision.plan(images, epsilon=2, delta=DELTA, **{**settings, "config": PIXELS}).config
    assert anew.learning_rate == fresh.learning_rate


def test_the_first_loss_is_that_of_the_release(runs: Path) -> None:
    """Seen in RUN/private: all images are in the first batch, one view of each."""
    images = made()
    steps = (runs / "two" / "private" / "metrics.jsonl").read_text().splitlines()
    logits = dpvision.load(runs / "one")(images.pixels)
    assert images.labels is not None
    loss = float(nn.functional.cross_entropy(logits, images.labels))
    assert json.loads(steps[0])["mean_loss"] == pytest.approx(loss, rel=1e-4)


def test_settings_are_those_of_the_earlier_run(runs: Path, tmp_path: Path) -> None:
    def planned(images: Images, **options: Any) -> Any:
        given = {"epsilon": 1.0, "delta": DELTA, "from_run": runs / "one", **options}
        return dpvision.plan(images, **given)

    same = planned(made())
    assert same.config.learning_rate == LINEAR["learning_rate"]
    assert same.config.steps == 3
    assert same.method == "from:dp-sgd"
    assert same.epsilon < 1.01 < same.epsilon_with_earlier < 2
    others = made(3, count=2 * N)
    assert planned(others, delta=1e-4).config.expected_batch_size == 2 * N
    assert planned(made(), config={"steps": 5}).config.steps == 5
    noisier = planned(made(), epsilon=0.3).config.learning_rate
    assert 0.2 * LINEAR["learning_rate"] < noisier < 0.5 * LINEAR["learning_rate"]
    assert dpvision.plan(made(), epsilon=1, delta=DELTA, config=LINEAR).epsilon_with_earlier is None


def test_images_are_read_as_the_classifier_takes_them(tmp_path: Path) -> None:
    dpvision.train(
        "bundled:digits",
        epsilon=1,
        out=tmp_path / "one",
        size=6,
        config={**LINEAR, "expected_batch_size": 50},
    )
    second = dpvision.train("bundled:digits", epsilon=1, out=tmp_path / "two", from_run=tmp_path / "one")
    assert second.model.image_shape == (1, 6, 6)
    assert "--from RELEASE" in card_of(tmp_path / "two")["made"]["command"]
    assert str(tmp_path) not in (second.release / "card.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"network": "tanh-cnn"}}, "network is part of what was released"),
        ({"config": {"network_options": {"a": 1}}}, "network_options is part of"),
        ({"config": {"from_digest": "0"}}, "no run chooses from_digest"),
        ({"method": "dp-randp"}, "is no head on an encoder"),
        ({"method": "dp-ridge"}, "dp-ridge does not train by steps"),
        ({"method": "dp-moments"}, "dp-moments does not train by steps"),
        ({"images": made(names=("right", "left"))}, r"\['left', 'right'\], not \['right', 'left'\]"),
        ({"images": made(names=("left", "right", "up"))}, "the classes"),
        ({"images": made(side=9)}, "images of shape"),
        ({"images": made().with_units([index // 3 for index in range(N)]), "delta": 0.01}, "protects images"),
        ({"images": made(count=8), "delta": 0.05}, "is not below 1/N for the 90 of"),
        ({"from_run": "head", "config": {"encoder": "scattering"}}, "encoder is part of"),
        ({"from_run": "head", "config": {"head": "affine"}}, "head is part of"),
        ({"from_run": "head", "method": "dp-sgd"}, "is a head on an encoder"),
        ({"from_run": "ridge"}, "dp-ridge does not train by steps"),
        ({"from_run": "images"}, "released images and no classifier"),
        ({"from_run": "nothing"},  r"config\.json is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from(
    runs: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    images = options.get("images", made())
    given = {name: value for name, value in options.items() if name != "images"}
    given["from_run"] = runs / given.get("from_run", "one")
    with pytest.raises(InputError, match=message):
        train(images, tmp_path / "no", **given)
    assert not (tmp_path / "no").exists()
    assert not default_ledger_path(images.digest).exists()


@pytest.mark.slow
def test_of_a_phase_iii_all_that_learned_goes_on_learning(tmp_path: Path) -> None:
    whole = {"encoder": "random-wrn-10-1", "phase_iii": "full", "steps": 1}
    train(made(side=16), tmp_path / "one", method="dp-randp", config=whole)
    with pytest.raises(InputError, match="phase_iii was full"):
        train(made(side=16), tmp_path / "no", from_run=tmp_path / "one", config={"phase_iii": "none"})


def test_nothing_but_train_goes_on(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no option 'from_run'"):
        dpvision.tune(made(), epsilon=1, out=tmp_path / "no", search={"steps": [1, 2]}, from_run=runs / "one")
    with pytest.raises(InputError, match="leave out search or from_run"):
        dpvision.plan(made(), epsilon=1, search={"steps": [1, 2]}, from_run=runs / "one")
    with pytest.raises(InputError, match="leave one out"):
        dpvision.plan(made(), epsilon=1, refine=runs / "images", from_run=runs / "one")
    with pytest.raises(InputError, match="no setting 'from_run'"):
        train(made(), tmp_path / "no", config={"from_run": str(runs / "one")}, method="dp-sgd")
    with pytest.raises(InputError, match="no method 'from:dp-sgd'"):
        train(made(), tmp_path / "no", method="from:dp-sgd")
    with pytest.raises(InputError, match="does not train by steps"):
        GoingOn(find_method("tune:dp-sgd"))
    assert command(["tune", "bundled:digits", "--epsilon", "1", "--from", str(runs / "one")]) == 2
    assert "--from" in capsys.readouterr().err


def test_an_audit_is_of_the_steps_that_follow(runs: Path) -> None:
    found = dpvision.audit(made(), epsilon=1, delta=DELTA, canaries=20, from_run=runs / "one")
    assert (found.method, found.refuted) == ("from:dp-sgd", False)
    assert found.epsilon < 1.01  # without what the earlier run has cost, of which there are no canaries


def test_what_one_epsilon_cannot_stand_for(runs: Path) -> None:
    """An unpaid run, a pool that was made of private images, an N that δ is not for, and too many events."""
    options = TrainOptions(epsilon=1, out=runs / "no", from_run=runs / "three")
    earlier, budget = earlier_of(options), Budget(1.0, DELTA)
    assert earlier is not None
    earlier.check(made(), None, budget)
    pool = {"pool": {"images": 3, "guarantee": {"epsilon": 1.0}}}
    parts = {"parts": [{**earlier.guarantee["parts"][0], "num_examples": 1000}]}
    for changed, message in (
        ({"not_covered": [UNPAID]}, "in no account"),
        ({"not_covered": ["another", UNPAID_BEFORE]}, "in no account"),
        (pool, "a pool that was made of private images"),
        (parts, "not below 1/N for the 1000"),
    ):
        with pytest.raises(InputError, match=message):
            replace(earlier, guarantee={**earlier.guarantee, **changed}).check(made(), None, budget)
    mechanism = GaussianSumMechanism(1.0, 1.0, FullBatch(N))
    stages = Calibrated(1.0, (Stage("a sum", mechanism, 1),), 1.0)
    many = {**earlier.guarantee, "events": earlier.guarantee["events"][:1] * MOST_EVENTS}
    with pytest.raises(InputError, match="33 kinds of events"):
        replace(earlier, guarantee=many).check_length(stages)


def test_a_release_that_was_changed_is_refused(runs: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "card.json"):
        copy = tmp_path / name
        shutil.copytree(runs / "one" / "release", copy)
        content = bytearray((copy / name).read_bytes())
        content[-3] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is not as its guarantee\.json says"):
            train(made(), tmp_path / "no", from_run=copy)
    (copy / "guarantee.json").unlink()
    with pytest.raises(InputError, match="is missing"):
        train(made(), tmp_path / "no", from_run=copy)


@pytest.mark.parametrize(
    ("name", "value"), [("sampler", None), ("num_examples", "x"), ("epsilon", 0.1), ("mechanisms", "x")]
)
def test_a_card_that_is_not_true_is_refused_before_anything_is_spent(
    runs: Path, tmp_path: Path, name: str, value: Any
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "one" / "release", copy)
    card = card_of(runs / "one") | {name: value}
    (copy / "card.json").write_text(json.dumps(card))
    others = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != FILE}
    (copy / FILE).write_bytes(guarantee_file(card_of(runs / "one"), others))
    images = made(seed=7)
    with pytest.raises(InputError, match="does not hold what it states"):
        train(images, tmp_path / "no", from_run=copy)
    assert not default_ledger_path(images.digest).exists()
    assert not (tmp_path / "no").exists()


def test_an_interrupted_run_goes_on_only_from_where_it_began(tmp_path: Path) -> None:
    train(made(), tmp_path / "one", config=LINEAR, seed=1)

    def interrupt(what: str, done: int, total: int, account: object = None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made(), tmp_path / "two", from_run=tmp_path / "one", progress=interrupt, seed=2)
    (tmp_path / "one").rename(tmp_path / "kept")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        dpvision.resume(tmp_path / "two", data=made())
    train(made(), tmp_path / "one", config=LINEAR, seed=3)
    with pytest.raises(InputError, match="is not the release that this run began with"):
        dpvision.resume(tmp_path / "two", data=made())
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "kept").rename(tmp_path / "one")
    dpvision.resume(tmp_path / "two", data=made())
    train(made(), tmp_path / "whole", from_run=tmp_path / "one", seed=2)
    torch.testing.assert_close(weights_of(tmp_path / "two"), weights_of(tmp_path / "whole"))
    assert card_of(tmp_path / "two")["epsilon"] == card_of(tmp_path / "whole")["epsilon"]


def test_what_was_not_private_stays_so(tmp_path: Path) -> None:
    train(made(), tmp_path / "one", config=LINEAR, seed=1)
    train(made(), tmp_path / "two", from_run=tmp_path / "one")
    card = card_of(tmp_path / "two")
    assert not card["is_private"]
    assert card["noise"] == "a fixed seed"
    assert "# NOT PRIVATE" in (tmp_path / "two" / "release" / "card.md").read_text()


def test_on_other_images_one_account_is_a_bound_for_both(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = made(5, count=60)
    with caplog.at_level(logging.WARNING, "dpvision"):
        result = train(others, tmp_path / "two", from_run=runs / "one", config={"steps": 2})
    assert "no ledger" not in caplog.text  # the run says that it was on others
    assert result.epsilon == epsilon([*events_of(card_of(runs / "one")), *spent_on(others)], DELTA)
    card = card_of(tmp_path / "two")
    assert "number of training images: 90" in card["taken_as_public"]
    assert card["num_examples"] == 60
    shutil.copytree(runs / "one" / "release", tmp_path / "copy")
    with caplog.at_level(logging.WARNING, "dpvision"):
        train(others, tmp_path / "three", from_run=tmp_path / "copy", config={"steps": 2})
    assert "no ledger of made with 5 has what that cost" in caplog.text


@pytest.mark.slow
def test_a_limit_of_the_owner_counts_both(tmp_path: Path) -> None:
    images, ledger = made(11), tmp_path / "ledger.jsonl"
    train(images, tmp_path / "one", config=LINEAR, ledger=ledger)
    Ledger(ledger).set_limit(Budget(1.3, DELTA))
    with pytest.raises(InputError, match="limit"):
        train(images, tmp_path / "two", from_run=tmp_path / "one", ledger=ledger)
    planned = dpvision.plan(images, epsilon=1, delta=DELTA, from_run=tmp_path / "one", ledger=ledger)
    assert not planned.allowed
    assert planned.epsilon_fits is not None
    train(images, tmp_path / "three", epsilon=planned.epsilon_fits, from_run=tmp_path / "one", ledger=ledger)


def test_a_card_that_leaves_the_earlier_part_out_is_told(runs: Path, tmp_path: Path) -> None:
    """As long as it still says that there was one. Who removes every trace has made another card, which no
    release can tell from a true one.
    """
    shutil.copytree(runs / "two" / "release", tmp_path / "copy")
    card, own = card_of(runs / "two"), card_of(runs / "two")["parts"][1]
    card |= {"events": card["events"][1:], "mechanisms": card["mechanisms"][1:], "epsilon": own["epsilon"]}
    card["accountant"]["epsilon_by_rdp"] = epsilon(events_of(card), DELTA, "add_or_remove_one", "rdp")
    card["strength"] = strength_of(card)
    for parts in (card["parts"], [own], []):
        card["parts"] = parts
        forms = card_files(card, None)
        files = {
            path.name: path.read_bytes()
            for path in (tmp_path / "copy").iterdir()
            if path.name not in (FILE, *forms)
        }
        for name, content in {**forms, FILE: guarantee_file(card, files | forms)}.items():
            (tmp_path / "copy" / name).write_bytes(content)
        wrong = [check for check in dpvision.verify(tmp_path / "copy").checks if not check.holds]
        assert [check.name for check in wrong] == ["card"]
        assert "earlier releases" in wrong[0].found


@pytest.mark.slow
def test_what_a_tuning_has_cost_is_accounted_for_as_a_selection(tmp_path: Path) -> None:
    config = {name: value for name, value in LINEAR.items() if name != "learning_rate"}
    search = {"learning_rate": [0.02, 0.05]}
    dpvision.tune(
        made(), epsilon=1, delta=DELTA, search=search, trials=2, config=config, out=tmp_path / "one"
    )
    second = train(made(), tmp_path / "two", from_run=tmp_path / "one")
    card = card_of(tmp_path / "two")
    assert "Rényi" in card["accountant"]["epsilon_by"]
    assert second.epsilon == epsilon(events_of(card), DELTA)
    assert card["config"]["learning_rate"] <= 0.05
    assert dpvision.verify(tmp_path / "two").holds
    assert "that of an earlier release, which is paid for" in (second.release / "card.html").read_text()


def test_a_run_that_goes_on_keeps_its_guarantee(tmp_path: Path) -> None:
    """On neighbours, by record and replay: it begins with what was released, whichever of them it is on."""
    images = made(count=12)
    config = {**LINEAR, "expected_batch_size": 4, "steps": 3, "precision": "float32"}
    train(images, tmp_path / "one", config=config, delta=1e-5)
    run = method_run("dp-sgd", num_examples=12, from_run=tmp_path / "one")
    check_guarantee(run, images, "add_or_remove_one", example=4)


@pytest.mark.slow
def test_the_commands(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--set", "network=linear", "--set", "steps=2", "--json"]
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    data = ["bundled:digits", "--epsilon", "1"]
    assert command(["train", *data, "--out", one, *fast]) == 0
    capsys.readouterr()
    assert command(["plan", *data, "--from", one, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert command(["plan", *data, "--from", one]) == 0
    assert "with earlier releases" in capsys.readouterr().out
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'data = "bundled:digits"\nepsilon = 1\nfrom_run = "{one}"\n')
    assert command(["train", "--config", str(recipe), "--out", two, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == planned["epsilon_with_earlier"] > 1.2
    assert command(["train", *data, "--from", str(tmp_path / "no"), "--out", str(tmp_path / "c")]) == 2
    assert "is missing" in capsys.readouterr().err
