"""What goes wrong between processes."""

from dpvision.privacy.errors import InputError


class ProcessLostError(InputError):
    """Another process of the run has ended, or cannot be reached any more."""
