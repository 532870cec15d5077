"""dpvision doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from dpvision.cli.options import AsJson
from dpvision.cli.output import columns, in_bytes, printable, show

if TYPE_CHECKING:
    from dpvision.api.diagnosing import Diagnosis
    from dpvision.api.installation import Library


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what a run computes with here, and whether your ledgers are sound. Changes
    nothing. Private: it names your runs and ledgers.

    Examples:

        dpvision doctor

        dpvision doctor --json

    Exit code 0 if all is sound, 1 if something is not: a line for each says what, where and how to mend it.
    """
    from dpvision.api.diagnosing import doctor as look_over  # here: it takes seconds to import

    found = look_over()
    show(found.to_json(), as_json, _text(found))
    if not found.sound:
        raise typer.Exit(1)


def _text(found: Diagnosis) -> str:
    parts = [
        *_table("Installed", found.versions),
        *_table("Extras", {extra: _extra(extra, libraries) for extra, libraries in found.extras.items()}),
        *_table("Computing", _computing(found)),
        *_table("Ledgers", _ledgers(found)),
        *_lines("Notes", [str(one) for one in found.notes]),
        *_lines("UNSOUND", [str(one) for one in found.faults]),
        "something is unsound" if found.faults else "all is sound",
    ]
    return "\n".join(parts)


def _table(title: str, rows: dict[str, str]) -> list[str]:
    return [title, columns([["", name, value] for name, value in rows.items()]), ""]


def _lines(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  - {printable(line, breaks=False)}" for line in lines), ""] if lines else []


def _extra(extra: str, libraries: list[Library]) -> str:
    if any(one.version is None for one in libraries):
        return f"not installed: pip install 'dpvision[{extra}]'"
    return ", ".join(f"{one.name} {one.version}{' (unusable)' if one.error else ''}" for one in libraries)


def _computing(found: Diagnosis) -> dict[str, str]:
    of, room = found.computing, found.room
    bfloat16 = [name for name, has in (("AMX", of["amx"]), ("AVX-512 BF16", of["avx512_bf16"])) if has]
    rows = {
        "device": of["device"] + (f" ({of['name']}, one of {of['gpus']})" if of["name"] else ""),
        "CUDA": of["cuda"] or "not in this torch",
        "cores": f"{of['cores']}, of which torch uses {of['threads']}",
        "kernels": f"{of['vector_instructions']}, of bfloat16: {' and '.join(bfloat16) or 'none'}",
        "clipped gradients": f"{of['clipped_gradients']}, each layer's in the way that a trial finds fastest",
        "public training": of["public_training"],
        "memory": in_bytes(room["memory"]),
    }
    if room["gpu_memory"] is not None:
        rows["free on the GPU"] = in_bytes(room["gpu_memory"])
    return rows | {
        "free for ledgers": in_bytes(room["home"]),
        "free for what is temporary": in_bytes(room["temporary"]),
    }


def _ledgers(found: Diagnosis) -> dict[str, str]:
    of = found.ledgers
    return {
        "folder": f"{of.folder}{f' ({found.file_system})' if found.file_system else ''}",
        "ledgers": str(len(of.paths)),
        "open runs": str(len(of.open_runs)),
        "index of images": "there is one" if of.has_index else "none yet",
    }
