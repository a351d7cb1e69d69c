"""The app behind the fuzzed connection: it answers, waits, streams and fails as its path says."""

import asyncio
from typing import Any

from holdfast.core.codes import Code
from holdfast.core.failure import ServiceError


class OnPurpose(Exception):
    """The only fault that this app has."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/plain`` and all that is unknown answer at once."""
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
    for name, value in ((b"x", b"a\r\nx-injected: 1"), (b"x\n", b"a"), (b"content-length", b"-1")):
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
