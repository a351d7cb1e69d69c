"""The ways in which a service ends, at moments that do not suit."""

import http.client
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from e2e.harness import APPS, Refused, Running, wait_for


def _idle(running: Running, path: str = "/") -> http.client.HTTPConnection:
    """A connection that has had an answer, or waits for one when the path is slow."""
    connection = http.client.HTTPConnection(running.address, timeout=20)
    connection.request("GET", path)
    if path == "/":
        connection.getresponse().read()
    return connection


def test_sigquit_ends_everything_at_once(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    slow = _idle(running, "/slow?30")
    running.signal(signal.SIGQUIT)
    assert running.wait_end(5) == 0
    wait_for(lambda: not running.children())
    slow.close()


def test_a_second_interrupt_ends_the_stop_that_the_first_began(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--stop-timeout", "60s")
    slow = _idle(running, "/slow?30")
    wait_for(lambda: sum(worker["in_flight"] for worker in running.workers()) == 1)
    running.signal(signal.SIGINT)
    wait_for(lambda: "stopping (SIGINT)" in running.log)
    assert running.process.poll() is None
    running.signal(signal.SIGINT)
    assert running.wait_end(5) == 0
    wait_for(lambda: not running.children())
    slow.close()


def test_a_stop_during_a_reload_refuses_it_and_ends(serve: Callable[..., Running]) -> None:
    running = serve("guarded", "--workers", "1")
    (running.directory / "slow").write_text("30")
    refusals: list[Refused] = []

    def reload() -> None:
        try:
            running.reload()
        except Refused as refusal:
            refusals.append(refusal)

    thread = threading.Thread(target=reload)
    thread.start()
    wait_for(lambda: running.workers("booting"))
    running.signal(signal.SIGTERM)
    assert running.wait_end(10) == 0
    thread.join()
    assert [refusal.reason for refusal in refusals] == ["the service is stopping"]
    assert not running.children()


def test_a_stop_during_the_first_boot_ends_with_status_0(tmp_path: Path) -> None:
    (tmp_path / "guarded.py").write_text((APPS / "guarded.py").read_text())
    (tmp_path / "slow").write_text("30")
    running = Running(tmp_path, "guarded:app", "--workers", "2")
    try:
        wait_for((tmp_path / "boots").exists, what="a worker boots")
        running.signal(signal.SIGTERM)
        assert running.wait_end(10) == 0
        assert not running.children()
        assert "cannot start" not in running.log
    finally:
        running.end()


def test_a_stop_keeps_the_connections_of_a_worker_that_still_drains(serve: Callable[..., Running]) -> None:
    """Its idle connections would go to a successor; when the service stops there is none to take them."""
    running = serve("plain", "--workers", "1", "--stop-timeout", "10s", "--idle-grace", "2s")
    slow = _idle(running, "/slow?2.5")
    running.reload()
    assert running.workers("draining")
    running.signal(signal.SIGTERM)
    wait_for(lambda: "stopping (SIGTERM)" in running.log)
    answer = slow.getresponse()
    assert answer.status == 200
    assert answer.getheader("connection") == "close", "the client is told, rather than handed to nobody"
    answer.read()
    slow.close()
    assert running.wait_end(8) == 0


def test_a_stop_gives_a_worker_that_still_drains_no_more_than_its_own_limit(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--stop-timeout", "1s", "--drain-timeout", "60s")
    slow = _idle(running, "/slow?60")
    running.reload()
    # Two heartbeats later it has long begun to drain.
    wait_for(lambda: running.workers("draining")[0]["silent"] > 0.6)
    wait_for(lambda: running.workers("draining")[0]["silent"] < 0.3)
    running.signal(signal.SIGTERM)
    assert running.wait_end(5) == 0
    assert "not finished: GET /slow" in running.log, "it was ended by its own drain, which names what is cut"
    slow.close()


def test_a_worker_cannot_be_used_to_stop_the_service(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    (pid,) = running.pids()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(pid, number)
    running.ask("status")
    assert running.pids() == {pid}
