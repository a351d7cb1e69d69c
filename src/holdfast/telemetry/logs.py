"""Log set-up for the supervisor and its workers: readable text, or one JSON object a line.

It is the standard library's logging with one handler on the root. A log line never raises into the code that
wrote it, and never holds it up: a stream that is closed, broken or not read costs the line, nothing else.
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import msgspec

from holdfast.telemetry.outlet import PIECE, descriptor, put, reopened, writable

Format = Literal["auto", "text", "json"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
TEXT_LABELS: Final[dict[str, str]] = {"worker": "w", "generation": "g"}
"""Labels that text shows with a letter in front (``w1 g3``); others appear as their bare value."""
ACCESS: Final = "holdfast.access"
"""The logger of the lines that there are for each request."""
MESSAGE_LIMIT: Final = 256 * 1024
"""Characters of a message or a stack that are written; the rest is cut off."""
PAUSE: Final = 0.001
"""Seconds to the next try when a stream that said it has room had none for what came."""
PATIENCE: Final = 0.05
"""Seconds that writers wait, all told, for a reader that is behind, so that a burst does not outrun a living one."""
PATIENCE_INTERVAL: Final = 5.0
"""Seconds until that much may be waited again; only once a line has gone out, so nobody waits for a dead reader."""
COLOURS: Final[dict[int, str]] = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
RESET: Final = "\x1b[0m"

# What every record has; all else on a record came in through ``extra=``.
_OWN: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


def configure(
    *,
    format: Format = "auto",  # noqa: A002 - the name of the setting
    level: str = "info",
    labels: Mapping[str, object] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to ``stream`` (default: ``sys.stderr`` as it is now).

    ``auto`` is text on a terminal and JSON elsewhere. ``labels`` are put on every line. Warnings are captured
    under the logger ``py.warnings``. A second call replaces what the first one set up; handlers of others stay.
    Uncaught errors in threads are logged too. ``ValueError`` for an unknown format or level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"{level!r} is no log level; give one of {', '.join(LEVELS)}")
    if format not in ("auto", "text", "json"):
        raise ValueError(f"{format!r} is no log format; give one of auto, text, json")
    target = sys.stderr if stream is None else stream
    terminal = _is_terminal(target)
    text = format == "text" or (format == "auto" and terminal)
    handler = Handler(target)
    handler.setFormatter(Text(labels or {}, colour=terminal) if text else Json(labels or {}))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failure


class Handler(logging.Handler):
    """Writes each line at once. Safe from any thread; never raises an ``Exception``, never closes ``stream``.

    On a stream with a descriptor it does not wait for a reader, but for ``PATIENCE``: what does not fit is lost,
    and the next line that fits has one before it that says how many were. The descriptor stays in the mode that
    it has, since others share it. Its bytes are written past the stream's own buffer.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.lost = 0
        """Lines that could not be written, or not to their end."""
        self.torn = False
        """What was written last is the beginning of a line that has lost its end. Belongs to ``lock``."""
        self._untold = 0
        self._why = ""
        self._patience = PATIENCE
        self._patient_again = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a bad format string or a __str__ that raises is no reason to lose the place
            place = f"{record.pathname}:{record.lineno}"
            line = self._plain(record, f"a log line from {place} cannot be formatted: {type(error).__name__}")
        try:
            if self._untold:
                self._write(self._notice())
                self._untold = 0
            self._write(line)
        except BlockingIOError:
            self._lose("nobody read them")
        except Exception as error:  # broken pipe, closed or full: there is nowhere left to complain to
            self._lose(getattr(error, "strerror", None) or type(error).__name__)

    def _lose(self, why: str) -> None:
        self.lost += 1
        self._untold += 1
        self._why = why

    def _notice(self) -> str:
        what = "1 log line was" if self._untold == 1 else f"{self._untold} log lines were"
        about = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "", None, None)
        return self._plain(about, f"{what} lost: {self._why}")

    def _write(self, line: str) -> None:
        target = descriptor(self.stream)
        if target is None:
            self._write_plainly(line + "\n")
            return
        # What was torn off ends here; a reader of lines must not take the rest for a part of it.
        text = f"\n{line}\n" if self.torn else f"{line}\n"
        data = memoryview(text.encode(self.stream.encoding, "backslashreplace"))
        own = reopened(target) if os.isatty(target) else None
        written = 0
        try:
            while written < len(data):
                self._wait(target)
                # No more than a pipe that can be written to takes: a longer write could block in the middle.
                piece = data[written : written + PIECE]
                try:
                    written += put(target, piece) if own is None else os.write(own, piece)
                except BlockingIOError:  # too little room, or another process was faster
                    if self._patience <= 0:
                        raise
                    time.sleep(PAUSE)
                    self._spend(PAUSE)
        finally:
            if own is not None:
                os.close(own)
            if written:
                self.torn = written < len(data)
        if self._patience < PATIENCE and time.monotonic() >= self._patient_again:
            self._patience = PATIENCE

    def _write_plainly(self, line: str) -> None:
        try:
            self.stream.write(line)
        except UnicodeEncodeError:
            self.stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        self.stream.flush()

    def _wait(self, target: int) -> None:
        """Return when something can be written. Raises BlockingIOError when not soon; regular files always can."""
        if writable(target):
            return
        if self._patience > 0:
            began = time.monotonic()
            soon = writable(target, self._patience)
            self._spend(time.monotonic() - began if soon else PATIENCE)
            if soon:
                return
        raise BlockingIOError(errno.EAGAIN, "nobody reads")

    def _spend(self, seconds: float) -> None:
        self._patience -= seconds
        self._patient_again = time.monotonic() + PATIENCE_INTERVAL

    def _plain(self, about: logging.LogRecord, message: str) -> str:
        plain = logging.LogRecord(about.name, about.levelno, about.pathname, about.lineno, message, None, None)
        try:
            return self.format(plain)
        except Exception:  # a label that cannot be shown: the bare message is still better than nothing
            return message


