"""Reads what a server has written, as strictly as RFC 9112 has it."""

import re
from typing import NamedTuple

from fuzz.target import hold

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t -~\x80-\xff]*)")
_CHUNK = re.compile(rb"[0-9a-f]+")
_NEXT = b"HTTP/1.1 "
_INSIDE = re.compile(rb"HTTP/1\.1 [1-5][0-9]{2} ")


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool


def read_answers(written: bytes, *, head_requests: bool) -> list[Answer]:
    """All responses in ``written``; the last may be cut off. What follows a 101 is not looked at. Raises ``Broken``.

    With ``head_requests`` some of them may be without the body that their length promises.
    """
    answers: list[Answer] = []
    at = 0
    while at < len(written):
        end = written.find(b"\r\n\r\n", at)
        if end < 0:
            hold(written[at : at + len(_NEXT)] in (_NEXT, _NEXT[: len(written) - at]), "no response follows a response")
            answers.append(Answer(0, {}, b"", False))
            break
        status, headers = _head(written[at:end])
        at = end + 4
        if status == 101:
            answers.append(Answer(status, headers, b"", True))
            break
        body, at, whole = _body(written, at, status, headers, head_requests)
        hold(not _INSIDE.search(body), "a response lies in the body of another one")
        answers.append(Answer(status, headers, body, whole))
        closing = headers.get(b"connection", b"").lower() == b"close"
        hold(not closing or at == len(written), "something follows the last response of a connection")
    return answers


def _head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    found = _STATUS.fullmatch(first)
    hold(found, f"no status line: {first!r}")
    assert found is not None
    headers: dict[bytes, bytes] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        hold(field, f"no header: {line!r}")
        assert field is not None
        name = field[1].lower()
        hold(name not in headers, f"{name!r} is there twice")
        headers[name] = field[2]
    return int(found[1]), headers


def _body(
    written: bytes, at: int, status: int, headers: dict[bytes, bytes], head_requests: bool
) -> tuple[bytes, int, bool]:
    length = headers.get(b"content-length")
    chunked = headers.get(b"transfer-encoding") == b"chunked"
    hold(not (chunked and length is not None), "a response has a length and chunks")
    if status < 200 or status in (204, 304):
        hold(not chunked, f"a {status} has a body")
        return b"", at, True
    if head_requests and (at == len(written) or written.startswith(_NEXT, at)):
        return b"", at, True
    if chunked:
        return _chunks(written, at)
    if length is None:
        return written[at:], len(written), True
    hold(length.isdigit(), f"no length: {length!r}")
    size = int(length)
    body = written[at : at + size]
    return body, at + len(body), len(body) == size


def _chunks(written: bytes, at: int) -> tuple[bytes, int, bool]:
    pieces: list[bytes] = []
    while True:
        end = written.find(b"\r\n", at)
        if end < 0:
            return b"".join(pieces), len(written), False
        hold(_CHUNK.fullmatch(written[at:end]), f"no size of a chunk: {written[at:end]!r}")
        size = int(written[at:end], 16)
        piece = written[end + 2 : end + 2 + size]
        pieces.append(piece)
        at = end + 2 + size + 2
        if at > len(written):
            return b"".join(pieces), len(written), False
        hold(written[at - 2 : at] == b"\r\n", "a chunk is longer than its size")
        if size == 0:
            return b"".join(pieces), at, True
