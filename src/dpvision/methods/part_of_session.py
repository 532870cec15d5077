"""Let one method work on some stages of a run whose other stages are another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dpvision.images import ImageSet
from dpvision.methods.session import Built, Session, Sums
from dpvision.methods.stages import Calibrated
from dpvision.priors.encoders import Encoder
from dpvision.privacy.account import Account


class PartOfSession(Session):
    """Shows a method the stages that are its own, numbered from 0. All is done by the session of the run,
    with its account, randomness and checkpoints, so its guarantee holds.

    Args:
        whole: the session of the run.
        first: the number of the first of these stages there.
        count: how many there are. Noise multiplier and ε of ``stages`` stay those of the run.
    """

    def __init__(self, whole: Session, first: int, count: int) -> None:
        self._whole, self._first = whole, first
        self.facts, self.device, self.pool = whole.facts, whole.device, whole.pool
        self.preview = whole.preview
        self.stages = replace(whole.stages, stages=whole.stages.stages[first : first + count])

    def initialized(self, build: Callable[[], Built]) -> Built:
        return self._whole.initialized(build)

    def agree(self, module: nn.Module) -> None:
        self._whole.agree(module)

    def is_begun(self, number: int) -> bool:
        return self._whole.is_begun(self._first + number)

    def refuse_own(self, encoder: Encoder) -> None:
        self._whole.refuse_own(encoder)

    def opened_account(self) -> Account:
        return self._whole.opened_account()

    def tell(self, what: str, done: int, total: int) -> None:
        self._whole.tell(what, done, total)

    def release(self, number: int, sums_of: Callable[[ImageSet], Sums], blank: Sums) -> dict[str, Tensor]:
        return self._whole.release(self._first + number, sums_of, blank)

    def descend(self, number: int, what: str, model: nn.Module, **how: Any) -> None:
        self._whole.descend(self._first + number, what, model, **how)

    def select(
        self, number: int, stages_of: Callable[[int], Calibrated], run: Callable[[int, Session], Sums]
    ) -> dict[str, Tensor]:
        return self._whole.select(self._first + number, stages_of, run)
