"""Show a run to TensorBoard while it works: event files beside its metrics, and as private."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpvision.images.extras import import_extra
from dpvision.privacy.errors import InputError, named_option
from dpvision.runs.epsilon_so_far import EpsilonSoFar
from dpvision.runs.files import writing

if TYPE_CHECKING:
    from dpvision.privacy.account import Account
    from dpvision.training import StepStatistics

FOLDER = "tensorboard"
SECONDS_UNTIL_WRITTEN = 10  # at most


def check_tensorboard() -> None:
    """Raise InputError unless TensorBoard is installed. Nothing of it is imported, which takes seconds."""
    if importlib.util.find_spec("tensorboard") is None:
        option = named_option("tensorboard", True)
        raise InputError(
            f"{option} needs TensorBoard, which is not installed; install it with "
            f"pip install 'dpvision[tensorboard]', or leave {option} out"
        )


def show_to_tensorboard(private: Path) -> None:
    """Let all processes that work on the run of this private folder write event files.

    Raises:
        InputError: the file system refuses.
    """
    with writing(private / FOLDER):
        (private / FOLDER).mkdir(mode=0o700)


class EventFiles:
    """Writes the statistics of each step, and the ε so far, in TensorBoard's format.

    The files are in a folder that only the owner may enter, and are the owner's alone. A process that goes on
    with an interrupted run begins a file that hides the steps which are taken again.

    Args:
        folder: that of the event files.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer_of = import_extra(
            "torch.utils.tensorboard", f"going on with the event files in {folder}", extra="tensorboard"
        ).SummaryWriter
        self._writer: Any = None
        self._epsilon = EpsilonSoFar()

    @classmethod
    def of(cls, private: Path) -> EventFiles | None:
        """Return those of a run's private folder, which has a folder for them; None where it has none."""
        return cls(private / FOLDER) if (private / FOLDER).is_dir() else None

    def append(self, step: StepStatistics, account: Account) -> None:
        """Write down one step, which the account has paid for.

        Raises:
            InputError: the file system refuses.
        """
        figures = asdict(step)
        at = figures.pop("step")
        epsilon = self._epsilon.of(account)
        if epsilon is not None:
            figures["epsilon"] = epsilon
        with writing(self._folder):
            if self._writer is None:
                self._writer = self._writer_of(self._folder, purge_step=at, flush_secs=SECONDS_UNTIL_WRITTEN)
                for path in self._folder.iterdir():
                    path.chmod(0o600)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, at)

    def close(self) -> None:
        """Write down what is still held back."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()
