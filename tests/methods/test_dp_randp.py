"""DP-RandP: a frozen encoder, a private head, one account."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant

import dpvision
from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.methods import Calibrated
from dpvision.methods.dp_randp import DPRandP, DPRandPConfig
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.privacy import Budget, InputError, Ledger, SeededRandom
from tests.methods.learning import CPU, NAMES, calibrated, facts, facts_of, session_on, uncalibrated

PHASE_II = ("features", "sampled")


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(240)


PAPER = {
    "encoder": "random-wrn-16-4",
    "encoder_options": {"taps": [5]},
    "head": "affine",
    "phase_ii": "sampled",
    "phase_iii": "full",
    "phase_ii_share": 96 / 875,
    "steps": 875,
    "expected_batch_size": 4096,
    "augmult": 16,
    "pad": 4,
    "flip": True,
    "learning_rate": 15.0,
    "phase_iii_learning_rate": 0.4,
    "momentum": 0.0,
    "schedule": "constant",
    "ema_decay": 0.999,
}


def config_for(num_examples: int, epsilon: float = 1.0, **overrides: object) -> DPRandPConfig:
    return DPRandP().default_config(facts(num_examples), Budget(epsilon, 1e-5), CPU, overrides)


def releases(config: DPRandPConfig, num_examples: int, epsilon: float) -> Calibrated:
    return calibrated(DPRandP(), config, facts(num_examples), Budget(epsilon, 1e-5))


def test_the_account_is_that_of_a_composition_by_hand() -> None:
    config = config_for(50_000)
    plan = releases(config, 50_000, 1.0)
    accountant = PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(plan.noise_multiplier), config.steps)
    # 50 steps of the scale have 2 % of the sum of 1/σ².
    of_scale = plan.noise_multiplier * math.sqrt(50 * 0.98 / (config.steps * 0.02))
    accountant.compose(dp_accounting.GaussianDpEvent(of_scale), 50)
    assert plan.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert 0.99 <= plan.epsilon <= 1.0
    found = [(stage.count, stage.event.sample_rate) for stage in plan.stages]
    assert found == [(config.steps, 1.0), (50, 1.0)]


def test_both_phases_cost_what_the_paper_pays() -> None:
    """Tang et al., arXiv 2306.06076: ε = 1 on CIFAR-10, 96 of 875 steps for the head; σ = 9.12 by PLD."""
    config = config_for(50_000, **PAPER)
    plan = releases(config, 50_000, 1.0)
    assert plan.noise_multiplier == pytest.approx(9.12, rel=0.01)
    step = dp_accounting.PoissonSampledDpEvent(
        4096 / 50_000, dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    )
    accountant = PLDAccountant()
    (part,) = config.parts(50_000)
    for phase in part.phases:
        accountant.compose(step, phase.steps)
    assert plan.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert [(phase.steps, phase.learning_rate) for phase in part.phases] == [(96, 15.0), (779, 0.4)]


def test_a_head_on_features_and_then_all_weights_are_one_account() -> None:
    """Against a composition by hand; the noise on the mean gradient is the same in both."""
    config = config_for(50_000, 8.0, phase_iii="full", steps=320, expected_batch_size=2000)
    plan = releases(config, 50_000, 8.0)
    head, everything = plan.stages
    assert [(stage.count, stage.event.sample_rate) for stage in plan.stages] == [(80, 1.0), (240, 0.04)]
    assert head.mechanism.standard_deviation / 50_000 == pytest.approx(
        everything.mechanism.standard_deviation / 2000
    )
    sigma = plan.noise_multiplier
    accountant = PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(25 * sigma), 80)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.04, dp_accounting.GaussianDpEvent(sigma)), 240)
    assert plan.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert 7.9 <= plan.epsilon <= 8.0


@pytest.mark.parametrize("phase_ii", PHASE_II)
@pytest.mark.parametrize(("share", "steps"), [(0.0, [10]), (0.3, [3, 7]), (1.0, [10])])
def test_phases_share_the_steps(share: float, steps: list[int], phase_ii: str) -> None:
    config = config_for(100, phase_iii="full", steps=10, phase_ii_share=share, phase_ii=phase_ii)
    parts = config.parts(100)
    assert [phase.steps for part in parts for phase in part.phases] == steps
    assert uncalibrated(DPRandP(), config, facts(100), 1.0).num_releases == 10


@pytest.mark.parametrize("phase_ii", PHASE_II)
def test_the_head_learns_first_then_everything(images: Images, tmp_path: Path, phase_ii: str) -> None:
    """Whose weights move in which phase, and that they are released."""
    config = {"encoder": "random-wrn-10-1", "steps": 4, "phase_iii": "full", "augmult": 2, "pad": 1}
    config["phase_ii"] = phase_ii
    options = {"epsilon": 8.0, "delta": 1e-3, "method": "dp-randp", "seed": 1}

    def weights(share: float) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{share}"
        dpvision.train(images, out=out, config=config | {"phase_ii_share": share}, **options)
        assert "All weights were trained under" in (out / "release" / "card.md").read_text()
        return dpvision.load(out / "release").state_dict()

    head_only, both = weights(1.0), weights(0.5)
    torch.manual_seed(1)
    fresh = config_for(2, **config).build_model(facts_of(images))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(head_only[name], parameter) == (not name.startswith("network.head"))
        assert not torch.equal(both[name], parameter)


@pytest.mark.parametrize(
    ("phase_iii", "learning", "card"),
    [
        ("top", ["stages.2."], "The head and the last third of the encoder's layers were trained"),
        ("norms", [".norm."], "The head and the encoder's norms were trained"),
    ],
)
def test_a_part_of_the_encoder_learns_and_the_rest_does_not(
    images: Images, tmp_path: Path, phase_iii: str, learning: list[str], card: str
) -> None:
    """Also of an encoder inside a whitened one."""
    config = {"encoder": "random-wrn-10-1", "encoder_options": {"whiten": 0.2}, "phase_iii": phase_iii}
    config |= {"steps": 4, "phase_ii_share": 0.5}
    options = {"epsilon": 8.0, "delta": 1e-3, "method": "dp-randp", "seed": 1, "config": config}
    dpvision.train(images, out=tmp_path / "run", **options)
    assert card in (tmp_path / "run" / "release" / "card.md").read_text()
    learned = dpvision.load(tmp_path / "run" / "release").state_dict()
    fresh = config_for(2, **config).build_model(facts_of(images))
    moved = {name for name, p in fresh.named_parameters() if not torch.equal(learned[name], p)}
    of_encoder = {name for name, _ in fresh.named_parameters() if not name.startswith("network.head.")}
    assert moved - of_encoder == {"network.head.weight"}
    assert moved & of_encoder == {n for n in of_encoder if any(part in n for part in learning)} != of_encoder


@pytest.mark.parametrize(("phase_iii", "missing"), [("top", "layers"), ("norms", "GroupNorm or LayerNorm")])
def test_an_encoder_without_such_a_part_is_refused_and_costs_nothing(
    images: Images, tmp_path: Path, phase_iii: str, missing: str
) -> None:
    config = {"encoder": "pixels", "phase_iii": phase_iii, "steps": 4}
    with pytest.raises(InputError, match=f"pixels has no {missing} that could learn"):
        dpvision.train(
            images,
            epsilon=8,
            delta=1e-3,
            method="dp-randp",
            config=config,
            out=tmp_path / "run",
            ledger=tmp_path / "ledger.jsonl",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("phase_ii", PHASE_II)
@pytest.mark.parametrize("cut", [2, 3, 4])
def test_an_interruption_in_either_phase_changes_nothing(
    images: Images, tmp_path: Path, cut: int, phase_ii: str
) -> None:
    """The head has steps 1 to 3. Momentum begins afresh with a phase, and only then."""
    config = {"encoder": "random-wrn-10-1", "steps": 6, "phase_iii": "full", "phase_ii_share": 0.5}
    config["phase_ii"] = phase_ii
    options = {"epsilon": 8.0, "delta": 1e-3, "method": "dp-randp", "seed": 3, "config": config}
    whole = dpvision.train(images, out=tmp_path / "whole", **options)

    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if what == "features":
            return
        if done == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, out=tmp_path / "cut", progress=interrupt, **options)
    resumed = dpvision.resume(tmp_path / "cut", data=images)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_steps_lost_in_either_part_are_counted_and_never_repeated(images: Images, tmp_path: Path) -> None:
    """Paid for, but the process died before a checkpoint: the part of the run is that much shorter."""
    config = config_for(240, encoder="random-wrn-10-1", steps=6, phase_iii="full", phase_ii_share=0.5)
    budget = Budget(8.0, 1e-3)
    plan = calibrated(DPRandP(), config, facts(240), budget)
    ledger = Ledger.for_dataset(tmp_path / "ledger.jsonl", images.digest, 240)
    seen: list[int] = []
    session, account = session_on(
        images, plan, budget, ledger=ledger, on_step=lambda step: seen.append(step.step)
    )
    for stage in plan.stages:
        account.record(stage.mechanism.event)
    DPRandP().learn(config, session)
    assert (session.lost, seen) == (2, [0, 1, 3, 4])
    assert [account.left(stage.mechanism.event) for stage in plan.stages] == [0, 0]


def test_no_part_repeats_the_noise_of_another(images: Images, tmp_path: Path) -> None:
    """A seeded source gives the same numbers for the same purpose and step, and steps begin anew."""
    asked: list[tuple[tuple[str, int], ...]] = []

    class Noted(SeededRandom):
        def __init__(self, seed: int, path: tuple[tuple[str, int], ...] = ()) -> None:
            super().__init__(seed, path)
            self.path = path

        def at(self, purpose: str, step: int) -> Noted:
            return Noted(self.seed, (*self.path, (purpose, step)))

        def bytes(self, count: int) -> bytes:
            asked.append(self.path)
            return super().bytes(count)

    config = config_for(240, encoder="random-wrn-10-1", steps=4, phase_iii="full", phase_ii_share=0.5)
    budget = Budget(8.0, 1e-3)
    plan = calibrated(DPRandP(), config, facts(240), budget)
    ledger = Ledger.for_dataset(tmp_path / "ledger.jsonl", images.digest, 240)
    session, _ = session_on(images, plan, budget, ledger=ledger, random=Noted(0))
    DPRandP().learn(config, session)
    steps = [path for path in dict.fromkeys(asked) if path[-1][0] == "noise"]
    assert len(steps) == 4


def test_parts_of_equal_events_share_none(images: Images, tmp_path: Path) -> None:
    """With all examples in every step of both, the account cannot tell the parts' releases apart."""
    config = {"encoder": "random-wrn-10-1", "steps": 4, "phase_iii": "full", "phase_ii_share": 0.5}
    config["expected_batch_size"] = 240
    seen: list[tuple[int, int]] = []
    result = dpvision.train(
        images,
        method="dp-randp",
        epsilon=8,
        delta=1e-3,
        config=config,
        out=tmp_path / "run",
        progress=lambda what, done, total, account: what == "features" or seen.append((done, total)),
    )
    assert seen == [(0, 4), (1, 4), (2, 4), (2, 4), (3, 4), (4, 4)]
    fresh = config_for(240, **config).build_model(facts_of(images)).state_dict()
    trained = result.model.state_dict()
    assert not any(torch.equal(trained[name], fresh[name]) for name in fresh if "encoder.stem" in name)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run/private/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [0, 1, 2, 3]


