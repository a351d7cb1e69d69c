"""Requests that the server itself turns down, in words that say what was wrong."""

from collections.abc import Iterable
from typing import Final

from holdfast.core.codes import Code
from holdfast.core.failure import Failure
from holdfast.server.http.response import STATUS_LINE
from holdfast.server.http.settings import HttpSettings
from holdfast.service.problem import problem_of

REASONS: Final = {
    400: "INVALID_REQUEST",
    408: "REQUEST_TOO_SLOW",
    413: "BODY_TOO_LARGE",
    431: "HEADERS_TOO_LARGE",
    505: "HTTP_VERSION_NOT_SUPPORTED",
}
"""What machines read, by status."""


class Refusal(Exception):
    """A request that ends the connection: raised inside the parser's callbacks, answered outside of them.

    ``status`` is one of ``REASONS``.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.failure = Failure(Code.of_http(status), REASONS[status], detail, status=status)

    def response(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The whole response, the last one of its connection."""
        status, headers, body = problem_of(self.failure)
        content = [STATUS_LINE[status]]
        for name, value in (*default_headers, *headers, (b"connection", b"close")):
            content += (name, b": ", value, b"\r\n")
        content += (b"\r\n", body)
        return b"".join(content)


def header_too_large(settings: HttpSettings) -> Refusal:
    return Refusal(431, f"The request's headers are larger than {settings.max_header_size} bytes.")


def body_too_large(settings: HttpSettings) -> Refusal:
    return Refusal(413, f"The request's body is larger than {settings.max_body_size} bytes.")
