"""DP-MEPF: one release, and generators that are fitted to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dp_accounting
import pytest
import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.methods import Workplace, dp_mepf, generator_fitting
from dpvision.methods.discrepancy import AVERAGED
from dpvision.methods.dp_mepf import DPMEPF, DPMEPFConfig, embedding_sums, opened
from dpvision.methods.embedding import Embedding
from dpvision.methods.generator_fitting import GeneratorFitting, new_generator
from dpvision.networks import Normalize
from dpvision.networks.generators import Generator
from dpvision.priors import build_encoder, processes
from dpvision.priors.encoders import Encoder
from dpvision.privacy import Budget, InputError, RandomSource, SeededRandom
from tests.methods.learning import CPU, calibrated, facts, learned

NAMES = ("dark", "light")
FAST: dict[str, Any] = {"steps": 4, "batch_size": 20, "latent_size": 3}
BUDGET = Budget(5.0, 1e-4)


def made(count: int = 120, seed: int = 0) -> Images:
    """8×8, dark and light, with a bright corner that differs."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3 // 2  # twice as many dark ones
    pixels = torch.randint(60, (count, 1, 8, 8), generator=generator)
    pixels += 150 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels, NAMES, "made")


def settings(**overrides: Any) -> DPMEPFConfig:
    return config_for((1, 8, 8), FAST | overrides)


def config_for(shape: tuple[int, int, int], overrides: dict[str, Any]) -> DPMEPFConfig:
    return DPMEPF().default_config(facts(120, shape), BUDGET, CPU, overrides)


def make_encoder(config: DPMEPFConfig, images: Images) -> Encoder:
    return build_encoder(config.encoder, images.shape, **config.encoder_options)


def fit(
    generator: Generator,
    encoder: Encoder,
    embedding: Embedding,
    config: DPMEPFConfig,
    random: RandomSource,
    checkpoints: Any = None,
) -> None:
    fitting = GeneratorFitting(generator, encoder, embedding, config, random)
    dp_mepf.fit(fitting, Workplace(fitting.device, checkpoints=checkpoints))


def released(config: DPMEPFConfig, images: Images, budget: Budget = BUDGET) -> Embedding:
    return opened(learned(DPMEPF(), config, images, budget))[0]


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("c", [0.0, 1.0])
def test_the_account_is_that_of_one_analytic_gaussian(relation: Any, c: float) -> None:
    """Balle and Wang's (arXiv 1805.06530), by dp_accounting. No features, class or image changes it."""
    budget = Budget(1.0, 1e-5, relation)
    plan = calibrated(DPMEPF(), settings(second_moment_weight=c), facts(1000), budget)
    (stage,) = plan.stages
    ratio = stage.mechanism.replace_one_ratio if relation == "replace_one" else 1.0
    needed = dp_accounting.get_sigma_gaussian(1.0, 1e-5) * ratio
    assert plan.noise_multiplier == pytest.approx(needed, rel=2e-3)
    assert (stage.count, stage.mechanism.sampler.num_examples) == (1, 1000)


def test_the_release_is_the_sums_with_the_noise_of_the_plan() -> None:
    images, config = made(), settings(encoder_options={})
    config = replace(config, second_moment_weight=1.0)
    embedding = released(config, images)
    exact = embedding_sums(make_encoder(config, images), images, embedding.mechanism, CPU)
    noise = torch.cat([(embedding.sums[name] - exact[name]).flatten() for name in exact])
    assert noise.abs().min() > 0
    assert float(noise.std()) == pytest.approx(embedding.facts["noise"], rel=0.15)
    assert embedding.facts["noise"] > 1
    assert embedding.facts["num_examples"] == 120


def test_every_image_is_read_once_however_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, config = made(), settings()
    encoder = make_encoder(config, images)
    whole = embedding_sums(encoder, images, config.mechanism(encoder.out_features, 2), CPU)
    monkeypatch.setattr("dpvision.methods.dp_mepf.NUMBERS_AT_A_TIME", 7 * encoder.out_features)
    told: list[tuple[int, int]] = []
    parts = embedding_sums(
        encoder, images, config.mechanism(encoder.out_features, 2), CPU, lambda *done: told.append(done)
    )
    for name, total in whole.items():
        torch.testing.assert_close(parts[name], total)
    assert told[0] == (7, 120)
    assert told[-1] == (120, 120)
    assert whole["counts"].tolist() == pytest.approx([16.0, 8.0])  # times b = .2


