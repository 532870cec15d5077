"""A command in several processes, as torchrun starts them: the first does it, and the others their part."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dpvision.parallel import ProcessLostError, follows
from dpvision.privacy.errors import InputError


def with_others(command: Callable[[], int | None]) -> int | None:
    """Do a command, or this process' part of it; return the exit code."""
    from dpvision.api.together import follow, leading, tell  # here: they take seconds to import
    from dpvision.parallel import peers

    group = peers()
    if not follows():
        with leading(group):
            code = command()
        if not group.begun:  # it is none that several do
            tell(group, {})
        return code
    logging.getLogger("dpvision").setLevel(logging.WARNING)
    try:
        follow(group)
    except ProcessLostError:
        raise
    except InputError:  # the first process says it
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
