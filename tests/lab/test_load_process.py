"""The load and the proxy in processes of their own, against a real server in a thread of the test."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess, ProxyProcess

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Answers(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(OK)


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers; it lives in a thread, because the methods under test block."""
    found: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Answers, "127.0.0.1", 0)
        found.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready.set()
        await loop.run_in_executor(None, done.wait)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    done.set()
    thread.join(10)


def test_a_load_in_its_own_process_reports_and_takes_marks(address: str) -> None:
    with LoadProcess(Load(addresses=(address,), connections=3, count=300, duration=30, mode="think")) as load:
        load.mark("one")
        with pytest.raises(ValueError, match="already"):
            load.mark("one")
        assert load.snapshot().marks() == ["start", "one"]
        report = load.wait()
    assert (report.ok, report.failed, report.kept) == (300, 0, 3)
    assert report.marks() == ["start", "one"]


def test_a_load_in_its_own_process_stops_when_told(address: str) -> None:
    with LoadProcess(Load(addresses=(address,), connections=3, duration=3600)) as load:
        report = load.stop()
    assert report.failed == 0
    assert report.duration < 60


def test_a_load_process_ends_with_its_owner(address: str) -> None:
    with LoadProcess(Load(addresses=(address,), connections=1, duration=3600)) as load:
        assert load._child.stdin is not None
        load._child.stdin.close()
        assert load._child.wait(10) == 1


def test_a_dead_load_process_is_reported(address: str) -> None:
    with LoadProcess(Load(addresses=(address,), connections=1, duration=3600)) as load:
        load._child.kill()
        load._child.wait(10)
        with pytest.raises(RuntimeError, match="is gone"):
            load.snapshot()


def test_a_proxy_in_its_own_process_delays(address: str) -> None:
    with (
        ProxyProcess(address, rtt=0.02) as proxy,
        LoadProcess(Load(addresses=(proxy.address,), connections=2, count=20)) as load,
    ):
        report = load.wait()
    assert report.ok == 20
    assert report.latency.quantile(0.0) >= 0.016