def test_unlabelled_images_make_one_block_and_no_counts() -> None:
    images = replace(made(), labels=None, class_names=())
    config = settings(labelled=False)
    embedding = released(config, images)
    assert set(embedding.sums) == {"first"}
    assert len(embedding.sums["first"]) == 1
    assert embedding.class_sizes.tolist() == [120]
    generator = Generator((1, 8, 8), (), 3)
    fit(generator, make_encoder(config, images), embedding, config, SeededRandom(0))
    assert generator.sample(3).labels is None


def test_of_one_class_there_are_n_images() -> None:
    images = replace(made(), labels=torch.zeros(120, dtype=torch.int64), class_names=("all",))
    embedding = released(settings(), images)
    assert embedding.facts["noise"] > 0
    assert embedding.class_sizes.tolist() == [120]


def test_an_embedding_survives_its_file(tmp_path: Any) -> None:
    embedding = released(settings(second_moment_weight=0.5), made())
    (tmp_path / "e.safetensors").write_bytes(embedding.to_bytes())
    found = Embedding.load(tmp_path / "e.safetensors")
    assert found.facts == embedding.facts
    assert found.mechanism == embedding.mechanism
    for name, total in embedding.sums.items():
        assert torch.equal(found.sums[name], total)
    (tmp_path / "e.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as what a run released"):
        Embedding.load(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="cannot be read as what a run released"):
        Embedding.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixels", {"products": True}),
        ("pixels", {"products": True, "size": 3}),
        ("pixels", {}),
        ("scattering", {"J": 1, "groups": 9}),
        (
            "pixels+scattering",
            {"parts": [{"products": True}, {"J": 1, "groups": 9}], "part_weights": [2.0, 1.0]},
        ),
    ],
)
def test_mean_directions_are_the_means_of_what_is_released(name: str, options: dict[str, Any]) -> None:
    encoder = build_encoder(name, (1, 8, 8), **options)
    images = made()
    assert images.labels is not None
    config = settings()
    mechanism = config.mechanism(encoder.out_features, 2)
    order = torch.cat([(images.labels == 0).nonzero()[:30], (images.labels == 1).nonzero()[:30]]).flatten()
    some = images.subset(order)
    sums = embedding_sums(encoder, some, mechanism, CPU)
    means = encoder.mean_directions(Normalize()(some.pixels), groups=2)
    torch.testing.assert_close(means.double(), sums["first"] / 30, rtol=1e-4, atol=1e-5)


def distance_to(embedding: Embedding, generator: Generator, encoder: Any) -> float:
    """Of a large batch of the fitted generator, in evaluation mode."""
    images = generator.sample(400, labels=torch.arange(2).repeat_interleave(200), seed=5)
    means = encoder.mean_directions(Normalize()(images.pixels), 2)
    return float((means - embedding.means["first"]).square().sum())


@pytest.mark.parametrize(("objective", "c"), [("squared", 1.0), ("moving_average", 0.0)])
def test_a_fit_comes_near_the_embedding(objective: Any, c: float) -> None:
    images = made()
    config = settings(
        steps=60,
        batch_size=100,
        objective=objective,
        second_moment_weight=c,
        learning_rate_of_average=0.003,
        ema_decay=0.9,
    )
    embedding = released(config, images, Budget(100.0, 1e-4))
    encoder = make_encoder(config, images)
    torch.manual_seed(0)
    generator = Generator((1, 8, 8), NAMES, 3)
    before = distance_to(embedding, generator.eval(), encoder)
    fit(generator, encoder, embedding, config, SeededRandom(0))
    assert distance_to(embedding, generator, encoder) < before / 5
    drawn = generator.sample(200, labels=[0] * 100 + [1] * 100).pixels.float().mean(dim=(1, 2, 3))
    assert drawn[:100].mean() < 70
    assert drawn[100:].mean() > 130


