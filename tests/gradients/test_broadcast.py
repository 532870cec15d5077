"""Parameters that are broadcast over rows: each example has a copy, and the network is not run again."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, reference_clipped_sum, reference_gradients
from dpvision.gradients.broadcast import Broadcast
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.forward import RowsMoved
from dpvision.gradients.proof import proved_ownership
from tests.gradients.test_chunks import distance

C = 0.3
EXAMPLES, K, TOKENS, FEATURES = 5, 2, 4, 6


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class Uses(nn.Module):
    """``use`` of parameters of several shapes in the middle of a network over ``[N, TOKENS, FEATURES]``."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 3)
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.row = nn.Parameter(torch.randn(FEATURES))
        self.position = nn.Parameter(torch.randn(TOKENS, FEATURES))
        self.token = nn.Parameter(torch.randn(1, 1, FEATURES))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        x = eval(self.use, {"x": self.first(x), "self": self, "torch": torch})
        return self.last(x.tanh()).mean(dim=1)


COVERED = {
    "a scalar": "x * self.scalar",
    "a scalar on the left": "self.scalar - x",
    "a row": "x + self.row",
    "divided": "x / (self.row.square() + 1)",
    "a position": "x + self.position",
    "with a dimension of one": "x + self.position.unsqueeze(0)",
    "reshaped": "x * self.row.view(1, 1, -1)",
    "by a keyword": "torch.add(x, other=self.position, alpha=2)",
    "in place": "(2 * x).mul_(self.row)",
    "added in place": "(2 * x).__iadd__(self.position)",
    "a token": "torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)",
    "a token, repeated": "torch.cat([x, self.token.repeat(len(x), 1, 1)], dim=1)",
    "a token, expanded by a tuple": "torch.cat([self.token.expand((len(x), 1, -1)), x], dim=1)",
    "twice": "(x + self.row) * self.row",
    "several": "(x + self.position) * torch.sigmoid(self.row) + self.scalar",
    "over rows of rows": "(x.flatten(0, 1) * self.row).view_as(x)",
}
OTHERS = {
    "a product of two": "x + self.row * self.scalar",
    "a matrix product": "x @ torch.outer(self.row, self.row)",
    "joined": "x + torch.cat([self.row[:3], self.row[3:]])",
    "in parts": "x + torch.cat(self.row.chunk(2))",
    "a choice": "torch.where(x > 0, x, self.row)",
    "written to": "x + self.row.clone().mul_(2)",
}


def batch(examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(examples, K, TOKENS, FEATURES), torch.randint(3, (examples, K))


@pytest.mark.parametrize("name", COVERED)
def test_each_example_has_its_gradient_without_a_second_run(name: str) -> None:
    torch.manual_seed(0)
    model = Uses(COVERED[name]).double()
    views, targets = batch()
    views = views.double()
    with mock.patch("dpvision.gradients.capture.replayed_gradients", side_effect=AssertionError("replayed")):
        ownership = proved_ownership(model, loss, views, targets)
        used = {p for p in ("scalar", "row", "position", "token") if f"self.{p}" in model.use}
        assert used <= ownership.broadcast.keys()
        found = per_example_gradients(model, loss, ownership, views, targets).gradients
    for b, expected in enumerate(reference_gradients(model, loss, views, targets)):
        for key, gradient in found.items():
            torch.testing.assert_close(gradient.instantiate()[b], expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*COVERED, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_is_the_definitions_and_one_example_moves_it_by_c(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Uses((COVERED | OTHERS)[name])
    views, targets = batch()
    precision = "float32" if dtype == torch.float32 else "bfloat16"
    engine = ClippedGradient(model, loss, C, precision=precision, expected_batch_size=4)
    whole = engine.sum(views, targets)
    expected = reference_clipped_sum(model, loss, views, targets, C)
    assert distance(whole.gradients, expected) < (1e-3 if dtype == torch.float32 else 0.05) * C * EXAMPLES
    for left_out in (0, EXAMPLES - 1):
        others = torch.arange(EXAMPLES) != left_out
        rest = engine.sum(views[others], targets[others])
        assert torch.equal(rest.norms, whole.norms[others])
        assert distance(whole.gradients, rest.gradients) <= C


def test_a_module_of_low_precision_sums_its_gradients_in_single() -> None:
    torch.manual_seed(0)
    model = Uses("x + self.position").bfloat16()
    views, targets = batch()
    views = views.bfloat16()
    ownership = proved_ownership(model, loss, views, targets)
    found = per_example_gradients(model, loss, ownership, views, targets).gradients
    assert found["position"].instantiate().dtype == torch.float32


class InPieces(nn.Module):
    """Sends another number of rows past its parameter than in the trial, where there are many."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.last = nn.Parameter(torch.randn(FEATURES)), nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            halves = [half + self.row for half in x.chunk(2)]
            return self.last(torch.cat(halves).mean(dim=1))
        return self.last((x + self.row).mean(dim=1))


def test_other_rows_than_in_the_trial_are_noticed() -> None:
    model = InPieces()
    views, targets = batch(4)
    ownership = proved_ownership(model, loss, views, targets)
    assert "row" in ownership.broadcast
    with pytest.raises(RowsMoved, match="'row' meets 4 rows"):
        per_example_gradients(model, loss, ownership, views, targets)


def test_another_use_than_in_the_trial_is_noticed_and_not_left_out_of_the_gradient() -> None:
    """Of the nine rows of three examples, the pieces have five and four."""
    model = InPieces()
    views, targets = torch.randn(3, 3, TOKENS, FEATURES), torch.zeros(3, 3).long()
    ownership = proved_ownership(model, loss, views[:, :2], targets[:, :2])
    with pytest.raises(RowsMoved, match="'row' is used in another way"):
        per_example_gradients(model, loss, ownership, views, targets)


def test_a_parameter_as_long_as_the_batch_is_not_taken_for_one_of_every_row() -> None:
    row = torch.randn(4, 1, FEATURES)
    mode = Broadcast({"row": row}, torch.Size([4, 1]))
    with mode:
        _ = torch.randn(4, TOKENS, FEATURES) + row
    assert mode.others == {"row"}
    assert not mode.met["row"]
