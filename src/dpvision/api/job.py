"""What a run is to do, all of it resolved: from the user's options, or from the record of an earlier run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from dpvision.api.sources import Reading, Source, fitting_reading, lasting, training_reading
from dpvision.images import Images, available_splits
from dpvision.images.files import reading
from dpvision.methods import (
    METHODS,
    Method,
    TrainingPlan,
    make_plan,
    planned_at,
    refuse_unknown,
    setting_types,
)
from dpvision.networks import Classifier
from dpvision.networks.options import fits, in_words
from dpvision.priors import scales_images
from dpvision.privacy import (
    Budget,
    InputError,
    NeighboringRelation,
    RandomSource,
    default_delta,
    random_source,
)
from dpvision.views import Pool, open_pool, refuse_private


@dataclass(frozen=True)
class Job:
    """A run to be: the data that it reads, and everything public about it.

    Attributes:
        images: to train on.
        test: to measure the accuracy on, or None.
        budget: not to be exceeded.
        method: how to learn from them.
        config: the method's settings.
        plan: what the training will release.
        seed: of the noise, which makes the run not private; None for noise from the system's entropy.
        device: to train on.
        num_examples: N, as it was declared.
        data, test_data: how the images were read; the latter is None without test images.
        pool: public images that the method mixes with the private ones, where its settings name some.
        chosen_size: the image size, if it was chosen by looking at the sizes of the images.
    """

    images: Images
    test: Images | None
    budget: Budget
    method: Method
    config: Any
    plan: TrainingPlan
    seed: int | None
    device: torch.device
    num_examples: int
    data: Reading
    test_data: Reading | None
    chosen_size: int | None
    pool: Pool | None

    def make_model(self) -> Classifier:
        """The untrained network, on the device; a seed fixes its weights too."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(secrets.randbits(63) if self.seed is None else self.seed)
            return self.method.make_model(self.config, self.images).to(self.device)

    def random(self) -> RandomSource:
        """Where batches, views and noise come from."""
        return random_source(self.seed)

    @property
    def mixed_with(self) -> dict[str, Pool]:
        """What the method's training takes beside the private images, if anything."""
        return {"pool": self.pool} if self.pool else {}

    def to_json(self) -> dict[str, Any]:
        """All but the images themselves."""
        return {
            "method": self.method.name,
            "data": asdict(self.data),
            "test": asdict(self.test_data) if self.test_data else None,
            "chosen_size": self.chosen_size,
            "num_examples": self.num_examples,
            "budget": asdict(self.budget),
            "config": asdict(self.config),
            "noise_multiplier": self.plan.noise_multiplier,
            "epsilon": self.plan.epsilon,
            "seed": self.seed,
            "device": str(self.device),
            "pool_digest": self.pool.digest if self.pool else None,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any], data: Images | None, test: Images | None) -> Job:
        """The job that `to_json` recorded, its images read again, or given if they were in memory.

        Raises:
            InputError: it is no such record; the images cannot be read, or were in memory and are not given.
        """
        with reading("the config.json of the run"):
            data_reading = Reading.from_json(fields["data"])
            test_reading = Reading.from_json(fields["test"]) if fields["test"] else None
            method, budget = METHODS[fields["method"]], Budget(**fields["budget"])
            check_settings(method.config_class, fields["config"])
            config = method.config_class(**fields["config"])
            planned = planned_at(
                fields["noise_multiplier"], partial(method.stages, config, fields["num_examples"]), budget
            )
            check_seed(fields["seed"])
            chosen_size, device = fields["chosen_size"], resolve_device(fields["device"])
        images = _open_again(data_reading, data, "data")
        pool = _open_pool(config, images)
        if pool is not None and pool.digest != fields.get("pool_digest"):
            raise InputError(
                f"the public images in {pool.source} have changed; restore them, or start a new run"
            )
        return cls(
            images=images,
            test=_open_again(test_reading, test, "test") if test_reading else None,
            budget=budget,
            method=method,
            config=config,
            plan=planned,
            seed=fields["seed"],
            device=device,
            num_examples=fields["num_examples"],
            data=data_reading,
            test_data=test_reading,
            chosen_size=chosen_size,
            pool=pool,
        )


