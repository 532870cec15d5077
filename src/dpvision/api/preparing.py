"""Prepare a run: check what is asked for, and resolve what was left open.

`plan` and `audit` begin with this too, and spend nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dpvision.api.config import RunConfig, Sources, open_pool_of, read_images
from dpvision.api.devices import resolve_device
from dpvision.api.earlier import earlier_of
from dpvision.api.images_to_publish import to_publish
from dpvision.api.options import FinishOptions, FitOptions, RunOptions, SweptOptions
from dpvision.api.pool_cost import warn_of_unknown_spending
from dpvision.api.sources import Reading, Source, fitting_reading, lasting, training_reading
from dpvision.images import ImageSet, available_splits
from dpvision.images.choices import Choices
from dpvision.images.look_alikes import warn_of_look_alikes
from dpvision.images.public import USED_AS, Overlaps, refuse_data_with_ledger, refuse_private_images
from dpvision.images.released import guarantee_with
from dpvision.images.units import refuse_units_of_both
from dpvision.methods import Makes, Method, calibrate, check_settings, find_method
from dpvision.methods.auto import choose_method
from dpvision.methods.registry import AUTO, OF_IMAGES
from dpvision.methods.search import Search
from dpvision.methods.tuned import Tuned
from dpvision.networks import register_network
from dpvision.priors import scales_images
from dpvision.privacy import Budget, InputError, PublicFacts, default_delta, default_ledger_path
from dpvision.views.pool import Pool

logger = logging.getLogger("dpvision")


def prepare(data: Source, options: RunOptions, makes: Makes | None = None) -> tuple[RunConfig, Sources]:
    """Check every option, read the images, and resolve what was left open. Writes and spends nothing.

    Args:
        data: the private images.
        options: the options of the run.
        makes: what the method is to make; by default any does.

    Raises:
        InputError: an option or the data cannot be used.
    """
    # What is wrong at first sight is refused before the images are read, which may take a while.
    relation: Any = options.neighboring_relation
    budget = Budget(options.epsilon, 1e-9 if options.delta is None else options.delta, relation)
    overrides = dict(options.config or {})
    network = getattr(options, "network", None)
    if network is not None:
        overrides["network"] = register_network(network)
    search: Search | None = getattr(options, "searching", None)
    given = [{**overrides, **chosen} for chosen in (search.combinations() if search else [{}])]
    earlier = earlier_of(options)
    automatic = options.method == AUTO and makes != "images" and earlier is None
    if earlier is None:
        method = find_method(choose_method(given[0]).method if automatic else options.method, makes)
    else:
        overrides |= earlier.settings
        method, given = earlier.method, [overrides]
    if search:
        Tuned(method, search)  # refuses a method that cannot be tuned
    for settings in given:
        check_settings(method.config_class, settings)
    device = resolve_device(options.device)

    choices = options.choices()
    if earlier is not None and not isinstance(data, ImageSet):
        choices = earlier.read_likewise(choices)
    how, chosen_size = training_reading(data, choices, keep_large=_takes_large(given[0]))
    private = data if isinstance(data, ImageSet) else read_images(how, method.needs_labels)
    if method.needs_labels:
        private.check_classes()
    declared = private.num_protected if options.num_examples is None else options.num_examples
    facts = PublicFacts(
        declared,
        private.shape,
        private.class_names if private.labels is not None else (),
        private.protects,
    )
    because = None
    if automatic:
        choice = choose_method(given[0], facts.image_shape)
        method, because = find_method(choice.method), choice.because
    if search:
        method = Tuned(method, search)
    publishes = _publishing(options, method)
    how_test, test_images, overlaps = None, None, Overlaps(options.allow_overlap)
    if method.makes == "a classifier":
        how_test, test_images = _test_images(data, getattr(options, "test", None), private, overlaps, choices)
    if options.delta is None:
        budget = replace(budget, delta=default_delta(declared))
    _check_delta(budget.delta, private)
    if earlier is not None:
        earlier.check(private, options.ledger, budget)
    settings = method.default_config(facts, budget, device, overrides)
    settings, pool = _with_pool(settings, private, options.ledger, overlaps)
    stages = calibrate(partial(method.stages, settings, facts), declared, budget)
    if earlier is not None:
        earlier.check_length(stages)
    return (
        RunConfig(
            method=method,
            settings=settings,
            facts=facts,
            budget=budget,
            stages=stages,
            seed=options.seed,
            finishing_seed=secrets.randbits(63) if options.seed is None else options.seed,
            device=device,
            data=how,
            test=how_test,
            test_digest=test_images.digest if test_images else None,
            chosen_size=chosen_size,
            pool_digest=pool.digest if pool else None,
            images=_to_publish(publishes, settings, facts) if publishes else None,
            because=because,
            allow_overlap=options.allow_overlap,
            overlaps=tuple(overlaps.found),
            data_name=getattr(options, "data_name", None),
            given=tuple(sorted(overrides)),
            unpaid=isinstance(options, SweptOptions) and options.unpaid,
            first=isinstance(options, FitOptions) and options.first,
            made_of=_guarantee_of_images(how, private),
        ),
        Sources(private, test_images, pool),
    )


def _publishing(options: RunOptions, method: Method) -> FinishOptions | None:
    """Return the options of the images that a method publishes, if it makes images. InputError where such
    options are given for a method that does not.
    """
    if not isinstance(options, FinishOptions):
        return None
    if method.makes != "images" and options.of_images:
        raise InputError(
            f"{options.of_images[0]} is for a method that makes images, and {method.name} makes a "
            f"classifier; name the method {OF_IMAGES}"
        )
    return options if method.makes == "images" else None


def _guarantee_of_images(how: Reading, images: ImageSet) -> dict[str, Any] | None:
    """Return what is guaranteed of the images of a run that another released; None of others. Those in memory
    are known by their source, where that is a path.
    """
    if how.spec is not None:
        return guarantee_with(how.spec)
    return guarantee_with(images.source) if os.path.exists(images.source) else None


def _with_pool(
    settings: Any, private: ImageSet, ledger: str | os.PathLike[str] | None, overlaps: Overlaps
) -> tuple[Any, Pool | None]:
    """Open the pool of public images that settings name, if any, and return them with a path that lasts."""
    pool = open_pool_of(settings, private, overlaps)
    if pool is None:
        return settings, None
    settings = replace(settings, pool=lasting(settings.pool))
    if pool.guarantee is not None:
        ledger = Path(ledger or default_ledger_path(private.digest))
        warn_of_unknown_spending(pool.guarantee, f"the pool {pool.source}", settings.pool, private, ledger)
    return settings, pool


def _to_publish(options: FinishOptions, settings: Any, facts: PublicFacts) -> FinishOptions:
    """Resolve which images to publish, of a method that may leave the labels aside."""
    names = facts.class_names if getattr(settings, "labelled", True) else ()
    return to_publish(options, names, facts.image_shape, facts.num_examples)


def _takes_large(overrides: Mapping[str, Any]) -> bool:
    """Say whether the user has chosen a model that takes images of any size."""
    return "network" in overrides or scales_images(str(overrides.get("encoder", "")))


def _check_delta(delta: float, images: ImageSet) -> None:
    """Raise InputError for a δ with which one of the images or units that there are, however many were
    declared, could be published whole.
    """
    present = images.num_protected
    if delta >= 1 / present:
        raise InputError(
            f"delta {delta:g} is not below 1/N for the {present} {images.protects}s there are; give a "
            "smaller one, or declare a num_examples that is nearer to that"
        )


def _test_images(
    data: Source, test: Source | None, images: ImageSet, overlaps: Overlaps, choices: Choices
) -> tuple[Reading | None, ImageSet | None]:
    """Return the test images: those given, or else the test split that comes with the data, if any.

    Raises:
        InputError: they are of other kind than the images, or private images are among them.
    """
    if test is None:
        if isinstance(data, ImageSet) or "test" not in available_splits(data, **choices.given()):
            return None, None
        test = data
    if isinstance(test, ImageSet):
        how, test_images = Reading(), test
    else:
        how = fitting_reading(test, None, images.shape, choices)
        if how.split == "train" and _same_place(data, test):
            refusal = (
                f"{test} has no test split, and must not be tested on what it is trained on; give others"
            )
            overlaps.refuse(USED_AS.format("test images"), refusal)
        test_images = how.open()
    if test_images.shape != images.shape:
        raise InputError(
            f"test images from {test_images.source} have the shape {list(test_images.shape)}, but those to "
            f"train on {list(images.shape)}; read both with the same size and channels"
        )
    test_images = test_images.with_classes(images.class_names)
    refuse_units_of_both(images, test_images)
    refuse_private_images(test_images, images, "test images", overlaps)
    refuse_data_with_ledger(test_images, "test images", overlaps)
    then = "the accuracy on the card would be exact on them"
    warn_of_look_alikes(test_images, images, "test images", then)
    return how, test_images


def _same_place(data: Source, test: str | os.PathLike[str]) -> bool:
    return not isinstance(data, ImageSet) and lasting(data) == lasting(test)
