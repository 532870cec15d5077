"""Several processes that do one run together: who they are, what they tell each other, how one notices that
another has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.parallel.errors import ProcessLostError
    from dpvision.parallel.group import ALONE, Peers
    from dpvision.parallel.shares import share_of
    from dpvision.parallel.start import peers
    from dpvision.parallel.variables import are_several, follows

__all__ = ["ALONE", "Peers", "ProcessLostError", "are_several", "follows", "peers", "share_of"]

_HOMES = {
    "ALONE": "dpvision.parallel.group",
    "Peers": "dpvision.parallel.group",
    "ProcessLostError": "dpvision.parallel.errors",
    "are_several": "dpvision.parallel.variables",
    "follows": "dpvision.parallel.variables",
    "peers": "dpvision.parallel.start",
    "share_of": "dpvision.parallel.shares",
}
if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