def prepare(
    data: Source,
    *,
    epsilon: float,
    delta: float | None,
    neighboring_relation: NeighboringRelation,
    test: Source | None,
    method: str,
    config: Mapping[str, Any],
    size: int | None,
    channels: int | None,
    seed: int | None,
    device: str | None,
    num_examples: int | None = None,
) -> Job:
    """Check every option, read the images, and resolve what was left open. Writes and spends nothing.

    Raises:
        InputError: an option or the data cannot be used.
    """
    # What is wrong at first sight is refused before the images are read, which may take a while.
    budget = Budget(epsilon, 1e-9 if delta is None else delta, neighboring_relation)
    if method not in METHODS:
        raise InputError(f"there is no method '{method}'; choose one of {', '.join(METHODS)}")
    check_seed(seed)
    chosen_method = METHODS[method]
    check_settings(chosen_method.config_class, config)
    chosen_device = resolve_device(device)

    reading, chosen_size = training_reading(data, size, channels, keep_large=_takes_large(config))
    images = data if isinstance(data, Images) else reading.open()
    images.check_classes()
    declared = declared_number(num_examples, images)
    test_reading, test_images = _test_images(data, test, images)
    if delta is None:
        budget = replace(budget, delta=default_delta(declared))
    settings = chosen_method.default_config(
        declared, images.shape, images.class_names, budget, chosen_device, config
    )
    pool = _open_pool(settings, images)
    if pool is not None:
        settings = replace(settings, pool=lasting(settings.pool))
    plan = make_plan(partial(chosen_method.stages, settings, declared), declared, budget)
    return Job(
        images=images,
        test=test_images,
        budget=budget,
        method=chosen_method,
        config=settings,
        plan=plan,
        seed=seed,
        device=chosen_device,
        num_examples=declared,
        data=reading,
        test_data=test_reading,
        chosen_size=chosen_size,
        pool=pool,
    )


def _open_pool(config: Any, images: Images) -> Pool | None:
    """The public images that the settings name, none of which may be private."""
    if not getattr(config, "pool", ""):
        return None
    pool = open_pool(config.pool, images.shape, images.class_names)
    refuse_private(pool, images)
    return pool


def _takes_large(config: Mapping[str, Any]) -> bool:
    """Whether the user has chosen a model for images of whatever size they are."""
    return "network" in config or scales_images(str(config.get("encoder", "")))


def declared_number(num_examples: int | None, images: Images) -> int:
    """N, which is public: as it was declared, or else as it is.

    Raises:
        InputError: it was declared as less than one.
    """
    if num_examples is None:
        return len(images)
    if not (isinstance(num_examples, int) and num_examples >= 1):
        raise InputError(f"num_examples must be a whole number, at least 1, not {num_examples!r}")
    return num_examples


def check_seed(seed: int | None) -> None:
    """Raises InputError unless every random generator of a run takes it, torch's among them."""
    if not (seed is None or (isinstance(seed, int) and 0 <= seed < 1 << 63)):
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")


def check_settings(config_class: type, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the method does not have, or of another type.

    Raises:
        InputError: names the first such setting.
    """
    refuse_unknown(config_class, settings)
    options = setting_types(config_class)
    for name, value in settings.items():
        if not fits(value, options[name]):
            raise InputError(f"the setting {name} takes {in_words(options[name])}, not {value!r}")


def resolve_device(name: str | None) -> torch.device:
    """The device of this name; by default the GPU where there is one.

    Raises:
        InputError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise InputError(f"there is no way to train on device '{name}'; choose cpu, cuda or mps")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by how it was built
        raise InputError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def _test_images(data: Source, test: Source | None, images: Images) -> tuple[Reading | None, Images | None]:
    """The test images: those given, or else the test split that comes with the data, if any."""
    if test is None:
        if isinstance(data, Images) or "test" not in available_splits(data):
            return None, None
        test = data
    if isinstance(test, Images):
        reading, test_images = Reading(None), test
    else:
        reading = fitting_reading(test, None, images.shape)
        if reading.split == "train" and _same_place(data, test):
            raise InputError(f"{test} has no test split, and must not be tested on what it is trained on")
        test_images = reading.open()
    if test_images.shape != images.shape:
        raise InputError(
            f"test images from {test_images.source} have the shape {list(test_images.shape)}, but those to "
            f"train on {list(images.shape)}; read both with the same size and channels"
        )
    return reading, test_images.with_classes(images.class_names)


def _same_place(data: Source, test: str | os.PathLike[str]) -> bool:
    return not isinstance(data, Images) and lasting(data) == lasting(test)


def _open_again(reading: Reading, given: Images | None, what: str) -> Images:
    if reading.spec is not None:
        return reading.open()
    if given is None:
        raise InputError(f"the images of this run were in memory; give them again ({what}=)")
    return given
