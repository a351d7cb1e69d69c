"""What outlives a request: WebSockets, event streams, downloads, work after the response, spawned tasks."""

import asyncio
import os
from pathlib import Path

from holdfast import Service, current_drain


async def talk(receive, send):
    """Echoes with the process id; says "bye" on the drain event; notes how it ended."""
    await receive()
    await send({"type": "websocket.accept"})
    leaving = asyncio.create_task(current_drain().wait())
    hearing = asyncio.create_task(receive())
    while True:
        await asyncio.wait((leaving, hearing), return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            message = hearing.result()
            if message["type"] == "websocket.disconnect":
                note(f"disconnect {message['code']}")
                leaving.cancel()
                return
            await send({"type": "websocket.send", "text": f"{os.getpid()} {message['text']}"})
            hearing = asyncio.create_task(receive())
        elif leaving.done():
            await send({"type": "websocket.send", "text": "bye"})
            leaving = asyncio.create_task(asyncio.sleep(600))


async def stream(path, receive, send):
    kind = b"text/plain" if path in ("/download", "/endless") else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
    if path == "/events":
        drain = asyncio.create_task(current_drain().wait())
        await drain
        await send({"type": "http.response.body", "body": b"data: last\n\n"})
    elif path == "/listens":
        while (await receive())["type"] != "http.disconnect":
            pass
    elif path in ("/deaf", "/endless"):
        await asyncio.sleep(600)
    else:
        for _ in range(30):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"whole"})


def note(text):
    with Path("notes").open("a") as notes:
        notes.write(text + "\n")


async def work(name, seconds):
    await asyncio.sleep(seconds)
    note(f"{name} done")


async def handle(scope, receive, send):
    if scope["type"] == "websocket":
        await talk(receive, send)
        return
    path, seconds = scope["path"], float(scope["query_string"] or 0)
    if path in ("/events", "/listens", "/deaf", "/download", "/endless"):
        await stream(path, receive, send)
        return
    if path == "/spawn":
        app.spawn(work("spawned", seconds), "spawned")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
    if path == "/background":
        await work("background", seconds)


app = Service("talkative", handle)