class Memory:
    """Checkpoints that are kept in memory, all of them."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.loaded: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.loaded

    def save(self, state: Any, final: bool) -> None:
        self.states.append({name: tensor.clone() for name, tensor in state().items()})


@pytest.mark.parametrize("objective", ["squared", "moving_average"])
def test_an_interrupted_fit_goes_on_as_it_would_have(objective: Any) -> None:
    images, config = made(), settings(steps=6, objective=objective)
    embedding, encoder = released(config, images), make_encoder(settings(), images)

    def fitted(memory: Memory) -> Generator:
        torch.manual_seed(0)
        generator = new_generator(embedding, encoder, config)
        fit(generator, encoder, embedding, config, SeededRandom(3), checkpoints=memory)
        return generator

    memory = Memory()
    whole = fitted(memory)
    again = Memory()
    again.loaded = memory.states[2]
    for (name, tensor), other in zip(
        whole.state_dict().items(), fitted(again).state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    assert len(again.states) == 3
    again.loaded = {"steps_done": torch.tensor(1)}
    with pytest.raises(InputError, match="checkpoint: it is of another generator or embedding"):
        fitted(again)


@pytest.mark.parametrize(
    ("epsilon", "start", "steps"), [(0.01, True, 2 * AVERAGED), (0.01, False, 50), (1000.0, True, 50)]
)
def test_a_fit_ends_where_the_rest_is_noise(epsilon: float, start: bool, steps: int) -> None:
    """With hardly any budget, if what one sees of the release is in the start; never with a lot of it."""
    images = made()
    config = settings(steps=50, encoder_options={"products": True}, gaussian_start=start)
    embedding, encoder = released(config, images, Budget(epsilon, 1e-4)), make_encoder(config, images)

    def steps_of(config: DPMEPFConfig, memory: Memory) -> int:
        torch.manual_seed(0)
        generator = new_generator(embedding, encoder, config)
        fitting = GeneratorFitting(generator, encoder, embedding, config, SeededRandom(3))
        dp_mepf.fit(fitting, Workplace(CPU, checkpoints=memory))
        return fitting.steps_done

    memory = Memory()
    assert steps_of(config, memory) == steps
    memory.loaded = memory.states[-1]
    assert steps_of(config, memory) == steps  # an end is found again
    assert len(memory.states) == steps
    assert steps_of(replace(config, stop_at_noise=False), Memory()) == 50


@pytest.mark.parametrize("steps", [0, 40])
def test_a_generator_starts_from_the_released_moments(steps: int) -> None:
    """Before its first step it draws what they say, classes by their shares; the fit comes nearer to them."""
    images, config = made(), settings(steps=steps, batch_size=100, ema_decay=0.9)
    embedding, encoder = released(config, images, Budget(100.0, 1e-4)), make_encoder(config, images)
    torch.manual_seed(0)
    generator = new_generator(embedding, encoder, config)
    before = distance_to(embedding, generator.eval(), encoder)
    fit(generator, encoder, embedding, config, SeededRandom(0))
    after = distance_to(embedding, generator, encoder)
    assert after == pytest.approx(before, rel=1e-3) if steps == 0 else after < before
    drawn = generator.sample(200, labels=[0] * 100 + [1] * 100).pixels.float().mean(dim=(1, 2, 3))
    assert drawn[:100].mean() < 70
    assert drawn[100:].mean() > 130
    assert generator.class_proportions[0] == pytest.approx(2 / 3, abs=0.1)
    assert generator.start is not None
    assert len(generator.start.details) == 0  # its pixels are those of the images
    assert new_generator(embedding, encoder, replace(config, gaussian_start=False)).start is None


def test_in_bfloat16_moments_and_start_stay_exact() -> None:
    images, config = made(), settings(steps=20, batch_size=100, precision="bfloat16", ema_decay=0.9)
    embedding, encoder = released(config, images, Budget(100.0, 1e-4)), make_encoder(config, images)
    torch.manual_seed(0)
    generator = new_generator(embedding, encoder, config)
    labels, noise = torch.arange(40) // 20, torch.randn(40, 3)
    x = Normalize()(images.pixels[:40])
    assert generator.start is not None
    exact = encoder.mean_directions(x, 2), generator.start(labels, noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.mean_directions(x, 2), exact[0])
        assert torch.equal(generator.start(labels, noise), exact[1])
        assert generator.network(torch.randn(2, 5)).dtype == torch.bfloat16
    before = distance_to(embedding, generator.eval(), encoder)
    fit(generator, encoder, embedding, config, SeededRandom(0))
    assert distance_to(embedding, generator, encoder) < before


def test_the_more_noise_the_nearer_a_generator_stays_to_its_start() -> None:
    images = made()

    def moved(epsilon: float, start_weight: float) -> float:
        """How far images are from their start after some steps, in the mean."""
        config = settings(steps=30, batch_size=40, ema_decay=0.0, start_weight=start_weight)
        embedding, encoder = released(config, images, Budget(epsilon, 1e-4)), make_encoder(config, images)
        torch.manual_seed(0)
        generator = new_generator(embedding, encoder, config)
        fit(generator, encoder, embedding, config, SeededRandom(0))
        assert generator.start is not None
        labels, noise = torch.arange(100) % 2, torch.randn(100, 3)
        with torch.no_grad():
            start = generator.start(labels, noise).clamp(0, 1)
            return float((generator(labels, noise) - start).square().mean())

    free, held = moved(5.0, 0.0), moved(5.0, 0.3)
    assert held < free / 2
    # Much less noise: the same weight holds it back no more.
    assert moved(100.0, 0.3) > moved(100.0, 0.0) / 2


@pytest.mark.parametrize(("shape", "num_details"), [((3, 16, 16), 7), ((1, 8, 8), 7), ((1, 8, 8), 0)])
def test_images_of_smaller_pixels_are_given_public_details(
    shape: tuple[int, int, int], num_details: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, *shape), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(60) % 2, NAMES, "made")
    options = {"products": True, "size": 4}
    config = config_for(
        shape, FAST | {"encoder": "pixels", "encoder_options": options, "num_details": num_details}
    )
    embedding, encoder = released(config, images), make_encoder(config, images)
    start = new_generator(embedding, encoder, config).start
    assert start is not None
    assert start.details.shape == (num_details, *shape)
    assert num_details == 0 or start.details.any()


def test_large_public_images_are_made_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they take no more memory than they have in the end."""
    made: list[int] = []

    def generate(process: str, count: int, *given: Any) -> Tensor:
        made.append(count)
        return processes.generate(process, count, *given)

    monkeypatch.setattr(generator_fitting, "generate", generate)
    monkeypatch.setattr(generator_fitting, "PIXELS_AT_A_TIME", 3 * 20**2)
    images = generator_fitting.public_leaves(7, (3, 20, 18))
    assert made == [3, 3, 1]
    assert images.shape == (7, 3, 20, 18)
    assert len(images.flatten(1).unique(dim=0)) == 7


