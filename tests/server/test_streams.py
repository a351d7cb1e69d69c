"""Streams in a drain: event streams end whole, downloads finish, what is cut can be told from what is whole."""

import asyncio
from typing import Any

import pytest

from server.engineroom import LOOPS, Truncated, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """/listens ends at http.disconnect, /deaf never; both are event streams. /download takes its time."""
    kind = b"text/plain" if scope["path"] == "/download" else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"first ", "more_body": True})
    if scope["path"] == "/listens":
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"last", "more_body": True})
        return
    for _ in range(10 if scope["path"] == "/download" else 10**6):
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"whole"})


@pytest.mark.parametrize("late", [False, True], ids=["open", "begun in the drain"])
@both_loops
def test_event_streams_end_whole_and_downloads_finish(loop: str, late: bool) -> None:
    async def work() -> None:
        async with serving(stream, stream_grace=0.1, stream_spread=0.1) as room:
            paths = ("/listens", "/deaf", "/download")
            clients = [await room.connect() for _ in paths]
            for client, path in zip(clients, paths, strict=True):
                await client.send(request("GET", path))
                if not late:
                    await client.reader.readuntil(b"first ")
            drain = await room.begin_drain(5)
            if late:
                for client in clients:
                    await client.reader.readuntil(b"first ")
            ends = [(await client.rest()).replace(b"1\r\n.\r\n", b"")[-25:] for client in clients]
            assert ends[0].endswith(b"4\r\nlast\r\n0\r\n\r\n")
            assert ends[1].endswith(b"0\r\n\r\n")
            assert ends[2].endswith(b"5\r\nwhole\r\n0\r\n\r\n")
            for client in clients:
                client.close()
            assert (await drain).cut_requests == ()
            assert room.state.failed == 0

    run(work, loop)


def test_a_stream_that_is_no_event_stream_breaks_off_visibly_at_the_limit() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)

    async def work() -> None:
        async with serving(endless) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            await until(lambda: room.state.in_flight)
            report = await (await room.begin_drain(0.3))
            assert report.cut_requests == ("GET /",)
            with pytest.raises(Truncated):
                await client.response()

    run(work)