def test_training_learns_and_releases_what_comes_back(images: Images, tmp_path: Path) -> None:
    train, test = images.subset(range(200)), images.subset(range(200, 240))
    config = {"encoder": "patches", "encoder_options": {"centroids": 40, "whiten": 0.2}}
    result = dpvision.train(
        train, test=test, method="dp-randp", config=config, epsilon=50, delta=1e-3, out=tmp_path / "run"
    )
    assert result.epsilon <= 50
    assert result.test_accuracy is not None
    assert result.test_accuracy.value > 0.8
    again = dpvision.load(tmp_path / "run" / "release")
    assert torch.equal(again(test.pixels), result.model(test.pixels))
    card = json.loads((result.release / "card.json").read_text())
    assert (card["method"], card["mechanisms"][0]["sample_rate"]) == ("dp-randp", 1.0)
    assert card["model"]["encoder"]["name"] == "patches"
    text = (result.release / "card.md").read_text()
    assert "patches of random processes" in text
    assert "was not trained on the private images" in text


def test_the_encoder_stays_as_it_was(images: Images, tmp_path: Path) -> None:
    config = {"encoder": "random-wrn-10-1", "steps": 3}
    torch.manual_seed(0)
    options = {"epsilon": 8.0, "delta": 1e-3, "method": "dp-randp", "config": config, "seed": 1}
    first = dpvision.train(images, out=tmp_path / "first", **options).model
    config["learning_rate"] = 1.0  # type: ignore[assignment]
    second = dpvision.train(images, out=tmp_path / "second", **options).model
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]) == ("head" not in name)


