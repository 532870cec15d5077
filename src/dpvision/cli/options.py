"""Commands made of the options that the functions of the same names take, from the command line and from
recipe files.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from dpvision.api.options import (
    OfClassifiers,
    PlanOptions,
    ReadOptions,
    RunOptions,
    SynthesisOptions,
    TrainOptions,
    TuneOptions,
    described,
)
from dpvision.cli import completion
from dpvision.privacy.errors import InputError

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="The private images: a folder of class folders (or of train/ and test/ with class folders), "
        "a .csv, .tsv or .parquet with a column of paths, Parquet with images, what datasets saved, .npz, "
        "a folder of IDX files or of CIFAR's, a run of synthesize, hf:OWNER/NAME on the Hugging Face Hub, or "
        "bundled:digits.",
        autocompletion=completion.data,
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="A recipe: a file with these options (epsilon = 2, …) and a table \\[config] of settings. "
        "Options given here win.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, such as network=wrn-16-4, steps=500 or network_options.order=1; "
        "`dpvision settings METHOD` lists them, and so does docs/reference/settings.md. Repeat for more.",
        autocompletion=completion.setting,
        show_default=False,
    ),
]
SearchFor = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=VALUE,VALUE,…",
        help="A setting to tune, with the values to choose from, such as learning_rate=10,30,100. Repeat for "
        "more: every combination is a candidate.",
        autocompletion=completion.setting,
        show_default=False,
    ),
]
PhaseIII = Annotated[
    str | None,
    typer.Option(
        "--phase-iii",
        help="With dp-randp, what learns after the head: full, all weights; top, the last third of the "
        "layers; norms, their scales and shifts; or none (the same as --set phase_iii=…).",
        show_default=False,
    ),
]
PoolPath = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        help="Public images that the private ones are mixed with, for dp-mix-diff: whatever DATA may be, "
        "what `pool make` wrote, or a run of synthesize (the same as --set pool=…).",
        show_default=False,
    ),
]


_SETTINGS_OF_CLASSIFIERS: dict[str, Any] = {"phase_iii": PhaseIII, "pool": PoolPath}
"""The settings of methods for classifiers that have options of their own, and what these are."""


def help_of(options: type[ReadOptions], name: str) -> str:
    """Return the help text of one of the options."""
    return described(options.__dataclass_fields__[name])


Device = Annotated[str | None, typer.Option(help=help_of(RunOptions, "device"))]
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run's directory, or its release directory; or a release as hf:OWNER/NAME."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]

RECIPE = {
    "data",
    *(
        one.name
        for kind in (PlanOptions, TrainOptions, TuneOptions, SynthesisOptions)
        for one in dataclasses.fields(kind)
        if "python_only" not in one.metadata
    ),
}
"""The options that a recipe may name: one of a run serves to plan and to audit it too."""

Verb = Callable[..., None]


def checks(**of: Callable[[Any], object]) -> Callable[[Verb], Verb]:
    """Let a command begin with these checks, each of the argument of its name, where that is given: what they
    refuse is told at once, and not after the seconds that the command's imports take.
    """

    def made(verb: Verb) -> Verb:
        @wraps(verb)
        def run(**given: Any) -> None:
            for name, check in of.items():
                if given[name] is not None:
                    check(given[name])
            verb(**given)

        return run

    return made


def reads_images(verb: Verb, without: Sequence[str] = ()) -> Verb:
    """Give a command the options of how images are read, those of `ReadOptions` without some. It takes those
    that were given as ``choices``, by name.
    """
    return options_of(ReadOptions, "choices", without)(verb)


def options_of(options: type, taken_as: str, without: Sequence[str] = ()) -> Callable[[Verb], Verb]:
    """Give a command the options that are the fields of a dataclass, without some. It takes those that were
    given in one argument, by name.

    Args:
        options: the dataclass; each field has its help.
        taken_as: the name of the argument.
        without: names of fields.
    """

    def made(verb: Verb) -> Verb:
        hints = get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in inspect.signature(verb).parameters.items()
            if name != taken_as
        ]
        shared = [one for one in dataclasses.fields(options) if _is_option(one) and one.name not in without]

        @wraps(verb)
        def run(**given: Any) -> None:
            found = {one.name: value for one in shared if _was_given(value := given.pop(one.name))}
            verb(**{taken_as: found}, **given)

        _take(run, [*own, *map(_option, shared)])
        return run

    return made


def reads_images_for_a_model(verb: Verb) -> Verb:
    """Give a command likewise the options of images that a model says the size and channels of, and of which
    nothing is learned.
    """
    return reads_images(verb, without=("size", "channels", "unit", "unit_column"))


def _take(run: Verb, parameters: Sequence[inspect.Parameter]) -> None:
    """Let typer see these parameters of a command."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def command(
    options: type[RunOptions], *, is_run: bool = True, without: Sequence[str] = ()
) -> Callable[[Verb], Verb]:
    """Make a command of a function ``(found, as_json, **own)``: ``found`` holds DATA and what was given of
    ``options``, in a recipe and on the command line; ``own`` are the function's further options, which take
    the place of those of the same name.

    Args:
        options: each becomes an option of the command.
        is_run: whether it refuses a recipe's options that it has not. A forecast or an audit of the same
            recipe leaves them aside.
        without: those that the command has not, and leaves aside in a recipe.
    """

    def made(verb: Verb) -> Verb:
        hints = get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in inspect.signature(verb).parameters.items()
            if name not in ("found", "as_json")
        ]
        names = {parameter.name for parameter in own}
        taken = [one for one in dataclasses.fields(options) if one.name not in without]
        shared = [one for one in taken if _is_option(one) and one.name not in names]
        of_classifiers = _SETTINGS_OF_CLASSIFIERS if issubclass(options, OfClassifiers) else {}

        def run(**given: Any) -> None:
            found = collect(
                given["config"], given["settings"], {name: given[name] for name in of_classifiers}
            )
            known = {"data", "config", *(one.name for one in taken)}
            for name in sorted(found.keys() - known):
                if is_run and name not in without:
                    raise InputError(
                        f"{given['config']}: {name} is no option of {verb.__name__}; leave it out"
                    )
                del found[name]
            from_here = {name: given[name] for name in ("data", *(one.name for one in shared))}
            found |= {name: value for name, value in from_here.items() if _was_given(value)}
            if given.get("class_counts"):
                found["class_counts"] = named_counts(given["class_counts"])
            verb(found, given["as_json"], **{name: given[name] for name in names})

        parameters = [
            _parameter("data", Data),
            *map(_option, shared),
            *own,
            *(_parameter(name, kind) for name, kind in of_classifiers.items()),
            _parameter("config", ConfigFile),
            _parameter("settings", Settings),
            _parameter("as_json", AsJson, False),
        ]
        _take(run, parameters)
        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        return run

    return made


