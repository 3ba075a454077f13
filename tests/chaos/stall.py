"""A network between workers and their database: a proxy that can stop to carry anything, or hang up."""

from __future__ import annotations

import socket
import threading
from typing import Any


class Network:
    """Carries every connection to a port on this machine, inside a `with` block; `port` is where it listens.

    Args:
        to: the port of the database.
    """

    def __init__(self, to: int) -> None:
        self._to, self._flows = to, threading.Event()
        self._flows.set()
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.close()
        self.hang_up()

    def stall(self) -> None:
        """Carry nothing from now on; nobody is told."""
        self._flows.clear()

    def flow(self) -> None:
        """Carry what has waited, and all that follows."""
        self._flows.set()

    def hang_up(self) -> None:
        """End every connection."""
        ends, self._ends = self._ends, []
        for end in ends:
            end.close()
        self.flow()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self._flows.wait()
                other.sendall(data)
        except OSError:
            pass  # either end is gone, and with it the connection
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
