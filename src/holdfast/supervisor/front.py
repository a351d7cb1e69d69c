"""The sockets that face the world: opened once, kept to the very end, through re-execs."""

import logging
import socket
from collections.abc import MutableMapping

from holdfast.supervisor.channel import Socket
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.sockets import (
    Listener,
    drop_new_handshakes,
    inherited_fds,
    open_intake,
    open_listener,
    parse_bind,
)

logger = logging.getLogger("holdfast.supervisor")

BIND_WAIT = 5.0
"""Seconds for which an address in use is tried again: workers of a killed supervisor let it go within moments."""


class Front:
    """The listeners, and the intake through which workers hand connections to each other."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.intake: tuple[socket.socket, socket.socket] | None = None

    async def open(self, settings: Settings, environment: MutableMapping[str, str]) -> None:
        """Take the sockets of the service manager, or bind and listen. Raises ConfigError naming the address."""
        for inherited in inherited_fds(environment):
            address = parse_bind(f"fd:{inherited.fd}")
            self.listeners.append(await open_listener(address, len(self.listeners)))
        if self.listeners:
            logger.info("serving %d sockets from the service manager instead of --bind", len(self.listeners))
        else:
            mode = int(settings.unix_mode, 8)
            for text in settings.bind:
                listener = await open_listener(
                    parse_bind(text), len(self.listeners), backlog=settings.backlog, unix_mode=mode, wait=BIND_WAIT
                )
                self.listeners.append(listener)
        self.intake = open_intake()

    def sockets(self) -> list[Socket]:
        """What a worker inherits."""
        return [Socket(one.id, one.fileno(), one.address) for one in self.listeners]

    def intake_fds(self) -> tuple[int, int]:
        assert self.intake is not None
        return self.intake[0].fileno(), self.intake[1].fileno()

    def urls(self, tls: bool) -> tuple[str, ...]:
        return tuple(one.url(tls) for one in self.listeners)

    def hold_back(self) -> bool:
        """Let no new handshake begin; whether that takes effect anywhere. Those under way need a moment to complete."""
        filtered = [drop_new_handshakes(listener.socket) for listener in self.listeners]
        if not all(filtered):
            logger.info(
                "new connections cannot be held back everywhere; one that comes at the last moment may be reset"
            )
        return any(filtered)

    def close(self) -> None:
        """Close this process's copies. The workers' are the last; each accepts what waits before it closes its own."""
        for listener in self.listeners:
            listener.close()
        for sock in self.intake or ():
            sock.close()
