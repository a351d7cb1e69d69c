"""What an app may do wrong, and what a client may ask for, one request at a time."""

import asyncio
import json
import logging
import os
import socket
import struct
import time
from typing import Any, cast

import pytest

from holdfast.core.drain import current_drain
from holdfast.server.http.protocol import FIN_GRACE, HttpProtocol
from server.engineroom import LOOPS, Truncated, answer, read_body, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)


async def app(scope: Any, receive: Any, send: Any) -> Any:
    path = scope["path"]
    if path == "/raise":
        raise ValueError("a secret")
    if path == "/exit":
        raise SystemExit(3)
    if path == "/cancel":
        raise asyncio.CancelledError
    if path == "/nothing":
        return None
    if path == "/value":
        return 5
    if path == "/status":
        await send({"type": "http.response.start", "status": 999, "headers": []})
    elif path == "/header":
        headers = [(b"transfer-encoding", b"chunked"), (b"x-bad", b"a\r\nset-cookie: b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    elif path == "/order":
        await send({"type": "http.response.body", "body": b""})
    elif path == "/short":
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc"})
    elif path == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle")
    elif path == "/stop":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
    elif path == "/chunks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    elif path == "/204":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"never seen"})
    elif path == "/refuse":  # without a look at the body
        await answer(send, b"no", 403)
    elif path == "/drain":
        same = scope["extensions"]["holdfast"]["drain"] is current_drain()
        await answer(send, f"{same} {current_drain().draining} {scope['state']}".encode())
    else:
        body = await read_body(receive)
        await answer(send, body or path.encode())
    return None


FAILURES = ["/raise", "/exit", "/cancel", "/nothing", "/value", "/status", "/header", "/order"]


@pytest.mark.parametrize("path", FAILURES)
def test_a_failing_app_is_a_problem_response_with_the_id_of_the_log_line(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            response = await client.get(path)
            assert response.status == 500
            assert response.headers["content-type"] == "application/problem+json"
            assert "transfer-encoding" not in response.headers
            problem = json.loads(response.body)
            assert problem["status"] == 500
            assert "secret" not in response.body.decode()
            assert response.headers["x-request-id"] == problem["request_id"]
            [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
            assert problem["request_id"] in record.getMessage()
            assert record.exc_info
            assert room.state.failed == 1
            assert (await client.get("/next")).body == b"/next", "the connection goes on"
            await until(lambda: not room.state.in_flight)

    run(work)


@pytest.mark.parametrize("path", ["/short", "/half", "/stop"])
@both_loops
def test_a_response_that_breaks_off_is_seen_by_the_client(
    path: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            with pytest.raises(Truncated):
                await client.get(path)
            assert (await (await room.connect()).get("/next")).body == b"/next"
        assert [one for one in caplog.records if one.levelno == logging.ERROR]

    run(work, loop)


@both_loops
def test_a_head_goes_out_with_its_body_or_not_at_all(loop: str) -> None:
    go = asyncio.Event()

    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5"), (b"x-a", b"1")]}
        )
        await go.wait()
        if scope["path"] == "/fails":
            raise ValueError("on purpose")
        if scope["path"] == "/returns":
            return
        size = 6 if scope["path"] == "/long" else 5
        await send({"type": "http.response.body", "body": b"x" * size})

    async def work() -> None:
        async with serving(begins, routes=[{"match": "/late", "timeout": "30ms"}]) as room:
            client = await room.connect()
            assert (await client.get("/late")).status == 504
            go.set()
            for path, status in (("/", 200), ("/fails", 500), ("/returns", 500), ("/long", 500), ("/again", 200)):
                found = await client.get(path)
                assert (found.status, "x-a" in found.headers) == (status, status == 200)
            await client.send(request("HEAD", "/"))
            assert (await client.response("HEAD")).headers["content-length"] == "5"

    run(work, loop)


@both_loops
def test_an_http_1_0_client_sees_a_broken_body_as_a_reset(loop: str) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/half", version="1.0"))
            with pytest.raises(ConnectionResetError):
                await client.rest()

    run(work, loop)


def test_an_http_1_0_client_gets_no_chunks_and_an_end() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/chunks", "Connection: keep-alive", version="1.0"))
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head
            assert b"connection: close" in head
            assert body == b"onetwo"

    run(work)


def test_an_empty_piece_does_not_end_a_chunked_body() -> None:
    async def work() -> None:
        async with serving(app) as room:
            assert (await (await room.connect()).get("/chunks")).body == b"onetwo"

    run(work)


def test_bodiless_answers_leave_the_connection_in_step() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("HEAD", "/four"))
            response = await client.response("HEAD")
            assert response.headers["content-length"] == "5"
            assert (await client.get("/204")).status == 204
            await client.send(request("HEAD", "/chunks"))
            assert (await client.response("HEAD")).status == 200
            assert (await client.get("/next")).body == b"/next"

    run(work)


def test_a_client_that_expects_100_gets_it_when_the_app_reads() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 4"))
            assert (await client.response()).status == 100
            await client.send(b"body")
            assert (await client.response()).body == b"body"
            assert (await client.get("/next")).body == b"/next"

    run(work)


def test_a_client_that_expects_100_and_is_refused_is_told_to_begin_anew() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("POST", "/refuse", "Expect: 100-continue", "Content-Length: 4"))
            response = await client.response()
            assert response.status == 403
            assert response.headers["connection"] == "close", "whether the body follows cannot be known"
            assert await client.ended()

    run(work)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(
                request("GET", "/one") + request("POST", "/", body=b"x" * 100_000) + request("GET", "/raise")
            )
            await client.send(request("GET", "/two") * 100)
            assert (await client.response()).body == b"/one"
            assert len((await client.response()).body) == 100_000
            assert (await client.response()).status == 500
            assert [(await client.response()).body for _ in range(100)] == [b"/two"] * 100

    run(work)


@both_loops
def test_a_half_closed_client_gets_the_answers_to_its_whole_requests(loop: str) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        if scope["path"] == "/slow":
            await asyncio.sleep(3 * FIN_GRACE)
        if body == b"2":
            assert (await receive())["type"] == "http.disconnect", "it may have left: the app is told"
        await answer(send, body)

    async def work() -> None:
        for path, must_finish in (("/slow", True), ("/", False)):
            async with serving(slow, routes=[{"match": "*", "must_finish": must_finish}]) as room:
                client = await room.connect()
                requests = [request("POST", path, body=b"%d" % number) for number in range(3)]
                await client.send(b"".join(requests) + requests[0][:20])
                client.writer.write_eof()
                assert [(await client.response()).body for _ in range(3)] == [b"0", b"1", b"2"]
                assert await client.ended()
                await until(lambda: not room.state.connections)

    run(work, loop)


@both_loops
def test_a_client_that_leaves_is_no_failure_of_the_app(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        heard.append((await receive())["type"])

    async def work() -> None:
        async with serving(stream) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            await client.reader.readuntil(b"\r\n\r\n")
            client.writer.close()
            await until(lambda: not room.state.connections)
            await until(lambda: not room.state.in_flight)
            assert heard == ["http.disconnect"]
            assert room.state.failed == 0
        assert not [one for one in caplog.records if one.levelno >= logging.ERROR]

    run(work, loop)


@both_loops
def test_the_drain_and_the_state_of_the_lifespan_are_seen_by_handlers(loop: str) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            assert (await client.get("/drain")).body == b"True False {'from': 'lifespan'}"
            task = await room.begin_drain()
            response = await client.get("/drain")
            assert response.body == b"True True {'from': 'lifespan'}"
            assert response.headers["connection"] == "close"
            client.close()
            await task

    run(work, loop)


def test_an_app_that_answers_before_the_body_has_come_keeps_the_connection() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("POST", "/refuse", "Content-Length: 10"))
            assert (await client.response()).status == 403
            await client.send(b"0123456789" + request("GET", "/next"))
            assert (await client.response()).body == b"/next"

    run(work)


@both_loops
def test_a_request_that_the_kernel_holds_when_the_idle_time_ends_is_answered(loop: str) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.get()
            [connection] = room.state.connections
            os.write(client.writer.get_extra_info("socket").fileno(), request("GET", "/next"))
            cast("HttpProtocol", connection).on_deadline()  # the sweep comes before the loop looks at the socket
            assert (await client.response()).body == b"/next"

    run(work, loop)


@both_loops
def test_time_for_which_the_loop_was_blocked_is_nobodys_delay(loop: str) -> None:
    async def work() -> None:
        async with serving(app, header_timeout=0.5, keep_alive=0.5) as room:
            half, idle = await room.connect(), await room.connect()
            await idle.get()
            await half.send(request("GET", "/next")[:20])
            await until(lambda: any(cast("HttpProtocol", one).in_head for one in room.state.connections))
            time.sleep(1.0)  # noqa: ASYNC251 - that is what is tested
            await asyncio.sleep(0.2)
            await half.send(request("GET", "/next")[20:])
            assert (await half.response()).body == b"/next"
            assert (await idle.get()).body == b"/"

    run(work, loop)


@both_loops
def test_a_goodbye_to_a_client_that_has_just_reset_raises_nothing(loop: str) -> None:
    async def work() -> None:
        async with serving(app) as room:
            sock = socket.create_connection(room.address)
            await until(lambda: room.state.connections)
            [connection] = room.state.connections
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            cast("HttpProtocol", connection).end(linger=True)
            await until(lambda: not room.state.connections)

    run(work, loop)
