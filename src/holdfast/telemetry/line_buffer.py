"""Lines that wait in memory until several of them go out at once, and are never waited for.

Three things are bounded: what gathers before a try, what stays when the reader is behind, and how long the end waits.
"""

import os
from collections.abc import Callable
from typing import Final

from holdfast.core.clock import SYSTEM, Clock
from holdfast.telemetry.logs import Handler
from holdfast.telemetry.outlet import PIECE, descriptor, is_file, put, reopened, writable

FLUSH_SIZE: Final = 64 * 1024
"""Bytes that gather before they are written without waiting for the next ``flush()``. A pipe holds as much."""
KEEP_LIMIT: Final = 1024 * 1024
"""Bytes that are kept for a reader that is behind: half a second of 5,000 requests a second. What is beyond is lost."""
CLOSE_PATIENCE: Final = 0.05
"""Seconds that the end waits, all told, for a reader that is behind."""
CLOSE_INTERVAL: Final = 0.005
"""Seconds between two tries within that time."""
UNREAD: Final = "nobody read them"
NEWLINE: Final = 10


class LineBuffer:
    """Lines on their way to the stream of ``handler``, among those that it writes itself.

    ``notice`` makes the line that tells how many were lost, and why; it must not raise. The line takes the place of
    those that it stands for, once half of the room is free again. Lines go out in pieces of whole lines that a pipe
    takes whole or not at all, so that those of other processes do not get into the middle. A file gets all at once.
    Nothing here raises, and only ``close()`` waits, whatever the stream is, if it has a descriptor.
    Belongs to one thread. Others may log through ``handler``: while one of them does, the lines stay here.
    """

    def __init__(
        self,
        handler: Handler,
        notice: Callable[[int, str], str],
        *,
        flush_size: int = FLUSH_SIZE,
        keep: int = KEEP_LIMIT,
        clock: Clock = SYSTEM,
    ) -> None:
        self.handler = handler
        self.lost = 0
        """Lines that were not written, or not to their end."""
        self._notice = notice
        self._flush_size = flush_size
        self._keep = keep
        self._clock = clock
        self._lines: list[bytes] = []
        self._gathered = 0
        self._rest = b""
        self._untold = 0
        self._why = ""
        self._notices = 0  # in the rest, and what they tell of
        self._told = 0

    def __bool__(self) -> bool:
        """Whether there is something to write."""
        return bool(self._lines or self._rest or self._untold)

    def add(self, line: bytes) -> None:
        """Take a line, with its line break. Writes when enough have gathered."""
        self._lines.append(line)
        self._gathered += len(line)
        if self._gathered >= self._flush_size:
            self.flush()

    def lose(self, lines: int, why: str) -> None:
        """Count lines that are not to be had; the next notice tells of them."""
        self.lost += lines
        self._untold += lines
        self._why = why

    def flush(self) -> None:
        """Write what the reader has room for. What does not fit is kept, up to ``keep`` bytes."""
        lock = self.handler.lock
        free = lock is None or lock.acquire(blocking=False)
        try:
            self._advance(free)
        finally:
            if free and lock is not None:
                lock.release()

    def close(self, patience: float = CLOSE_PATIENCE) -> None:
        """Write all that is left, and wait ``patience`` seconds for a reader that is behind; then the rest is lost.

        Blocks the thread for so long. Lines may still come afterwards, and need another ``flush()``.
        """
        end = self._clock.now() + patience
        self.flush()
        while (self._lines or self._rest) and (left := end - self._clock.now()) > 0:
            target = descriptor(self.handler.stream)
            if target is not None and not writable(target, left):
                break
            self._clock.pause(min(left, CLOSE_INTERVAL))  # another thread writes, or the room is less than a piece
            self.flush()
        self._rest += self._taken()
        self._forget_rest(UNREAD)

    def _advance(self, may_write: bool) -> None:
        stuck = not may_write or not self._write()
        fresh = self._taken()
        if self._untold:
            if len(self._rest) > self._keep // 2:
                self.lose(fresh.count(b"\n"), self._why)
                return
            fresh = self._notice(self._untold, self._why).encode("utf-8", "backslashreplace") + fresh
            self._notices += 1
            self._told += self._untold
            self._untold = 0
        self._rest += fresh
        if not stuck:
            self._write()
        if len(self._rest) > self._keep:
            kept = self._rest.rfind(b"\n", 0, self._keep) + 1
            self.lose(self._rest.count(b"\n", kept), UNREAD)
            self._rest = self._rest[:kept]

    def _taken(self) -> bytes:
        data = b"".join(self._lines)
        self._lines.clear()
        self._gathered = 0
        return data

    def _write(self) -> bool:
        """Write as much of the rest as there is room for; False when something is left."""
        if not self._rest:
            return True
        stream = self.handler.stream
        try:
            target = descriptor(stream)
            if target is None:
                stream.write(self._rest.decode())
                stream.flush()
                self._rest = b""
            else:
                self._put(target)
        except BlockingIOError:
            return False
        except Exception as error:  # broken pipe, closed or full, or a stream of others: nobody to complain to
            self._forget_rest(getattr(error, "strerror", None) or type(error).__name__)
        if self._rest:
            return False
        self._notices = self._told = 0
        return True

    def _forget_rest(self, why: str) -> None:
        lines = self._rest.count(b"\n") - self._notices
        self._rest = b""
        if lines > 0:
            self.lose(lines, why)
        self._untold += self._told  # the notice is among what is lost, and has to come again
        self._notices = self._told = 0

    def _put(self, target: int) -> None:
        """Write the rest piece by piece. Raises BlockingIOError when there is no room, ``OSError`` as it comes."""
        own = reopened(target) if os.isatty(target) else None
        whole = is_file(target)
        data = memoryview(self._rest)
        start = 0
        try:
            while start < len(data):
                if self.handler.torn:  # these must not be taken for the end of what was torn off
                    self._put_piece(target, own, memoryview(b"\n"))
                    self.handler.torn = False
                end = len(data) if whole else _end(self._rest, start)
                written = self._put_piece(target, own, data[start:end])
                if not written:
                    return
                start += written
                if not whole and data[start - 1] != NEWLINE:
                    self.handler.torn = True
                    if data[start] != NEWLINE:
                        self.lose(1, UNREAD)
                    start = self._rest.find(b"\n", start) + 1
        finally:
            if start and data[start - 1] != NEWLINE:  # the disk is full
                self.handler.torn = True
            self._rest = self._rest[start:]
            if own is not None:
                os.close(own)

    def _put_piece(self, target: int, own: int | None, piece: memoryview) -> int:
        return put(target, piece) if own is None else os.write(own, piece)


def _end(data: bytes, start: int) -> int:
    """Where a piece ends: behind the last line that a pipe takes whole. A longer line goes by itself."""
    if len(data) - start <= PIECE:
        return len(data)
    return (data.rfind(b"\n", start, start + PIECE) + 1) or (data.find(b"\n", start + PIECE) + 1)
