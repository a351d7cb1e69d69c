"""Says which modules its process has loaded."""

import json
import sys


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = json.dumps(sorted(sys.modules)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
