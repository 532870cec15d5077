"""Text that others wrote, as it may be shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def acts(character: str) -> bool:
    """Say whether a character is no text, but does something to what is around it."""
    if character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":  # direction of text
        return True
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def written_out(text: str, keep: str = "") -> str:
    """Return a text with characters that act, but those to keep, written as in a program: ``\\x1b``."""
    return "".join(
        character.encode("unicode_escape").decode()
        if acts(character) and character not in keep
        else character
        for character in text
    )


def listing(names: Sequence[str], between: str = ", ", most: int = 10) -> str:
    """Return the first of some names, and dots if there are more."""
    return between.join(names[:most]) + (f"{between}…" if len(names) > most else "")
