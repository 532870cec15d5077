"""The mean embedding as it was released: all that a generator is fitted to, in memory and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from dpvision.networks.weights import CHECKSUM, FACTS, safetensors_bytes
from dpvision.privacy.errors import InputError
from dpvision.privacy.mean_embedding import MeanEmbedding


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
        """Empty without labels."""
        return tuple(self.facts["class_names"])

    @property
    def mechanism(self) -> MeanEmbedding:
        """What the sums are sums of."""
        return MeanEmbedding(
            num_features=self.sums["first"].shape[1],
            num_classes=len(self.class_names) or None,
            second_moment_weight=self.facts["second_moment_weight"],
            count_weight=self.facts["count_weight"],
        )

    @property
    def class_sizes(self) -> Tensor:
        """``[K]``: images of each class, by the noisy counts, and at least one; without labels, N."""
        if "counts" not in self.sums:
            return torch.tensor([float(self.facts["num_examples"])])
        return (self.sums["counts"] / self.facts["count_weight"]).clamp(min=1)

    @property
    def means(self) -> dict[str, Tensor]:
        """Of "first" and "second", ``[K, D]`` each: the sums over the class sizes."""
        sizes = self.class_sizes[:, None]
        return {name: total / sizes for name, total in self.sums.items() if name != "counts"}

    def to_bytes(self) -> bytes:
        """A safetensors file, which `load` reads."""
        return safetensors_bytes(self.sums, self.facts)

    @classmethod
    def load(cls, path: Path) -> Embedding:
        """The embedding in a file.

        Raises:
            InputError: there is none, or it holds something else.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                facts = json.loads((file.metadata() or {})[FACTS])
            facts.pop(CHECKSUM, None)
            if "encoder" not in facts:
                raise KeyError("encoder")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as an embedding ({error})") from error
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path} is no embedding that synthesize released; give a run's release/embedding.safetensors"
            ) from error
        return cls(sums, facts)
