"""Show the output of commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer


def show(fields: Mapping[str, Any], as_json: bool, text: str | Mapping[str, object]) -> None:
    """Show a command's result: one JSON object on one line, or text for people, or rows of a `table`."""
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        typer.echo(printable(text if isinstance(text, str) else table(text)))


def printable(text: str, *, breaks: bool = True) -> str:
    """Return a text without what a terminal would obey: names of files and classes come from others.

    Args:
        text: to be shown.
        breaks: whether it may have several lines.
    """
    from dpvision.images.text import written_out

    return written_out(text, keep="\n" if breaks else "")


def command_line() -> str:
    """Return the command as it would be typed in a shell, in the folder of its files: it is published."""
    from dpvision.images.files import named

    words = [word.rpartition("=") for word in sys.argv[1:]]
    return shlex.join(["dpvision", *(f"{option}{sign}{named(value)}" for option, sign, value in words)])


def table(rows: Mapping[str, object]) -> str:
    """Lay out names and values in two columns, each pair on a line of its own."""
    return columns([[name, str(value)] for name, value in rows.items()])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of as many cells in columns, each row on a line of its own."""
    shown = [[printable(cell, breaks=False) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def in_bytes(count: int) -> str:
    """Write the bytes of memory as people say them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def show_messages() -> None:
    """Send announcements of the package (such as a size that was chosen) to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable())
    logger = logging.getLogger("dpvision")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())
