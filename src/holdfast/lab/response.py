"""Read HTTP/1.1 answers strictly, and tell a whole one from a cut one.

The framing rules are those of RFC 9112, section 6.3. What a lenient client would repair is an error here:
an instrument that repairs cannot measure.
"""

import re
from enum import IntEnum
from typing import NamedTuple

MAX_HEAD = 65_536
"""The longest head of an answer, in bytes."""
MAX_CHUNK_LINE = 1_024
"""The longest line that gives a chunk's size, and the longest trailer line, in bytes."""
MAX_TRAILERS = 100
MAX_CACHED_HEADS = 64

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n\0]*)?")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class AnswerError(ValueError):
    """The bytes are not a valid HTTP/1.1 answer; the message says why."""


class Head(NamedTuple):
    """What the head of an answer says. ``length`` is None when there is no Content-Length."""

    status: int
    keep_alive: bool
    length: int | None
    chunked: bool


class _At(IntEnum):
    HEAD = 0
    LENGTH = 1
    CHUNK_SIZE = 2
    CHUNK_DATA = 3
    CHUNK_END = 4
    TRAILER = 5
    CLOSE = 6
    DONE = 7


class Heads:
    """Parses heads, remembering the last few: a server sends the same head for every answer of one second.

    One for all connections of a load. Not thread-safe.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def parse(self, head: bytes) -> Head:
        """Parse a head without its final empty line. Raises AnswerError."""
        known = self._known.get(head)
        if known is not None:
            return known
        parsed = _parse_head(head)
        if len(self._known) >= MAX_CACHED_HEADS:
            self._known.clear()
        self._known[head] = parsed
        return parsed


class ResponseReader:
    """Reads one answer after another from one connection. Without I/O; not thread-safe.

    Call ``expect`` before each answer and ``feed`` with every piece that arrives. ``collect`` keeps the body.
    ``open_ended`` accepts a body that ends with the connection; such a body cannot be told from a cut one.
    """

    __slots__ = (
        "_at",
        "_bodiless",
        "_collect",
        "_heads",
        "_left",
        "_open_ended",
        "_parts",
        "_rest",
        "_trailers",
        "begun",
        "keep_alive",
        "status",
    )

    def __init__(self, heads: Heads, *, collect: bool = False, open_ended: bool = False) -> None:
        self._heads = heads
        self._collect = collect
        self._open_ended = open_ended
        self.expect()

    def expect(self, *, bodiless: bool = False) -> None:
        """Get ready for the next answer. ``bodiless``: the request was HEAD, so no body follows."""
        self._at = _At.HEAD
        self._bodiless = bodiless
        self._left = 0
        self._rest = b""
        self._parts: list[bytes] = []
        self._trailers = 0
        self.begun = 0
        self.keep_alive = False
        self.status = 0

    @property
    def body(self) -> bytes:
        """The body so far; empty unless ``collect`` was asked for."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when the answer is whole.

        Raises AnswerError when the bytes break the protocol, also when some follow the end of the answer.
        """
        self.begun += len(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        while True:
            at = self._at
            if at is _At.HEAD:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    if len(data) > MAX_HEAD:
                        raise AnswerError(f"the head is longer than {MAX_HEAD} bytes")
                    self._rest = data
                    return False
                head, data = data[:end], data[end + 4 :]
                self._begin_body(self._heads.parse(head))
            elif at is _At.LENGTH or at is _At.CHUNK_DATA:
                taken = data[: self._left] if len(data) > self._left else data
                if self._collect and taken:
                    self._parts.append(taken)
                self._left -= len(taken)
                data = data[len(taken) :]
                if self._left:
                    return False
                self._at = _At.DONE if at is _At.LENGTH else _At.CHUNK_END
            elif at is _At.DONE:
                if data:
                    raise AnswerError(f"{len(data)} bytes follow the end of the answer: {data[:40]!r}")
                return True
            elif at is _At.CLOSE:
                if self._collect and data:
                    self._parts.append(data)
                return False
            else:
                end = data.find(b"\r\n")
                if end < 0 or end > MAX_CHUNK_LINE:
                    if len(data) > MAX_CHUNK_LINE:
                        raise AnswerError(f"a line of the chunked body is longer than {MAX_CHUNK_LINE} bytes")
                    self._rest = data
                    return False
                line, data = data[:end], data[end + 2 :]
                self._take_line(line)

    def end(self) -> bool:
        """The peer closed its side; True when that ends the answer properly."""
        if self._at is _At.CLOSE:
            self._at = _At.DONE
        return self._at is _At.DONE

    def _begin_body(self, head: Head) -> None:
        status = head.status
        if status < 200:
            if status == 101:
                raise AnswerError("101 Switching Protocols, which nobody asked for")
            return  # an interim answer: the final one follows
        self.status = status
        self.keep_alive = head.keep_alive
        if self._bodiless or status in (204, 304):
            self._at = _At.DONE
        elif head.chunked:
            self._at = _At.CHUNK_SIZE
        elif head.length is not None:
            self._left = head.length
            self._at = _At.LENGTH
        elif self._open_ended:
            self.keep_alive = False
            self._at = _At.CLOSE
        else:
            raise AnswerError("neither Content-Length nor chunked: a cut body could not be told from a whole one")

    def _take_line(self, line: bytes) -> None:
        if self._at is _At.CHUNK_SIZE:
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise AnswerError(f"not a chunk size: {line[:40]!r}")
            self._left = int(found[1], 16)
            self._at = _At.CHUNK_DATA if self._left else _At.TRAILER
        elif self._at is _At.CHUNK_END:
            if line:
                raise AnswerError(f"a chunk is longer than its size says: {line[:40]!r}")
            self._at = _At.CHUNK_SIZE
        elif line:
            self._trailers += 1
            if self._trailers > MAX_TRAILERS:
                raise AnswerError(f"more than {MAX_TRAILERS} trailers")
        else:
            self._at = _At.DONE


def _parse_head(head: bytes) -> Head:
    first, *fields = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise AnswerError(f"not an HTTP/1 status line: {first[:60]!r}")
    keep_alive = found[1] == b"1"
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    for field in fields:
        name, colon, value = field.partition(b":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise AnswerError(f"not a header: {field[:60]!r}")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            lengths.add(value)
        elif name == b"transfer-encoding":
            codings.append(value.lower())
        elif name == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            if b"close" in options:
                keep_alive = False
            elif b"keep-alive" in options and found[1] == b"0":
                keep_alive = True
    if codings and codings != [b"chunked"]:
        raise AnswerError(f"Transfer-Encoding is {b', '.join(codings)!r}, only chunked is understood")
    if codings and lengths:
        raise AnswerError("both Transfer-Encoding and Content-Length")
    if len(lengths) > 1:
        raise AnswerError(f"several values of Content-Length: {sorted(lengths)!r}")
    length = None
    if lengths:
        digits = lengths.pop()
        if not digits.isdigit() or len(digits) > 18:
            raise AnswerError(f"Content-Length is {digits[:40]!r}, not a number")
        length = int(digits)
    return Head(int(found[2]), keep_alive, length, bool(codings))
