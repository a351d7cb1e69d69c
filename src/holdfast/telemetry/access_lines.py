"""How one request looks as a line of the log: JSON or text, each of printable ASCII, whatever a client has sent.

Everything that comes from outside is escaped, so that nobody can end a line, begin a field, or speak to a terminal.
Nearly all requests are plain; these take a short way, which looks once whether they are.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias
from urllib.parse import quote

import msgspec

from holdfast.telemetry.logs import ACCESS, Json, shown_labels

LINE_LIMIT: Final = 4096
"""Bytes of a line with its break. As many as Linux writes into a pipe as a whole (``PIPE_BUF``)."""
LABELS_LIMIT: Final = 1024
"""Bytes of all labels in a line."""
ROOMS: Final = ((600, 128), (48, 16))
"""Characters of path and query, and of each other field, in a line that became too long. The second pair is for what
the escapes make long: twelve bytes of one character."""
CUT: Final = "..."
LONGEST: Final = 1e9
"""Seconds; a duration above, below 0 or not a number is shown as 0."""

# No blank, quote or backslash. In a path neither "?" nor "%": where it ends, and what stands for what, stays plain.
_PATH_SAFE: Final = "/:@!$&'()*+,;=~"
_QUERY_SAFE: Final = _PATH_SAFE + "?%[]{}|^`<>#"
_is_word: Final = re.compile(r"[A-Za-z0-9_.\-/:@+,;~\[\]{}*]*").fullmatch
_encode: Final = msgspec.json.Encoder().encode
_DELETE: Final = 0x7F
_MILLIS: Final = tuple(f"{number:03d}" for number in range(1000))


Request: TypeAlias = tuple[str, str, bytes, int, float, str, str, str, int, str]
"""Method, path, query, status, duration in seconds, client, request id, route, bytes sent, reason of a refusal.

