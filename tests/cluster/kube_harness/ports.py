"""Free ports of the loopback interface that stay ours while a cluster lives.

A port is held by a bound socket that never listens; a server that shares ports (SO_REUSEPORT) can
listen on it and nobody else is given it: there is no race, and servers can restart on their ports.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


class Ports:
    """Held ports; closed together."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self) -> int:
        """Hold one more free port."""
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((LOOPBACK, 0))
        self._sockets.append(holder)
        port: int = holder.getsockname()[1]
        return port

    def close(self) -> None:
        """Give all ports back."""
        for holder in self._sockets:
            holder.close()
        self._sockets.clear()
