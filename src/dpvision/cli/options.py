"""The options that train and plan share, from the command line and from a file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="The private images: a folder of class folders (or of train/ and test/ with class folders), "
        ".npz, a folder of IDX files, Parquet, or bundled:digits.",
        show_default=False,
    ),
]
Epsilon = Annotated[float | None, typer.Option(help="The budget's ε; never exceeded.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option(help="The run's directory, made by the command.", show_default=False)
]
Delta = Annotated[
    float | None,
    typer.Option(help="The budget's δ, below 1/N (default: the largest power of ten below 1/N)."),
]
Relation = Annotated[
    str | None,
    typer.Option(
        "--relation",
        help="Neighbouring relation: add_or_remove_one or replace_one (default: add_or_remove_one).",
    ),
]
Test = Annotated[
    str | None,
    typer.Option(help="Images to measure the accuracy on (default: DATA's test split, if it has one)."),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="dp-sgd (default), dp-mix-self, dp-mix-diff, dp-randp or dp-ridge.", show_default=False
    ),
]
PhaseIII = Annotated[
    str | None,
    typer.Option(
        "--phase-iii",
        help="With dp-randp: full, all weights learn after the head; or none, the head alone (the same as "
        "--set phase_iii=…).",
        show_default=False,
    ),
]
PoolPath = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        help="Public images that the private ones are mixed with, for dp-mix-diff: whatever DATA may be, or "
        "what `pool make` wrote (the same as --set pool=…).",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="A file with these options (epsilon = 2, …) and a table \\[config] of settings. Options given "
        "here win.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the training, such as network=wrn-16-4, steps=500 or network_options.order=1. "
        "Repeat for more.",
    ),
]
Size = Annotated[
    int | None, typer.Option(help="Make every image a square of this side (default: as they are, up to 64).")
]
Channels = Annotated[
    int | None, typer.Option(help="1 makes every image grey, 3 colour (default: as they are).")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …  [default: a GPU where there is one]")]
Seed = Annotated[
    int | None,
    typer.Option(help="Reproducible noise: for tests only, the run is NOT PRIVATE.", show_default=False),
]
NumExamples = Annotated[
    int | None,
    typer.Option(
        "--num-examples",
        metavar="N",
        help="N as you declare it to be public, say a rounded one (default: as many images as there are).",
        show_default=False,
    ),
]
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="The data's ledger (default: found by the data's digest)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]

_FILE_OPTIONS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "epsilon": (int, float),
    "out": (str,),
    "delta": (int, float),
    "neighboring_relation": (str,),
    "test": (str,),
    "method": (str,),
    "size": (int,),
    "channels": (int,),
    "device": (str,),
    "seed": (int,),
    "num_examples": (int,),
    "ledger": (str,),
    "config": (dict,),
}


def collect(
    file: Path | None, settings: list[str] | None, named: dict[str, str | None] | None = None, **given: Any
) -> dict[str, Any]:
    """The options for dpvision.train: those of the file, replaced by those given (not None), by settings that
    have options of their own (``named``, not None) and by --set.

    Raises:
        InputError: the file cannot be used, a setting is malformed, or data or epsilon are named nowhere.
    """
    from dpvision.privacy.errors import InputError

    options = _read_file(file) if file else {}
    options |= {name: value for name, value in given.items() if value is not None}
    named_settings = {name: value for name, value in (named or {}).items() if value is not None}
    options["config"] = with_settings(options.get("config", {}) | named_settings, settings or [])
    for name, hint in (("data", "DATA"), ("epsilon", "--epsilon")):
        if name not in options:
            raise InputError(f"{hint} is missing; give it on the command line or in the --config file")
    return options


def _read_file(path: Path) -> dict[str, Any]:
    from dpvision.images.files import read_text_file
    from dpvision.privacy.errors import InputError

    content = read_text_file(path)
    try:
        options = _parse(content.decode())
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    for name, value in options.items():
        if name not in _FILE_OPTIONS:
            raise InputError(f"{path}: there is no option '{name}'; choose from {', '.join(_FILE_OPTIONS)}")
        if not isinstance(value, _FILE_OPTIONS[name]) or isinstance(value, bool):
            raise InputError(f"{path}: {name} must be {_FILE_OPTIONS[name][-1].__name__}, not {value!r}")
    return options


def with_settings(config: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    from dpvision.privacy.errors import InputError

    config = dict(config)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise InputError(f"--set {setting}: must be of the form key=value")
        name, dot, inner = name.partition(".")
        if dot:
            if not isinstance(config.get(name, {}), dict):
                raise InputError(f"--set {setting}: {name} is no table")
            config[name] = config.get(name, {}) | {inner: _value(value)}
        else:
            config[name] = _value(value)
    return config


def _value(text: str) -> Any:
    """A TOML value, or else the text itself: 3, 0.1, true, "x" and x are all understood."""
    try:
        return _parse(f"value = {text}")["value"]
    except ValueError:
        return text


def _dots(text: str) -> int:
    return text.count(".")


def _parse(text: str) -> dict[str, Any]:
    """The fields of a TOML text.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    from dpvision.images.files import MAX_NESTING, check_nesting

    for line in text.splitlines():
        # The parser's time goes with the square of a key's parts, of which each but the last ends in a dot.
        if not line.lstrip().startswith("#") and max(map(_dots, re.split("[=,]", line))) > MAX_NESTING:
            raise ValueError("it is nested too deeply")
    try:
        fields = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_nesting(fields)
    return fields
