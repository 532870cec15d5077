"""Start several processes of a run without torchrun, so that each can be watched and killed by itself."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def variables_of(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the variables by which torchrun tells a process that it is one of ``size``, all of them here."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