def _is_option(one: dataclasses.Field[Any]) -> bool:
    """Say whether a field is a command-line option: settings have options of their own, objects none."""
    return one.name != "config" and "python_only" not in one.metadata


def _was_given(value: Any) -> bool:
    """Say whether an option was named: typer has None, False or [] where it was not, and 0 is a number."""
    return not (value is None or value is False or value == [])


def require(options: type[RunOptions], found: dict[str, Any]) -> None:
    """Raise InputError for the first option that is missing, is wrong by itself or names what is not there:
    DATA and all that have no default must be given.
    """
    needed = [one.name for one in dataclasses.fields(options) if one.default is MISSING]
    for name in ("data", *needed):
        if name not in found:
            flag = flag_of(options, name)
            raise InputError(f"{flag} is missing; give it on the command line or in the --config file")
    options.of({name: value for name, value in found.items() if name != "data"}, found["data"])


def flag_of(options: type[Any], name: str) -> str:
    """Return the name of an option, or of the data argument, on the command line."""
    return "DATA" if name == "data" else _flag(options.__dataclass_fields__[name])


def _option(one: dataclasses.Field[Any]) -> inspect.Parameter:
    """Return the parameter that typer makes an option of."""
    if one.type == "bool":
        return _parameter(one.name, Annotated[bool, typer.Option(_flag(one), help=described(one))], False)
    several = dict.fromkeys(("Sequence[str]", "Mapping[str, int]"), list[str])
    kinds = {"float": float, "int": int, "FilePath": Path, **several}
    kind: Any = kinds.get(str(one.type).removesuffix(" | None"), str)
    given = typer.Option(
        _flag(one),
        help=described(one),
        metavar=one.metadata.get("metavar"),
        show_default=False,
        autocompletion=completion.OF_OPTIONS.get(one.name),
    )
    return _parameter(one.name, Annotated[kind | None, given])


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(one: dataclasses.Field[Any]) -> str:
    return str(one.metadata.get("flag", f"--{one.name.replace('_', '-')}"))


