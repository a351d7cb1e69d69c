"""An app whose answers tell which process gave them and which settings it had."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from holdfast import Service
from holdfast.core.settings import Settings, about

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Numbers(Settings, frozen=True):
    """Settings of the app."""

    number: Annotated[int, about("Told in each answer.", ge=0)] = 0
    unlucky: Annotated[bool, about("A check of the app's own refuses this.")] = False


async def answer(scope: Message, receive: Receive, send: Send) -> None:
    """``/`` tells; ``/broken`` fails; everything else too, with a 404 in its table of routes."""
    if scope["type"] != "http":
        return
    status = 500 if scope["path"] == "/broken" else 200
    body = f"{os.getpid()} {app.settings.number}".encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


app = Service("configured", answer, settings=Numbers)


@app.check_change
def lucky(settings: Numbers) -> str | None:
    """What no type can tell."""
    return "thirteen brings bad luck" if settings.unlucky else None
