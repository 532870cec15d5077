"""Define a method: one paper, one class, one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dpvision.methods.estimates import Estimate
from dpvision.methods.session import Session
from dpvision.methods.stages import Stage
from dpvision.networks import Classifier
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.budget import Budget
from dpvision.privacy.facts import PublicFacts
from dpvision.runs.checkpoints import Checkpoints
from dpvision.runs.progress import Progress

Makes = Literal["a classifier", "images"]

PREVIEWED_OF_A_CLASS = 10
"""The number of images of each class in a preview, which fill a row of its grid."""

PREVIEWS = 20
"""The number of previews over the steps in which a generator is made."""

GUARANTEE = "guarantee"
"""The fact about what was learned that says what it has cost: while a run learns, what the earlier run has
that it takes up, if there is one.
"""


@dataclass(frozen=True, eq=False)
class Learned:
    """The outcome of learning from private images. All of it has been released by a mechanism or is public.

    Attributes:
        tensors: the learned tensors by name, on the CPU.
        facts: the facts about them, as JSON types.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workplace:
    """The tools for the work after the last release. No private image is in reach of it.

    Attributes:
        device: the device to work on.
        seed: the seed of all that it draws; it protects nobody.
        checkpoints: where to go on from, and what to write to; None to keep nothing.
        progress: is told how far the work is.
        preview: is given what a generator draws now and then while it is fitted, ``uint8 [N, C, H, W]``, and
            the step. What it draws in the end the run itself shows.
    """

    device: torch.device
    seed: int = 0
    checkpoints: Checkpoints | None = None
    progress: Progress | None = None
    preview: Callable[[Tensor, int], None] | None = None


@dataclass(frozen=True, eq=False)
class Finished:
    """The model and files that a run publishes, beside its card.

    Attributes:
        model: the classifier, or the generator of images, on the device where it was made.
        files: the content of files that are published beside it, by name.
        card: what the card says of it, as JSON types.
    """

    model: Classifier | ImageGenerator
    files: Mapping[str, bytes] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)


def is_previewed(step: int, steps: int) -> bool:
    """Say whether there is a preview after ``step`` of so many steps."""
    return step % max(1, steps // PREVIEWS) == 0


class Method(Protocol):
    """One way to learn from private images.

    Attributes:
        name: the name by which users call it.
        makes: what comes of it.
        needs_labels: whether it cannot do without.
        config_class: its settings: a frozen dataclass of JSON types, whose docstring says what each does.
    """

    name: str
    makes: Makes
    needs_labels: bool
    config_class: type

    def default_config(
        self,
        facts: PublicFacts,
        budget: Budget,
        device: torch.device,
        overrides: Mapping[str, Any],
    ) -> Any:
        """Choose all settings: ``overrides`` where given, the rest by what is public.

        Raises:
            InputError: an override does not exist or is out of range, or there is no way with these facts.
        """

    def stages(self, config: Any, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """List everything that a run releases of the private images, in order.

        Raises:
            InputError: the settings do not fit the facts.
        """

    def estimate(self, config: Any, facts: PublicFacts, device: torch.device) -> Estimate:
        """Say what a run will take, from a trial of a few seconds on random images."""

    def learn(self, config: Any, session: Session) -> Learned:
        """Do all that takes private images: work on every stage once, through the session."""

    def finish(self, config: Any, learned: Learned, facts: PublicFacts, workplace: Workplace) -> Finished:
        """Make of what was learned what is published. It costs no budget, however often."""
