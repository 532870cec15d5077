"""docs/guide/from-opacus.md: the same training in both, and what the page says of Opacus."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checks.doc_blocks import DOCS, blocks
from dpvision.gradients import ClippedGradient
from dpvision.privacy import GaussianSumMechanism, PoissonSampler, epsilon, gaussian_event

opacus = pytest.importorskip("opacus", reason="opacus is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of Opacus' hooks

PAGE = DOCS / "guide" / "from-opacus.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's blocks have defined and done."""
    found: dict[str, Any] = {"__name__": "theirs"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setenv("DPVISION_HOME", str(tmp_path_factory.mktemp("home")))
        patch.chdir(tmp_path_factory.mktemp("here"))
        for block in blocks(PAGE, "python"):
            exec(block.text, found)
    return found


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def private(model: nn.Module, **options: Any) -> tuple[Any, Any, Any, Any]:
    """Opacus' engine, model, optimiser and loader."""
    data = torch.utils.data.TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    with warnings.catch_warnings(action="ignore"):
        engine = opacus.PrivacyEngine(accountant="rdp")
        given = {"noise_multiplier": 0.0, "max_grad_norm": 0.5, **options}
        made = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            data_loader=torch.utils.data.DataLoader(data, batch_size=8, shuffle=True),
            **given,
        )
    return engine, *made


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@torch.no_grad()
def test_both_spend_nearly_the_same_and_learn_as_well(names: dict[str, Any]) -> None:
    theirs, ours = names["privacy_engine"].get_epsilon(delta=1e-5), names["account"].epsilon_spent()
    assert names["loader"].sample_rate == pytest.approx(0.1)
    assert theirs == pytest.approx(2, rel=0.01)
    assert ours == pytest.approx(2, rel=0.01)
    assert names["result"].epsilon == pytest.approx(2, rel=0.01)
    test = names["dpvision"].open_images("bundled:digits", "test")
    pixels = test.take(torch.arange(len(test))).float() / 255
    for model in (names["theirs"], names["ours"], names["result"].model):
        assert (model(pixels).argmax(dim=1) == test.labels).double().mean() > 0.7


def test_the_accountants_agree(names: dict[str, Any]) -> None:
    history = [(names["optimizer"].noise_multiplier, 0.1, 60)]
    event = gaussian_event(*history[0])
    found = {}
    for name in ("rdp", "prv"):
        accountant = opacus.accountants.create_accountant(name)
        accountant.history = history
        found[name] = accountant.get_epsilon(1e-5)
    assert epsilon([event], 1e-5, accountant="rdp") == pytest.approx(found["rdp"], rel=1e-9)
    assert epsilon([event], 1e-5) == pytest.approx(found["prv"], rel=0.01)
    assert epsilon([event], 1e-5) == pytest.approx(1.986, abs=2e-3)
    assert found["prv"] == pytest.approx(1.996, abs=2e-3)


def test_the_clipped_sum_of_a_batch_is_the_same() -> None:
    ours = network()
    _, theirs, optimizer, _ = private(network())
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    optimizer.zero_grad()
    F.cross_entropy(theirs(x), y).backward()
    optimizer.clip_and_accumulate()
    sums = ClippedGradient(ours, loss, 0.5, precision="float32").sum(x.unsqueeze(1), y).gradients
    for name, parameter in theirs.named_parameters():
        expected = sums[name.removeprefix("_module.")].float()
        torch.testing.assert_close(parameter.summed_grad, expected, rtol=1e-3, atol=1e-5)


def test_the_divisors() -> None:
    _, _, optimizer, loader = private(network())
    assert optimizer.expected_batch_size == int(40 * loader.sample_rate)
    assert PoissonSampler(1437, 0.1).expected_batch_size == 143.70000000000002


def test_theirs_accounts_for_poisson_where_batches_are_not() -> None:
    engine, model, optimizer, loader = private(network(), poisson_sampling=False, noise_multiplier=1.0)
    assert type(loader) is torch.utils.data.DataLoader
    x, y = next(iter(loader))
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert engine.accountant.history == [(1.0, 0.2, 1)]


def test_theirs_goes_on_past_its_target(names: dict[str, Any]) -> None:
    engine, optimizer, model = (names[name] for name in ("privacy_engine", "optimizer", "theirs"))
    before = list(engine.accountant.history)
    for x, y in names["loader"]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert engine.get_epsilon(delta=1e-5) > 2.05
    engine.accountant.history = before


def test_a_gradient_that_is_not_finite() -> None:
    x, y = torch.rand(3, 1, 8, 8), torch.arange(3)
    x[1] = torch.inf
    _, theirs, optimizer, _ = private(network())
    F.cross_entropy(theirs(x), y).backward()
    optimizer.clip_and_accumulate()
    assert any(not parameter.summed_grad.isfinite().all() for parameter in theirs.parameters())
    found = ClippedGradient(network(), loss, 0.5).sum(x.unsqueeze(1), y)
    assert found.nonfinite == 1
    assert all(total.isfinite().all() for total in found.gradients.values())


def test_names_of_weights() -> None:
    _, theirs, _, _ = private(network())
    ours = network()
    ClippedGradient(ours, loss, 1.0).sum(torch.rand(2, 1, 1, 8, 8), torch.tensor([0, 1]))
    assert list(theirs.state_dict()) == ["_module.1.weight", "_module.1.bias"]
    assert list(ours.state_dict()) == ["1.weight", "1.bias"]


def test_layers_that_are_replaced_there_and_taken_here() -> None:
    for layer, taken in ((nn.LSTM(8, 8), "DPLSTM"), (nn.MultiheadAttention(8, 2), "DPMultiheadAttention")):
        assert opacus.validators.ModuleValidator.validate(layer)
        assert type(opacus.validators.ModuleValidator.fix(layer)).__name__ == taken


def test_phases_with_noise_of_their_own_are_in_one_plan(names: dict[str, Any]) -> None:
    sampler = PoissonSampler(100, 0.1)
    first, second = (GaussianSumMechanism(sigma, 1.0, sampler) for sigma in (4.0, 8.0))
    account = names["dpvision"].privacy.Account(
        names["budget"], None, "phases", [first.cost(30), second.cost(30)]
    )
    account.open()
    assert (account.left(first.event), account.left(second.event)) == (30, 30)
