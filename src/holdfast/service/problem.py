"""Problem details for HTTP APIs (RFC 9457): one JSON shape for every error that Holdfast itself answers."""

import secrets
from http import HTTPStatus
from typing import Any, Final

import msgspec

CONTENT_TYPE: Final = b"application/problem+json"
REQUEST_ID_BYTES: Final = 16
"""As many random bits as a UUID, so that ids of a whole fleet do not meet."""

_encode: Final = msgspec.json.Encoder().encode


def problem(
    status: int,
    title: str | None = None,
    detail: str | None = None,
    *,
    request_id: str | None = None,
    type: str = "about:blank",  # noqa: A002 - the member's name in the RFC
    **extensions: Any,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The status, headers and body of a problem response.

    ``title`` defaults to the status's own phrase, which the RFC wants for ``about:blank``. ``request_id``
    also goes into the header ``x-request-id``. ``extensions`` become further members (``instance`` is one
    of the RFC's own). Never put an exception's text into ``detail``: it may hold secrets.

    Raises ``ValueError`` when ``status`` is no error status, ``TypeError`` for what cannot be encoded.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"{status!r} is not an error status; give 400 to 599")
    body: dict[str, Any] = {"type": type, "title": title or _phrase(status), "status": status}
    if detail is not None:
        body["detail"] = detail
    if request_id is not None:
        body["request_id"] = request_id
    body.update(extensions)
    data = _encode(body)
    headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(data))]
    if request_id is not None:
        headers.append((b"x-request-id", _header(request_id)))
    return status, headers, data


def new_request_id() -> str:
    """A fresh id of 32 hexadecimal digits, not to be guessed. Thread-safe."""
    return secrets.token_hex(REQUEST_ID_BYTES)


def _header(value: str) -> bytes:
    # The id may come from the client; a line break in it would begin a header of the client's choice.
    return "".join(character if " " < character <= "~" else "?" for character in value).encode("ascii")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
