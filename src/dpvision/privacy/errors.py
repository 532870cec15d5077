"""The errors that dpvision raises when the input, not the program, is at fault."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that says what is wrong, where, and how to mend it. The command line prints it
    and exits with code 2. A bug in dpvision never raises it.
    """


class BudgetExceeded(InputError):  # noqa: N818 (reads as what happened)
    """A release was refused: it would spend more privacy than its plan or the data set's owner allows."""
