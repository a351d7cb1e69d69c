"""Healthy until a file `sick` lies beside it: then the worker dies 0.3 s after its start-up. Each start leaves a line
`slot time` in `starts`; a file `refuse-N` makes the start-up of slot N fail."""

import asyncio
import os
import time
from pathlib import Path

SLOT = os.environ["HOLDFAST_WORKER"]
SICK, REFUSED = Path("sick").exists(), Path(f"refuse-{SLOT}").exists()
WHO = f"{os.getpid()} {os.environ['HOLDFAST_GENERATION']}".encode()
with Path("starts").open("a") as starts:
    starts.write(f"{SLOT} {time.time()}\n")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if REFUSED:
            await send({"type": "lifespan.startup.failed", "message": f"no licence for slot {SLOT}"})
            return
        if SICK:
            asyncio.get_running_loop().call_later(0.3, os._exit, 7)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-length", b"%d" % len(WHO))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WHO})
