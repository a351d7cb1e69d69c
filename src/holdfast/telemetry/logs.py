"""Log set-up for the supervisor and its workers: readable text, or one JSON object a line.

It is the standard library's logging with one handler on the root. A log line never raises into the code that
wrote it: a stream that is closed or broken costs the line, nothing else.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import msgspec

Format = Literal["auto", "text", "json"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
TEXT_LABELS: Final[dict[str, str]] = {"worker": "w", "generation": "g"}
"""Labels that text shows with a letter in front (``w1 g3``); others appear as their bare value."""
MESSAGE_LIMIT: Final = 256 * 1024
"""Characters of a message or a stack that are written; the rest is cut off."""
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
    """Writes a line and flushes it. Safe from any thread; never raises an ``Exception``, never closes ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.lost = 0
        """Lines that could not be written."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a bad format string or a __str__ that raises is no reason to lose the place
            line = self._broken(record, error)
        try:
            self._write(line + "\n")
        except Exception:  # broken pipe, closed or full: there is nowhere left to complain to
            self.lost += 1

    def _write(self, line: str) -> None:
        try:
            self.stream.write(line)
        except UnicodeEncodeError:
            self.stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        self.stream.flush()

    def _broken(self, record: logging.LogRecord, error: Exception) -> str:
        message = f"a log line from {record.pathname}:{record.lineno} cannot be formatted: {type(error).__name__}"
        plain = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, message, None, None)
        try:
            return self.format(plain)
        except Exception:  # a label that cannot be shown: the bare message is still better than nothing
            return message


class Text(logging.Formatter):
    """``12:00:01.250 INFO  w1 g3 holdfast.supervisor: message key=value``, local time, then the stack."""

    def __init__(self, labels: Mapping[str, object], *, colour: bool) -> None:
        super().__init__()
        self._labels = "".join(f"{TEXT_LABELS.get(name, '')}{value} " for name, value in labels.items())
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
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
        self._labels = dict(labels)
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        for name, value in (*self._labels.items(), *_extra(record).items()):
            line[f"{name}_" if name in self.FIXED else name] = value
        stack = _stack(record)
        if stack:
            line["exception"] = stack
        try:
            return self._encoder.encode(line).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            # Keys that are not text, lone surrogates, an object inside itself: keep the line, as text.
            return self._encoder.encode({_clean(name): _clean(value) for name, value in line.items()}).decode()


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
