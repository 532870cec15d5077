"""Diffusion by DP-SGD (DPDM, Dockhorn et al., arXiv 2210.09929) that begins with public images and with what
a small share of the budget says of each class (DP-FETA, Li et al., arXiv 2504.00998).

A denoiser learns in three parts. First, from images of random processes, at no cost. Then from images that
are made of noisy moments of each class, those of :mod:`dpvision.methods.dp_moments`: they are rough, and cost
no more than the release. The best guess of a normal law with their moments is known in closed form, and the
denoiser only adds to it. Last, it learns by noisy gradients of the private images, each at several noise
levels, which are the views that its one gradient is the mean over.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dpvision.methods.denoising import (
    BATCH,
    MOST_PROCESS_IMAGES,
    Shown,
    public_images,
    train_denoiser,
)
from dpvision.methods.dp_moments import DPMoments, DPMomentsConfig
from dpvision.methods.estimates import (
    Estimate,
    seconds_of_process_images,
    seconds_per_drawing,
    seconds_per_release,
    start_and_example,
)
from dpvision.methods.gradient_descent import (
    DescentSettings,
    check_batch,
    clipped_gradient,
    descend,
    noise_of_single_release,
    stage,
)
from dpvision.methods.method import Finished, Learned, Makes, Workplace, is_previewed
from dpvision.methods.releases import read_release, stated
from dpvision.methods.session import Session
from dpvision.methods.settings import check, check_settings, check_share, with_overrides
from dpvision.methods.stages import Stage
from dpvision.networks.denoiser import Denoiser, squared_error
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.networks.generators import SIDES, check_image_shape
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import safetensors_bytes, without_memory
from dpvision.privacy.account import Account
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.noise import SeededRandom
from dpvision.privacy.values import check_rate
from dpvision.training import ExponentialMovingAverage, check_tensors
from dpvision.views import NoisyViews

DENOISER = "denoiser.safetensors"
"""The name of the file, in a release, of the generator with what is stated of it, which is trained on."""

OF_RELEASE = ("width", "patch", "rank", "unlabelled")
"""The settings that are part of what is released."""

NOT_AGAIN: dict[str, Any] = {
    "pretraining_steps": 0,
    "warm_up_share": 0.0,
    "warm_up_noise": 0.0,
    "warm_up_steps": 0,
}
"""The settings of a run that goes on from what another has learned."""

CENTRAL_IMAGES = 20_000
"""The number of images that are made of the first release."""

NO_CLASS = -1

MOST_DIRECTIONS, MOST_NUMBERS, MOST_NUMBERS_OF_LAWS = 64, 1 << 18, 1 << 22
"""The most directions of the law of a class by default; the most numbers that those of a class have, of which
each image that is worked on has a copy; and the most of all classes.
"""

IMAGES_OF_LAWS, NUMBERS_OF_A_LAW = 40_000, 1 << 26
"""How many rough images the laws of all classes are taken from, if those of one have no more numbers."""

PUBLIC_LEVELS, PUBLIC_LEVEL_MEAN, PUBLIC_LEVEL_SPREAD = 1, -0.8, 1.4
"""Noise levels of an image in a step without privacy, where another image says more than another level; and
their law. Private images are shown with more noise: what they say of details is lost in that of the steps.
"""


@dataclass(frozen=True, kw_only=True)
class DPDiffusionConfig(DescentSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        noise_levels: is K, at how many noise levels each image is shown in a step; its gradient is the mean.
        level_mean: centres the law of ln σ, where σ is the standard deviation of the noise on pixels from −1
            to 1.
        level_spread: is the standard deviation of the normal law of ln σ.
        flip: mirrors a view left and right, half of the time.
        unlabelled: is the share of views whose class is left out, which guidance needs.
        width: is how many channels the denoiser has at the highest resolution, a multiple of 8; at lower ones
            it has twice as many.
        patch: makes squares of pixels with this side one position for the denoiser: 1, 2, 4 or 8.
        rank: is the number of directions of the normal law of a class that the denoiser adds to, in all
            others of which its pixels vary alike; by default fewer of many classes, or of large images.
        pretraining_steps: is how many steps the denoiser takes on images of random processes first.
        warm_up_share: is the share of the budget, in terms of 1/σ², of the release that the images of the
            second part are made of; 0 is no release, and every class is then drawn as often.
        warm_up_noise: is the noise multiplier of that release; by default that of a single release of all of
            the budget, over the root of the share.
        warm_up_steps: is how many steps the denoiser takes on these images.
        warm_up_level_mean: centres the law of ln σ with which these images are shown, beside images of random
            processes.
        warm_up: has the settings of that release and of the law of its images, which are those of
            dp-moments.
        public_learning_rate: scales the steps without privacy, by Adam, on 128 images each.
        sampling_steps: is how often the denoiser is called to draw an image.
        guidance: draws images that are more of their class; see
            :class:`~dpvision.networks.diffusion.DiffusionGenerator`.

    The others are those of :class:`DescentSettings`.

    Raises:
        InputError: a value is out of range.
    """

    noise_levels: int = 1
    level_mean: float = 0.0
    level_spread: float = 1.2
    flip: bool = False
    unlabelled: float = 0.0
    width: int = 32
    patch: int = 2
    rank: int = MOST_DIRECTIONS
    pretraining_steps: int = 600
    warm_up_share: float = 0.3
    warm_up_noise: float = 0.0
    warm_up_steps: int = 600
    warm_up_level_mean: float = -0.4
    warm_up: dict[str, Any] = field(default_factory=dict)
    public_learning_rate: float = 1e-3
    sampling_steps: int = 10
    guidance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.warm_up_share
        check(self.pretraining_steps >= 0, "pretraining_steps", "at least 0", self.pretraining_steps)
        if share:
            check_share(share, "warm_up_share")
        if self.warm_up_noise:
            check(share > 0, "warm_up_share", "above 0 for a warm_up_noise", share)
            check(0 < self.warm_up_noise < math.inf, "warm_up_noise", "above 0", self.warm_up_noise)
        check(self.warm_up_steps >= 0, "warm_up_steps", "at least 0", self.warm_up_steps)
        check_rate(self.public_learning_rate, "public_learning_rate")
        check(
            self.guidance == 0 or self.unlabelled > 0, "unlabelled", "above 0 for guidance", self.unlabelled
        )
        replace(self.views(2), level_mean=self.warm_up_level_mean)

    def views(self, num_classes: int, centres: Tensor | None = None) -> NoisyViews:
        """Return the view policy of the private images; ``centres`` are those of the denoiser."""
        return NoisyViews(
            self.noise_levels,
            num_classes,
            self.level_mean,
            self.level_spread,
            self.flip,
            self.unlabelled,
            centres,
        )

    def build(self, facts: PublicFacts) -> DiffusionGenerator:
        """Return the generator for such images, whose denoiser is to be trained."""
        return DiffusionGenerator(
            facts.image_shape,
            facts.class_names,
            self.width,
            self.patch,
            self.rank,
            self.sampling_steps,
            self.guidance,
        )

    def of_release(self) -> DPMomentsConfig:
        """Return the settings of the first release."""
        return DPMomentsConfig(**self.warm_up)


