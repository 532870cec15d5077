"""Write the pages of docs/reference/ that follow from the code: settings, command line and Python.

    python -m checks.reference

A test fails while a page says something else than this would write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import typer.main

import dpvision
from dpvision.cli.main import PANELS, app
from dpvision.methods import find_method, known_methods
from dpvision.methods.documentation import documented_settings, summary
from dpvision.privacy import Budget
from dpvision.privacy.facts import PublicFacts

FOLDER = Path(__file__).parents[1] / "docs" / "reference"

EXAMPLE = PublicFacts(num_examples=50_000, image_shape=(3, 32, 32), class_names=tuple("0123456789"))
BUDGET = Budget(2.0, 1e-5)
TIMED = {"dp-sgd": "3 minutes", "dp-mix-self": "15 minutes", "dp-mix-diff": "15 minutes"}
"""The methods whose steps follow from a trial of the machine, with what training takes at most by default."""

SETTINGS = """# Settings

What `--set KEY=VALUE`, a recipe's `[config]` and `config=` in Python take; `dpvision settings METHOD` prints
the same but for defaults. A value is written as in TOML; `--set encoder_options.size=8` sets one entry of a
table.

Defaults follow from what is public: N, the images' shape and classes, ε and the device. The column has
those for 50,000 colour images of 32 pixels in 10 classes, ε = 2, on a CPU; with `phase_iii=full` and
`phase_ii=sampled` the method chooses others. `dpvision plan` prints those for your images, and
`RUN/config.json` has all settings of a run.

`python -m checks.reference` writes this page from the classes of settings. Views and mixing are explained
in [mixing.md](mixing.md), encoders and heads in [priors.md](priors.md), generators in
[synthesis.md](synthesis.md).
"""

COMMAND_LINE = """# The command line

Every command has `--help` with an example. Bad input gives one sentence on stderr and exit code 2; then
nothing was spent and nothing is left behind. `--json` prints one JSON object as the last line of stdout.

DATA is a folder with one folder of images per class, or with `train/` and `test/` that hold class folders;
a table of paths and labels (`.csv`, `.tsv`, `.parquet`); an `.npz` archive (MedMNIST's layout, or `images`
and `labels`); a folder of IDX files (MNIST) or of CIFAR's archives; Parquet in Hugging Face's image layouts,
or what `datasets` saved; or `bundled:digits`: see [your files](../guide/your-files.md). Images that differ in
size, or are larger than 64 pixels, are resized unless `--size` or a network says otherwise; the command says
so. Test images are found in the data or named with `--test`.

`--config FILE.toml` reads options from a recipe, such as those in `recipes/`. Options on the command line
win. Settings of a method are in the table `[config]`, or are given by `--set`: [settings.md](settings.md)
lists them.

`python -m checks.reference` writes this page from the commands.
"""

PYTHON = """# Python

`plan`, `train`, `synthesize`, `audit` and the others take the options of the [commands](command-line.md) of
the same names; `config=` takes the [settings](settings.md). Data may be given as a path or as `Images` in
memory. Wrong input raises `InputError`, whose message is what the command line would print.

`python -m checks.reference` writes this page from `dpvision.__all__`.
"""

PARTS = """
## Parts

For work on one's own parts there are, beneath these:

| module | what it has |
|---|---|
| `dpvision.testing` | `check_guarantee`, `training_run`, `method_run`, …: tests of a guarantee |
| `dpvision.training` | `PrivateTrainer`: DP-SGD on a module, see [own-network.md](../guide/own-network.md) |
| `dpvision.gradients` | `ClippedGradient`: sums of clipped gradients of each example |
| `dpvision.views` | `SelfAugmentation`, `DPMix`, `open_pool`: what an image becomes |
| `dpvision.priors` | `build_encoder`: frozen encoders by name |
| `dpvision.privacy` | `Budget`, `Account`, `Ledger`, mechanisms and samplers |
| `dpvision.methods` | `Method`, `Stage`, `Session`: see [own-method.md](../guide/own-method.md) |
"""


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    return {
        "settings.md": SETTINGS + "".join(map(_settings_of, _our_methods())),
        "command-line.md": COMMAND_LINE + _commands(),
        "python.md": PYTHON + _python() + PARTS,
    }


def _our_methods() -> list[str]:
    """Without those that other packages have registered."""
    return [name for name, entry in known_methods().items() if entry.value.startswith("dpvision.")]


def _settings_of(name: str) -> str:
    method = find_method(name)
    given: dict[str, Any] = {"pool": "POOL"} if name == "dp-mix-diff" else {}
    if name in TIMED:
        given["steps"] = 1
    config = method.default_config(EXAMPLE, BUDGET, torch.device("cpu"), given)
    defaults = {
        one.name: f"`{_value(getattr(config, one.name))}`" for one in documented_settings(type(config))
    }
    if name in TIMED:
        defaults["steps"] = f"50 to 400, by N, ε and δ; or fewer, to take {TIMED[name]} at most"
    if name == "dp-mix-diff":
        defaults["pool"] = "must be given"
    rows = [
        (f"`{one.name}`", one.type, defaults[one.name], one.help)
        for one in documented_settings(method.config_class)
    ]
    return (
        f"\n## {name}\n\n{summary(method)}.\n\n{_table(('setting', 'type', 'default', 'what it does'), rows)}"
    )


def _value(value: Any) -> str:
    """As in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command with its name, those of groups as "pool make"."""
    groups: Any = typer.main.get_command(app)
    for name, one in groups.commands.items():
        if hasattr(one, "commands"):
            yield from ((f"{name} {inner}", each) for inner, each in one.commands.items())
        else:
            yield name, one


def _commands() -> str:
    found = dict(all_commands())
    panel_of = {command.__name__: panel for panel, commands in PANELS.items() for command in commands}
    rows = [
        (f"`dpvision {name}`", panel_of.get(name, "Public images"), _first_sentence(one.help))
        for name, one in found.items()
    ]
    text = "\n## Commands\n\n" + _table(("command", "of", "what it does"), rows)
    takers: dict[tuple[str, str], list[str]] = {}
    for name, one in found.items():
        for parameter in one.params:
            if parameter.name != "help":
                flags = parameter.opts + parameter.secondary_opts
                flag = "`, `".join(flags) if parameter.param_type_name == "option" else parameter.metavar
                said = _on_one_line(getattr(parameter, "help", None) or "")
                takers.setdefault((flag, said), []).append(name)
    rows = [(f"`{flag}`", said, ", ".join(names)) for (flag, said), names in takers.items()]
    return f"{text}\n## Arguments and options\n\n{_table(('option', 'what it says', 'of'), rows)}"


def _python() -> str:
    rows = []
    for name in dpvision.__all__:
        value = getattr(dpvision, name)
        if name != "__version__":
            rows.append((f"`{name}`", _first_sentence(inspect.getdoc(value) or "")))
    return "\n## Names\n\n" + _table(
        ("name of `dpvision`", "what it is"), [*rows, ("`__version__`", "The version, as text.")]
    )


def _first_sentence(text: str) -> str:
    paragraph = _on_one_line(text.partition("\n\n")[0])
    end = paragraph.find(". ")
    return paragraph if end < 0 else paragraph[: end + 1]


def _on_one_line(text: str) -> str:
    return " ".join(text.replace("\\[", "[").split())


def _table(heads: tuple[str, ...], rows: list[Any]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"wrote {FOLDER / name}")


if __name__ == "__main__":
    main()
