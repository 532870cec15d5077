"""One private step, and many, against computations by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient, ClippedSum, reference_clipped_sum
from dpvision.gradients.clipped import ROUNDING_MARGIN
from dpvision.images import Images
from dpvision.privacy import Event, ExampleDraws, InputError, PoissonSampler, SeededRandom, gaussian_event
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.training import Batch, ExponentialMovingAverage, Phase, PrivateTrainer, schedule_factor
from dpvision.training import trainer as trainer_module
from dpvision.views import SelfAugmentation, ViewPolicy

N, C, SIGMA, RATE, STEPS = 40, 0.7, 1.3, 0.05, 6
CROPS = SelfAugmentation(augmult=3, pad=1, flip=True)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def no_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return 0 * loss(logits, targets)


def make_images(count: int = N) -> Images:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 3, ("a", "b", "c"), "made")


def labels_of(images: Images) -> Tensor:
    assert images.labels is not None
    return images.labels


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))


@dataclass
class Log:
    """A recorder that keeps what happens, in order, and refuses on demand."""

    lines: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refuses: bool = False

    def record(self, event: Event) -> None:
        if self.refuses:
            raise InputError("the budget is spent")
        self.lines.append("record")
        self.events.append(event)


class LoggedRandom(SeededRandom):
    """Tells the log whenever normals are added."""

    def __init__(self, log: Log, seed: int, path: tuple[tuple[str, int], ...] = ()) -> None:
        super().__init__(seed, path)
        self.log, self.path = log, path

    def at(self, purpose: str, step: int) -> LoggedRandom:
        return LoggedRandom(self.log, self.seed, (*self.path, (purpose, step)))

    def add_normal(self, sums: Tensor, deviation: float) -> Tensor:
        self.log.lines.append(f"normal for {self.path[-1][0]}")
        return super().add_normal(sums, deviation)


def make_trainer(
    *,
    model: nn.Module | None = None,
    images: Images | None = None,
    sample_rate: float = 0.3,
    the_loss: Callable[[Tensor, Tensor], Tensor] = loss,
    memory_bytes: int | None = None,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    schedule: str = "linear",
    phases: Sequence[Phase] = (),
    policy: ViewPolicy = CROPS,
    random: SeededRandom | None = None,
    ids: Tensor | None = None,
) -> PrivateTrainer:
    model, images = model or make_model(), images or make_images()
    return PrivateTrainer(
        model,
        images,
        labels_of(images),
        policy=policy,
        engine=ClippedGradient(model, the_loss, C, precision="float32", memory_bytes=memory_bytes),
        mechanism=GaussianSumMechanism(SIGMA, C, PoissonSampler(len(images), sample_rate)),
        phases=phases or [Phase(STEPS, optimizer, RATE, momentum, schedule)],  # type: ignore[arg-type]
        ema_decay=0.9,
        random=random or SeededRandom(3),
        ids=ids,
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def noise(model: nn.Module, step: int, seed: int = 3) -> dict[str, Tensor]:
    """What the mechanism adds to the sum at this step."""
    source = SeededRandom(seed).at("noise", step)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {name: source.add_normal(torch.zeros(p.shape), SIGMA * C) for name, p in trained}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], **tolerance)


def test_steps_are_those_of_a_computation_by_hand() -> None:
    images, sample_rate = make_images(), 0.3
    trainer = make_trainer(images=images, sample_rate=sample_rate)
    model, average = make_model(), ExponentialMovingAverage(make_model(), 0.9)
    sizes = []
    for step in range(3):
        source = SeededRandom(3)
        batch = PoissonSampler(N, sample_rate).sample(source.at("batch", step))
        sizes.append(len(batch))
        draws = source.at("views", step).by_example().of(batch)  # ids are 0, 1, … unless given
        views, targets = CROPS(images.pixels[batch], images.labels[batch], draws)  # type: ignore[index]
        sums = reference_clipped_sum(model, loss, views, targets, C * (1 - ROUNDING_MARGIN))
        added = noise(model, step)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                update = (sums[name] + added[name]) / (
                    sample_rate * N
                )  # q·N is public, the batch's size is not
                parameter -= RATE * (1 - step / STEPS) * update
        average.update(model, step)

        statistics = trainer.step(Log())
        assert (statistics.step, statistics.batch_size, statistics.nonfinite) == (step, len(batch), 0)
        assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)
    assert trainer.steps_done == 3
    assert len(set(sizes)) > 1  # so none but the public constant divides all of them
    assert_close(trainer.average.weights, average.weights, rtol=1e-4, atol=1e-6)


def test_statistics_are_those_of_the_batch() -> None:
    trainer = make_trainer()
    with mock.patch.object(trainer.engine, "sum", wraps=trainer.engine.sum) as spy:
        statistics = make_trainer().step(Log())
        trainer.step(Log())
    result = make_trainer().engine.sum(*spy.call_args.args)  # the same network, batch and views
    assert statistics.mean_loss == pytest.approx(float(result.losses.mean()))
    assert statistics.median_norm == float(result.norms.median())
    assert statistics.fraction_clipped == pytest.approx(float((result.norms > C).float().mean()))


@pytest.mark.parametrize(
    ("optimizer", "momentum", "make"),
    [
        ("sgd", 0.0, lambda p: torch.optim.SGD(p, lr=RATE)),
        ("sgd", 0.8, lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.8)),
        ("adam", 0.0, lambda p: torch.optim.Adam(p, lr=RATE)),
    ],
)
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_optimizers_and_schedules_are_those_of_torch(
    optimizer: str, momentum: float, make: Callable[..., torch.optim.Optimizer], schedule: str
) -> None:
    # Without gradients the steps are of noise alone, which the seed tells.
    trainer = make_trainer(the_loss=no_gradient, optimizer=optimizer, momentum=momentum, schedule=schedule)
    model = make_model()
    theirs = make(model.parameters())
    for step in range(4):
        trainer.step(Log())
        for group in theirs.param_groups:
            group["lr"] = RATE * schedule_factor(schedule, step, STEPS)  # type: ignore[arg-type]
        for (_, parameter), added in zip(model.named_parameters(), noise(model, step).values(), strict=True):
            parameter.grad = added / (0.3 * N)
        theirs.step()
        assert_close(weights(trainer.model), weights(model))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_an_empty_batch_is_a_step_of_noise() -> None:
    sample_rate = 1e-9
    trainer = make_trainer(sample_rate=sample_rate, schedule="constant")
    before, log = weights(trainer.model), Log()
    statistics = trainer.step(log)
    assert statistics.batch_size == 0
    added = noise(trainer.model, 0)
    expected = {name: before[name] - RATE * added[name] / (sample_rate * N) for name in before}
    assert_close(weights(trainer.model), expected)
    assert len(log.events) == 1
    assert trainer.steps_done == 1


@pytest.mark.parametrize("the_loss", [loss, no_gradient])
def test_noise_is_added_once_however_the_sum_is_accumulated(the_loss: Callable[..., Tensor]) -> None:
    images = make_images(600)  # more than are taken at a time
    by_memory = []
    for memory_bytes in (0, 1 << 40):
        log = Log()
        trainer = make_trainer(
            images=images,
            sample_rate=0.9,
            the_loss=the_loss,
            memory_bytes=memory_bytes,
            random=LoggedRandom(log, 3),
        )
        before = weights(trainer.model)
        assert trainer.step(log).batch_size > 512
        by_memory.append(weights(trainer.model))
        assert log.lines.count("normal for noise") == len(before)  # one draw for each parameter
    assert_close(by_memory[0], by_memory[1], rtol=1e-4, atol=1e-6)
    if the_loss is no_gradient:
        added = noise(make_model(), 0)
        expected = {name: before[name] - RATE * added[name] / (0.9 * 600) for name in before}
        assert_close(by_memory[0], expected)


def test_a_batch_that_is_taken_in_parts_has_the_sum_of_the_whole() -> None:
    images, sample_rate = make_images(600), 0.9
    trainer = make_trainer(images=images, sample_rate=sample_rate)
    before, source = weights(trainer.model), SeededRandom(3)
    batch = PoissonSampler(600, sample_rate).sample(source.at("batch", 0))
    assert trainer.step(Log()).batch_size == len(batch) > 512  # three parts
    draws = source.at("views", 0).by_example().of(batch)
    views, targets = CROPS(images.pixels[batch], labels_of(images)[batch], draws)
    sums = reference_clipped_sum(make_model(), loss, views, targets, C * (1 - ROUNDING_MARGIN))
    added = noise(trainer.model, 0)
    expected = {
        name: weight - RATE * (sums[name] + added[name]) / (sample_rate * 600)
        for name, weight in before.items()
    }
    assert_close(weights(trainer.model), expected, rtol=1e-4, atol=1e-6)


def test_every_step_is_recorded_once_and_before_its_noise_is_drawn() -> None:
    log = Log()
    trainer = make_trainer(random=LoggedRandom(log, 3))
    tensors = len(weights(trainer.model))
    for _ in range(3):
        trainer.step(log)
    assert log.lines == (["record"] + ["normal for noise"] * tensors) * 3
    assert log.events == [gaussian_event(SIGMA, 0.3)] * 3


def test_nothing_changes_when_the_account_refuses() -> None:
    log = Log()
    trainer = make_trainer(optimizer="sgd", momentum=0.9, random=LoggedRandom(log, 3))
    uninterrupted = make_trainer(optimizer="sgd", momentum=0.9)
    for each in (trainer, uninterrupted):
        each.step(log)
    log.lines.clear()
    before, average = weights(trainer.model), {k: v.clone() for k, v in trainer.average.weights.items()}

    log.refuses = True
    with pytest.raises(InputError, match="the budget is spent"):
        trainer.step(log)
    assert log.lines == []
    assert trainer.steps_done == 1
    assert_close(weights(trainer.model), before, rtol=0, atol=0)
    assert_close(trainer.average.weights, average, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())

    log.refuses = False
    for each in (trainer, uninterrupted):
        each.step(log)
    assert_close(weights(trainer.model), weights(uninterrupted.model), rtol=0, atol=0)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.8), ("adam", 0.0)])
@pytest.mark.parametrize("done", [0, 3])
def test_a_resumed_run_goes_on_as_an_uninterrupted_one(optimizer: str, momentum: float, done: int) -> None:
    whole = make_trainer(optimizer=optimizer, momentum=momentum)
    for _ in range(STEPS):
        whole.step(Log())

    first = make_trainer(optimizer=optimizer, momentum=momentum)
    for _ in range(done):
        first.step(Log())
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    first.step(Log())  # must not reach into the state that was taken

    model = make_model()
    nn.init.zeros_(model[2].weight)  # type: ignore[index]
    second = make_trainer(model=model, optimizer=optimizer, momentum=momentum)
    second.load_state(state)
    assert second.steps_done == done
    for _ in range(STEPS - done):
        second.step(Log())
    assert_close(weights(second.model), weights(whole.model), rtol=0, atol=0)
    assert_close(second.average.weights, whole.average.weights, rtol=0, atol=0)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    other = make_trainer(model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(InputError, match="another network or optimiser"):
        make_trainer().load_state(other.state())


class Watched:
    """Self-augmentation whose views are kept, call by call."""

    views_per_example = 3

    def __init__(self) -> None:
        self.views: list[Tensor] = []

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        views, targets = CROPS(pixels, targets, draws)
        self.views.append(views)
        return views, targets


def test_views_follow_from_the_seed_and_the_step() -> None:
    def views_of(steps: int, seed: int, resume_at: int = 0) -> list[Tensor]:
        policy = Watched()
        trainer = make_trainer(policy=policy, sample_rate=1.0, random=SeededRandom(seed))
        policy.views.clear()
        trainer.steps_done = resume_at
        for _ in range(steps):
            trainer.step(Log())
        return policy.views

    first, second = views_of(2, seed=3)
    again, other_seed, resumed = (
        views_of(1, seed=3)[0],
        views_of(1, seed=4)[0],
        views_of(1, seed=3, resume_at=1)[0],
    )
    assert torch.equal(first, again)
    assert torch.equal(second, resumed)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other_seed)


@pytest.mark.parametrize("left", [0, 20, N - 1])
def test_who_leaves_changes_no_batch_and_no_view_of_others(left: int) -> None:
    """The others have new places, and the same ids."""
    images, ids = make_images(), torch.arange(100, 100 + N)
    others = torch.arange(N) != left
    fewer = images.subset(others.nonzero().squeeze(1))

    def views_of(images: Images, ids: Tensor) -> tuple[list[set[int]], list[dict[int, Tensor]]]:
        policy = Watched()
        trainer = make_trainer(policy=policy, images=images, ids=ids)
        policy.views.clear()
        batches, views = [], []
        for step in range(4):
            batch = ids[PoissonSampler(len(ids), 0.3).sample(SeededRandom(3).at("batch", step), ids)].tolist()
            assert trainer.step(Log()).batch_size == len(batch)
            batches.append(set(batch))
            views.append(dict(zip(batch, policy.views[-1], strict=True)))
        return batches, views

    (batches, views), (batches_of_fewer, views_of_fewer) = views_of(images, ids), views_of(fewer, ids[others])
    assert any(100 + left in batch for batch in batches)
    assert batches_of_fewer == [batch - {100 + left} for batch in batches]
    for before, after in zip(views, views_of_fewer, strict=True):
        assert all(torch.equal(before[one], made) for one, made in after.items())


def test_a_clipped_sum_gains_what_one_more_example_adds() -> None:
    """With the keys given, the rest of the sum is that of the others, whichever place the one has."""
    images, trainer = make_images(300), make_trainer(images=make_images(300))  # in two parts
    ids, keys = torch.arange(300) * 3, trainer.keys(0)

    def summed(some: Tensor) -> dict[str, Tensor]:
        return trainer.clipped_sum(Batch(images, some, labels_of(images)[some], ids[some]), keys).gradients

    everyone = torch.arange(300)
    for one in (0, 150, 299):
        alone, without, with_it = summed(everyone[[one]]), summed(everyone[everyone != one]), summed(everyone)
        expected = {name: without[name] + alone[name] for name in without}
        assert_close(with_it, expected, rtol=1e-4, atol=1e-4)
        assert torch.cat([gradient.flatten() for gradient in alone.values()]).norm() > 0.1


def test_sums_of_parts_of_a_batch_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of a million examples has thousands of parts, each with a gradient as large as the model."""
    images = make_images(300)
    trainer = make_trainer(images=images)
    alive, most = set[int](), 0
    engine_sum = trainer.engine.sum

    def watched(*arguments: object, **named: object) -> ClippedSum:
        nonlocal most
        found = engine_sum(*arguments, **named)  # type: ignore[arg-type]
        gradient = found.gradients["0.weight"]
        alive.add(id(gradient))
        weakref.finalize(gradient, alive.discard, id(gradient))
        most = max(most, len(alive))
        return found

    monkeypatch.setattr(trainer.engine, "sum", watched)
    monkeypatch.setattr(trainer_module, "most_examples", lambda shape: 10)
    batch = Batch(images, torch.arange(300), labels_of(images), torch.arange(300))
    trainer.clipped_sum(batch, trainer.keys(0))
    assert most <= 3  # the total, a part, and the one before