class DPDiffusion:
    """Train a denoiser by noisy gradients, after public images and rough ones of each class (Dockhorn et al.,
    arXiv 2210.09929; Li et al., arXiv 2504.00998).
    """

    name = "dp-diffusion"
    makes: Makes = "images"
    needs_labels = True
    config_class: type = DPDiffusionConfig
    of_generator = (*OF_RELEASE, "sampling_steps", "guidance")

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPDiffusionConfig:
        """Choose by the images' shape, their number and the device."""
        check_image_shape(facts.image_shape)
        config: DPDiffusionConfig = with_overrides(_by_shape(facts, device), overrides)
        if config.warm_up_share:
            release = DPMoments().default_config(facts, budget, device, config.warm_up)
            check(release.labelled, "warm_up: labelled", "true", release.labelled)
            once = noise_of_single_release(facts.num_examples, budget)
            noise = config.warm_up_noise or once / math.sqrt(config.warm_up_share)
            needed = f"above {once:.3g}, with which that release alone would spend the budget"
            check(noise > once, "warm_up_noise", needed, noise)
            config = replace(config, warm_up=asdict(release), warm_up_noise=noise)
        elif config.warm_up:
            raise InputError(
                "warm_up has settings of a release that there is not; leave it out, or give a warm_up_share"
            )
        config.build(facts)
        return config

    def stages(
        self, config: DPDiffusionConfig, facts: PublicFacts, noise_multiplier: float
    ) -> tuple[Stage, ...]:
        """Return those of the first release, if there is one, and one with a noisy gradient sum for each
        step.
        """
        check_batch(config, facts.num_examples)
        steps = stage(config, facts.num_examples, noise_multiplier)
        if not config.warm_up_share:
            return (steps,)
        return (*DPMoments().stages(config.of_release(), facts, config.warm_up_noise), steps)

    def estimate(self, config: DPDiffusionConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        drawing = config.build(facts).to(device).eval()
        model = drawing.denoiser
        policy = config.views(len(facts.class_names))
        generator = torch.Generator().manual_seed(0)

        def views(examples: int) -> tuple[Tensor, Tensor]:
            shape = (examples, *facts.image_shape)
            pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
            draws = SeededRandom(0).by_example().of(torch.arange(examples))
            return policy(pixels, torch.zeros(examples, dtype=torch.int64, device=device), draws)

        engine = clipped_gradient(model, config, squared_error)
        start, per_example = start_and_example(engine, views, config.expected_batch_size)
        per_step = config.expected_batch_size * per_example + seconds_per_release(model)
        seconds = start + config.steps * per_step
        public = config.pretraining_steps + config.warm_up_steps
        if public:
            few = torch.randint(256, (BATCH, *facts.image_shape), generator=generator, dtype=torch.uint8)
            trial = partial(_train, config, model, [_of_no_class(config, few, len(facts.class_names))], 2)
            trial(_to_nobody)  # the first takes longer
            started = perf_counter()
            trial(_to_nobody)
            seconds += public * (perf_counter() - started) / 2
        made = min(public * BATCH, MOST_PROCESS_IMAGES)
        seconds += seconds_of_process_images(made, facts.image_shape)
        kept = 0
        if config.warm_up_share:
            of_release = DPMoments().estimate(config.of_release(), facts, device)
            central = CENTRAL_IMAGES if config.warm_up_steps else 0
            of_law = _images_of_a_law(model, facts.image_shape)
            drawn = central + of_law * len(facts.class_names)
            kept = central + 4 * of_law  # of these the pixels as float32, twice
            seconds += of_release.seconds + drawn * of_release.seconds_per_image
        held = 2 * (facts.num_examples + made + kept) * math.prod(facts.image_shape)
        weights = 6 * 4 * sum(p.numel() for p in model.parameters())
        return Estimate(seconds, held + weights, seconds_per_drawing(drawing))

    def learn(self, config: DPDiffusionConfig, session: Session) -> Learned:
        """Make the first release, if there is one, and train the denoiser."""
        model = session.initialized(lambda: config.build(session.facts))
        number = len(session.stages.stages) - 1
        # What needs no release comes before one is paid for: it may fail.
        public = None if session.is_begun(number) else _pretrained(config, session, model.denoiser)
        if config.warm_up_share:
            released = DPMoments().learn(config.of_release(), session)
            rough = _rough_generator(config, session, released)
            model.class_proportions.copy_(rough.class_proportions)
            _take_law(model.denoiser, rough)
            if public and config.warm_up_steps:
                _warm_up(config, session, model.denoiser, rough, public)
        session.agree(model)
        kept = {name: getattr(config, name) for name in OF_RELEASE}
        return _trained(config, session, number, model, stated(self.name, session.facts) | kept)

    def finish(
        self, config: DPDiffusionConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Return the generator with what was learned."""
        with torch.random.fork_rng(devices=[]):  # a network draws its first weights, which are replaced
            model = config.build(facts)
        check_tensors(learned.tensors, model.state_dict())
        model.load_state_dict(dict(learned.tensors))
        files = {DENOISER: safetensors_bytes(learned.tensors, learned.facts)}
        return Finished(model.eval().to(workplace.device), files)

    def open_release(self, path: Path) -> Learned:
        """Read a denoiser."""
        return read_release(path, _check_denoiser)

    def settings_of_release(self, learned: Learned) -> dict[str, Any]:
        """Return what says which denoiser it is. What it learned first is not learned again: its steps have
        the whole budget of a second run.
        """
        return {name: learned.facts[name] for name in OF_RELEASE} | NOT_AGAIN

    def learn_again(self, config: DPDiffusionConfig, earlier: Learned, session: Session) -> Learned:
        """Train the denoiser on, from the weights that were released, with the same centres."""
        model = session.initialized(lambda: config.build(session.facts))
        session.begin_with(model, earlier.tensors)
        return _trained(config, session, 0, model, earlier.facts)


def _trained(
    config: DPDiffusionConfig,
    session: Session,
    number: int,
    model: DiffusionGenerator,
    about: Mapping[str, Any],
) -> Learned:
    """Train a generator's denoiser on the private images, the stage ``number``. Return what was learned, with
    these facts.
    """
    views = config.views(len(session.facts.class_names), model.denoiser.centres)
    descend(
        session,
        number,
        "training",
        model.denoiser,
        config,
        [config.phase()],
        views,
        loss=squared_error,
        after_step=partial(_show, session, model, config.steps),
    )
    return Learned({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, about)


def _show(
    session: Session, model: DiffusionGenerator, steps: int, average: ExponentialMovingAverage, step: int
) -> None:
    """Show whoever looks at the run, now and then, the generator that has the averaged weights."""
    if session.preview and is_previewed(step, steps):
        shown = copy.deepcopy(model).eval()
        average.copy_to(shown.denoiser)
        session.preview(shown, step)


def _check_denoiser(learned: Learned, facts: PublicFacts) -> None:
    """Raise ValueError, TypeError, … unless tensors are the generator that their facts speak of."""
    kept = {name: learned.facts[name] for name in OF_RELEASE}
    check_settings(DPDiffusionConfig, kept)
    check_image_shape(facts.image_shape)
    of_images = (facts.image_shape, facts.class_names)
    expected = without_memory(
        lambda: DiffusionGenerator(*of_images, kept["width"], kept["patch"], kept["rank"], steps=1),
        "what it states",
    )
    check_tensors(learned.tensors, expected.state_dict())


def _rough_generator(config: DPDiffusionConfig, session: Session, released: Learned) -> ImageGenerator:
    """Make the generator of rough images of what was released first."""

    def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
        session.tell(what, done, total)

    workplace = Workplace(session.device, progress=progress)
    rough = DPMoments().finish(config.of_release(), released, session.facts, workplace).model
    assert isinstance(rough, ImageGenerator)
    return rough


def _take_law(denoiser: Denoiser, rough: ImageGenerator) -> None:
    """Give a denoiser the centre and the normal law of each class's rough images."""
    count = _images_of_a_law(denoiser, rough.image_shape)
    for label in range(len(rough.class_names)):
        drawn = rough.sample(count, labels=torch.full((count,), label), seed=label).take(torch.arange(count))
        images = drawn.flatten(1).float() / 127.5 - 1
        centre = images.mean(dim=0)
        denoiser.centres[label] = centre.unflatten(0, rough.image_shape)
        denoiser.law.fit(label, images - centre)


def _images_of_a_law(denoiser: Denoiser, image_shape: Sequence[int]) -> int:
    """Return how many rough images of a class its law is taken from: more than it has directions."""
    num_classes, rank = denoiser.law.variances.shape
    count = min(IMAGES_OF_LAWS // num_classes, NUMBERS_OF_A_LAW // math.prod(image_shape))
    return max(count, 2 * rank + 1)


def _pretrained(config: DPDiffusionConfig, session: Session, model: Denoiser) -> Shown | None:
    """Train a denoiser on images of random processes. Return these: None if no step without privacy needs
    any. InputError where that diverges.
    """
    facts, warm_up_steps = session.facts, config.warm_up_steps if config.warm_up_share else 0
    count = (config.pretraining_steps + warm_up_steps) * BATCH
    if not count:
        return None
    tell = partial(session.tell, "making images of random processes")
    public = _of_no_class(config, public_images(count, facts.image_shape, tell), len(facts.class_names))
    if config.pretraining_steps:
        tell = partial(session.tell, "learning from random processes")
        _train(config, model, [public], config.pretraining_steps, tell)
    return public


def _warm_up(
    config: DPDiffusionConfig, session: Session, model: Denoiser, rough: ImageGenerator, public: Shown
) -> None:
    """Train a denoiser on rough images. InputError where that diverges.

    The denoiser learns of them where images are not as a normal law has it, such as pixels that are exactly
    black. What they look like is right in the large alone: images of random processes beside them keep what
    the denoiser knows of details.
    """
    images = rough.sample(CENTRAL_IMAGES, seed=0)
    assert images.labels is not None
    policy = replace(public.policy, level_mean=config.warm_up_level_mean, centres=model.centres)
    central = Shown(images.take(torch.arange(len(images))), images.labels, policy)
    tell = partial(session.tell, "learning from images of the release")
    _train(config, model, [central, public], config.warm_up_steps, tell)


def _of_no_class(config: DPDiffusionConfig, pixels: Tensor, num_classes: int) -> Shown:
    """Return public images of no class, as they are shown: with noise of any size."""
    policy = replace(
        config.views(num_classes),
        count=PUBLIC_LEVELS,
        level_mean=PUBLIC_LEVEL_MEAN,
        level_spread=PUBLIC_LEVEL_SPREAD,
    )
    return Shown(pixels, torch.full((len(pixels),), NO_CLASS), policy)


def _train(
    config: DPDiffusionConfig,
    model: Denoiser,
    shown: Sequence[Shown],
    steps: int,
    tell: Callable[[int, int], None],
) -> None:
    """Train a denoiser on images that cost nothing. InputError where that diverges."""
    train_denoiser(model, shown, steps, config.public_learning_rate, config.precision, tell)
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise InputError(
            "without privacy the denoiser has learned weights that are not finite; start a new run with a "
            "smaller public_learning_rate"
        )


def _to_nobody(done: int, total: int) -> None:
    """Tell nobody how far a trial is."""


def _by_shape(facts: PublicFacts, device: torch.device) -> DPDiffusionConfig:
    """Choose settings that suit images of this shape and number."""
    channels, side, _ = facts.image_shape
    num_pixels = channels * side**2
    of_all = MOST_NUMBERS_OF_LAWS // max(1, len(facts.class_names))
    on_gpu = device.type == "cuda"
    return DPDiffusionConfig(
        steps=200,
        expected_batch_size=max(1, min(facts.num_examples // 8, 4096 if on_gpu else 1024)),
        noise_levels=8 if on_gpu else 1,
        learning_rate=1e-3,
        max_grad_norm=0.3,
        optimizer="adam",
        schedule="linear",
        ema_decay=0.98,
        flip=channels == 3,
        patch=max(1, side // 16) if side in SIDES else 2,
        rank=max(1, min(MOST_DIRECTIONS, min(MOST_NUMBERS, of_all) // num_pixels)),
    )
