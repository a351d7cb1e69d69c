"""The admin address: health for probes and balancers, status for people, answered by the supervisor."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.errors import ConfigError
from holdfast.supervisor.sockets import Listener, adopt, open_listener, parse_bind

if TYPE_CHECKING:
    from holdfast.server.http.engine import HttpEngine
    from holdfast.supervisor.master import Supervisor

logger = logging.getLogger("holdfast.admin")

BIND_WAIT = 5.0


class Admin:
    """Serves /livez, /readyz, /startupz and /status. Speaks for the whole service, not for one worker."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.listeners: list[Listener] = []
        self._supervisor = supervisor
        self._engine: HttpEngine | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(listener.url() for listener in self.listeners)

    async def open(self, descriptors: Iterable[int] = ()) -> None:
        """Listen where the settings say; ``descriptors`` are the sockets of before a re-exec."""
        address = self._supervisor.settings.admin
        if not address:
            return
        from holdfast.server.http.engine import HttpEngine
        from holdfast.server.http.settings import HttpSettings
        from holdfast.server.http.state import Listening

        parsed = parse_bind(address, "admin")
        self.listeners = [adopt(fd, 0, parsed) for fd in descriptors]
        if not self.listeners:
            try:
                self.listeners = [await open_listener(parsed, 0, wait=BIND_WAIT)]
            except ConfigError as exc:  # it names the setting that it knows of
                raise ConfigError("admin", exc.value, exc.expected, exc.source, exc.hint) from exc
        self._engine = HttpEngine(
            self._answer, [Listening(one.id, one.socket) for one in self.listeners], HttpSettings(max_connections=256)
        )
        await self._engine.start()

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.stop()
        for listener in self.listeners:
            listener.close()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, kind, body = self._page(scope["path"], b"verbose" in scope["query_string"])
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, b"text/plain", b"only GET and HEAD\n"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    def _page(self, path: str, verbose: bool) -> tuple[int, bytes, bytes]:
        status = self._supervisor.status()
        healthy = {"/livez": True, "/startupz": status.state != "starting", "/readyz": status.ready}.get(path)
        if path == "/status" or (healthy is not None and verbose):
            return 503 if healthy is False else 200, b"application/json", msgspec.json.encode(status)
        if healthy is None:
            return 404, b"text/plain", b"try /livez, /readyz, /startupz or /status\n"
        return (200, b"text/plain", b"ok\n") if healthy else (503, b"text/plain", f"{status.trouble}\n".encode())
