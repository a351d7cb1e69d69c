"""The access log: one line for each request, for a sixth of what a line costs through ``logging``.

Lines go where ``logging`` would put those of the logger ``holdfast.access``. When that is the handler of
``logs.configure`` alone, they take a short way: written by hand into a buffer, from there into the same stream.
Whenever somebody else has a say, they take the long way through ``logging``: the logger or one above it has handlers or
filters of its own, other handlers are at the root, or records are made by a factory of the user's. A level above INFO
switches the lines off. All this is looked at with each ``flush()``, so a change holds from the next one on.

On the short way a line is up to one flush interval behind ordinary lines that were logged after it; sort by
time when it matters.
"""

import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.telemetry.access_lines import JsonLines, Request, TextLines, fields_of, summary
from holdfast.telemetry.line_buffer import LineBuffer
from holdfast.telemetry.logs import ACCESS, Handler, Json, Text

SLOW: Final = 1.0
"""Seconds from which on a request is slow, and its line never left out."""

_logger: Final = logging.getLogger(ACCESS)


class AccessLog:
    """Writes a line for each finished request. Never raises, never waits but in ``close()``; for one thread.

    ``sample`` is the share of lines that are kept, 0 to 1. Those of errors (any status but 200 to 399), of refusals and
    of requests that took ``slow`` seconds or more are always kept. ``rng`` decides about the others.
    The owner calls ``flush()`` every so often, and ``close()`` at the end.
    """

    def __init__(
        self,
        *,
        sample: float = 1.0,
        slow: float = SLOW,
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self.wall = clock.wall
        self._random = (rng or random.Random()).random  # noqa: S311 - no secret
        self._sample = 1.0
        self._slow = SLOW
        self.set_sampling(sample, slow)
        self._enabled = False
        self._handler: Handler | None = None
        self._formatter: logging.Formatter | None = None
        self._line: Callable[[float, Request], bytes] | None = None
        self._buffer: LineBuffer | None = None
        self._add: Callable[[bytes], None]  # the buffer's; there is one before there is a short way
        self._lost = 0
        self._refresh()

    @property
    def enabled(self) -> bool:
        """Whether lines are written at all; as of the last ``flush()``."""
        return self._enabled

    @property
    def at_once(self) -> bool:
        """Whether lines take the long way; as of the last ``flush()``. Others have a say in them there: by the context
        that is current when a line is written, perhaps, and by its time, so it should be written at once."""
        return self._enabled and self._line is None

    @property
    def lost(self) -> int:
        """Lines that were not written, or not to their end. What the handlers of others lose is not known here."""
        return self._lost + (self._buffer.lost if self._buffer is not None else 0)

    def set_sampling(self, sample: float, slow: float = SLOW) -> None:
        """Hold from the next request on. ValueError for a share outside 0 to 1, or a negative ``slow``."""
        if not 0.0 <= sample <= 1.0:
            raise ValueError(f"the share of lines that are kept is between 0 and 1, not {sample!r}")
        if not slow >= 0.0:
            raise ValueError(f"the seconds from which on a request is slow are 0 or more, not {slow!r}")
        self._sample = sample
        self._slow = slow

    def write(
        self,
        method: str,
        path: str,
        query: bytes,
        status: int,
        seconds: float,
        client: str = "",
        request_id: str = "",
        route: str = "",
        sent: int = -1,
        reason: str = "",
        at: float | None = None,
    ) -> None:
        """Log a request that is over. Anything may be in the texts; they are escaped, and cut when they are long.

        ``path`` is decoded, ``query`` is raw and without the ``?``. ``status`` 0: no response was begun. ``seconds`` is
        the duration, ``sent`` the bytes of the body (negative: not known), ``reason`` why the request was refused.
        ``at`` is when it was over, in seconds since the Unix epoch; now, when it is left out.
        """
        if not self._enabled:
            return
        if (
            self._sample < 1.0
            and 200 <= status < 400
            and seconds < self._slow
            and not reason
            and self._random() >= self._sample
        ):
            return
        try:
            request = (method, path, query, status, seconds, client, request_id, route, sent, reason)
            if self._line is None:
                _log(request)
            else:
                self._add(self._line(self.wall() if at is None else at, request))
        except Exception as error:  # a filter of the user's, or no text at all: a request must not fail over its line
            self._lose(type(error).__name__)

    def flush(self) -> None:
        """Write what has gathered and the stream has room for, and see where lines go from now on. Does not wait."""
        if self._buffer is not None and self._buffer:
            self._buffer.flush()
        self._refresh()

    def close(self) -> None:
        """Write what is left; waits up to ``line_buffer.CLOSE_PATIENCE`` for a reader that is behind, no longer."""
        if self._buffer is not None:
            self._buffer.close()

    def _refresh(self) -> None:
        self._enabled = _logger.isEnabledFor(logging.INFO)
        handler = _only_handler()
        formatter = handler.formatter if handler is not None else None
        if handler is self._handler and formatter is self._formatter:
            return
        self._handler, self._formatter = handler, formatter
        self._line = _line_of(formatter)
        if handler is not None:
            if self._buffer is None:
                self._buffer = LineBuffer(handler, self._notice, clock=self._clock)
                self._add = self._buffer.add
            self._buffer.handler = handler

    def _notice(self, lines: int, why: str) -> str:
        what = "1 access line was" if lines == 1 else f"{lines} access lines were"
        record = logging.LogRecord(ACCESS, logging.WARNING, __file__, 0, f"{what} lost: {why}", None, None)
        record.created = self.wall()
        try:
            return (self._formatter or _PLAIN).format(record) + "\n"
        except Exception:  # a label that cannot be shown: the bare message is still better than nothing
            return record.getMessage() + "\n"

    def _lose(self, why: str) -> None:
        if self._buffer is not None:
            self._buffer.lose(1, why)
        else:
            self._lost += 1


_PLAIN: Final = logging.Formatter()


def _log(request: Request) -> None:
    fields = msgspec.to_builtins(fields_of(request))
    del fields["message"]
    _logger.info("%s", summary(request), extra=fields)


def _only_handler() -> Handler | None:
    """The handler of ``logs.configure`` when lines of the logger reach it, unchanged, and nobody else."""
    found: list[logging.Handler] = []
    logger: logging.Logger | None = _logger
    if _logger.filters or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    if len(found) != 1 or type(found[0]) is not Handler:
        return None
    handler = found[0]
    return handler if not handler.filters and handler.level <= logging.INFO else None


def _line_of(formatter: logging.Formatter | None) -> Callable[[float, Request], bytes] | None:
    try:
        if type(formatter) is Json:
            return JsonLines(formatter.labels).line
        if type(formatter) is Text:
            return TextLines(formatter.labels).line
    except Exception:  # labels that are too long, or cannot be shown: the long way deals with them
        return None
    return None
