"""A service whose start depends on files beside it, so that a test can make the next worker of it fail.

Files, read at import: `refuse-N` makes slot N raise, `slow` holds the number of seconds that the import takes.
Each import leaves a line `slot pid time` in `boots`.
`/wait?S` takes S seconds, `/block?S` blocks the loop for as long.
"""

import asyncio
import os
import time
from pathlib import Path

SLOT = os.environ["HOLDFAST_WORKER"]
WHO = f"{os.getpid()} {os.environ['HOLDFAST_GENERATION']}".encode()

with Path("boots").open("a") as boots:
    boots.write(f"{SLOT} {os.getpid()} {time.time()}\n")
if Path("slow").exists():
    time.sleep(float(Path("slow").read_text()))
if Path(f"refuse-{SLOT}").exists():
    raise LookupError(f"no licence for slot {SLOT}")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/block":
        time.sleep(float(scope["query_string"]))  # noqa: ASYNC251 - that is what is tested
    elif scope["path"] == "/wait":
        await asyncio.sleep(float(scope["query_string"]))
    headers = [(b"content-length", b"%d" % len(WHO))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": WHO})
