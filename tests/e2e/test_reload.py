"""Reloads under load: nothing lost, nothing slower than it has to be."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from e2e.harness import Running, wait_for
from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess, ProxyProcess
from holdfast.lab.report import Report

RELOADS = 20
CONNECTIONS = 50


@contextmanager
def _load(running: Running, kind: str) -> Iterator[LoadProcess]:
    mode = {"A": "keepalive", "B": "think", "C": "connect", "D": "think"}[kind]
    if kind == "D":
        with ProxyProcess(running.address, rtt=0.004) as proxy:
            load = Load(addresses=(proxy.address,), mode="think", connections=CONNECTIONS, duration=300)
            with LoadProcess(load) as process:
                yield process
        return
    load = Load(addresses=(running.address,), mode=mode, connections=CONNECTIONS, duration=300)  # type: ignore[arg-type]
    with LoadProcess(load) as process:
        yield process


def _reload_under(running: Running, kind: str, times: int) -> Report:
    with _load(running, kind) as process:
        for number in range(times):
            process.mark(f"reload {number}")
            running.reload()
        report = process.stop()
    assert report.requests > times * 10, report.summary()
    return report


@pytest.mark.parametrize("kind", ["A", "B", "C", "D"])
def test_twenty_reloads_under_load_lose_nothing(serve: Callable[..., Running], kind: str) -> None:
    running = serve("plain", "--workers", "2")
    report = _reload_under(running, kind, RELOADS)
    assert report.failures == {}, report.summary()
    status = running.status()
    assert status["generation"] == RELOADS + 1
    assert status["crashes"] == 0
    assert "Traceback" not in running.log


def test_idle_connections_survive_a_reload(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    connections = [http.client.HTTPConnection(running.address, timeout=20) for _ in range(20)]
    before = []
    for connection in connections:
        connection.request("GET", "/")
        before.append(connection.getresponse().read())
    sockets = [connection.sock for connection in connections]
    old = running.pids()
    running.reload()
    # A reload waits only so long for old workers to leave; on a busy machine one may still have a connection.
    wait_for(lambda: not running.workers("draining"), what="the old workers have ended")
    after = []
    for connection in connections:
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.getheader("connection") is None
        after.append(answer.read())
    assert [connection.sock for connection in connections] == sockets, "the client opened a new connection"
    assert {int(body.split()[0]) for body in before} <= old
    assert not {int(body.split()[0]) for body in after} & old
    assert {body.split()[1] for body in after} == {b"2"}
    for connection in connections:
        connection.close()


def test_a_request_under_way_is_finished_by_the_worker_that_began_it(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    connection = http.client.HTTPConnection(running.address, timeout=20)
    connection.request("GET", "/slow?2")
    old = running.pids()
    running.reload()
    first = connection.getresponse()
    assert int(first.read().split()[0]) in old
    sock = connection.sock
    connection.request("GET", "/")
    assert int(connection.getresponse().read().split()[0]) in running.pids()
    assert connection.sock is sock, "the connection moved to the new worker after its response"
    connection.close()
