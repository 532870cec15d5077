"""That record and replay sees what breaks a guarantee: in runs made for it, and in parts of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpvision.images import Images
from dpvision.priors import build_encoder
from dpvision.privacy import (
    Event,
    ExampleDraws,
    FullBatch,
    GaussianSumMechanism,
    InputError,
    PoissonSampler,
    RandomSource,
    SeededRandom,
)
from dpvision.testing import (
    GuaranteeBroken,
    Run,
    check_guarantee,
    embedding_run,
    neighbours,
    recorded,
    training_run,
)
from dpvision.testing.guarantee import is_correlated
from dpvision.training import PrivateTrainer, StepKeys

COUNT = 8


def made(count: int = COUNT, channels: int = 1) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, channels, 6, 6), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % 2, ("a", "b"), "made")


class Account:
    def record(self, event: Event) -> None: ...


ACCOUNT, SIGMA = Account(), 1.5


def sums_of(images: Images) -> dict[str, Tensor]:
    """Of rows of norm one: the sensitivity is one, two where one is replaced."""
    rows = images.pixels.flatten(1).double()
    return {"rows": nn.functional.normalize(rows, dim=1).sum(dim=0)}


def releasing(
    releases: int = 3,
    sensitivity: float = 1.0,
    ratio: float = 2.0,
    publish: Callable[[Images], str] = lambda images: "",
    count: Callable[[Images], int] = lambda images: COUNT,
    times: Callable[[Images], int] = lambda images: 1,
    source: Callable[[int], RandomSource] = lambda step: SeededRandom(0).at("noise", step),
) -> Run:
    """So many releases of the sum of the rows, right unless told otherwise."""

    def run(images: Images, folder: Path) -> Path:
        mechanism = GaussianSumMechanism(SIGMA, sensitivity, FullBatch(count(images)), ratio)
        for step in range(releases * times(images)):
            noisy = mechanism.release(sums_of(images), ACCOUNT, source(step))
            (folder / f"{step}.txt").write_text(str(noisy["rows"].tolist()))
        (folder / "other.txt").write_text(publish(images))
        return folder

    return run


def test_a_run_that_keeps_its_guarantee_passes() -> None:
    found = check_guarantee(releasing(), made(), "add_or_remove_one")
    assert all(one.releases == 3 and one.largest == pytest.approx(1) for one in found)
    found = check_guarantee(releasing(), made(), "replace_one")
    # Labels are not released, and of vectors without negative entries the angle is at most a right one.
    assert [one.largest > 0 for one in found] == ["image" in one.neighbours for one in found]
    assert max(one.largest for one in found) <= 0.5 * 2**0.5


RELEASE = GaussianSumMechanism.release
Released = Mapping[str, Tensor]


def no_noise(self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource) -> Released:
    account.record(self.event)
    return sums


def half_the_noise(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    noisy = RELEASE(self, sums, account, random)
    return {name: (noisy[name] + total) / 2 for name, total in sums.items()}


def noise_by_data(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    noisy = RELEASE(self, sums, account, random)
    factor = {name: 1 + 0.001 * total.norm() for name, total in sums.items()}
    return {name: total + factor[name] * (noisy[name] - total) for name, total in sums.items()}


def noise_of_its_own(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    account.record(self.event)
    return {name: total + self.standard_deviation * torch.randn(total.shape) for name, total in sums.items()}


def never_recorded(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    return RELEASE(self, sums, Account(), random)


def recorded_late(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    noisy = RELEASE(self, sums, Account(), random)
    account.record(self.event)
    return noisy


def recorded_as_less(
    self: GaussianSumMechanism, sums: Released, account: Account, random: RandomSource
) -> Released:
    class Less(Account):
        def record(self, event: Event) -> None:
            account.record(replace(event, noise_multiplier=2 * event.noise_multiplier))

    return RELEASE(self, sums, Less(), random)


@pytest.mark.parametrize(
    ("faults", "seen"),
    [
        ({"sensitivity": 0.9}, "the sums differ by 1, more than 0.9"),
        ({"publish": lambda images: str(len(images))}, "other.txt, which is published, differs"),
        ({"publish": lambda images: str(int(images.pixels[-1].max()))}, "other.txt, which is published, dif"),
        ({"count": len}, "is public and was"),
        ({"times": lambda images: 2 if len(images) == COUNT else 1}, "3 releases in place of 6"),
        ({"source": lambda step: SeededRandom(0)}, "all releases: the noise of each is correlated with that"),
    ],
)
def test_what_breaks_the_guarantee_is_seen(faults: dict[str, object], seen: str) -> None:
    with pytest.raises(GuaranteeBroken, match=seen):
        check_guarantee(releasing(**faults), made(), "add_or_remove_one")  # type: ignore[arg-type]


def test_a_replaced_example_must_stay_within_the_ratio() -> None:
    check_guarantee(releasing(ratio=2.0), made(), "replace_one")
    with pytest.raises(GuaranteeBroken, match=r"another image: .*the sums differ by 0\.9\d*, more than 0\.8"):
        check_guarantee(releasing(ratio=0.8), made(), "replace_one")


@pytest.mark.parametrize(
    ("release", "seen"),
    [
        (no_noise, "recorded, then drawn, was to be its order, and not: recorded"),
        (half_the_noise, r"the noise has 0\.[45]\d* times the declared standard deviation"),
        (noise_by_data, "the noise depends on the data"),
        (noise_of_its_own, "recorded, then drawn, was to be its order, and not: recorded"),
        (never_recorded, "was to be its order, and not: drawn"),
        (recorded_late, "was to be its order, and not: drawn, recorded"),
        (recorded_as_less, "it was not recorded as the event that its mechanism states"),
    ],
)
def test_a_mechanism_that_breaks_its_promise_is_seen(
    release: Callable[..., Released], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GaussianSumMechanism, "release", release)
    with pytest.raises(GuaranteeBroken, match=seen):
        check_guarantee(releasing(), made(40), "add_or_remove_one")


def test_a_run_that_fails_on_a_neighbour_is_seen() -> None:
    def run(images: Images, folder: Path) -> Path:
        assert images.labels is not None
        if len(images.labels.unique()) < 2:
            raise InputError("one class only")
        return releasing()(images, folder)

    with pytest.raises(GuaranteeBroken, match=r"without its only image: the run fails \(one class only\)"):
        check_guarantee(run, made(), "add_or_remove_one")


def test_what_checks_nothing_is_refused() -> None:
    never = training_run(linear(), num_examples=COUNT, sample_rate=1e-9, steps=2)
    with pytest.raises(InputError, match="the example that differs was part of no release"):
        check_guarantee(never, made(), "replace_one")
    with pytest.raises(InputError, match="at least three"):
        check_guarantee(releasing(), made(2), "replace_one")
    with pytest.raises(InputError, match="has 8 images, and none at index 8"):
        check_guarantee(releasing(), made(), "replace_one", example=8)
    with pytest.raises(InputError, match="at most 256 images, not 257"):
        check_guarantee(releasing(), made(257), "replace_one")
    with pytest.raises(GuaranteeBroken, match="nothing was released by a mechanism"):
        check_guarantee(releasing(releases=0), made(), "replace_one")


# Parts of a user's own ------------------------------------------------------------------------------------


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


class Jitter:
    """A right policy."""

    views_per_example = 2

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        shape = (len(pixels), 2, *pixels.shape[1:])
        views = pixels[:, None] / 255 + draws.uniform(2 * pixels.shape[1:].numel()).view(shape)
        dropped = draws.uniform(2).view(-1, 2, 1, 1, 1) < 0.5
        return views * ~dropped, targets[:, None].repeat(1, 2)


class MixesLargeBatches(Jitter):
    """Mixes neighbours in a batch, but in none as small as those of the trainer's own check."""

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        views, targets = super().__call__(pixels, targets, draws)
        if len(pixels) > 5:
            views = (views + views.roll(1, dims=0)) / 2
        return views, targets


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_a_network_and_a_policy_of_ones_own(relation: str) -> None:
    run = training_run(linear(), num_examples=20, policy=Jitter(), sample_rate=0.5)
    found = check_guarantee(run, made(20), relation)  # type: ignore[arg-type]
    assert all(one.releases == 8 for one in found)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_a_policy_that_mixes_examples_is_seen(relation: str) -> None:
    run = training_run(linear(), num_examples=20, policy=MixesLargeBatches(), sample_rate=0.5)
    with pytest.raises(GuaranteeBroken, match="the views of other examples than the one differ"):
        check_guarantee(run, made(20), relation)  # type: ignore[arg-type]


