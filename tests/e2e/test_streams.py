"""WebSockets, event streams, downloads and background work, when their worker goes away."""

import contextlib
import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from e2e.harness import Running, request, wait_for

ENDS = ["reload", "stop"]


def begin_end(running: Running, how: str) -> None:
    """Both return before the old worker is gone."""
    if how == "reload":
        running.reload()
    else:
        running.signal(signal.SIGTERM)


def notes(running: Running) -> list[str]:
    path = running.directory / "notes"
    return path.read_text().splitlines() if path.exists() else []


@contextlib.contextmanager
def websockets(running: Running, count: int) -> Iterator[list[ClientConnection]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(f"ws://{running.address}/ws")) for _ in range(count)]


def until_closed(client: ClientConnection) -> tuple[list[str | bytes], int | None, float]:
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(client.recv(timeout=20))
    return messages, client.close_code, time.monotonic()


@pytest.mark.parametrize("how", ENDS)
def test_websocket_clients_get_their_last_message_and_1012_spread_over_time(
    serve: Callable[..., Running], how: str
) -> None:
    running = serve("talkative", "--workers", "1")
    with websockets(running, 20) as clients:
        for client in clients:
            client.send("hello")
            assert str(client.recv()).endswith(" hello")
        began = time.monotonic()
        begin_end(running, how)
        with ThreadPoolExecutor(len(clients)) as pool:
            ends = list(pool.map(until_closed, clients))
    assert [end[:2] for end in ends] == [(["bye"], 1012)] * 20
    times = [end[2] - began for end in ends]
    assert max(times) - min(times) > 1.0, "not all at once"
    wait_for(lambda: len(notes(running)) == 20, what="the app hears of every end")
    assert set(notes(running)) == {"disconnect 1012"}
    if how == "stop":
        assert running.wait_end(15) == 0
    else:
        with websockets(running, 1) as [client]:
            client.send("again")
            assert int(str(client.recv()).split()[0]) in running.pids()
    assert "Traceback" not in running.log


class Stream(threading.Thread):
    """Reads a response to its end in the background."""

    def __init__(self, address: str, path: str) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(address, timeout=30)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()
        self.body = self.answer.read(1)
        self.whole = False
        self.start()

    def run(self) -> None:
        with contextlib.suppress(http.client.IncompleteRead):
            self.body += self.answer.read()
            self.whole = True
        self.connection.close()


@pytest.mark.parametrize("how", ENDS)
def test_event_streams_end_whole_and_downloads_finish(serve: Callable[..., Running], how: str) -> None:
    running = serve("talkative", "--workers", "1")
    streams = {path: Stream(running.address, path) for path in ("/events", "/listens", "/deaf", "/download")}
    begin_end(running, how)
    for path, stream in streams.items():
        stream.join(20)
        assert stream.whole, f"{path} was cut off: {stream.body[-50:]!r}"
    assert streams["/events"].body.endswith(b"data: last\n\n")
    assert len(streams["/download"].body) == 300_000 + len("data: first\n\nwhole")
    if how == "stop":
        assert running.wait_end(15) == 0
    assert "failed" not in running.log
    assert "Traceback" not in running.log


def test_eight_streams_of_any_kind_hold_the_end_up_no_longer_than_the_limit(serve: Callable[..., Running]) -> None:
    running = serve("talkative", "--workers", "2", "--stop-timeout", "5s")
    deaf = [Stream(running.address, "/deaf") for _ in range(7)]
    endless = Stream(running.address, "/endless")
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    assert running.wait_end(15) == 0
    assert time.monotonic() - began < 5 + 1
    for stream in [*deaf, endless]:
        stream.join(5)
    assert all(stream.whole for stream in deaf)
    assert not endless.whole, "what was cut off can be told from what is whole"
    assert "GET /endless" in running.log, "and is named"


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", ["background", "spawned"])
def test_work_under_way_is_finished(serve: Callable[..., Running], how: str, kind: str) -> None:
    running = serve("talkative", "--workers", "1")
    path = "/background" if kind == "background" else "/spawn"
    assert request(running.address, f"{path}?1.5")[0] == 200
    begin_end(running, how)
    assert not notes(running)
    wait_for(lambda: notes(running) == [f"{kind} done"], what="the work is finished")
    if how == "stop":
        assert running.wait_end(15) == 0


@pytest.mark.parametrize(("path", "name"), [("/background", "GET /background"), ("/spawn", "spawned")])
def test_work_that_takes_too_long_is_named(serve: Callable[..., Running], path: str, name: str) -> None:
    running = serve("talkative", "--workers", "1", "--stop-timeout", "3s")
    assert request(running.address, f"{path}?60")[0] == 200
    running.signal(signal.SIGTERM)
    assert running.wait_end(12) == 0
    [line] = [line for line in running.log.splitlines() if "not finished when the worker ended" in line]
    assert name in line
    assert not notes(running)
