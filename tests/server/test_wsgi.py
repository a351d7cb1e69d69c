import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.core.clock import SYSTEM
from holdfast.core.context import deadline_within, remaining
from holdfast.core.errors import ConfigError
from holdfast.server.wsgi import WSGIBridge
from holdfast.service.interface import Message

LIMIT = 10.0


def scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/orders",
        "query_string": b"",
        "http_version": "1.1",
        "headers": [],
        **more,
    }


async def call(app: Any, body: list[bytes] = [], **more: Any) -> list[Message]:  # noqa: B006 - never written to
    """One request through a bridge of its own, or through ``app`` when it is one."""
    bridge = app if isinstance(app, WSGIBridge) else WSGIBridge(app, threads=1)
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(LIMIT):
        try:
            await bridge(scope(**more), receive, send)
        finally:
            if bridge is not app:
                bridge._pool.shutdown()
    return sent


def answered(app: Any, body: list[bytes] = [], **more: Any) -> tuple[int, bytes]:  # noqa: B006
    sent = asyncio.run(call(app, body, **more))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def plain(take: Callable[[dict[str, Any]], bytes]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        answer = take(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [answer]

    return app


def test_a_request_is_answered() -> None:
    sent = asyncio.run(call(plain(lambda environ: environ["PATH_INFO"].encode())))
    assert sent[0] == {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
    assert sent[1] == {"type": "http.response.body", "body": b"/orders", "more_body": True}
    assert sent[2] == {"type": "http.response.body", "body": b""}


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda body: body.read(), b"one\ntwo\nthree"),
        (lambda body: body.read(5) + b"|" + body.read(), b"one\nt|wo\nthree"),
        (lambda body: body.readline() + b"|" + body.readline(2), b"one\n|tw"),
        (lambda body: body.readline(65536) + b"|" + body.readline(65536), b"one\n|two\n"),
        (lambda body: b"|".join(body.readlines(65536)), b"one\n|two\n|three"),
        (b"|".join, b"one\n|two\n|three"),
        (lambda body: body.read() + body.read() + body.readline(), b"one\ntwo\nthree"),
    ],
)
def test_the_body_reads_as_a_file_does(read: Callable[[io.BufferedReader], bytes], expected: bytes) -> None:
    app = plain(lambda environ: read(environ["wsgi.input"]))
    assert answered(app, [b"on", b"e\ntw", b"", b"o\nthree"]) == (200, expected)


def test_an_empty_body_has_no_lines() -> None:
    assert answered(plain(lambda environ: repr(environ["wsgi.input"].readlines()).encode())) == (200, b"[]")


def test_a_large_body_passes_whole() -> None:
    part = bytes(range(256)) * 256
    app = plain(lambda environ: str(hash(environ["wsgi.input"].read())).encode())
    assert answered(app, [part] * 200) == (200, str(hash(part * 200)).encode())


def test_a_body_that_breaks_off_is_an_error() -> None:
    caught: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            caught.append(exc)
            raise
        return []

    async def main() -> None:
        messages: list[Message] = [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            raise AssertionError("nothing is answered")

        with pytest.raises(BrokenPipeError, match="before the body was complete"):
            await WSGIBridge(app, threads=1)(scope(), receive, send)

    asyncio.run(main())
    assert isinstance(caught[0], BrokenPipeError)


def test_headers_that_pose_as_others_are_left_out() -> None:
    seen: dict[str, Any] = {}
    headers = [
        (b"x-real-ip", b"1.1.1.1"),
        (b"x_real_ip", b"6.6.6.6"),
        (b"proxy", b"http://evil"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"accept", b"text/html"),
        (b"accept", b"text/plain"),
    ]
    answered(plain(lambda environ: seen.update(environ) or b""), headers=headers, query_string=b"q=\xff")
    assert seen["HTTP_X_REAL_IP"] == "1.1.1.1"
    assert "HTTP_PROXY" not in seen
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["HTTP_ACCEPT"] == "text/html,text/plain"
    assert seen["QUERY_STRING"] == "q=\xff"
    assert seen["wsgi.input_terminated"] is True


def test_an_error_before_the_first_chunk_comes_out_before_anything_is_sent() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        raise ValueError("bad")

    async def main() -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("nobody reads")

        async def send(message: Message) -> None:
            sent.append(message)

        with pytest.raises(ValueError, match="bad"):
            await WSGIBridge(app, threads=1)(scope(), receive, send)
        assert sent == []

    asyncio.run(main())


def test_an_application_may_replace_its_head_by_that_of_an_error() -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"sorry"

        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [])
        try:
            raise ValueError("bad")
        except ValueError:
            start_response("500 Oops", [], __import__("sys").exc_info())
        return Body()

    async def main() -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("nobody reads")

        async def send(message: Message) -> None:
            sent.append(message)

        with pytest.raises(ValueError, match="bad"):
            await WSGIBridge(app, threads=1)(scope(), receive, send)
        assert [message.get("status", message.get("body")) for message in sent] == [500, b"sorry", b""]

    asyncio.run(main())
    assert closed == [True]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_what_no_future_can_hold_comes_out_as_an_error(error: BaseException) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise error

    with pytest.raises(RuntimeError, match=f"the application raised {type(error).__name__}"):
        asyncio.run(call(app))


