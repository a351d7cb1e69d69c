"""``/livez``, ``/readyz`` and ``/startupz`` on the service's own port, as Kubernetes and load balancers
ask.
"""

from collections.abc import Callable
from typing import Any, Final, Literal
from urllib.parse import parse_qs

import msgspec

from holdfast.service.health import HealthReport
from holdfast.service.interface import ASGIApp, Receive, Scope, Send

Probe = Literal["livez", "readyz", "startupz"]
PROBES: Final[dict[str, Probe]] = {"/livez": "livez", "/readyz": "readyz", "/startupz": "startupz"}
TEXT: Final = b"text/plain; charset=utf-8"
JSON: Final = b"application/json"


class ProbeAnswer(msgspec.Struct, frozen=True):
    """What a probe says: ``status`` is 200 or 503, ``body`` text or JSON as ``content_type`` tells."""

    status: int
    content_type: bytes
    body: bytes


def answer(probe: Probe, report: HealthReport, *, verbose: bool = False, messages: bool = True) -> ProbeAnswer:
    """Answer ``probe`` from ``report``.

    livez: it answers at all, so the event loop turns. startupz: the start-up is over. readyz:
    ``report.ready``. ``messages=False`` cuts every reason down to the type of the error.
    """
    ok = {"livez": True, "startupz": report.started, "readyz": report.ready}[probe]
    if verbose:
        shown = report if messages else _without_messages(report)
        return ProbeAnswer(200 if ok else 503, JSON, msgspec.json.encode(shown))
    if ok:
        return ProbeAnswer(200, TEXT, b"ok\n")
    failing = [check.name for check in report.checks if check.status == "fail" and check.critical]
    parts = ([] if report.started else ["starting"]) + (["draining"] if report.draining else [])
    parts += [f"failing {name}" for name in failing if probe == "readyz"]
    return ProbeAnswer(503, TEXT, f"{', '.join(parts)}\n".encode())


class HealthRoutes:
    """ASGI middleware: answers GET and HEAD on the three paths, hands everything else to ``app``.

    ``?verbose`` gives the ``HealthReport`` as JSON. Reasons show the type of an error only, because this port
    may face the public; ``messages=True`` shows messages as well. Runs no check, waits for nothing.
    """

    def __init__(self, app: ASGIApp, report: Callable[[], HealthReport], *, messages: bool = False) -> None:
        self.app = app
        self._report = report
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        probe = PROBES.get(_route(scope)) if scope["type"] == "http" else None
        if probe is None:
            await self.app(scope, receive, send)
            return
        headers = [(b"cache-control", b"no-store")]
        method = scope["method"]
        if method not in ("GET", "HEAD"):
            headers += [(b"allow", b"GET, HEAD"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 405, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        said = answer(probe, self._report(), verbose="verbose" in query, messages=self._messages)
        headers += [(b"content-type", said.content_type), (b"content-length", b"%d" % len(said.body))]
        await send({"type": "http.response.start", "status": said.status, "headers": headers})
        await send({"type": "http.response.body", "body": said.body if method == "GET" else b""})


def _route(scope: Scope) -> str:
    path: str = scope["path"]
    # Since ASGI 2.4 the path holds the root path too; older servers leave it out.
    return path.removeprefix(scope.get("root_path", "") or "")


def _without_messages(report: HealthReport) -> HealthReport:
    def cut(check: Any) -> Any:
        return msgspec.structs.replace(check, reason=check.reason.partition(":")[0])

    return msgspec.structs.replace(report, checks=tuple(cut(check) for check in report.checks))
