"""Problem details for HTTP APIs (RFC 9457): one JSON shape for every error that is answered.

``problem_of`` writes a ``Failure``, ``problem`` a bare status. A failure's type is ``about:blank``: which problem it
is, machines read from ``code`` and ``reason``, which mean the same over any protocol.
"""

import math
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.core.failure import Failure, rounded_up, shortened

CONTENT_TYPE: Final = b"application/problem+json"
REQUEST_ID_BYTES: Final = 16
"""As many random bits as a UUID, so that ids of a whole fleet do not meet."""
REQUEST_ID_LIMIT: Final = 128
"""Characters of a request id that a failure's answer repeats; it may come from the client."""
INSTANCE_LIMIT: Final = 2000
"""Characters of an instance. A longer one is left out: a part of an address is another address."""

Answer: TypeAlias = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers, body."""

_encode: Final = msgspec.json.Encoder().encode
_UNSAFE: Final = re.compile(r"[^!-~]")
_OWN_TITLES: Final = {499: "Client Closed Request"}
_TITLES: Final = {status.value: status.phrase for status in HTTPStatus} | _OWN_TITLES


class _Body(msgspec.Struct, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    code: str
    reason: str
    retry_after: float | None = None
    details: Mapping[str, Any] = {}
    request_id: str | None = None
    instance: str | None = None


def problem_of(failure: Failure, *, request_id: str | None = None, instance: str | None = None) -> Answer:
    """The status, headers and body of the response that tells ``failure``.

    Its message is the ``detail``. ``code``, ``reason``, ``retry_after`` (seconds) and ``details`` are members beside
    it, the last two only when there are any. The header ``retry-after`` has whole seconds, rounded up, at least 1.
    ``request_id`` goes into the header ``x-request-id`` too; ``instance`` is the URI of this very occurrence.

    A 401 must also say how to identify oneself (``www-authenticate``): only the app knows that, and adds the header.
    """
    status = failure.status
    body = _Body("about:blank", _title(status), status, failure.message, failure.code.value, failure.reason)
    headers = [(b"content-type", CONTENT_TYPE)]
    if failure.retry_after is not None:
        body.retry_after = seconds = rounded_up(failure.retry_after)
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    if failure.details:
        body.details = failure.details
    if request_id is not None:
        body.request_id = request_id = shortened(request_id, REQUEST_ID_LIMIT)
        headers.append((b"x-request-id", _header(request_id)))
    if instance is not None and len(instance) <= INSTANCE_LIMIT:
        body.instance = shortened(instance, INSTANCE_LIMIT)
    data = _encode(body)
    headers.append((b"content-length", b"%d" % len(data)))
    return status, headers, data


def problem(
    status: int,
    title: str | None = None,
    detail: str | None = None,
    *,
    request_id: str | None = None,
    type: str = "about:blank",  # noqa: A002 - the member's name in the RFC
    **extensions: Any,
) -> Answer:
    """The status, headers and body of a problem response that has no ``Failure``.

    ``title`` defaults to the status's own phrase, which the RFC wants for ``about:blank``. ``request_id``
    also goes into the header ``x-request-id``. ``extensions`` become further members (``instance`` is one
    of the RFC's own). Never put an exception's text into ``detail``: it may hold secrets.

    Raises ``ValueError`` when ``status`` is no error status, ``TypeError`` for what cannot be encoded.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"{status!r} is not an error status; give 400 to 599")
    body: dict[str, Any] = {"type": type, "title": title or _title(status), "status": status}
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
    return _UNSAFE.sub("?", value).encode("ascii")


def _title(status: int) -> str:
    return _TITLES.get(status, "Error")
