"""The load client against servers that misbehave in each way, on both event loops."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from holdfast.lab.load import Load, LoadRun, run_load, start_load
from holdfast.lab.report import Report
from lab.ports import refusing

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on the loop under test."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(asyncio.wait_for(main, 20))

    return runner


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> Any:
    """A server that runs the handler for each connection and forgives it what the client's going away does."""

    async def forgiving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(forgiving, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def measure(handler: Handler, **settings: Any) -> Report:
    settings = {"connections": 1, "count": 1, "duration": 10.0, "timeout": 5.0, **settings}
    async with serving(handler) as address:
        return await run_load(Load(addresses=(address,), **settings))


async def request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*answers: bytes) -> Handler:
    """Give these answers in turn on each connection, then close it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request(reader)
            writer.write(answer)

    return handler


async def faithful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await request(reader)
        writer.write(OK)


def test_whole_answers_count_as_successes_on_connections_that_are_kept(run: Run) -> None:
    report = run(measure(faithful, connections=5, count=200))
    assert (report.requests, report.ok, report.failed) == (200, 200, 0)
    assert (report.opened, report.kept, report.idle_closed) == (5, 5, 0)
    assert report.latency.total == 200
    assert 0 < report.p50 <= report.p99 <= report.worst < 5
    assert sum(second.ok for second in report.series) == 200


def test_a_close_before_any_byte_is_eof(run: Run) -> None:
    report = run(measure(answering(b"")))
    assert report.failures == {"eof": 1}
    assert report.samples[0].served == 0


@pytest.mark.parametrize("cut", [1, 20, len(OK) - 1])
def test_an_answer_cut_short_is_truncated(run: Run, cut: int) -> None:
    report = run(measure(answering(OK[:cut])))
    assert report.failures == {"truncated": 1}
    assert str(cut) in report.samples[0].detail


@pytest.mark.parametrize("sent", [b"", OK[:20]])
def test_a_reset_is_a_reset_before_and_within_an_answer(run: Run, sent: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        if sent:
            writer.write(sent)
            await asyncio.sleep(0.05)  # the client reads it before the reset throws it away
        reset(writer)

    assert run(measure(handler)).failures == {"reset": 1}


@pytest.mark.parametrize(("sent", "state"), [(b"", "no byte"), (OK[:20], "20 bytes")])
def test_an_answer_too_late_is_a_timeout(run: Run, sent: bytes, state: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(sent)
        await reader.read()

    report = run(measure(handler, timeout=0.1))
    assert report.failures == {"timeout": 1}
    assert 0.1 <= report.samples[0].waited < 1.0
    assert state in report.samples[0].detail


def test_a_connection_that_never_opens_is_a_timeout(run: Run) -> None:
    async def main() -> Report:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            with socket.create_connection(address):  # one more than nothing, which a backlog of 0 still admits
                return await run_load(Load(addresses=(f"127.0.0.1:{address[1]}",), connections=1, count=1, timeout=0.1))

    report = run(main())
    assert report.failures == {"timeout": 1}
    assert report.samples[0].detail == "not connected"
    assert report.opened == 0


def test_a_status_outside_2xx_is_a_failure_with_its_code_and_keeps_the_connection(run: Run) -> None:
    bad = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
    report = run(measure(answering(bad, OK, OK), count=3))
    assert report.failures == {"status 503": 1}
    assert (report.ok, report.opened) == (2, 1)


def test_nobody_listening_is_refused(run: Run, tmp_path: Path) -> None:
    with refusing() as port:
        for address in (f"127.0.0.1:{port}", f"unix:{tmp_path}/absent"):
            report = run(run_load(Load(addresses=(address,), connections=2, count=4)))
            assert report.failures == {"refused": 4}


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        OK + b"more",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nwhere does it end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_the_protocol_is_a_failure(run: Run, answer: bytes) -> None:
    assert run(measure(answering(answer))).failures == {"protocol": 1}


def test_a_body_ending_with_the_connection_is_accepted_only_when_asked_for(run: Run) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    report = run(measure(answering(answer), open_ended=True, expect_body=b"all of it"))
    assert (report.ok, report.failed) == (1, 0)


def test_the_wrong_body_is_a_failure(run: Run) -> None:
    assert run(measure(answering(OK), expect_body=b"ko")).failures == {"body": 1}
    assert run(measure(answering(OK), expect_body=b"ok")).failures == {}


def test_a_server_that_says_close_is_obeyed_and_that_is_no_failure(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(CLOSING)
        # The client closes, not the server: a second request here would be one on a doomed connection.
        assert await reader.read() == b""

    report = run(measure(handler, count=20, connections=2))
    assert (report.ok, report.failed) == (20, 0)
    assert (report.announced, report.opened, report.kept, report.idle_closed) == (20, 20, 0, 0)


def test_an_idle_close_seen_in_time_is_counted_apart_and_reopened(run: Run) -> None:
    report = run(measure(answering(OK), mode="think", think=0.05, count=5))
    assert (report.ok, report.failed) == (5, 0)
    assert (report.idle_closed, report.opened, report.kept) == (5, 5, 0)


def test_a_request_sent_on_a_connection_closed_while_idle_is_lost(run: Run) -> None:
    # The answer and the FIN arrive together: the client has sent the next request when it hears of the end.
    report = run(measure(answering(OK), count=2))
    assert report.ok == 1
    assert report.failed == 1
    assert set(report.failures) <= {"eof", "reset"}
    assert report.samples[0].served == 1


def test_bytes_that_nobody_asked_for_end_an_idle_connection(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await reader.read()  # the server leaves the closing to the client, and answers nothing more

    report = run(measure(handler, mode="think", think=0.1, count=2, timeout=1.0))
    assert (report.ok, report.failed) == (2, 0)
    assert report.opened == 2


@pytest.mark.parametrize("say_close", [False, True])
def test_connect_mode_opens_a_connection_for_each_request(run: Run, say_close: bool) -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request(reader))
        writer.write(CLOSING if say_close else OK)
        assert await reader.read() == b""

    report = run(measure(handler, mode="connect", say_close=say_close, count=10, connections=2))
    assert (report.ok, report.opened, report.kept) == (10, 10, 0)
    assert all((b"connection: close" in head) is say_close for head in heads)


def test_requests_carry_their_headers_body_and_number(run: Run) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request(reader) + await reader.readexactly(3))
            writer.write(OK)

    run(measure(handler, count=2, method="POST", path="/o/{n}", headers=(("X-Key", "k{n}"),), body=b"{n}"))
    assert [line for text in seen for line in text.split(b"\r\n") if b"host" not in line] == [
        *(b"POST /o/1 HTTP/1.1", b"content-length: 3", b"X-Key: k1", b"", b"{n}"),
        *(b"POST /o/2 HTTP/1.1", b"content-length: 3", b"X-Key: k2", b"", b"{n}"),
    ]


def test_requests_that_open_their_connections_together_have_numbers_of_their_own(run: Run) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await request(reader)).split(b"\r\n")[0])
        writer.write(OK)
        await reader.read()

    run(measure(handler, mode="connect", count=40, connections=8, path="/o/{n}"))
    assert sorted(seen) == sorted(b"GET /o/%d HTTP/1.1" % number for number in range(1, 41))


def test_a_paced_load_counts_latency_from_when_a_request_was_due(run: Run) -> None:
    calls = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        while True:
            await request(reader)
            calls += 1
            if calls == 1:
                await asyncio.sleep(0.4)
            writer.write(OK)

    report = run(measure(handler, count=100, rate=200.0))
    assert report.ok == 100
    # 80 requests fell due in the stall. A client that waits for its answer would have seen one slow request.
    assert report.p50 > 0.05
    assert report.worst > 0.39  # uvloop's timers may come a millisecond early
    assert report.missed == 0


def test_a_paced_load_says_what_it_could_not_start(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            await asyncio.sleep(0.05)
            writer.write(OK)

    report = run(measure(handler, count=None, duration=0.5, rate=200.0))
    assert 80 <= report.missed + report.requests <= 101
    assert report.missed > 50


def test_a_request_under_way_at_the_end_may_finish(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(0.3)
        writer.write(OK)

    report = run(measure(handler, count=None, duration=0.1))
    assert (report.ok, report.failed) == (1, 0)


def test_marks_attribute_failures_and_gaps_to_steps(run: Run) -> None:
    broken = False

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            if broken:
                return
            writer.write(OK)

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - the run has no event for each of its counters
            await asyncio.sleep(0.01)

    async def main() -> Report:
        nonlocal broken
        async with serving(handler) as address:
            load: LoadRun = start_load(Load(addresses=(address,), connections=4, think=0.01, mode="think"))
            await until(lambda: load.snapshot().ok > 20)
            load.mark("broken")
            broken = True
            await until(lambda: load.snapshot().failed > 20)
            await asyncio.sleep(0.1)
            broken = False
            load.mark("mended")
            with pytest.raises(ValueError, match="already"):
                load.mark("mended")
            ok = load.snapshot().ok
            await until(lambda: load.snapshot().ok > ok + 20)
            assert load.running
            return await load.stop()

    report = run(main())
    assert report.marks() == ["start", "broken", "mended"]
    before, within, after = (
        report.between("start", "broken"),
        report.between("broken", "mended"),
        report.between("mended"),
    )
    assert before.failed == 0
    assert before.kept == 4
    assert within.failed > 20
    assert within.kept == 0
    assert within.gap >= 0.1 > before.gap
    # The four that were asked before the server was mended may end after it.
    assert after.failed <= 4
    assert after.ok > 20
    assert before.requests + within.requests + after.requests == report.requests
    with pytest.raises(KeyError, match="no mark 'x'"):
        report.between("x")
    with pytest.raises(ValueError, match="after"):
        report.between("mended", "broken")


def test_a_cancelled_stop_closes_every_connection(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        asked.set()
        assert await reader.read() == b""
        closed.set()

    asked, closed = asyncio.Event(), asyncio.Event()

    async def main() -> None:
        async with serving(handler) as address:
            load = start_load(Load(addresses=(address,), connections=1, timeout=3600))
            await asked.wait()
            stopping = asyncio.create_task(load.stop())
            await asyncio.sleep(0)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            await closed.wait()
            assert not load.running

    run(main())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"addresses": ("10.0.0.1:80",)}, "not on this machine"),
        ({"addresses": ("example.com:80",)}, "not on this machine"),
        ({"addresses": ("[2001:db8::1]:80",)}, "not on this machine"),
        ({"addresses": ("127.0.0.1",)}, "no port"),
        ({"addresses": ("127.0.0.1:99999",)}, "no port"),
        ({"addresses": ("unix:",)}, "no path"),
        ({"addresses": ()}, "at least one"),
        ({"connections": 0}, "connections is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"path": "/a b"}, "path is '/a b'"),
        ({"path": "/a\r\nX: y"}, "path is"),
        ({"headers": (("X", "a\r\nY: b"),)}, "one line"),
        ({"rate": 5.0, "mode": "think"}, "rate is 5.0"),
        ({"say_close": True}, "say_close"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Load(**{"addresses": ("127.0.0.1:80", "[::1]:80", "localhost:80", "unix:/tmp/x"), **settings})
