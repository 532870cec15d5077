"""The mean embedding as it was released: all that a generator is fitted to, in memory and as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpvision.methods.class_sizes import class_sizes
from dpvision.methods.releases import check_sums, mean_of, read_release
from dpvision.networks.generators import check_image_shape
from dpvision.networks.weights import safetensors_bytes
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
        facts: JSON types, all public: "method", "encoder" (its config), "image_shape", "class_names" (empty
            without labels), "num_examples", "second_moment_weight", "count_weight", "noise" (the standard
            deviation on each number), and under "guarantee" what the release cost.
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
        """The number of images of each class, ``[K]``, by the noisy counts; without labels, N."""
        num_examples, weight = self.facts["num_examples"], self.facts["count_weight"]
        if "counts" not in self.sums:
            return torch.tensor([float(num_examples)])
        return class_sizes(self.sums["counts"] / weight, (self.facts["noise"] / weight) ** 2, num_examples)

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
        sums, noise = mean_of(self.sums, self.facts["noise"], other.sums, other.facts["noise"])
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
        found = read_release(path, lambda learned, public: cls(learned.tensors, learned.facts)._check())
        return cls(found.tensors, found.facts)

    def _check(self) -> None:
        """Raise ValueError, TypeError, … unless the sums are those that the facts speak of."""
        facts, blocks = self.facts, max(1, len(self.class_names))
        check_image_shape(facts["image_shape"])
        if not isinstance(facts["encoder"], dict):
            raise ValueError("it does not say of which features it is")
        if not 0 <= facts["noise"] < math.inf:
            raise ValueError("its noise has no standard deviation")
        num_features = self.mechanism.num_features
        shapes = {"first": [blocks, num_features]}
        if self.mechanism.second_moment_weight:
            shapes["second"] = [blocks, num_features]
        if self.class_names:
            shapes["counts"] = [blocks]
        check_sums(self.sums, shapes)
