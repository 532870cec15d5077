"""The facts about the private images that are public."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dpvision.privacy.errors import InputError

Unit = Literal["image", "unit"]
"""What the guarantee protects: each image, or all images of a unit (a patient, say) together."""


@dataclass(frozen=True)
class PublicFacts:
    """Everything about the private images that is public: what is planned, built and described by these facts
    alone costs no budget, and no function that takes facts in place of images can spend any.

    >>> facts = PublicFacts(4_700, (1, 64, 64), ("healthy", "ill"))
    >>> facts.unit
    'image'

    Attributes:
        num_examples: N, the number of images or units that are protected, as it was declared.
        image_shape: (C, H, W) of every image.
        class_names: the names of all classes, in the order of their indices; empty without labels.
        unit: what the guarantee protects.

    Raises:
        InputError: there can be no such images.
    """

    num_examples: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    unit: Unit = "image"

    def __post_init__(self) -> None:
        if not (type(self.num_examples) is int and self.num_examples >= 1):
            raise InputError(f"num_examples must be a whole number, at least 1, not {self.num_examples!r}")
        shape = self.image_shape
        if not (len(shape) == 3 and all(type(side) is int and side >= 1 for side in shape)):
            raise InputError(f"an image has a shape (channels, height, width), not {shape!r}")
        if self.unit not in get_args(Unit):
            raise InputError(f"unit must be {' or '.join(get_args(Unit))}, not {self.unit!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return asdict(self) | {"image_shape": list(self.image_shape), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PublicFacts:
        """Read what `to_json` wrote.

        Raises:
            InputError, KeyError, TypeError: it is something else.
        """
        shape, names = tuple(fields["image_shape"]), tuple(fields["class_names"])
        if not all(isinstance(name, str) for name in names):
            raise TypeError("class names are texts")
        return cls(fields["num_examples"], shape, names, fields["unit"])
