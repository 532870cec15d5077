"""`dpvision`, the command. Nothing heavy is imported until a command needs it, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dpvision.cli import (
    accounting,
    auditing,
    cards,
    comparing,
    diagnosing,
    exporting,
    hub,
    methods,
    models,
    pool,
    prior,
    synthesis,
    training,
    verifying,
)
from dpvision.cli.allocator import keep_freed_memory
from dpvision.cli.interruption import interruptible, taking_interruptions
from dpvision.cli.output import printable, show_messages
from dpvision.cli.processes import with_others
from dpvision.parallel import ProcessLostError, are_several
from dpvision.privacy.errors import InputError, on_command_line

HELP = """
Learn from private images under one privacy budget.

Look at what a run would take, without spending anything; train; classify new images:

    dpvision plan photos --epsilon 2

    dpvision train photos --epsilon 2 --out run

    dpvision predict run new-photos

The folder photos holds one folder of images per class. Also taken: a table of paths and labels (.csv), .npz,
IDX (MNIST's files), CIFAR's archives, Parquet in Hugging Face's image layouts, and bundled:digits. Publish
run/release and nothing else.
"""


class _Commands(TyperGroup):
    """The commands, each of which an interruption ends in good order: typer would end it without a word."""

    make_context = interruptible()(TyperGroup.make_context)
    invoke = interruptible()(TyperGroup.invoke)


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph, for a terminal is not as wide as the source; indented ones, which are
    commands, stay as they are.
    """
    found = cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith(" ") else " ".join(one.split()) for one in found)


app = typer.Typer(
    cls=_Commands,
    help=_paragraphs(HELP),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # takes a while

        typer.echo(f"dpvision {metadata.version('dpvision')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (training.train, training.tune, training.plan, training.resume, training.curves),
    "Synthesize": (synthesis.synthesize, synthesis.sample),
    "Compare": (comparing.runs, comparing.sweep),
    "Check the guarantee": (verifying.verify, cards.card, auditing.audit, auditing.membership),
    "Choose a method": (methods.methods, methods.settings),
    "Use a model": (models.evaluate, models.predict),
    "Publish": (exporting.export, hub.hub),
    "Data and budget": (accounting.data, accounting.ledger, accounting.epsilon, accounting.noise),
    "This machine": (diagnosing.doctor,),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


app.add_typer(prior.app, name="prior", rich_help_panel="Public images")
app.add_typer(pool.app, name="pool", rich_help_panel="Public images")


for group in (app, prior.app, pool.app):
    for registered in group.registered_commands:
        registered.help = _paragraphs(str(registered.callback.__doc__))


def main() -> None:
    """Run the command line: its entry point."""
    keep_freed_memory()
    try:
        with interruptible(), taking_interruptions():
            code = run(sys.argv[1:])
    except typer.Exit as ended:
        code = ended.exit_code
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Bad input is one line on stderr and code 2."""
    show_messages()
    try:
        with on_command_line():
            command = partial(_command(), list(arguments), prog_name="dpvision", standalone_mode=False)
            return (with_others(command) if are_several() else command()) or 0
    except Exception as error:
        message = _input_error(error)
        if message is None:
            raise
        if message:
            typer.echo(f"error: {printable(message, breaks=False)}", err=True)
        return 1 if isinstance(error, ProcessLostError) else 2


@cache
def _command() -> Any:
    """Return the command line; to build it takes a tenth of a second."""
    return get_command(app)


def _input_error(error: Exception) -> str | None:
    """Return the message if the user's input is at fault; None if the program is."""
    if isinstance(error, InputError):
        return str(error)
    if hasattr(error, "format_message"):  # a mistake in the options, found by typer
        return " ".join(error.format_message().split())
    if _is_of_memory(error):
        return (
            "this takes more memory than there is; take fewer views of an image, a smaller network or "
            f"smaller images ({(str(error) or type(error).__name__).splitlines()[0]})"
        )
    return None


def _is_of_memory(error: Exception) -> bool:
    """Say whether memory was refused: by Python, or by PyTorch, which has an exception for GPUs alone."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
