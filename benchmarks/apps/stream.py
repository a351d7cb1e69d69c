"""Server-sent events without an end: one every 100 ms until the client goes away."""

import asyncio

from plain import Message, Receive, Send
from plain import app as plain

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")],
}
EVERY = 0.1


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Stream on /stream; answer "ok" elsewhere."""
    if scope["type"] != "http" or scope["path"] != "/stream":
        await plain(scope, receive, send)
        return
    await send(START)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
            await asyncio.wait((gone,), timeout=EVERY)
    finally:
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
