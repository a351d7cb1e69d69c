"""SIGTERM under load: clean refusals after the end, and nothing else."""

import contextlib
import http.client
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e.harness import Running, request, wait_for
from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess

LOADS: dict[str, dict[str, Any]] = {
    "keep-alive": {"mode": "keepalive"},
    "thinking": {"mode": "think"},
    "connecting": {"mode": "connect"},
    "connecting, closed by the server": {"mode": "connect", "say_close": True},
}


@pytest.mark.parametrize("kind", LOADS)
def test_a_stop_under_load_refuses_at_the_end_and_loses_nothing(serve: Callable[..., Running], kind: str) -> None:
    running = serve("plain", "--workers", "2")
    load = Load(addresses=(running.address,), connections=50, duration=60, **LOADS[kind])
    with LoadProcess(load) as process:
        time.sleep(0.5)
        process.mark("stop")
        running.signal(signal.SIGTERM)
        assert running.wait_end(20) == 0
        report = process.stop()
    assert set(report.failures) <= {"refused"}, report.samples
    assert report.ok > 500
    before, after = report.segments
    assert before.failures == {}
    assert after.failures, "it is really over"
    last = max(position for position, second in enumerate(report.series) if second.ok)
    assert not any(second.failed for second in report.series[:last]), "refused only after the last answer"
    assert "Traceback" not in running.log


def test_an_idle_client_has_the_idle_grace_for_one_more_request(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--idle-grace", "2s")
    clients = [http.client.HTTPConnection(running.address, timeout=10) for _ in range(2)]
    for client in clients:
        client.request("GET", "/")
        client.getresponse().read()
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in running.log)
    time.sleep(1.0)
    clients[0].request("GET", "/")
    answer = clients[0].getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    answer.read()
    assert clients[1].sock is not None
    assert clients[1].sock.recv(100) == b"", "the other one sees an end, not a reset"
    assert time.monotonic() - began > 1.9
    for client in clients:
        client.close()
    assert running.wait_end() == 0


def test_a_slow_request_is_finished(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    client = http.client.HTTPConnection(running.address, timeout=20)
    client.request("GET", "/slow?3")
    time.sleep(0.2)
    running.signal(signal.SIGTERM)
    answer = client.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    assert answer.read()
    client.close()
    assert running.wait_end() == 0


def test_a_slow_request_of_before_a_reload_is_finished_when_the_service_stops(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    client = http.client.HTTPConnection(running.address, timeout=20)
    client.request("GET", "/slow?3")
    time.sleep(0.2)
    running.reload()
    running.signal(signal.SIGTERM)
    answer = client.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close"), "there is nobody to move to"
    assert answer.read()
    client.close()
    assert running.wait_end() == 0


def test_during_the_prestop_delay_it_answers_and_is_not_ready(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--admin", "127.0.0.1:0", "--prestop-delay", "2s")
    admin = running.status()["admin"][0].partition("://")[2]
    assert request(admin, "/readyz")[0] == 200
    client = http.client.HTTPConnection(running.address, timeout=10)
    address = running.address
    client.request("GET", "/")
    assert client.getresponse().read()
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    wait_for(lambda: request(admin, "/readyz")[0] == 503, what="readiness fails")
    assert request(admin, "/livez")[0] == 200
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    answer.read()
    client.close()
    while time.monotonic() - began < 1.7:
        status, headers, _ = request(address, "/")
        assert (status, headers["connection"]) == (200, "close"), "new connections are served too"
        time.sleep(0.1)
    assert running.wait_end() == 0
    assert time.monotonic() - began > 2


def test_the_second_interrupt_ends_it_at_once(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    blocked = threading.Thread(target=_ask, args=(running.address, "/slow?60"), daemon=True)
    blocked.start()
    wait_for(lambda: running.workers()[0]["in_flight"])
    running.signal(signal.SIGINT)
    wait_for(lambda: "stopping" in running.log)
    began = time.monotonic()
    running.signal(signal.SIGINT)
    assert running.wait_end() == 0
    assert time.monotonic() - began < 2


def _ask(address: str, path: str) -> None:
    with contextlib.suppress(OSError):
        request(address, path)
