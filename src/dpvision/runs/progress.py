"""Tell how far work that takes long has come."""

from __future__ import annotations

from typing import Protocol

from dpvision.privacy.account import Account


class Progress(Protocol):
    """A callback that is called with ``what`` is being done, how much of it is ``done``, and the ``total``;
    where private images are learned from, with the run's ``account`` too, for the ε so far.
    """

    def __call__(self, what: str, done: int, total: int, account: Account | None = None) -> None: ...
