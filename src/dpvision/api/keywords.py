"""The keyword arguments of functions that take options, for type checkers (PEP 692).

`python -m checks.generated` writes this module from `dpvision.api.options`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict

from dpvision.api.options import FilePath


class RunKeywords(TypedDict, total=False):
    """The options of every run on private images."""

    size: int | None
    channels: int | None
    resize: str
    value_range: str | Sequence[float] | None
    classes: str | int | Sequence[str] | Mapping[str, str] | None
    path_column: str | None
    label_column: str | None
    split_column: str | None
    unit_column: str | None
    unit: str | None
    first_frame: bool
    skip_unreadable: bool
    epsilon: Required[float]
    delta: float | None
    neighboring_relation: str
    method: str
    config: Mapping[str, Any] | None
    seed: int | None
    device: str | None
    num_examples: int | None
    allow_overlap: bool
    ledger: FilePath | None


class TrainKeywords(RunKeywords, total=False):
    """The options of `train`."""

    tensorboard: bool
    network: Any
    test: Any
    data_name: str | None
    out: Required[FilePath]
    from_run: FilePath | None


class TuneKeywords(RunKeywords, total=False):
    """The options of `tune`."""

    tensorboard: bool
    network: Any
    test: Any
    data_name: str | None
    out: Required[FilePath]
    search: Required[Mapping[str, Any]]
    trials: float | None


class SynthesisKeywords(RunKeywords, total=False):
    """The options of `synthesize`."""

    tensorboard: bool
    data_name: str | None
    refine: FilePath | None
    count: int | None
    formats: Sequence[str]
    balanced: bool
    class_counts: Mapping[str, int] | None
    out: Required[FilePath]


class PlanKeywords(RunKeywords, total=False):
    """The options of `plan`."""

    tensorboard: bool
    network: Any
    test: Any
    search: Mapping[str, Any] | None
    trials: float | None
    data_name: str | None
    from_run: FilePath | None
    refine: FilePath | None
    count: int | None
    formats: Sequence[str]
    balanced: bool
    class_counts: Mapping[str, int] | None
    out: FilePath | None


class AuditKeywords(RunKeywords, total=False):
    """The options of `audit`."""

    from_run: FilePath | None
    network: Any
    canaries: int | None
    canary_kind: str
    confidence: float


class SweepKeywords(TypedDict, total=False):
    """The options of `sweep`."""

    size: int | None
    channels: int | None
    resize: str
    value_range: str | Sequence[float] | None
    classes: str | int | Sequence[str] | Mapping[str, str] | None
    path_column: str | None
    label_column: str | None
    split_column: str | None
    unit_column: str | None
    unit: str | None
    first_frame: bool
    skip_unreadable: bool
    delta: float | None
    neighboring_relation: str
    config: Mapping[str, Any] | None
    device: str | None
    num_examples: int | None
    allow_overlap: bool
    ledger: FilePath | None
    tensorboard: bool
    network: Any
    test: Any
    data_name: str | None
    from_run: FilePath | None