@pytest.mark.parametrize("cut", [4, 6, 30])
def test_an_interrupted_run_goes_on_as_it_would_have(images: Images, tmp_path: Path, cut: int) -> None:
    """The head has steps 1 to 6, its scale the others."""
    config = {"steps": 6, "encoder": "pixels", "encoder_options": {"size": 4, "whiten": 0.2}}
    options = {"epsilon": 8.0, "delta": 1e-3, "method": "dp-randp", "seed": 3, "config": config}
    whole = dpvision.train(images, out=tmp_path / "whole", **options)
    told = set()

    def interrupt(what: str, done: int, total: int, account: object) -> None:
        told.add(what)
        if what in ("features", "looking at random processes"):
            return
        assert total == 56
        if done == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, out=tmp_path / "cut", progress=interrupt, **options)
    assert {"features", "Phase II"} | (
        {"calibration"} if cut > 6 else set()
    ) <= told  # an encoder is fitted once in a process
    resumed = dpvision.resume(tmp_path / "cut", data=images)
    assert resumed.epsilon == whole.epsilon
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


@pytest.mark.parametrize("shape", [(1, 3, 9), (1, 8, 8), (3, 15, 16), (1, 28, 28), (3, 32, 32), (3, 20, 30)])
def test_defaults_fit_the_data(shape: tuple[int, int, int]) -> None:
    public = facts(300, shape)
    config = DPRandP().default_config(public, Budget(2.0, 1e-3), CPU, {})
    assert config.mirror == (shape[0] == 3)
    network = config.build_model(public, fit=False).network
    assert 0 < network.encoder.out_features <= 9000
    expected = DPRandP().estimate(config, public, CPU)
    assert expected.seconds > 0
    assert expected.memory_bytes > 300 * shape[0] * 9


