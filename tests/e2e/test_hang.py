"""Workers whose event loop is blocked: seen, named with their stacks, replaced first and ended then."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from e2e.harness import Running, wait_for
from e2e.pressure import assert_nothing_lost, pressure

LIMIT = ("--hang-timeout", "2s")


def _block(running: Running, seconds: float) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(running.address, timeout=30)
    connection.request("GET", f"/block?{seconds}")
    return connection


def _history(running: Running) -> list[dict[str, Any]]:
    """The events so far, oldest first."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0.5)
        sock.connect(str(running.control_path))
        sock.sendall(b'{"op": "events"}\n')
        data = b""
        try:
            while chunk := sock.recv(65536):
                data += chunk
        except TimeoutError:
            pass  # they follow as they happen; those so far have come at once
    return [json.loads(line)["event"] for line in data.splitlines()]


def _ended(running: Running, pid: int) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = [e for e in _history(running) if e["type"] == "WorkerEnded" and e["pid"] == pid]
        return found[0] if found else None

    found = wait_for(look, what=f"worker {pid} has ended")
    assert found is not None
    return found


def _stuck(running: Running) -> int:
    """The worker that has not been heard of for half the limit."""
    silent = wait_for(lambda: [w for w in running.workers() if w["silent"] > 1.5], what="one is silent")
    return int(silent[0]["pid"])


def test_a_blocked_worker_is_logged_with_its_stack_and_replaced_first(
    serve: Callable[..., Running],
) -> None:
    running = serve("plain", "--workers", "2", *LIMIT)
    before = running.pids()
    blocked = _block(running, 60)
    pid = _stuck(running)
    with pressure(running) as load:
        ended = _ended(running, pid)
        assert_nothing_lost(load.stop())
    blocked.close()
    assert "SIGKILL, sent by the supervisor" in ended["ending"]
    assert "plain.py" in running.log
    assert "in app" in running.log
    events = [(event["type"], event["pid"]) for event in _history(running) if "pid" in event]
    replacement = (running.pids() - before).pop()
    order = [events.index(one) for one in (("WorkerHung", pid), ("WorkerStarted", replacement), ("WorkerEnded", pid))]
    assert order == sorted(order)
    assert running.status()["hangs"] == 1
    assert running.status()["crashes"] == 0
    assert len(running.pids() & before) == 1


def test_a_stopped_worker_is_replaced_though_no_stack_can_come(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", *LIMIT)
    victim = running.workers()[0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    with pressure(running) as load:
        assert "SIGKILL, sent by the supervisor" in _ended(running, victim)["ending"]
        assert_nothing_lost(load.stop())
    assert "no stacks came" in running.log
    assert len(running.pids()) == 2


def test_a_worker_that_comes_back_before_its_replacement_is_ready_is_drained(serve: Callable[..., Running]) -> None:
    running = serve("guarded", "--workers", "1", *LIMIT)
    (running.directory / "slow").write_text("3")
    (old,) = running.pids()
    blocked = _block(running, 3.5)
    wait_for(lambda: "has been blocked" in running.log)
    answer = blocked.getresponse()
    assert answer.status == 200
    assert int(answer.read().split()[0]) == old
    ended = _ended(running, old)
    assert ended["ending"] == "exited with status 0"
    assert ended["expected"]
    blocked.request("GET", "/")
    assert int(blocked.getresponse().read().split()[0]) in running.pids() - {old}
    blocked.close()


def test_a_worker_that_blocks_while_it_drains_is_ended_by_the_hang_limit(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", *LIMIT, "--drain-timeout", "60s")
    (old,) = running.pids()
    blocked = _block(running, 60)
    wait_for(lambda: running.workers()[0]["silent"] > 1.0)
    running.reload()
    assert old not in running.pids()
    with pressure(running) as load:
        assert "SIGKILL, sent by the supervisor" in _ended(running, old)["ending"]
        assert_nothing_lost(load.stop())
    assert "in app" in running.log
    blocked.close()
