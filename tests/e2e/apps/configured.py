"""A service that says which process answers, in which generation, and with which settings. /broken fails."""

import os
from typing import Annotated

from holdfast import Service
from holdfast.config.secret import Secret, SecretText
from holdfast.core.settings import Settings, about


class Numbers(Settings, frozen=True):
    """Its settings."""

    number: Annotated[int, about("Said in each answer.", ge=0)] = 0
    dsn: Annotated[SecretText, about("Never said, though its name does not give it away.")] = Secret("")


async def answer(scope, receive, send):
    if scope["type"] != "http":
        return
    body = f"{os.getpid()} {os.environ.get('HOLDFAST_GENERATION')} {app.settings.number}".encode()
    status = 500 if scope["path"] == "/broken" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


app = Service("configured", answer, settings=Numbers)


@app.check_change
def lucky(settings):
    return "thirteen brings bad luck" if settings.number == 13 else None
