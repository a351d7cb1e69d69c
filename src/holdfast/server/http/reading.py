"""What is read of an HTTP/1.1 connection: heads that make sense, messages with limits."""

import asyncio
import logging
import re
from abc import abstractmethod

import httptools
from uvicorn.config import Config

from holdfast.server.http.closing import NEVER, ClosingProtocol
from holdfast.server.http.refusal import Refusal, body_too_large, header_too_large
from holdfast.server.http.state import EngineState

logger = logging.getLogger("holdfast.http")

MAX_FRAMING = 8
"""Bytes received for a byte of body: the smallest chunk takes 6. More, past a head's worth, is padding or trailers."""
READ_SIZE = 256 * 1024
"""The most that a loop delivers at once."""
KEPT_BODY = 64 * 1024
"""Bytes of a refused request's body that are read and dropped so that its connection can stay."""
MAX_HEADERS = 256
"""Header lines of a request. A header costs more than its bytes: the line of four bytes that fits 16,000 times into a
head takes a hundred of memory, and each look for a header passes it. Apache, gunicorn, Kestrel, Envoy and hyper take
100 by default, aiohttp 128, Node and nginx 1,000; Go, uvicorn, h11 and httptools count bytes only."""

_NOTED = frozenset((b"expect", b"content-length", b"host", b"transfer-encoding"))
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=-]*(?:\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?")
_VERSIONS = frozenset(("1.1", "1.0"))
_USUAL = (b"/", b"*")  # what nearly every target begins with
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)([^#]*)(?:#.*)?", re.DOTALL)


def _too_many_headers() -> Refusal:
    return Refusal(431, f"The request has more than {MAX_HEADERS} headers.")


class ReadingProtocol(ClosingProtocol):
    """Feeds the parser, and refuses what it does not know or what is too large, before anybody works on it."""

    def __init__(self, config: Config, server_state: EngineState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, server_state, loop)
        self.in_message = False
        self.in_head = False
        self.chunk_size = 0
        self.mid_chunk = False  # an earlier message ended in the chunk that is being read
        self.head_size = 0
        self.raw_size = 0  # received since the head
        self.body_size = 0
        self.window_size = 0  # body bytes when the current body window began
        self.host = ""
        self.known_host = b""  # a sound one
        self.length = 0  # of the body, as declared
        self.unsized = False  # its length is not declared
        self.hosts = 0
        self.refusal: Refusal | None = None

    @abstractmethod
    def refuse(self, refusal: Refusal) -> None:
        """Answer an error and end the connection, after the answers that are still due."""

    @property
    @abstractmethod
    def answering(self) -> bool:
        """Whether an earlier request of the connection is being answered."""

    def data_received(self, data: bytes) -> None:
        if self.lingering or self.refusal is not None:
            return  # the last answer is given or decided: what still comes is dropped
        self.chunk_size = len(data)
        self.mid_chunk = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.ending:
                pass  # it is refused
            elif self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self.cycle.keep_alive = False  # the parser is past the upgrade and reads no further request
        except httptools.HttpParserError as exc:
            if self.ending:
                return  # answered already: what came after it is not looked at
            refusal = exc.__context__
            if not isinstance(refusal, Refusal):
                if not isinstance(refusal, ValueError | httptools.HttpParserError | None):
                    logger.error("a fault of the server itself, answered with 400", exc_info=exc)
                refusal = Refusal(400, "The request is not valid HTTP/1.1.")
            self._turn_down(refusal)
        else:
            if self.in_message:
                self._measure()

    def _measure(self) -> None:
        """Hold what is read of an unfinished message against the limits: the parser keeps a header until it ends."""
        limit = self.settings.max_header_size
        if self.in_head:
            self.head_size = max(1, self.head_size + self.chunk_size)
            if self.head_size > limit:
                self._turn_down(header_too_large(self.settings))
            elif len(self.headers) > MAX_HEADERS:
                self._turn_down(_too_many_headers())
        else:
            self.raw_size += self.chunk_size
            if self.raw_size > limit + READ_SIZE + MAX_FRAMING * self.body_size:
                self._turn_down(Refusal(400, "The request's body is mostly padding between its chunks."))

    def _turn_down(self, refusal: Refusal) -> None:
        self.headers = []  # maybe thousands: the connection lingers, and nobody needs them
        self.refuse(refusal)

    def on_message_begin(self) -> None:
        if self.ending:
            raise Refusal(400, "The connection has ended.")
        self.in_message = self.in_head = True
        self.head_size = -self.chunk_size if self.mid_chunk else 0
        self.raw_size = self.body_size = self.window_size = 0
        self.url = b""
        self.expect_100_continue = False
        self.hosts = self.length = 0
        self.unsized = False
        self.host = ""  # HTTP/1.0 need not send one
        self.headers = []
        if not self.answering:
            self.deadline = self.state.now + self.settings.header_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer: ASGI has no place for it
        name = name.lower()
        if name in _NOTED:
            if name == b"content-length":
                limit = self.settings.max_body_size
                self.length = int(value) if len(value) <= 20 else 0
                if limit and self.length > limit:
                    raise body_too_large(self.settings)
            elif name == b"host":
                self.hosts += 1
                if value != self.known_host:  # all requests of a connection say the same, nearly always
                    if not _HOST.fullmatch(value):
                        raise Refusal(400, "The Host header is not valid.")
                    self.known_host = value
                self.host = value.decode()
            elif name == b"transfer-encoding":
                self.unsized = True
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def checked_version(self) -> str:
        """The head's version of HTTP, once all of it is there. Raises ``Refusal`` for a head that is none."""
        settings = self.settings
        if len(self.headers) > MAX_HEADERS:  # once for each head: what one read brings costs no more than its bytes do
            raise _too_many_headers()
        if self.head_size > 0 or self.chunk_size > settings.max_header_size:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > settings.max_header_size:
                raise header_too_large(self.settings)
        version: str = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are served here.")
        if self.hosts > 1 or (self.hosts == 0 and version == "1.1"):  # RFC 9112, 3.2
            raise Refusal(400, f"The request has {self.hosts} Host headers, it needs one.")
        if self.url[:1] not in _USUAL:
            self._take_authority()
        return version

    def _take_authority(self) -> None:
        """Of a target that is a whole address, as proxies get it, make what other requests say: its path, and its host
        in the place of the Host header's (RFC 9112, 3.2.2). Routes, the app and a WebSocket then see one request."""
        found = _ABSOLUTE.fullmatch(self.url)
        if found is None:
            return  # not an address: the parser of targets says so
        authority, target = found.groups()
        if not authority or not _HOST.fullmatch(authority):
            raise Refusal(400, "The request's target is an address without a valid host.")
        self.host = authority.decode()
        self.url = target if target[:1] == b"/" else b"/" + target
        place = next((number for number, (name, _) in enumerate(self.headers) if name == b"host"), None)
        if place is None:
            self.headers.append((b"host", authority))
        else:
            self.headers[place] = (b"host", authority)

    def has_body(self, limit: int) -> bool:
        """Whether the message that is being read has a body of more than ``limit`` bytes, or one of unknown length."""
        return self.length > limit or self.unsized

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.ending:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if not self.answering and not self.in_message:
            self.deadline = self.state.now + self.state.idle_limit
        elif not self.answering and self.in_head:
            self.deadline = self.state.now + self.settings.header_timeout
        elif self.in_message and not self.in_head:
            self.open_body_window()
        else:
            self.deadline = NEVER

    def open_body_window(self) -> None:
        self.window_size = self.body_size
        self.deadline = self.state.now + self.settings.body_timeout