def test_a_stream_waits_for_the_server_and_ends_when_the_client_goes() -> None:
    ended = threading.Event()
    errors: list[BaseException] = []
    made = [0]

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                made[0] += 1
                yield b"x" * 1000
        except GeneratorExit as exc:
            errors.append(exc)
        finally:
            ended.set()

    async def main() -> None:
        bridge = WSGIBridge(app, threads=1)
        taken = asyncio.Event()

        async def receive() -> Message:
            raise AssertionError("nobody reads")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                taken.set()
                await asyncio.Event().wait()  # a client that reads no more

        request = asyncio.create_task(bridge(scope(), receive, send))
        await taken.wait()
        assert made[0] == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert await asyncio.to_thread(ended.wait, LIMIT)
        # The one thread of the pool is free again.
        assert (await call_bridge(bridge))[0]["status"] == 200

    async def call_bridge(bridge: WSGIBridge) -> list[Message]:
        first: list[Message] = []

        async def send(message: Message) -> None:
            first.append(message)
            raise ConnectionResetError

        async def receive() -> Message:
            raise AssertionError("nobody reads")

        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConnectionResetError):
                await bridge(scope(), receive, send)
        return first

    asyncio.run(main())
    assert isinstance(errors[0], GeneratorExit)


def test_the_deadline_of_the_request_is_seen_in_the_thread() -> None:
    app = plain(lambda environ: f"{0 < remaining() <= 5} {threading.current_thread().name}".encode())

    async def main() -> bytes:
        with deadline_within(5.0, now=SYSTEM.now()):
            body: bytes = (await call(app))[1]["body"]
            return body

    assert asyncio.run(main()).startswith(b"True wsgi")


def test_more_requests_than_threads_and_waiting_room_are_answered_503() -> None:
    release = threading.Event()

    def wait(environ: dict[str, Any]) -> bytes:
        release.wait(LIMIT)
        return b"done"

    async def main() -> None:
        bridge = WSGIBridge(plain(wait), threads=1, max_waiting=1)
        running = [asyncio.create_task(call(bridge)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await call(bridge)
        assert refused[0]["status"] == 503
        assert (b"retry-after", b"1") in refused[0]["headers"]
        release.set()
        for task in running:
            assert (await task)[1]["body"] == b"done"
        assert (await call(bridge))[0]["status"] == 200

    asyncio.run(main())


def test_the_event_loop_is_not_blocked() -> None:
    async def main() -> None:
        request = asyncio.create_task(call(plain(lambda environ: time.sleep(0.2) or b"")))  # type: ignore[func-returns-value]
        turns = 0
        while not request.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert turns > 10

    asyncio.run(main())


async def conversation(bridge: WSGIBridge, *received: str) -> list[str]:
    incoming = list(received)
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": incoming.pop(0)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await bridge({"type": received[0].split(".")[0]}, receive, send)
    return sent


def test_lifespan_ends_the_threads_and_websockets_are_refused() -> None:
    bridge = WSGIBridge(plain(lambda environ: b""))
    assert asyncio.run(conversation(bridge, "websocket.connect")) == ["websocket.close"]
    sent = asyncio.run(conversation(bridge, "lifespan.startup", "lifespan.shutdown"))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(RuntimeError, match="after shutdown"):
        bridge._pool.submit(print)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="threads: got 0"):
        WSGIBridge(plain(lambda environ: b""), threads=0)
