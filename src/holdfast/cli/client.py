"""One conversation with a running supervisor, over its control socket. Blocking, with a deadline for all of it."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.cli.exitcode import ABSENT, FAILED, TIMEOUT, CommandError

CHUNK: Final = 64 * 1024
MAX_ANSWER: Final = 16 << 20
"""Bytes of one line of an answer."""


class Answer(msgspec.Struct, frozen=True):
    """One line that the supervisor says. Exactly one of ``event``, ``result`` and ``error`` is there."""

    event: msgspec.Raw = msgspec.Raw(b"")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: "Refusal | None" = None
    past: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """What was refused, and the failing app's own words."""

    reason: str
    detail: str = ""


class Refused(CommandError):
    """The supervisor has answered, and the answer is no."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(FAILED, refusal.reason, refusal.detail)


class Conversation:
    """A connection to the supervisor at ``path``. ``within`` seconds are for everything said on it, None is no limit.

    Every method raises CommandError: ABSENT when nobody answers there, TIMEOUT when the time is over, FAILED when the
    connection breaks, and ``ask`` Refused. What was asked for goes on after a TIMEOUT. Use it as a context manager,
    in one thread.
    """

    def __init__(self, path: Path, within: float | None) -> None:
        self.path = path
        self._within = within
        self._deadline = None if within is None else time.monotonic() + within
        self._buffer = bytearray()
        self._socket = self._connected()

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, op: str, **parameters: Any) -> msgspec.Raw:
        """Say what is wanted, and wait for the result."""
        self.say(op, **parameters)
        for answer in self.answers():
            if answer.error is not None:
                raise Refused(answer.error)
            if bytes(answer.result):
                return answer.result
        raise CommandError(FAILED, f"the supervisor ended the connection without an answer to {op}")

    def say(self, op: str, **parameters: Any) -> None:
        """Say what is wanted."""
        try:
            self._limit()
            self._socket.sendall(msgspec.json.encode({"op": op, **parameters}) + b"\n")
        except TimeoutError:
            raise self._too_late() from None
        except OSError as exc:
            raise CommandError(FAILED, f"the supervisor ended the connection: {exc.strerror}") from exc

    def answers(self) -> Iterator[Answer]:
        """Everything the supervisor says from now on, until it ends the connection."""
        while (line := self._line()) is not None:
            try:
                yield msgspec.json.decode(line, type=Answer)
            except msgspec.DecodeError as exc:
                raise CommandError(FAILED, f"what answers at {self.path} is no Holdfast supervisor: {exc}") from exc

    def _line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_ANSWER:
                raise CommandError(FAILED, f"what answers at {self.path} is no Holdfast supervisor: it never ends")
            try:
                self._limit()
                chunk = self._socket.recv(CHUNK)
            except TimeoutError:
                raise self._too_late() from None
            except OSError:
                chunk = b""  # a reset is the end of it as well
            if not chunk:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket = sock
            self._limit()
            sock.connect(str(self.path))
        except TimeoutError:
            sock.close()
            raise self._too_late() from None
        except OSError as exc:
            sock.close()
            if isinstance(exc, PermissionError):
                raise CommandError(FAILED, f"the supervisor at {self.path} belongs to another user") from exc
            if isinstance(exc, BlockingIOError):
                raise CommandError(FAILED, f"the supervisor at {self.path} takes no more commands now") from exc
            raise CommandError(ABSENT, f"no supervisor answers at {self.path}: {exc.strerror or exc}") from exc
        return sock

    def _limit(self) -> None:
        if self._deadline is None:
            self._socket.settimeout(None)
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _too_late(self) -> CommandError:
        return CommandError(TIMEOUT, f"the supervisor at {self.path} gave no answer within {self._within:g} s")
