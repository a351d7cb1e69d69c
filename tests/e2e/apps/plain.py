"""A plain ASGI app: says which process and generation answers. /slow waits, /block blocks the loop, /raise fails."""

import asyncio
import os
import time

WHO = f"{os.getpid()} {os.environ.get('HOLDFAST_GENERATION')}".encode()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/slow":
        await asyncio.sleep(float(query or 1))
    elif path == "/block":
        time.sleep(float(query or 60))  # noqa: ASYNC251 - that is what is tested
    elif path == "/raise":
        raise RuntimeError("this request fails")
    elif path == "/exit":
        raise SystemExit(3)
    body = WHO
    if path == "/echo":
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