SAMPLE, VIEWS = PoissonSampler.sample, PrivateTrainer.views


def sampled_by_position(self: PoissonSampler, random: RandomSource, ids: Tensor | None = None) -> Tensor:
    return SAMPLE(self, random)


def views_in_batch_order(
    self: PrivateTrainer, examples: Tensor, labels: Tensor, ids: Tensor, keys: StepKeys
) -> tuple[Tensor, Tensor]:
    return VIEWS(self, examples, labels, torch.arange(len(ids)), keys)


@pytest.mark.parametrize(
    ("of", "method", "fault", "seen"),
    [
        (PoissonSampler, "sample", sampled_by_position, "it differs by other examples than the one"),
        (PrivateTrainer, "views", views_in_batch_order, "the views of other examples than the one differ"),
    ],
)
def test_draws_that_others_move_are_seen(
    of: type, method: str, fault: Callable[..., object], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training_run(linear(), num_examples=20, policy=Jitter(), sample_rate=0.5)
    monkeypatch.setattr(of, method, fault)
    check_guarantee(run, made(20), "replace_one", example=0)  # where nobody leaves, nobody's place is another
    with pytest.raises(GuaranteeBroken, match=seen):
        check_guarantee(run, made(20), "add_or_remove_one", example=0)


@pytest.mark.parametrize("example", [0, 9, -1])
def test_dropout_is_each_examples_own(example: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 2))
    run = training_run(network, num_examples=20, sample_rate=0.5)
    check_guarantee(run, made(20), "add_or_remove_one", example)


