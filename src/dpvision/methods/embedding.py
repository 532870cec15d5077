"""The mean embedding as it was released: all that a generator is fitted to, in memory and as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpvision.images.files import parse_json
from dpvision.images.images import check_class_names
from dpvision.networks.generators import check_image_shape
from dpvision.networks.weights import CHECKSUM, FACTS, read_tensors, safetensors_bytes
from dpvision.privacy.errors import InputError
from dpvision.privacy.mean_embedding import MeanEmbedding

EMBEDDING = "embedding.safetensors"
"""The name of the embedding's file in a release."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Noisy class-wise sums of features (:mod:`dpvision.privacy.mean_embedding`), with what they are of.

    Attributes:
        sums: what the mechanism released: "first" ``[K, D]``, "second" ``[K, D]`` or none, "counts" ``[K]``
            or, without labels, none.
        facts: JSON types, all public: "encoder" (its config), "image_shape", "class_names" (empty without
            labels), "num_examples", "second_moment_weight", "count_weight", "noise" (the standard deviation
            on each number), and under "guarantee" what the release cost.
    """

    sums: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; empty without labels."""
        return tuple(self.facts["class_names"])

    @property
    def mechanism(self) -> MeanEmbedding:
        """The mechanism whose sums these are."""
        return MeanEmbedding(
            num_features=self.sums["first"].shape[1],
            num_classes=len(self.class_names) or None,
            second_moment_weight=self.facts["second_moment_weight"],
            count_weight=self.facts["count_weight"],
        )

    @property
    def class_sizes(self) -> Tensor:
        """The number of images of each class, ``[K]``, by the noisy counts, but at least one; without labels,
        N.
        """
        if "counts" not in self.sums:
            return torch.tensor([float(self.facts["num_examples"])])
        return (self.sums["counts"] / self.facts["count_weight"]).clamp(min=1)

    @property
    def means(self) -> dict[str, Tensor]:
        """The mean embeddings "first" and "second", ``[K, D]`` each: the sums divided by the class sizes."""
        sizes = self.class_sizes[:, None]
        return {name: total / sizes for name, total in self.sums.items() if name != "counts"}

    def combined(self, other: Embedding) -> Embedding:
        """Return the mean of two releases of the same sums, each weighed by one over its noise's variance:
        of all weighted means the one with the least noise. The facts are this one's, but for the noise.

        Raises:
            InputError: they are not of the same sums.
        """
        of_one, of_other = (
            {key: value for key, value in one.facts.items() if key not in ("noise", "guarantee")}
            | {name: list(total.shape) for name, total in one.sums.items()}
            for one in (self, other)
        )
        if of_one != of_other:
            raise InputError(
                "two releases of different features or images have no mean; give two of the same"
            )
        mine, its = self.facts["noise"], other.facts["noise"]
        share, noise = (its / math.hypot(mine, its)) ** 2, mine * its / math.hypot(mine, its)
        sums = {name: share * total + (1 - share) * other.sums[name] for name, total in self.sums.items()}
        return Embedding(sums, {**self.facts, "noise": noise})

    def to_bytes(self) -> bytes:
        """Return a safetensors file, which `load` reads."""
        return safetensors_bytes(self.sums, self.facts)

    @classmethod
    def load(cls, path: Path) -> Embedding:
        """Return the embedding in a file.

        Raises:
            InputError: there is none, or it holds something else.
        """
        try:
            sums, metadata = read_tensors(path)
        except InputError as error:
            raise InputError(f"{path} cannot be read as an embedding ({error})") from error
        try:
            facts = parse_json(metadata[FACTS])
            facts.pop(CHECKSUM, None)
            embedding = cls(sums, facts)
            embedding._check()
        except Exception as error:  # whatever the facts' types are
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"{path} is no embedding that synthesize released ({reason}); "
                "give a run's release/embedding.safetensors"
            ) from error
        return embedding

    def _check(self) -> None:
        """Raise ValueError, TypeError, … unless the sums are those that the facts speak of."""
        facts, blocks = self.facts, max(1, len(self.class_names))
        check_class_names(self.class_names, "an embedding")
        check_image_shape(facts["image_shape"])
        if facts["image_shape"][0] not in (1, 3):
            raise ValueError("its images are neither grey nor RGB")
        if not isinstance(facts["encoder"], dict):
            raise ValueError("it does not say of which features it is")
        if not (isinstance(facts["num_examples"], int) and facts["num_examples"] >= 1):
            raise ValueError("it is of no images")
        if not 0 <= facts["noise"] < math.inf:
            raise ValueError("its noise has no standard deviation")
        num_features = self.mechanism.num_features
        shapes: dict[str, list[int]] = {"first": [blocks, num_features]}
        if self.mechanism.second_moment_weight:
            shapes["second"] = [blocks, num_features]
        if self.class_names:
            shapes["counts"] = [blocks]
        if {name: list(total.shape) for name, total in self.sums.items()} != shapes:
            raise ValueError("its sums have other shapes")
        if not all(total.is_floating_point() and total.isfinite().all() for total in self.sums.values()):
            raise ValueError("its sums are not finite")