@pytest.mark.parametrize(("shape", "count"), [((1, 32, 32), 0), ((3, 8, 8), 1000), ((3, 16, 16), 1000)])
def test_details_are_for_images_much_larger_than_the_pixels_that_are_released(
    shape: tuple[int, int, int], count: int
) -> None:
    assert config_for(shape, {}).num_details == count
    assert config_for(shape, {"num_details": 7}).num_details == 7
    assert config_for(shape, {"encoder_options": {"size": 4}}).num_details == 1000


def test_a_size_given_leaves_the_products_of_the_default_encoder() -> None:
    assert settings(encoder_options={"size": 4}).encoder_options == {"size": 4, "products": True}
    assert settings(encoder_options={"products": False}).encoder_options == {"products": False}
    assert settings(encoder="scattering").encoder_options == {}
    assert config_for((3, 32, 32), {}).encoder_options == {"size": 8, "products": True}


def test_a_generator_is_fitted_to_means_without_what_noise_alone_would_make() -> None:
    """By the noise on each class's mean, which is that of the sums over the class's size."""
    images, config = made(), settings()
    embedding, encoder = released(config, images), make_encoder(config, images)
    exact = embedding_sums(encoder, images, embedding.mechanism, CPU)
    assert images.labels is not None
    means = exact["first"] / images.labels.bincount()[:, None]
    fitted = GeneratorFitting(
        new_generator(embedding, encoder, config), encoder, embedding, config, SeededRandom(0)
    ).targets["first"]
    noisy = embedding.means["first"]
    expected = encoder.shrunk(noisy, embedding.facts["noise"] / embedding.class_sizes)
    torch.testing.assert_close(fitted, expected)
    for label in range(2):
        assert (fitted - means)[label].norm() < 0.6 * (noisy - means)[label].norm()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_smallest_batches_do(batch_size: int) -> None:
    images = replace(made(), labels=None, class_names=())
    config = settings(labelled=False, batch_size=batch_size, steps=2)
    embedding, encoder = released(config, images), make_encoder(config, images)
    generator = new_generator(embedding, encoder, config)
    fit(generator, encoder, embedding, config, SeededRandom(0))
    assert len(generator.sample(3)) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_fit_on_a_gpu() -> None:
    images, config = made(), settings(steps=5)
    embedding, encoder = released(config, images), make_encoder(config, images)
    generator = new_generator(embedding, encoder, config).cuda()
    fit(generator, encoder.cuda(), embedding, config, SeededRandom(0))
    assert len(generator.sample(4)) == 4


