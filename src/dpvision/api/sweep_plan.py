"""What a sweep is to do: its arguments, checked, and a job for each run.

It imports nothing that takes seconds: a mistake in an argument is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpvision.api.options import SweptOptions
from dpvision.images.files import read_json
from dpvision.methods.registry import AUTO, known_methods
from dpvision.parallel import are_several
from dpvision.privacy.errors import InputError, named_option
from dpvision.runs.places import check_free, is_run

RECORD, UNPAID_LEDGER = "sweep.json", "unpaid.jsonl"
"""The files beside the runs of a sweep: what it was made with, and the ledger of runs that are unpaid."""

OF_EACH_RUN = ("epsilon", "method", "seed", "out")
"""The options of `train` that a sweep gives each run."""

_PLACES = ("data", "test", "ledger")
_FREE = ("device", "tensorboard", "data_name")
"""Options that may be others when a sweep goes on: they change no result but by chance."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its name, and the options of `train` for it."""

    name: str
    options: SweptOptions


class Plan:
    """What a sweep is to do.

    Args:
        data, methods, epsilons, out, seeds, unpaid, options: as for `sweep`.

    Raises:
        InputError: one is wrong by itself.
    """

    def __init__(
        self,
        data: Any,
        methods: Sequence[str],
        epsilons: Sequence[float],
        out: Path,
        seeds: int,
        unpaid: bool,
        options: Mapping[str, Any],
    ) -> None:
        self.data, self.methods, self.epsilons, self.out = data, methods, epsilons, out
        self.seeds, self.unpaid, self.options = seeds, unpaid, options
        for name, values in (("methods", methods), ("epsilons", epsilons)):
            if isinstance(values, str) or not values or len(set(values)) < len(values):
                raise InputError(f"{name} must be one or more values, all different, not {values!r}")
        if not isinstance(seeds, int) or seeds < 1:
            raise InputError(f"seeds must be a whole number of at least 1, not {seeds!r}")
        for name in OF_EACH_RUN:
            if name in options:
                raise InputError(f"there is no option '{name}' of a sweep; leave it out")
        if unpaid and options.get("ledger") is not None:
            raise InputError(
                f"{named_option('unpaid', True)} has a ledger of its own; leave out {named_option('ledger')}"
            )
        self.jobs = list(self._jobs())
        names = [job.name for job in self.jobs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"two of the epsilons are so near that both runs would be {twice}; leave one out"
            )

    def _jobs(self) -> Iterator[Job]:
        """Yield the job of each run: first one of each kind, so that an interrupted sweep compares all."""
        shared: dict[str, Any] = {**self.options, "unpaid": self.unpaid}
        if self.unpaid:
            shared["ledger"] = self.out / UNPAID_LEDGER
        for number in range(1, self.seeds + 1):
            for epsilon in self.epsilons:
                for method in self.methods:
                    name = f"{method}-eps{epsilon:g}-run{number}" if isinstance(epsilon, int | float) else ""
                    given = {"epsilon": epsilon, "method": method, "config": self.settings_of(method)}
                    yield Job(name, SweptOptions.of({**shared, **given, "out": self.out / name}))

    def settings_of(self, method: str) -> dict[str, Any]:
        """Return the settings of a method: those of all, and those of it alone."""
        config = self.options.get("config") or {}
        alone = {name for name, value in config.items() if _is_method(name) and isinstance(value, Mapping)}
        shared = {name: value for name, value in config.items() if name not in alone}
        return {**shared, **(config[method] if method in alone else {})}

    def check_places(self) -> None:
        """Refuse what no run could be made of, or be put beside. Nothing is read or written."""
        if are_several():
            raise InputError("a sweep does its runs in one process; start it without torchrun")
        SweptOptions.of({**vars(self.jobs[0].options), "out": self.out / "-"}, self.data)
        if (self.out / RECORD).exists():
            self._check_goes_on()
        else:
            check_free(self.out)

    def check_methods(self) -> None:
        """Refuse methods that make no classifier, and settings that a method has not."""
        from dpvision.methods import check_settings, find_method
        from dpvision.methods.auto import choose_method

        for method in self.methods:
            settings = self.settings_of(method)
            name = choose_method(settings).method if method == AUTO else method
            try:
                check_settings(find_method(name, "a classifier").config_class, settings)
            except InputError as error:
                hint = " (config of one method alone: METHOD.KEY)" if len(self.methods) > 1 else ""
                raise InputError(f"{method}: {error}{hint}") from error

    def _check_goes_on(self) -> None:
        """Refuse to put runs beside those of another sweep."""
        path, now = self.out / RECORD, self._made_with()
        before = self._made_before()
        if not any(map(is_run, self.out.iterdir())):
            return
        others = [
            name for name in (now.keys() | before.keys()) - {"settings"} if before.get(name) != now.get(name)
        ]
        others += [
            f"set of settings of {method}"
            for method, settings in now["settings"].items()
            if before.get("settings", {}).get(method, settings) != settings
        ]
        if others:
            another = ", ".join(sorted(others))
            raise InputError(
                f"{path} is of a sweep with another {another}; give the same again, or name another folder"
            )

    def made_with(self) -> dict[str, Any]:
        """Return what the runs in the folder are made with, as JSON types; the settings by method."""
        now, before = self._made_with(), self._made_before()
        return {**now, "settings": {**before.get("settings", {}), **now["settings"]}}

    def _made_before(self) -> dict[str, Any]:
        """Return what earlier runs were made with, if there is a record of them."""
        path = self.out / RECORD
        if not path.exists():
            return {}
        before = read_json(path).get("made_with")
        if not isinstance(before, dict) or not isinstance(before.get("settings"), dict):
            raise InputError(
                f"{path} is no record of a sweep; it was changed or damaged: name another folder"
            )
        return before

    def _made_with(self) -> dict[str, Any]:
        from dpvision.api.sources import lasting

        given = {
            name: lasting(value) if name in _PLACES and isinstance(value, str | os.PathLike) else value
            for name, value in {**self.options, "data": self.data, "config": None}.items()
            if value is not None and value is not False and name not in _FREE
        }
        settings = {method: self.settings_of(method) for method in self.methods}
        made = {**given, "unpaid": self.unpaid, "settings": settings}
        return {name: _plain(value) for name, value in made.items()}


def _is_method(name: str) -> bool:
    return name == AUTO or name in known_methods()


def _plain(value: Any) -> Any:
    """Return a value as JSON types; of images in memory and other objects, what people know them by."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return str(value)
    return f"{type(value).__name__} {getattr(value, 'source', '')}".strip()