def dropped_by_place(self: ExampleDraws, some: slice | Tensor) -> ExampleDraws:
    if isinstance(some, slice):  # of views
        return ExampleDraws(self._key, self._ids[some])
    return ExampleDraws(self._key, torch.arange(len(self._ids[some])))


def test_dropout_by_the_place_in_a_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExampleDraws, "__getitem__", dropped_by_place)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 2))
    run = training_run(network, num_examples=20, sample_rate=0.5)
    with pytest.raises(GuaranteeBroken, match="the gradients of other examples than the one differ"):
        check_guarantee(run, made(20), "add_or_remove_one", example=0)


def test_right_noise_is_seldom_called_correlated() -> None:
    """Nor are two numbers, whose products have heavier tails than normal ones."""
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 10):
        products = torch.randn(2, 100_000, count, generator=generator, dtype=torch.float64).prod(dim=0)
        assert not any(is_correlated(some) for some in products[products.sum(dim=1).abs().topk(100).indices])
    same = torch.randn(100, generator=generator, dtype=torch.float64)
    assert is_correlated(same**2)
    assert is_correlated(-(same**2))


def test_batches_of_the_one_example_alone_are_checked() -> None:
    run = training_run(linear(), num_examples=12, sample_rate=0.3, steps=20)
    found = check_guarantee(run, made(3), "add_or_remove_one")
    assert any(one.emptied > 0 for one in found)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_an_encoder_of_ones_own(relation: str) -> None:
    encoder = build_encoder("pixels", (1, 6, 6))
    run = embedding_run(encoder, num_examples=COUNT)
    check_guarantee(run, made(), relation)  # type: ignore[arg-type]

    right = type(encoder).forward

    def turned(self: nn.Module, x: Tensor) -> Tensor:
        features: Tensor = right(self, x)
        even = (x.flatten(1).amax(dim=1) == x.flatten(1).amin(dim=1)).sum()  # as no random image is
        return features * (-1) ** int(even)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(encoder), "forward", turned)
        with pytest.raises(GuaranteeBroken, match="the sums differ by"):
            check_guarantee(run, made(), relation)  # type: ignore[arg-type]