class Text(logging.Formatter):
    """``12:00:01.250 INFO  w1 g3 holdfast.supervisor: message key=value``, local time, then the stack."""

    def __init__(self, labels: Mapping[str, object], *, colour: bool) -> None:
        super().__init__()
        self.labels: Final = dict(labels)
        self._labels = shown_labels(labels)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        # An access line's message has in it what its fields have.
        extra = {} if record.name == ACCESS else _extra(record)
        fields = "".join(f" {name}={value}" for name, value in extra.items())
        # Continuation lines are indented: nobody can write a false line through a header or a path.
        message = _shown(f"{_cut(record.getMessage())}{_cut(fields)}")
        level = f"{record.levelname:<7}"
        if self._colour and record.levelno in COLOURS:
            level = f"{COLOURS[record.levelno]}{level}{RESET}"
        return f"{time} {level} {self._labels}{record.name}: {message}{_stack(record, before=chr(10))}"


class Json(logging.Formatter):
    """One object a line: timestamp (ISO 8601, UTC), level, logger, message, the labels, the extra fields, exception.

    Neither a label nor an extra field replaces one of the fixed names; it is then written with ``_`` behind.
    What JSON cannot hold is written as its text.
    """

    FIXED: Final = ("timestamp", "level", "logger", "message", "exception")

    def __init__(self, labels: Mapping[str, object]) -> None:
        super().__init__()
        self.labels: Final = dict(labels)
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        for name, value in (*self.labels.items(), *_extra(record).items()):
            line[f"{name}_" if name in self.FIXED else name] = value
        stack = _stack(record)
        if stack:
            line["exception"] = stack
        try:
            return self._encoder.encode(line).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            # Keys that are not text, lone surrogates, an object inside itself: keep the line, as text.
            return self._encoder.encode({_clean(name): _clean(value) for name, value in line.items()}).decode()


def shown_labels(labels: Mapping[str, object]) -> str:
    """How text has them, with a space behind each: ``shop w1 g3 ``."""
    return "".join(f"{TEXT_LABELS.get(name, '')}{value} " for name, value in labels.items())


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _OWN}


def _stack(record: logging.LogRecord, before: str = "") -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return before + _cut("\n".join(parts)) if parts else ""


def _shown(text: str) -> str:
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\n":
        return "\n    "
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}... ({len(text)} characters)"


def _clean(value: object) -> str:
    return _cut(str(value)).encode("utf-8", "backslashreplace").decode()


def _is_terminal(stream: TextIO) -> bool:
    with contextlib.suppress(ValueError, AttributeError, OSError):  # closed, or not quite a file
        return stream.isatty()
    return False


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
        return
    name = failure.thread.name if failure.thread else "unknown"
    stack: tuple[type[BaseException], BaseException, TracebackType | None] = (
        failure.exc_type,
        failure.exc_value,
        failure.exc_traceback,
    )
    logging.getLogger(__name__).error("thread %s failed", name, exc_info=stack)