@pytest.mark.parametrize(
    ("num_examples", "shape", "encoder"),
    [
        (10_000, (3, 32, 32), "wrn-16-4-long+wrn-16-4"),
        (2501, (3, 64, 64), "wrn-16-4-long"),
        (60_000, (3, 32, 32), "wrn-16-4-long"),
        (60_001, (3, 32, 32), "wrn-10-4-small"),
        (10**6, (1, 28, 28), "patches"),
        (100, (3, 15, 40), "patches"),
        (100, (3, 40, 4), "scattering"),
    ],
)
def test_encoders_by_default_follow_from_public_facts(
    num_examples: int, shape: tuple[int, int, int], encoder: str
) -> None:
    config = DPRandP().default_config(facts(num_examples, shape), Budget(1.0, 1e-6), CPU, {})
    assert config.encoder == encoder


@pytest.mark.parametrize(
    ("num_examples", "shape"), [(20, (1, 8, 8)), (300, (3, 40, 30)), (50_000, (3, 32, 32))]
)
def test_defaults_of_phase_iii_fit_the_data_too(num_examples: int, shape: tuple[int, int, int]) -> None:
    options = {"phase_iii": "full", "steps": 8}
    public = facts(num_examples, shape)
    config = DPRandP().default_config(public, Budget(2.0, 1e-6), CPU, options)
    assert [part.settings.steps for part in config.parts(num_examples)] == [2, 6]
    assert 1 <= config.expected_batch_size <= num_examples / 5
    if num_examples < 1000:
        stand_in = Images(torch.zeros(4, *shape, dtype=torch.uint8), torch.arange(4) % 2, NAMES, "made")
        model = config.build_model(public)
        draws = SeededRandom(0).by_example().of(stand_in.ids)
        views, targets = config.views(None)(stand_in.pixels, stand_in.labels, draws)
        engine = ClippedGradient(model.requires_grad_(True), cross_entropy, config.max_grad_norm)
        assert engine.sum(views, targets).nonfinite == 0