# The pieces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [0, 2, -1])
def test_neighbours_differ_by_one_example_and_keep_all_that_is_public(example: int) -> None:
    images = replace(made(), ids=torch.arange(COUNT).flip(0) * 7)
    assert images.labels is not None
    removed = neighbours(images, "add_or_remove_one", example)
    for pair in removed:
        others = torch.arange(len(pair.data)) != pair.index
        assert torch.equal(pair.data.pixels[pair.index], images.pixels[example])
        assert pair.data.ids[pair.index] == images.ids[example]
        assert torch.equal(pair.data.pixels[others], pair.neighbour.pixels)
        assert torch.equal(pair.data.ids[others], pair.neighbour.ids)
        assert pair.neighbour.class_names == images.class_names
    assert removed[0].data is images
    for pair, there in zip(removed[1:], (1, 0), strict=False):
        assert pair.data.labels is not None
        assert pair.neighbour.labels is not None
        label = images.labels[example]
        assert (pair.data.labels == label).sum() == 1
        assert (pair.neighbour.labels == label).sum() == 0
        assert len(pair.data) == there + COUNT // 2
    for pair in neighbours(images, "replace_one", example):
        others = torch.arange(COUNT) != pair.index
        assert pair.data is images
        assert pair.neighbour.labels is not None
        assert torch.equal(pair.neighbour.ids, images.ids)
        assert torch.equal(images.pixels[others], pair.neighbour.pixels[others])
        assert torch.equal(images.labels[others], pair.neighbour.labels[others])
        changed = not torch.equal(images.pixels, pair.neighbour.pixels)
        relabelled = not torch.equal(images.labels, pair.neighbour.labels)
        assert (changed, relabelled) == ("image" in pair.name, "label" in pair.name)


@pytest.mark.parametrize("example", [0, 7, 19])
def test_a_replayed_run_has_the_past_of_the_first(tmp_path: Path, example: int) -> None:
    images = made(20)
    run = training_run(linear(), num_examples=20, policy=Jitter(), sample_rate=0.5)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with recorded() as first:
        run(images, tmp_path / "a")
    with recorded(first) as second:
        run(images.subset([index for index in range(20) if index != example]), tmp_path / "b")
    assert len(first.releases) == len(first.batches) == 8
    for before, after in zip(first.batches, second.batches, strict=True):
        assert after == {one: digest for one, digest in before.items() if one != example}
    took_part = [example in batch for batch in first.batches]
    assert 0 < sum(took_part) < 8
    for was_in, before, after in zip(took_part, first.releases, second.releases, strict=True):
        # Without the example, nothing differs, to the bit; with it, one clipped gradient does.
        distance = before.distance(after)
        assert 0.3 < distance <= 1 if was_in else distance == 0


def test_nothing_is_watched_afterwards() -> None:
    with recorded():
        assert GaussianSumMechanism.release is not RELEASE
    assert GaussianSumMechanism.release is RELEASE
    mechanism = GaussianSumMechanism(1.0, 1.0, PoissonSampler(3, 0.5))
    with pytest.raises(FloatingPointError), recorded() as transcript:
        mechanism.release({"a": torch.tensor([torch.nan])}, ACCOUNT, SeededRandom(0))
    assert transcript.releases == []
    assert GaussianSumMechanism.release is RELEASE
