"""Options that users name: whether there are such, and of which type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from dpvision.privacy.errors import InputError
from dpvision.privacy.values import fits, in_words


def check_options(
    what: str, builder: Callable[..., Any], options: Mapping[str, Any], others: Collection[str]
) -> None:
    """Refuse options that ``builder``, a class or a function, does not take, or of another type than it says.

    Args:
        what: is built, for the message.
        builder: its parameters are the options, but for ``others``.

    Raises:
        InputError: names the first such option.
    """
    known = [name for name in inspect.signature(builder).parameters if name not in others]
    unknown = options.keys() - set(known)
    if unknown:
        listing = ", ".join(sorted(known)) or "none"
        raise InputError(f"{what} has no option '{min(unknown)}'; its options: {listing}")
    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    for name, value in options.items():
        if name in hints and not fits(value, hints[name]):
            raise InputError(f"{what}: {name} must be {in_words(hints[name])}, not {value!r}")