def collect(
    file: Path | None, settings: list[str] | None = None, named: dict[str, str | None] | None = None
) -> dict[str, Any]:
    """Return the options of a recipe, its settings replaced by those that have options of their own
    (``named``, not None) and by --set.

    Raises:
        InputError: the file cannot be used, or a setting is malformed.
    """
    options = _read_recipe(file) if file else {}
    config = options.get("config", {})
    if not isinstance(config, dict):
        raise InputError(f"{file}: config must be a table, not {config!r}")
    given = {name: value for name, value in (named or {}).items() if value is not None}
    options["config"] = with_settings(config | given, settings or [])
    return options


def read_toml(path: Path) -> dict[str, Any]:
    """Return the fields of a TOML file. InputError where it is none."""
    from dpvision.images.files import read_text_file

    content = read_text_file(path)
    try:
        return _parse(content.decode())
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _read_recipe(path: Path) -> dict[str, Any]:
    options = read_toml(path)
    for name in options:
        if name not in RECIPE:
            raise InputError(f"{path}: there is no option '{name}'; choose from {', '.join(sorted(RECIPE))}")
    return options


def with_settings(config: dict[str, Any], settings: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Return ``config`` with settings KEY=VALUE of an option in it. InputError where one is malformed."""
    config = dict(config)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {setting}: must be of the form key=value")
        name, dot, inner = name.partition(".")
        if dot:
            if not isinstance(config.get(name, {}), dict):
                raise InputError(f"{option} {setting}: {name} is no table")
            config[name] = config.get(name, {}) | {inner: _value(value)}
        else:
            config[name] = _value(value)
    return config


def named_counts(pairs: Sequence[str]) -> dict[str, int]:
    """Return the counts of classes CLASS=COUNT, by their names. InputError where one is malformed."""
    counts = {}
    for pair in pairs:
        name, equals, count = pair.rpartition("=")  # a name may have the sign in it
        if not (equals and name):
            raise InputError(f"--class-count {pair}: must be of the form CLASS=COUNT")
        if name in counts:
            raise InputError(f"--class-count names the class '{name}' twice; leave one out")
        try:
            counts[name] = int(count)
        except ValueError:
            raise InputError(f"--class-count {pair}: '{count}' is no whole number") from None
    return counts


def with_searches(found: dict[str, Any], searches: list[str] | None) -> None:
    """Put searches KEY=VALUE,VALUE,… in place of those of the recipe. InputError where one is malformed."""
    if searches:
        found["search"] = dict(found.get("search") or {}) | dict(map(_search, searches))


def _search(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise InputError(f"--search {text}: must be of the form key=value,value,…")
    try:
        return name, list(_parse(f"values = [{values}]")["values"])
    except ValueError:
        return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    """Parse a TOML value or a number that TOML writes otherwise, or else return the text itself: 3, 0.1, .1,
    true, "x" and x are all understood.
    """
    try:
        return _parse(f"value = {text}")["value"]
    except ValueError:
        lacks_digits = re.fullmatch(r"[+-]?([0-9]+[.]|[.][0-9]+)([eE][+-]?[0-9]+)?", text.strip())
        return float(text) if lacks_digits else text


def _dots(text: str) -> int:
    return text.count(".")


def _parse(text: str) -> dict[str, Any]:
    """Return the fields of a TOML text.

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
