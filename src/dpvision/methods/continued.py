"""Share what methods have in common whose run takes up the release of an earlier one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from functools import cache
from typing import Any

import torch

from dpvision.methods.estimates import Estimate
from dpvision.methods.method import Finished, Learned, Makes, Method, Workplace
from dpvision.methods.stages import Stage
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts

REFINE, FROM_RUN = TAKES_UP = ("refine", "from_run")
"""The settings that name an earlier run, or its release: one to refine, or to go on from."""

FROM_DIGEST = "from_digest"
"""The setting that has a SHA-256 of what is taken up; no run chooses it."""


class OfPart(dict[str, Any]):
    """Settings of a part of a method that is another method, and not one setting that is a table."""


class Continued:
    """Another method, in a run that takes up what an earlier one has released. All is as that method does it
    but for what a subclass defines.

    Args:
        method: the other method.
        prefix: what its name has before it.
        place: the name of the setting that says where the earlier release is; `FROM_DIGEST` is one too.
    """

    method: Method
    makes: Makes
    needs_labels: bool

    def __init__(self, method: Method, prefix: str, place: str) -> None:
        self.method, self.place = method, place
        self.name = prefix + method.name
        self.makes, self.needs_labels = method.makes, method.needs_labels
        self.config_class = _with_texts(method.config_class, prefix, (place, FROM_DIGEST))

    def split(self, overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return where the earlier release is, and what is given of the other method's own settings.
        InputError where a digest is given.
        """
        if FROM_DIGEST in overrides:
            raise InputError(f"no run chooses {FROM_DIGEST}; leave it out")
        own = {name: value for name, value in overrides.items() if name != self.place}
        return str(overrides[self.place]), own

    def check_same(self, config: Any, digest: str) -> None:
        """Raise InputError unless the earlier release is by its digest the one that this run began with."""
        if digest != getattr(config, FROM_DIGEST):
            raise InputError(
                f"{getattr(config, self.place)} is not the release that this run began with; restore that, "
                "or start a new run"
            )

    def runs_before(self, config: Any) -> int:
        """Return how many runs the earlier release is made of. InputError where it cannot be opened, or is
        not the one that this run began with.
        """
        raise NotImplementedError

    def stages(self, config: Any, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return the stages of this run alone; see :class:`Method`."""
        return self.method.stages(config, facts, noise_multiplier)

    def estimate(self, config: Any, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        return self.method.estimate(config, facts, device)

    def finish(self, config: Any, learned: Learned, facts: PublicFacts, workplace: Workplace) -> Finished:
        """Make of what both runs have released what is published."""
        return self.method.finish(config, learned, facts, workplace)


def parts_of(guarantee: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what a guarantee, or a card, says of each run that a release is made of, in order."""
    parts: Sequence[Mapping[str, Any]] = guarantee.get("parts", [guarantee])
    return parts


def with_released(
    given: Mapping[str, Any], released: Mapping[str, Any], where: str | os.PathLike[str], of: str = ""
) -> dict[str, Any]:
    """Return the settings given, and beside them those that are part of what was released.

    Args:
        given: settings, not checked yet.
        released: those that stay as they are, of a part of the method as `OfPart`.
        where: they were released, for messages.
        of: what stands before a name in messages.

    Raises:
        InputError: a setting is given that is part of what was released.
    """
    both = dict(given)
    for name, value in released.items():
        of_part = given.get(name, {})
        if isinstance(value, OfPart) and isinstance(of_part, Mapping):
            both[name] = with_released(of_part, value, where, f"{of}{name}.")
        elif name in given:
            raise _of_release(f"{of}{name}", where)
        else:
            both[name] = value
    return both


def refuse_others(
    given: Mapping[str, Any], names: Sequence[str], where: str | os.PathLike[str], of: str = ""
) -> None:
    """Raise InputError for a setting that has none of these names; see `of_names`."""
    for name, value in given.items():
        full = f"{of}{name}"
        if isinstance(value, Mapping) and _is_part(full, names):
            refuse_others(value, names, where, f"{full}.")
        elif full not in names:
            raise _of_release(full, where)


def _of_release(name: str, where: str | os.PathLike[str]) -> InputError:
    return InputError(f"{name} is part of what was released in {where}, or of what led to it; leave it out")


def _is_part(name: str, names: Sequence[str]) -> bool:
    return any(one.startswith(f"{name}.") for one in names)


def of_names(settings: Mapping[str, Any], names: Sequence[str], of: str = "") -> dict[str, Any]:
    """Return those of some settings that have one of these names; those of a part have its name before
    theirs, with a dot.

    Args:
        settings: by name.
        names: the names.
        of: what stands before the names of these settings.
    """
    found = {}
    for name, value in settings.items():
        if f"{of}{name}" in names:
            found[name] = value
        elif isinstance(value, Mapping) and _is_part(f"{of}{name}", names):
            found[name] = of_names(value, names, f"{of}{name}.")
    return found


@cache
def _with_texts(settings: type, prefix: str, names: tuple[str, ...]) -> type:
    """Return a class of settings that has texts of these names beside."""
    return make_dataclass(
        f"{prefix.rstrip(':').title()}{settings.__name__}",
        [(name, str) for name in names],
        bases=(settings,),
        frozen=True,
        kw_only=True,
    )