def test_the_keys_of_a_step_are_its_own() -> None:
    trainer = make_trainer()
    keys = [trainer.keys(step) for step in (0, 1)]
    assert len({key for pair in keys for key in (pair.views.key, pair.dropout.key)}) == 4
    assert trainer.keys(1) == keys[1]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.arange(N - 1), f"training: {N} examples need as many int64 ids"),
        (torch.arange(N) // 2, "training: two examples have one id"),
    ],
)
def test_ids_are_those_of_the_examples(ids: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(ids=ids)


def test_parts_that_do_not_fit_are_refused() -> None:
    model, other = make_model(), make_model()
    images = make_images()

    def build(
        engine: ClippedGradient, num_examples: int = N, policy: ViewPolicy = CROPS, num_labels: int = N
    ) -> None:
        PrivateTrainer(
            model,
            images,
            labels_of(images)[:num_labels],
            policy=policy,
            engine=engine,
            mechanism=GaussianSumMechanism(SIGMA, C, PoissonSampler(num_examples, 0.3)),
            phases=[Phase(1, "sgd", RATE)],
            ema_decay=0.9,
            random=SeededRandom(0),
        )

    build(ClippedGradient(model, loss, C))
    with pytest.raises(InputError, match=f"{N} examples need as many labels, not {N - 1}"):
        build(ClippedGradient(model, loss, C), num_labels=N - 1)
    with pytest.raises(InputError, match="clipping norm of the gradients must be the sensitivity"):
        build(ClippedGradient(model, loss, 2 * C))
    with pytest.raises(InputError, match="on one model"):
        build(ClippedGradient(other, loss, C))
    for declared in (N - 1, N + 1):
        with pytest.raises(InputError, match=f"there are {N} examples, but {declared} were declared"):
            build(ClippedGradient(model, loss, C), num_examples=declared)

    class Leaks:
        views_per_example = 1

        def __call__(self, pixels: Tensor, targets: Tensor, _: ExampleDraws) -> tuple[Tensor, Tensor]:
            return (pixels.float() - pixels.float().mean())[:, None], targets[:, None]

    with pytest.raises(InputError, match="Leaks lets one private example into the views of another"):
        build(ClippedGradient(model, loss, C), policy=Leaks())


HEAD_FIRST = [
    Phase(2, "sgd", 0.5, momentum=0.9, trains=lambda name: name.startswith("2.")),
    Phase(3, "sgd", 0.01, schedule="linear", trains=lambda name: True),
]


def test_phases_train_what_they_say_in_their_turn() -> None:
    trainer = make_trainer(phases=HEAD_FIRST)
    before = weights(trainer.model)
    for _ in range(2):
        trainer.step(Log())
    after_head = weights(trainer.model)
    changed = {name for name in before if not torch.equal(before[name], after_head[name])}
    assert changed == {"2.weight", "2.bias"}
    trainer.step(Log())
    assert all(not torch.equal(after_head[name], tensor) for name, tensor in weights(trainer.model).items())


def test_each_phase_has_its_own_optimiser_and_course() -> None:
    model = make_model()
    trainer = make_trainer(model=model, phases=HEAD_FIRST, the_loss=no_gradient)
    expected, momentum = weights(model), {}
    for step in range(5):
        trainer.step(Log())
        for name, drawn in noise(model, step).items():
            if step < 2 and name.startswith("2."):
                momentum[name] = 0.9 * momentum.get(name, 0) + drawn / (0.3 * N)
                expected[name] = expected[name] - 0.5 * momentum[name]
            elif step >= 2:
                expected[name] = expected[name] - 0.01 * (1 - (step - 2) / 3) * drawn / (0.3 * N)
    for name, tensor in weights(model).items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_phases_survive_an_interruption(interrupted_after: int) -> None:
    whole, first, second = (make_trainer(phases=HEAD_FIRST) for _ in range(3))
    for _ in range(5):
        whole.step(Log())
    for _ in range(interrupted_after):
        first.step(Log())
    second.load_state(first.state())
    for _ in range(5 - interrupted_after):
        second.step(Log())
    for name, tensor in weights(whole.model).items():
        assert torch.equal(tensor, weights(second.model)[name])
    for name, tensor in whole.average.weights.items():
        assert torch.equal(tensor, second.average.weights[name])
