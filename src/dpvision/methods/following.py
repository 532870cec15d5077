"""The session of a process that follows: it works on its share of the images, and gets what the leader has
released.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dpvision.images import ImageSet
from dpvision.methods.session import AfterStep, Session, Sums
from dpvision.methods.stages import Calibrated
from dpvision.parallel import Peers
from dpvision.priors.encoders import Encoder
from dpvision.privacy.account import Account
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.noise import SeededRandom
from dpvision.training import PrivateTrainer
from dpvision.views import Pool


class FollowingSession(Session):
    """Does what a method asks of a :class:`Session`, for the images of this process, while the session of the
    leader does the same for its own.

    It has no account, and adds no noise: all that a method gets here is what the leader's mechanisms have
    released. It draws nothing either: what examples draw follows from the keys that the leader sends.

    Args:
        images, facts, stages, device, pool, share: as for :class:`Session`, and the same as the leader's.
        peers: the processes of the run.
    """

    def __init__(
        self,
        images: ImageSet,
        facts: PublicFacts,
        stages: Calibrated,
        device: Any,
        peers: Peers,
        *,
        pool: Pool | None = None,
        share: ImageSet | None = None,
    ) -> None:
        # The seed is of nothing that is used.
        super().__init__(
            images, facts, stages, _no_account, SeededRandom(0), device, pool=pool, peers=peers, share=share
        )

    def refuse_own(self, encoder: Encoder) -> None:
        """Leave it to the leader to refuse an encoder."""

    def tell(self, what: str, done: int, total: int) -> None:
        """Tell nobody: whoever watches the run watches the leader."""

    def is_begun(self, number: int) -> bool:
        """Say what the leader says."""
        return bool(self._peers.say())

    def _is_kept(self, number: int) -> bool:
        return bool(self._peers.say())

    def _release(self, number: int, sums_of: Callable[[ImageSet], Sums], blank: Sums) -> None:
        self._sums_of_all(sums_of, blank)

    def _take_steps(
        self, number: int, what: str, model: nn.Module, trainer: PrivateTrainer, after_step: AfterStep | None
    ) -> None:
        trainer.follow()

    def _run_trials(
        self, number: int, stages_of: Callable[[int], Calibrated], run: Callable[[int, Session], Sums]
    ) -> None:
        while (candidate := self._peers.say()) is not None:
            run(candidate, self._of_followed_trial(stages_of(candidate)))

    def _of_followed_trial(self, stages: Calibrated) -> FollowingSession:
        return FollowingSession(
            self._all, self.facts, stages, self.device, self._peers, pool=self.pool, share=self._images
        )


def _no_account() -> Account:
    raise RuntimeError("a process that follows has no account")
