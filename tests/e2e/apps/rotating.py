"""Says two secrets: one that its name gives away, one that only its type does."""

import msgspec

from holdfast import Service
from holdfast.config.secret import Secret


class Secrets(msgspec.Struct, frozen=True):
    """Its settings. ``journal`` looks like a reference to a secret, and is none."""

    password: Secret = Secret("")
    dsn: Secret = Secret("")
    number: int = 0
    journal: dict[str, str] = {}


async def answer(scope, receive, send):
    if scope["type"] != "http":
        return
    settings = app.settings
    body = f"{settings.password.reveal()} {settings.dsn.reveal()} {settings.number}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


app = Service("rotating", answer, settings=Secrets)
