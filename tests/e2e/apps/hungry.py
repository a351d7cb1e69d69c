"""Keeps a megabyte of each request to `/eat`."""

import os

WHO = f"{os.getpid()} {os.environ['HOLDFAST_GENERATION']}".encode()
KEPT = []


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/eat":
        KEPT.append(os.urandom(1 << 20))
    headers = [(b"content-length", b"%d" % len(WHO))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WHO})