def test_what_the_user_says_holds_and_what_does_not_exist_is_refused() -> None:
    assert config_for(100, steps=7, mirror=False).steps == 7
    with pytest.raises(InputError, match="no setting 'network'"):
        config_for(100, network="linear")
    with pytest.raises(InputError, match="phase_iii must be full or top or norms or none, not half"):
        config_for(100, phase_iii="half")
    with pytest.raises(InputError, match="phase_ii must be features or sampled, not half"):
        config_for(100, phase_ii="half")
    for share in (-0.1, 1.1):
        with pytest.raises(InputError, match="phase_ii_share must be between 0 and 1"):
            config_for(100, phase_ii_share=share)
    with pytest.raises(InputError, match="phase_iii_learning_rate must be above 0"):
        config_for(100, phase_iii_learning_rate=0.0)
    for views in ({"augmult": 4}, {"pad": 1}, {"flip": True}):
        with pytest.raises(InputError, match="views need phase_ii = sampled or a Phase III"):
            config_for(100, **views)
        config_for(100, phase_iii="full", **views)
        config_for(100, phase_ii="sampled", **views)
    with pytest.raises(InputError, match="no encoder 'resnet'"):
        config_for(4, encoder="resnet").build_model(facts(4))


def test_the_noise_of_all_steps_moves_a_logit_by_about_one() -> None:
    """Whatever N, ε, δ and the relation are, and however many steps there are: by the noise of all steps."""
    for n, budget in (
        (300, Budget(0.2, 1e-3)),
        (5_000, Budget(2.0, 1e-5)),
        (5_000, Budget(2.0, 1e-5, "replace_one")),
        (50_000, Budget(1.0, 1e-6)),
    ):
        for steps in ({}, {"steps": 20}, {"steps": 400}):
            config = DPRandP().default_config(facts(n, names=tuple("0123456789")), budget, CPU, steps)
            noise = calibrated(DPRandP(), config, facts(n), budget).noise_multiplier
            weight = torch.zeros(config.steps, dtype=torch.float64)
            assert config.schedule == "constant"
            for step in range(config.steps):  # how far the noise of each step goes, in the end
                rates = torch.full((config.steps - step,), config.learning_rate, dtype=torch.float64)
                decay = config.momentum ** torch.arange(config.steps - step).double()
                weight[step] = (rates * decay).sum()
            moved = float(weight.norm()) * noise * config.max_grad_norm / n
            assert moved <= 1.3
            assert moved >= 0.6 or config.learning_rate == 12 * 10, (n, budget, config.steps, moved)


def test_rates_grow_with_epsilon_and_not_above_what_classes_bear() -> None:
    rates = []
    for epsilon in (0.1, 0.5, 1.0, 2.0, 8.0):
        config = DPRandP().default_config(facts(50_000), Budget(epsilon, 1e-6), CPU, {})
        rates.append(config.learning_rate * config.steps)
        assert config.learning_rate <= 12 * 2
        assert config.steps == 200
    assert rates == sorted(rates)