def test_larger_classes_weigh_more() -> None:
    """Their means have less noise on them."""
    config = settings()
    embedding = released(config, made())
    torch.manual_seed(0)
    fitting = GeneratorFitting(
        Generator((1, 8, 8), NAMES, 3),
        make_encoder(config, made()),
        embedding,
        config,
        SeededRandom(0),
    )
    sizes = embedding.class_sizes
    torch.testing.assert_close(fitting.weights[:, 0], (sizes / sizes.mean()) ** 2)


def test_the_release_of_many_features_takes_little_memory() -> None:
    """303,104 features of 10 classes, as those of VGG-19: blocks of features and not all of them at once."""

    class Wide(torch.nn.Module):
        concurrent = False

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(1, 2, 3))[:, None].expand(-1, 303_104).contiguous()

    images = Images(
        torch.randint(256, (80, 3, 8, 8), dtype=torch.uint8),
        torch.arange(80) % 10,
        tuple("abcdefghij"),
        "made",
    )
    mechanism = settings(second_moment_weight=1.0).mechanism(303_104, 10)
    largest = 0
    add = type(mechanism).add

    def watched(self: Any, sums: Any, features: Tensor, labels: Any, shares: Any) -> None:
        nonlocal largest
        largest = max(largest, features.numel())
        add(self, sums, features, labels, shares)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(mechanism), "add", watched)
        embedding_sums(Wide(), images, mechanism, CPU)  # type: ignore[arg-type]
    assert largest <= 1 << 24


def test_images_without_labels_are_refused_but_not_classes_without_images() -> None:
    def choose(names: tuple[str, ...], **overrides: Any) -> DPMEPFConfig:
        return DPMEPF().default_config(facts(120, (1, 8, 8), names), BUDGET, CPU, FAST | overrides)

    choose((*NAMES, "grey"))  # which classes have any is private
    with pytest.raises(InputError, match="have no labels; give labelled images, or set labelled to false"):
        choose(())
    choose((), labelled=False)


def test_settings_out_of_range_are_refused() -> None:
    for name, value in (
        ("steps", -1),
        ("batch_size", 0),
        ("latent_size", 1),
        ("num_details", -1),
        ("num_details", 10_001),
        ("start_weight", -0.1),
        ("start_weight", float("inf")),
        ("network_width", 100),
        ("network_width", 640),
        ("learning_rate", 0.0),
        ("learning_rate_of_average", float("nan")),
        ("ema_decay", 1.0),
        ("objective", "other"),
        ("schedule", "other"),
        ("precision", "other"),
        ("count_weight", 0.0),
        ("second_moment_weight", -1.0),
    ):
        with pytest.raises(InputError, match=name):
            settings(**{name: value})


def test_an_estimate_grows_with_images_and_steps() -> None:
    few, many = (DPMEPF().estimate(settings(steps=50), facts(n, (1, 8, 8)), CPU) for n in (100, 10_000_000))
    assert 0 < few.seconds < many.seconds
    assert many.memory_bytes - few.memory_bytes == pytest.approx(64 * 9_999_900, rel=0.01)
    long = DPMEPF().estimate(settings(steps=5_000), facts(100, (1, 8, 8)), CPU)
    assert long.seconds > 10 * few.seconds
    unlabelled = replace(settings(), labelled=False)
    assert DPMEPF().estimate(unlabelled, facts(100, (1, 8, 8), ()), CPU).seconds > 0
