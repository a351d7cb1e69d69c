"""Every setting of ``holdfast run``, written down once: the flags, variables and file entries are made from it."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from holdfast.core.duration import Duration
from holdfast.core.size import Size
from holdfast.server.http.settings import HttpSettings


def _about(text: str, *, live: bool = False, **extra: object) -> Meta:
    """``live``: a change takes hold in workers that run. All others need a new generation."""
    return Meta(description=text, extra={"live": live, **extra})


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of one supervised service. Durations are seconds, sizes bytes. Immutable, safe to share."""

    app: Annotated[str, _about("What to serve: module:attribute, an ASGI or WSGI app or a Service.")] = ""
    name: Annotated[str, _about("Name of the service; by default the module's.")] = ""
    factory: Annotated[bool, _about("The attribute is a function that makes the app.")] = False
    interface: Annotated[Literal["auto", "asgi", "wsgi"], _about("What kind of app it is.")] = "auto"
    app_dir: Annotated[str, _about("Directory from which the app is imported.")] = "."
    bind: Annotated[
        tuple[str, ...], _about("Address to serve: HOST:PORT, unix:PATH or fd:N. Repeatable.", metavar="ADDRESS")
    ] = ("127.0.0.1:8000",)
    admin: Annotated[str, _about("Address for health and status; none unless given.", metavar="ADDRESS")] = ""
    health: Annotated[bool, _about("Answer /livez, /readyz and /startupz on the service's own port too.")] = False
    control: Annotated[str, _about("Path of the control socket; by default in the runtime directory.")] = ""
    state_dir: Annotated[
        str,
        _about(
            "Where the history of the settings is kept; by default the user's directory for state, none for nowhere.",
            metavar="DIRECTORY",
        ),
    ] = ""
    workers: Annotated[int | Literal["auto"], _about("Number of workers; auto follows the CPUs of the cgroup.")] = (
        "auto"
    )
    surge: Annotated[int, _about("New workers booting at the same time in a reload.", ge=1)] = 2
    backlog: Annotated[int, _about("Length of the kernel's accept queue.", ge=1)] = 2048
    unix_mode: Annotated[str, _about("Permissions of unix sockets, octal.")] = "660"

    boot_timeout: Annotated[Duration, _about("From a worker's start until it is ready.")] = Duration(60.0)
    hang_timeout: Annotated[Duration, _about("How long a worker's event loop may be blocked.")] = Duration(30.0)
    drain_timeout: Annotated[Duration, _about("What a replaced worker has to finish its requests and streams.")] = (
        Duration(120.0)
    )
    stop_timeout: Annotated[Duration, _about("The same when the service stops.")] = Duration(25.0)
    prestop_delay: Annotated[
        Duration, _about("After SIGTERM, how long to keep answering while readiness already fails.")
    ] = Duration(0.0)
    idle_grace: Annotated[
        Duration, _about("When the service stops, how long idle connections may still bring a request.")
    ] = Duration(3.0)
    restart_backoff: Annotated[Duration, _about("The longest pause between restarts of a worker that crashes.")] = (
        Duration(30.0)
    )

    keep_alive: Annotated[Duration, _about("How long an idle connection is kept.")] = Duration(75.0)
    header_timeout: Annotated[Duration, _about("From the first byte of a request to the end of its headers.")] = (
        Duration(10.0)
    )
    body_timeout: Annotated[Duration, _about("Window in which an awaited body must make progress.")] = Duration(10.0)
    send_timeout: Annotated[Duration, _about("How long a client may leave a full write buffer unread.")] = Duration(
        60.0
    )
    max_header_size: Annotated[Size, _about("Request line and headers together.")] = Size(64 * 1024)
    max_body_size: Annotated[Size, _about("Body of one request; 0 is no limit.")] = Size(100 * 1024 * 1024)
    max_connections: Annotated[int, _about("Open at once in a worker; 0 follows the descriptor limit.", ge=0)] = 0
    ws_max_size: Annotated[Size, _about("One WebSocket message.")] = Size(16 * 1024 * 1024)
    root_path: Annotated[str, _about("Path under which a proxy publishes the app.")] = ""

    tls_certificate: Annotated[str, _about("Certificate chain, PEM; read again when it changes.", metavar="FILE")] = ""
    tls_key: Annotated[str, _about("Private key, PEM.", metavar="FILE")] = ""
    tls_client_ca: Annotated[str, _about("Ask clients for a certificate signed by these.", metavar="FILE")] = ""

    probe: Annotated[str, _about("Path that a new worker must answer, below 500, before it is ready.")] = ""
    max_requests: Annotated[int, _about("Replace a worker after so many requests; 0 is never.", ge=0)] = 0
    max_memory: Annotated[Size, _about("Replace a worker that holds more memory; 0 is never.")] = Size(0)
    recycle_jitter: Annotated[float, _about("Share by which both limits vary between workers.", ge=0, le=1)] = 0.1
    pin_cpus: Annotated[bool, _about("Bind each worker to one CPU.")] = False
    wsgi_threads: Annotated[int, _about("Threads of a WSGI app in each worker.", ge=1)] = 10
    loop: Annotated[Literal["auto", "uvloop", "asyncio"], _about("Event loop of the workers.")] = "auto"

    access_log: Annotated[bool, _about("Log a line a request.")] = False
    log_format: Annotated[
        Literal["auto", "text", "json"], _about("auto is text on a terminal, else JSON.", live=True)
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("The least severe level logged.", live=True)
    ] = "info"

    @property
    def service_name(self) -> str:
        """``name``, or the last part of the app's module."""
        return self.name or self.app.partition(":")[0].rpartition(".")[2] or "holdfast"

    def http(self) -> HttpSettings:
        """What the engine needs of it."""
        names = [name for name in HttpSettings.__struct_fields__ if name in self.__struct_fields__]
        shared: dict[str, Any] = {name: _plain(getattr(self, name)) for name in names}
        return HttpSettings(**shared)

    def plain(self) -> dict[str, Any]:
        """Values for any codec: what a successor in the same process reads as ``[run]`` again."""
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}

    def fixed(self) -> dict[str, str]:
        """What a running supervisor cannot change, as text: a reload or an upgrade that finds it changed is refused."""
        return {
            "name": self.service_name,
            "bind": ", ".join(self.bind),
            "admin": self.admin,
            "control": self.control,
            "state_dir": self.state_dir,
            "backlog": str(self.backlog),
            "unix_mode": self.unix_mode,
            # Connections are handed from worker to worker as they are: encrypted or not.
            "tls_certificate": "set" if self.tls_certificate else "not set",
        }


def _plain(value: object) -> object:
    if isinstance(value, float) and not isinstance(value, bool):
        return float(value)
    return int(value) if isinstance(value, Size) else value
