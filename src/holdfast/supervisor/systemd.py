"""The sd_notify protocol: telling the service manager what the supervisor is doing.

Source: sd_notify(3), systemd.service(5) `Type=notify` and `Type=notify-reload`. A message is a datagram of
`NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Without the variable everything here does
nothing. The sockets that systemd passes are in `holdfast.supervisor.sockets`.
"""

import os
import socket
from collections import deque
from collections.abc import Mapping

__all__ = ["MAX_PENDING", "MAX_STATUS", "Notifier", "scrub"]

MAX_STATUS = 512
"""Characters of a status that are sent. systemd takes 4096 bytes a message, and a character has at most 4."""

MAX_PENDING = 16
"""So many messages are kept while systemd's queue is full; then the oldest is dropped."""

_SCRUBBED = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")


def scrub(env: Mapping[str, str]) -> dict[str, str]:
    """A copy of `env` for a worker: without the variables by which it could speak to systemd in the
    supervisor's name, stop the watchdog, or take descriptors that are not its own.
    """
    return {name: value for name, value in env.items() if not name.startswith(_SCRUBBED)}


class Notifier:
    """Speaks to the service manager. Never raises, never blocks, and does nothing without `NOTIFY_SOCKET`.

    Reads `env` once and leaves it alone, so that the same variables serve the same process id after a
    re-exec; workers get `scrub(env)`. Each method returns True when systemd's queue holds the message. When
    the queue is full the message is kept and goes out, in order, before the next one. Belongs to one
    thread.
    """

    __slots__ = ("_address", "_pending", "_socket", "_watchdog_interval")

    def __init__(self, env: Mapping[str, str], pid: int | None = None) -> None:
        """`pid` is the process that `WATCHDOG_PID` must name; None means this one."""
        self._address = _notify_address(env.get("NOTIFY_SOCKET", ""))
        self._watchdog_interval = _watchdog_interval(env, os.getpid() if pid is None else pid)
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)
        self._socket: socket.socket | None = None

    @property
    def enabled(self) -> bool:
        """Whether a service manager listens."""
        return self._address is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two calls of `watchdog()`: half of what systemd allows, as
        sd_watchdog_enabled(3) advises. None when systemd does not watch this process.
        """
        return self._watchdog_interval

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload announced by `reloading`, has finished."""
        return self._send("READY=1", *_status_line(status))

    def reloading(self, monotonic_usec: int) -> bool:
        """A reload begins, at `monotonic_usec` of CLOCK_MONOTONIC: microseconds, taken no earlier than
        the SIGHUP that asked for it. `Type=notify-reload` then waits for `ready`.
        """
        return self._send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic_usec)}")

    def stopping(self, status: str = "") -> bool:
        """The service begins to end."""
        return self._send("STOPPING=1", *_status_line(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`. Control characters become spaces; at most `MAX_STATUS`
        characters go out.
        """
        return self._send(f"STATUS={_one_line(text)}")

    def main_pid(self, pid: int) -> bool:
        """The service's main process is `pid` from now on."""
        return self._send(f"MAINPID={int(pid)}")

    def extend_timeout(self, seconds: float) -> bool:
        """Start, reload or stop may take `seconds` more, counted from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1_000_000))}")

    def watchdog(self) -> bool:
        """The service is alive. Not kept when the queue is full: a late sign of life would be a lie."""
        if self._address is None or not self._flush(self._address):
            return False
        return self._send_now(self._address, b"WATCHDOG=1")

    def close(self) -> None:
        """Close the socket. Messages still kept are dropped; a later call opens a new socket."""
        self._pending.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        # surrogateescape text (a file name, say) must not make the encoder raise.
        self._pending.append("\n".join(lines).encode("utf-8", "replace"))
        return self._flush(self._address)

    def _flush(self, address: bytes | str) -> bool:
        while self._pending:
            if not self._send_now(address, self._pending[0]):
                return False
            self._pending.popleft()
        return True

    def _send_now(self, address: bytes | str, message: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            return self._socket.sendto(message, address) == len(message)
        except OSError:
            # The queue is full, or the manager is restarting. A service must not fail because nobody listens.
            return False


def _notify_address(value: str) -> bytes | str | None:
    """The socket's address. Anything but a path or an abstract name (vsock:, say) is another machine's
    business.
    """
    if not hasattr(socket, "AF_UNIX") or len(value) < 2:
        return None
    if value.startswith("@"):
        return b"\0" + os.fsencode(value[1:])
    return value if value.startswith("/") else None


def _watchdog_interval(env: Mapping[str, str], pid: int) -> float | None:
    owner = env.get("WATCHDOG_PID", "")
    if owner and owner != str(pid):
        return None
    limit = env.get("WATCHDOG_USEC", "")
    if not (limit.isascii() and limit.isdigit()) or int(limit) == 0:
        return None
    return int(limit) / 1_000_000 / 2


def _status_line(text: str) -> tuple[str, ...]:
    return (f"STATUS={_one_line(text)}",) if text else ()


def _one_line(text: str) -> str:
    """A line break in a status would begin a new assignment, so text from outside could say READY=1."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_STATUS])
