"""A response as it goes onto the wire: checked, framed, and ended as its head has promised."""

import http
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from holdfast.server.http.protocol import HttpProtocol

_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"content-type", b"x-request-id"))
JOINED = 64 * 1024
"""Bytes of a body that are copied so that it goes out with its head."""
_BODILESS = frozenset((204, 304))


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_KNOWN_LIMIT: Final = 256
"""Lines of headers that are remembered: apps say the same again and again. When there are more, all are forgotten."""
_KNOWN_SIZE: Final = 64
"""Bytes that one of them may have."""
_known: dict[tuple[bytes, bytes], bytes] = {}
"""Lines of sound headers that have nothing to do with framing, by name and value."""

STATUS_LINE = {status: _status_line(status) for status in range(100, 600)}


class Response(ABC):
    """The outgoing half of one exchange. Belongs to one event loop."""

    __slots__ = (
        "chunked",
        "event_stream",
        "expect_continue",
        "expected",
        "head",
        "keep_alive",
        "more_body",
        "protocol",
        "response_complete",
        "response_started",
        "scope",
        "sent",
        "status",
    )

    def __init__(
        self, protocol: "HttpProtocol", scope: dict[str, Any], keep_alive: bool, expect_continue: bool
    ) -> None:
        self.protocol = protocol
        self.scope = scope
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.more_body = True  # of the request
        self.response_started = False
        self.response_complete = False
        self.event_stream = False
        self.chunked = False
        self.expected = -1  # bytes of the body still to come; -1: not declared
        self.status = 0
        self.head = b""  # made, and not on the wire: it goes with the first piece of the body
        self.sent = 0  # bytes of the body

    @abstractmethod
    def end_stream(self) -> None:
        """Tell an event stream that it has to end."""

    @abstractmethod
    def _complete(self) -> None:
        """The last byte has been written."""

    def _start(self, status: int, headers: Any) -> None:
        scope = self.scope
        state = self.protocol.state
        if state.closing and self.protocol.last_answer:
            self.keep_alive = False
        if self.expect_continue and self.more_body:
            self.keep_alive = False  # nobody can tell whether the body will follow
        self.chunked = self.event_stream = False  # a start that failed over a bad header may have left it
        self.expected = -1
        if status < 200:
            raise RuntimeError(f"{status} is no final status of a response")
        content = [STATUS_LINE[status], state.default_lines]
        declared = False
        says_close = says_id = False
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and not declared:
                self.expected = int(value)
                declared = True
                content.append(b"content-length: %b\r\n" % value)
                continue
            try:
                line = _known.get((name, value))
            except (TypeError, ValueError):  # a bytearray, or a view of one
                line = None
            if line is not None:
                content.append(line)
                continue
            if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
                raise RuntimeError(f"invalid character in the response header {name!r}: {value!r}")
            name = bytes(name).lower()  # noqa: PLW2901
            line = b"%b: %b\r\n" % (name, value)
            content.append(line)
            if name not in _FRAMING:
                _remember(name, value, line)
            elif name == b"content-length":
                if declared or not value.isdigit():
                    raise RuntimeError(f"the response declares its length twice, or wrongly: {value!r}")
                self.expected = int(value)
                declared = True
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                if declared:
                    raise RuntimeError("the response declares both a Content-Length and chunks")
                self.chunked = declared = True
                self.expected = -1
            elif name == b"content-type":
                if not value.startswith(b"text/event-stream"):
                    _remember(name, value, line)
                    continue
                self.event_stream = True  # whatever else it says it is: what is remembered is not looked at
                if state.draining:
                    self.protocol.loop.call_later(state.settings.stream_grace, self.end_stream)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                says_close = True
            elif name == b"x-request-id":
                says_id = True
        if not says_id:
            content.append(b"x-request-id: %b\r\n" % scope["request_id"].encode())
        if not declared and status not in _BODILESS and scope["method"] != "HEAD":
            if scope["http_version"] == "1.0":
                self.keep_alive = False  # an HTTP/1.0 client knows no chunks: the end of the connection ends the body
            else:
                self.chunked = True
                content.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not says_close:
            content.append(b"connection: close\r\n")
        content.append(b"\r\n")
        self.response_started = True
        self.status = status
        head = b"".join(content)
        if self.expected >= 0 and not self.event_stream:
            self.head = head
        else:  # a stream, whose first piece may come late
            self.protocol.transport.write(head)

    @property
    def begun(self) -> bool:
        """Whether anything of it is on the wire."""
        return self.response_started and not self.head

    def _take_back(self) -> None:
        """Forget a head that nobody has seen, so that something else can be answered."""
        if self.head:
            self.head = b""
            self.response_started = False

    def _write(self, body: bytes, more_body: bool) -> None:
        write = self.protocol.transport.write
        self.sent += len(body)
        if self.scope["method"] == "HEAD" or self.status in _BODILESS:
            self.expected = 0
            if self.head:
                head, self.head = self.head, b""
                write(head)
        elif self.chunked:
            if body:
                write(
                    b"%x\r\n%b\r\n" % (len(body), body) if more_body else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                )
            elif not more_body:
                write(b"0\r\n\r\n")
        else:
            if self.expected >= 0:
                self.expected -= len(body)
                if self.expected < 0:
                    self.expected = 0
                    raise RuntimeError("the response's body is longer than its Content-Length")
            if self.head:
                # One call of the system, and mostly one packet, in place of two.
                head, self.head = self.head, b""
                if len(body) <= JOINED:
                    write(head + body)
                else:
                    write(head)
                    write(body)
            else:
                write(body)
        if not more_body:
            if self.expected > 0:
                raise RuntimeError(f"the response's body is {self.expected} bytes shorter than its Content-Length")
            self._complete()


def _remember(name: bytes, value: bytes, line: bytes) -> None:
    if len(line) > _KNOWN_SIZE or type(value) is not bytes or name == b"set-cookie":  # which is one user's own
        return
    if len(_known) >= _KNOWN_LIMIT:
        _known.clear()
    _known[name, value] = line
