"""The plain app that says on /pid which process answers."""

import os

from plain import START, Message, Receive, Send
from plain import app as plain

TEXT = str(os.getpid()).encode()
NAMED = {**START, "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(TEXT))]}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer /pid with the process id, everything else with "ok"."""
    if scope["type"] != "http" or scope["path"] != "/pid":
        await plain(scope, receive, send)
        return
    await send(NAMED)
    await send({"type": "http.response.body", "body": TEXT})
