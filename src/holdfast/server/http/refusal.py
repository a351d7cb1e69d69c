"""Requests that the server itself turns down, in words that say what was wrong."""

from collections.abc import Iterable

from holdfast.server.http.response import STATUS_LINE
from holdfast.server.http.settings import HttpSettings
from holdfast.service.problem import problem


class Refusal(Exception):
    """A request that ends the connection: raised inside the parser's callbacks, answered outside of them."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    def response(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The whole response, the last one of its connection."""
        _, headers, body = problem(self.status, detail=self.detail)
        content = [STATUS_LINE[self.status]]
        for name, value in (*default_headers, *headers, (b"connection", b"close")):
            content += (name, b": ", value, b"\r\n")
        content += (b"\r\n", body)
        return b"".join(content)


def header_too_large(settings: HttpSettings) -> Refusal:
    return Refusal(431, f"The request's headers are larger than {settings.max_header_size} bytes.")


def body_too_large(settings: HttpSettings) -> Refusal:
    return Refusal(413, f"The request's body is larger than {settings.max_body_size} bytes.")
