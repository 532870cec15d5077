"""What a method has released of private images, as a file that names the method: more is made of it at no
cost, and a second run refines it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from dpvision.images.files import parse_json
from dpvision.images.images import check_class_names
from dpvision.methods.method import Learned, Method
from dpvision.methods.registry import find_method, known_methods
from dpvision.methods.session import Session
from dpvision.networks.weights import CHECKSUM, FACTS, opened, read_tensors
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.runs.places import find_release

METHOD = "method"
"""The fact in a file of what was released that says by which method."""


@runtime_checkable
class Reusable(Method, Protocol):
    """A method of whose release more can be made later. What it learns is published, with its facts, as one
    safetensors file; among the facts are `METHOD`, "num_examples", "image_shape" and "class_names", which are
    empty where classes were not released.

    Attributes:
        of_generator: the names of the settings that a generator has which is made of a release: those that
            are part of what was released, and those of what follows. Those of a part have its name before
            theirs, with a dot. The others say how it was released.
    """

    of_generator: Sequence[str]

    def open_release(self, path: Path) -> Learned:
        """Read what was released from its file, and what was published beside that.

        Raises:
            InputError: a file is missing or damaged, or does not fit the other.
        """

    def settings_of_release(self, learned: Learned) -> dict[str, Any]:
        """Return the settings that are part of what was released; those of a part as `OfPart`."""

    def learn_again(self, config: Any, earlier: Learned, session: Session) -> Learned:
        """Do all that takes private images in a second run, which refines the first: work on every stage of
        the settings once. Return what is known by both runs, with the facts of the earlier one, but for the
        noise.
        """


class EarlierVersionError(InputError):
    """A release of an earlier version, which does not say all that is needed to make more of it."""


def open_release(place: str | os.PathLike[str]) -> tuple[Reusable, Learned]:
    """Find and read what a run released of private images. Returns the method too.

    Args:
        place: the file of what was released, or a run's directory, or its release.

    Raises:
        InputError: there is none, a file is damaged, or more cannot be made of it.
    """
    path = Path(place)
    for file in [path] if path.is_file() else sorted(find_release(path).glob("*.safetensors")):
        name = _method_of(file)
        method = find_method(name) if name in known_methods() else None
        if isinstance(method, Reusable):
            return method, method.open_release(file)
    raise InputError(
        f"{place} has nothing of which more can be made; give a run of synthesize, its release, or the file "
        "of what it released (by dp-distill there is one where the teacher is a linear head on an encoder of "
        "the package)"
    )


def stated(method: str, facts: PublicFacts, labelled: bool = True) -> dict[str, Any]:
    """Return what a file of a release states of its method and of the images; see `Reusable`."""
    return {
        METHOD: method,
        "num_examples": facts.num_examples,
        "image_shape": list(facts.image_shape),
        "class_names": list(facts.class_names) if labelled else [],
    }


def public_facts(learned: Learned, unit: str = "image") -> PublicFacts:
    """Return what is public of the images of a release, of which it does not say itself what is protected."""
    names = ("num_examples", "image_shape", "class_names")
    return PublicFacts.from_json({**{name: learned.facts[name] for name in names}, "unit": unit})


def read_release(path: Path, check: Callable[[Learned, PublicFacts], None]) -> Learned:
    """Read a file of what was released.

    Args:
        path: the path of the file.
        check: raises whatever it likes, unless the tensors are those that the facts speak of; it is given
            what is public of the images too.

    Raises:
        InputError: it is missing or damaged, or holds something else.
    """
    try:
        tensors, metadata = read_tensors(path)
    except InputError as error:
        raise InputError(f"{path} cannot be read as what a run released ({error})") from error
    try:
        learned = Learned(tensors, _facts_in(metadata))
        check_class_names(learned.facts["class_names"], "a release")
        public = public_facts(learned)
        if public.image_shape[0] not in (1, 3):
            raise ValueError("its images are neither grey nor RGB")
        check(learned, public)
    except EarlierVersionError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # whatever the facts' types are
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} is nothing that synthesize released ({reason}); give the directory of such a run"
        ) from error
    return learned


def mean_of(
    one: Mapping[str, Tensor], noise: float, other: Mapping[str, Tensor], other_noise: float
) -> tuple[dict[str, Tensor], float]:
    """Return the mean of two releases of the same sums, each weighed by one over its noise's variance: of all
    weighted means the one with the least noise. Beside it is the standard deviation of that.
    """
    both = math.hypot(noise, other_noise)
    share = (other_noise / both) ** 2
    sums = {name: share * total + (1 - share) * other[name] for name, total in one.items()}
    return sums, noise * other_noise / both


def check_sums(tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> None:
    """Raise ValueError unless these are finite tensors of these shapes."""
    if {name: list(total.shape) for name, total in tensors.items()} != shapes:
        raise ValueError("its sums have other shapes")
    if not all(total.is_floating_point() and total.isfinite().all() for total in tensors.values()):
        raise ValueError("its sums are not finite")


def _method_of(path: Path) -> str:
    """Return what a file says of the method whose release it has; empty where it says nothing."""
    with opened(path) as file:
        metadata = file.metadata() or {}
    try:
        facts = _facts_in(metadata)
    except (KeyError, ValueError, TypeError, RecursionError):
        return ""
    if "second_moment_weight" in facts:  # earlier versions named no method, and had one
        facts.setdefault(METHOD, "dp-mepf")
    return str(facts.get(METHOD, ""))


def _facts_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = dict(parse_json(metadata[FACTS]))
    facts.pop(CHECKSUM, None)
    return facts
