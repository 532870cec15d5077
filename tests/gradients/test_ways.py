"""The ways to compute a gradient: the fastest that is right is taken, and it is chosen on public inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, clipped, reference_clipped_sum, ways
from dpvision.gradients.capture import per_example_gradients
from dpvision.gradients.per_example import Instantiated
from dpvision.gradients.ways import Ways
from tests.gradients.test_chunks import distance

C = 0.5


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    with (
        mock.patch.dict(ways._FOUND, clear=True),
        mock.patch.dict(clipped._CHOSEN, clear=True),
        mock.patch.object(ways, "WORTH_TIMING", 0.0),
    ):
        yield


def taking(seconds: float, value: float = 1.0) -> Callable[[], Instantiated]:
    def way() -> Instantiated:
        time.sleep(seconds)
        return Instantiated(torch.full((2, 3), value))

    return way


def timed(candidates: dict[str, Callable[[], Instantiated]], within: float = 10.0) -> str | None:
    found = Ways()
    with found.timed_until(time.perf_counter() + within):
        found.fastest("key", candidates)
    return found.chosen.get("key")


def test_the_fastest_is_chosen() -> None:
    assert timed({"slow": taking(0.02), "fast": taking(0.001), "middling": taking(0.01)}) == "fast"


def test_little_is_no_reason_to_change() -> None:
    assert timed({"first": taking(0.02), "hardly faster": taking(0.0195)}) == "first"


def test_a_way_that_computes_something_else_is_not_taken() -> None:
    assert timed({"right": taking(0.02), "wrong": taking(0.0, value=1.1)}) == "right"
    assert timed({"right": taking(0.02), "nan": taking(0.0, value=float("nan"))}) == "right"


def test_a_way_that_fails_is_not_taken() -> None:
    def fails() -> Instantiated:
        raise RuntimeError("no kernel")

    assert timed({"right": taking(0.01), "fails": fails}) == "right"
    ways._FOUND.clear()
    with pytest.raises(RuntimeError, match="no kernel"):
        timed({"fails": fails, "right": taking(0.0)})


def test_what_takes_hardly_any_time_is_not_timed() -> None:
    with mock.patch.object(ways, "WORTH_TIMING", 0.1):
        assert timed({"first": taking(0.02), "fast": taking(0.001)}) == "first"


def test_what_was_not_timed_in_time_goes_by_sizes() -> None:
    assert timed({"first": taking(0.02), "fast": taking(0.001)}, within=-1) is None


def test_times_are_kept_for_the_process() -> None:
    assert timed({"first": taking(0.02), "fast": taking(0.001)}) == "fast"
    assert timed({"first": taking(0.0), "fast": taking(0.02)}) == "fast"


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 36, 5)),
    )


def batch(examples: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(examples, 2, 3, 8, 8), torch.randint(5, (examples,))


def test_ways_are_timed_on_inputs_that_no_private_value_enters() -> None:
    """On other images of the same shape, all that is timed, and all that enters it, is the same."""
    shown: list[list[Tensor]] = []

    def run(views: Tensor, targets: Tensor) -> None:
        entered: list[Tensor] = []

        def spy(model: nn.Module, loss: object, ownership: object, views: Tensor, *rest: object) -> object:
            if any(isinstance(some, Ways) and some._deadline for some in rest):
                entered.append(views)
            return per_example_gradients(model, loss, ownership, views, *rest)

        ways._FOUND.clear()
        clipped._CHOSEN.clear()
        with mock.patch("dpvision.gradients.clipped.per_example_gradients", spy):
            ClippedGradient(convolutions(), loss, C).sum(views, targets)
        shown.append(entered)

    views, targets = batch()
    run(views, targets)
    run(1e3 * views + 5, targets)
    assert shown[0]
    for one, other in zip(*shown, strict=False):  # how many sizes are tried is a matter of time
        assert torch.equal(one, other)
        assert not torch.isin(one, views).any()


def test_nothing_is_timed_once_private_examples_pass() -> None:
    engine = ClippedGradient(convolutions(), loss, C)
    engine.sum(*batch())
    chosen = dict(engine.ways.chosen)
    assert chosen
    with mock.patch.object(ways, "_timed", side_effect=AssertionError("timed")):
        engine.sum(*batch(9))
    assert engine.ways.chosen == chosen


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_whatever_is_chosen_one_example_changes_the_sum_by_at_most_c(precision: str) -> None:
    """Each way in its turn is made the fastest."""
    views, targets = batch(6)
    names = {"by_patches", "one_by_one", "by_groups", "by_taps", "by_sums", "by_example"}
    chosen: set[str] = set()
    for number in range(4):

        def timed(candidates: dict[str, object], _: object, number: int = number) -> dict[str, float]:
            return {name: 1.0 + (place - number) % len(candidates) for place, name in enumerate(candidates)}

        ways._FOUND.clear()
        clipped._CHOSEN.clear()
        with mock.patch.object(ways, "_timed", timed):
            engine = ClippedGradient(convolutions(), loss, C, precision=precision, expected_batch_size=4)
            whole = engine.sum(views, targets)
        chosen |= set(engine.ways.chosen.values())
        labels = targets[:, None].expand(-1, 2)
        expected = reference_clipped_sum(engine.model, loss, views, labels, C)
        assert distance(whole.gradients, expected) < (1e-3 if precision == "float32" else 0.05) * C * 6
        for left_out in (0, 3, 5):
            others = torch.arange(6) != left_out
            rest = engine.sum(views[others], targets[others])
            assert torch.equal(rest.norms, whole.norms[others])
            assert distance(whole.gradients, rest.gradients) <= C
    assert chosen == names


def test_a_second_engine_of_an_equal_network_takes_the_same_and_tries_nothing() -> None:
    first, second = (ClippedGradient(convolutions(), loss, C) for _ in range(2))
    views, targets = batch()
    one = first.sum(views, targets).gradients
    with mock.patch("dpvision.gradients.clipped.fastest", side_effect=AssertionError("tried")):
        other = second.sum(views, targets).gradients
        for engine in (
            ClippedGradient(convolutions(), loss, C, expected_batch_size=7),
            ClippedGradient(convolutions(), loss, C, precision="bfloat16"),
            ClippedGradient(nn.Sequential(*convolutions(), nn.Tanh()), loss, C),
        ):
            with pytest.raises(AssertionError, match="tried"):
                engine.sum(views, targets)
    assert (second.chunk, second.ways) == (first.chunk, first.ways)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_by_size_nothing_is_timed() -> None:
    with mock.patch.object(ways, "_timed", side_effect=AssertionError("timed")):
        engine = ClippedGradient(convolutions(), loss, C, engine="by-size")
        engine.sum(*batch())
    assert engine.ways.chosen == {}