What is empty, and a negative number of bytes, is not shown. A named tuple costs six times as much to make."""


class Fields(msgspec.Struct, omit_defaults=True):
    """The members of a JSON line that are of the request, in their order."""

    message: str
    method: str
    path: str
    status: int
    duration_ms: float
    query: str = ""
    bytes: int = -1
    client: str = ""
    request_id: str = ""
    route: str = ""
    reason: str = ""


def fields_of(request: Request) -> Fields:
    """``message`` is the request in short. Bytes of a query that are not ASCII are read as Latin-1."""
    method, path, query, status, seconds, client, request_id, route, sent, reason = request
    duration = int(seconds * 1e6) / 1000 if 0.0 <= seconds <= LONGEST else 0.0
    message = f"{method} {path} {status}"
    asked = query.decode("latin-1") if query else ""
    size = sent if sent >= 0 else -1
    return Fields(message, method, path, status, duration, asked, size, client, request_id, route, reason)


class JsonLines:
    """One object a line, with the fixed names of ``logs.Json``, the labels, and ``Fields``.

    Raises ValueError when the labels take more than ``LABELS_LIMIT``. Remembers the second that it was in last: for
    one thread.
    """

    def __init__(self, labels: Mapping[str, object]) -> None:
        fixed = {"level": "info", "logger": ACCESS}
        # A field of the request wins over a label of its name, as in the other lines.
        own = {f"{name}_" if name in Json.FIXED else name: value for name, value in labels.items()}
        own = {name: value for name, value in own.items() if name not in Fields.__struct_fields__}
        head = json.dumps(fixed | own, default=str, separators=(",", ":"))[1:-1]
        self._head = f'+00:00",{_bounded(head)},'.encode()
        self._second = -1
        self._date = b""

    def line(self, now: float, request: Request) -> bytes:
        """One line with its break, of at most ``LINE_LIMIT`` bytes. ``now`` is seconds since the Unix epoch."""
        second = int(now)
        if second != self._second:
            self._date = datetime.fromtimestamp(second, UTC).strftime('{"timestamp":"%Y-%m-%dT%H:%M:%S.').encode()
            self._second = second
        fields = fields_of(request)
        try:
            data = _encode(fields)
            plain = data.isascii() and _DELETE not in data
        except UnicodeEncodeError:  # half a surrogate pair
            plain = False
        if not plain:
            data = _escaped(fields)
        line = b"%b%06d%b%b\n" % (self._date, int((now - second) * 1e6), self._head, data[1:])
        return line if len(line) <= LINE_LIMIT else self.line(now, shortened(request))


class TextLines:
    """``12:00:01.250 INFO    w1 g3 holdfast.access: 192.0.2.1:4711 "GET /orders?page=2" 200 1.2ms bytes=312 ...``

    In local time, as ``logs.Text``. Raises ValueError when the labels take more than ``LABELS_LIMIT``. Remembers
    the second that it was in last: for one thread.
    """

    def __init__(self, labels: Mapping[str, object]) -> None:
        head = f" {'INFO':<7} {_bounded(shown_labels(labels))}{ACCESS}: "
        self._head = head.encode("utf-8", "backslashreplace").decode()
        self._second = -1
        self._time = ""

    def line(self, now: float, request: Request) -> bytes:
        """One line with its break, of at most ``LINE_LIMIT`` bytes. ``now`` is seconds since the Unix epoch."""
        second = int(now)
        if second != self._second:
            self._time = datetime.fromtimestamp(second).astimezone().strftime("%H:%M:%S.")
            self._second = second
        data = f"{self._time}{_MILLIS[int((now - second) * 1000)]}{self._head}{summary(request)}\n".encode()
        return data if len(data) <= LINE_LIMIT else self.line(now, shortened(request))


def summary(request: Request) -> str:
    """What text says of a request: printable ASCII, of no bounded length.

    Path and query are percent-encoded where they are not plain, other fields quoted where they are not one plain word.
    """
    method, path, query, status, seconds, client, request_id, route, sent, reason = request
    told, blanks = _told(request, f"{path}?{query.decode('latin-1')}" if query else path)
    if (
        told.isascii()
        # JSON escapes what is not to be here; its own two quotes and the two around the request are all that it added.
        and len(_encode(told)) == len(told) + 4
        and "\x7f" not in told
        and told.count(" ") == blanks
        and "%" not in path
        and "?" not in path
    ):
        return told
    target = quote(path, _PATH_SAFE, errors="backslashreplace")
    if query:
        target += "?" + quote(query, _QUERY_SAFE)
    names = (_word(client), _word(request_id), _word(route))
    return _told((_word(method), path, query, status, seconds, *names, sent, _word(reason)), target)[0]


def _told(request: Request, target: str) -> tuple[str, int]:
    """As it is, and how many blanks there are when no field has any."""
    method, _, _, status, seconds, client, request_id, route, sent, reason = request
    if not 0.0 <= seconds <= LONGEST:
        seconds = 0.0
    if request_id and route and sent >= 0 and not reason:  # nearly all
        return (
            f'{client or "-"} "{method} {target}" {status} {seconds * 1000:.1f}ms bytes={sent}'
            f" request_id={request_id} route={route}"
        ), 7
    blanks = 4
    told = f'{client or "-"} "{method} {target}" {status} {seconds * 1000:.1f}ms'
    if sent >= 0:
        told += f" bytes={sent}"
        blanks += 1
    if request_id:
        told += f" request_id={request_id}"
        blanks += 1
    if route:
        told += f" route={route}"
        blanks += 1
    if reason:
        told += f" reason={reason}"
        blanks += 1
    return told, blanks


def shortened(request: Request) -> Request:
    """The same request with long fields cut, to the first of ``ROOMS`` that cuts any; ValueError when none does."""
    method, path, query, status, seconds, client, request_id, route, sent, reason = request
    for most, more in ROOMS:
        asked = query if len(query) <= most + len(CUT) else query[:most] + CUT.encode()
        names = (_cut(client, more), _cut(request_id, more), _cut(route, more))
        shorter = (_cut(method, more), _cut(path, most), asked, status, seconds, *names, sent, _cut(reason, more))
        if shorter != request:
            return shorter
    raise ValueError("there is no room for the line")


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room + len(CUT) else text[:room] + CUT


def _escaped(fields: Fields) -> bytes:
    members = {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(fields).items()
        if value not in ("", -1)
    }
    return json.dumps(members, separators=(",", ":")).encode()


def _word(text: str) -> str:
    return text if _is_word(text) else json.dumps(text)


def _bounded(labels: str) -> str:
    size = len(labels.encode("utf-8", "backslashreplace"))
    if size > LABELS_LIMIT:
        raise ValueError(f"the labels take {size} bytes of each line; they may take {LABELS_LIMIT}")
    return labels
