"""The app behind the fuzzed connection: it answers, waits, streams and fails as its path says."""

import asyncio
import re
from typing import Any, Final

from fuzz.target import hold
from holdfast.core.codes import Code
from holdfast.core.failure import ServiceError
from holdfast.server.admission.identity import parse_address
from holdfast.server.http.reading import MAX_HEADERS
from holdfast.telemetry.requestid import taken_over

INJECTED: Final = b"x-injected"
"""A header that only a broken value can bring."""
_HOST: Final = re.compile(rb"[\x21-\x7e]*")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"[^\0\r\n]*")


class OnPurpose(Exception):
    """The only fault that this app has."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/plain`` and all that is unknown answer at once."""
    _look_at(scope)
    if scope["type"] == "websocket":
        await _talk(receive, send)
        return
    path = scope["path"]
    if path == "/body":
        await _answer(send, b"%d" % len(await _body(receive)))
    elif path in ("/wait", "/finish"):
        await asyncio.sleep(0.05)
        await _answer(send, b"waited")
    elif path == "/long":
        await asyncio.sleep(5.0)
        await _answer(send, b"at last")
    elif path == "/deaf":
        try:
            await asyncio.sleep(3.0)
        finally:
            await asyncio.sleep(0)  # something to tidy up, also when it is cancelled
        await _answer(send, b"heard")
    elif path in ("/stream", "/half"):
        await _stream(send, whole=path == "/stream")
    elif path == "/fails":
        raise ServiceError(Code.FAILED_PRECONDITION, "not now", reason="NOT_NOW")
    elif path == "/boom":
        raise OnPurpose
    elif path == "/rude":
        await _be_rude(send)
    else:
        await _answer(send, scope["request_id"].encode())


def _look_at(scope: Any) -> None:
    """What any app may rely on. ``Broken`` is a fault that is not declared, so it is found in the log."""
    headers = scope["headers"]
    hold(len(headers) <= MAX_HEADERS, f"{len(headers)} headers")
    hold(all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers), f"headers {headers}")
    hosts = [value for name, value in headers if name == b"host"]
    hold(len(hosts) == 1 or (not hosts and scope["http_version"] == "1.0"), f"hosts {hosts}")
    hold(all(_HOST.fullmatch(host) and not set(host) & set(b'/?#@"<>\\^`{|}') for host in hosts), f"hosts {hosts}")
    target = scope["raw_path"]
    hold(target[:1] == b"/" or target == b"*" or target[:1] == b"*", f"the target {target!r}")
    hold(target.isascii() and b"?" not in target and scope["query_string"].isascii(), f"the target {target!r}")
    hold(taken_over(scope["request_id"].encode()) is not None, f"the id {scope['request_id']!r}")
    hold(scope["client"] is None or parse_address(scope["client"][0]) is not None, f"the client {scope['client']}")
    hold(scope["scheme"] in ("http", "https", "ws", "wss"), f"the scheme {scope['scheme']}")


async def _answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise OnPurpose
        body += message["body"]
        more = message["more_body"]
    return body


async def _stream(send: Any, *, whole: bool) -> None:
    headers = [(b"content-type", b"text/event-stream")] if whole else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(4):
        await send({"type": "http.response.body", "body": b"data: x\n\n" * 40, "more_body": True})
        await asyncio.sleep(0.02)
    if not whole:
        raise OnPurpose
    await send({"type": "http.response.body", "body": b""})


async def _be_rude(send: Any) -> None:
    """What no app may send must not get onto the wire."""
    for name, value in ((b"x", b"a\r\n" + INJECTED + b": 1"), (b"x\n", b"a"), (b"content-length", b"-1")):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [(name, value)]})
        except RuntimeError:
            continue
    raise OnPurpose


async def _talk(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "boom":
            raise OnPurpose
        await send({"type": "websocket.send", "text": f"{len(text or message.get('bytes') or '')}"})
