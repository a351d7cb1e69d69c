"""A supervisor that is killed or stopped, and what an app leaves behind: nothing stays for ever."""

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from e2e.harness import Running, request, service, wait_for
from e2e.pressure import assert_nothing_lost, pressure


def _free_port() -> int:
    """One below those that the kernel gives out by itself: nobody's connection gets it while nobody listens."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


def test_workers_of_a_killed_supervisor_drain_and_a_second_start_takes_the_address(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{_free_port()}"
    options = ("--workers", "2", "--bind", bind, "--stop-timeout", "5s")
    with service(tmp_path, "plain", *options) as first:
        workers = first.pids()
        slow = http.client.HTTPConnection(bind, timeout=20)
        slow.request("GET", "/slow?1")
        with pressure(bind) as load:
            wait_for(lambda: load.snapshot().requests > 50)
            load.mark("killed")
            os.kill(first.pid, signal.SIGKILL)
            first.process.wait()
            assert first.control_path.exists(), "a stale control socket is left"
            with service(tmp_path, "plain", *options) as second:
                wait_for(lambda: not _alive(workers), 10, "the orphans have ended by themselves")
                load.mark("taken over")
                wait_for(lambda: load.snapshot().between("taken over").ok > 50)
                report = load.stop()
                assert second.pids().isdisjoint(workers)
                assert first.control_path.stat().st_mode & 0o777 == 0o600
        answer = slow.getresponse()
        assert answer.status == 200, "what an orphan had in hand it has finished"
        assert int(answer.read().split()[0]) in workers
        slow.close()
        # While nobody listens, new connections fail; a request that a worker had taken never does.
        lost = report.between("killed", "taken over")
        assert {failure.served for failure in lost.samples} <= {0}, lost.summary()
        assert_nothing_lost(report.between("taken over"))
        assert "the supervisor is gone: this worker drains and ends" in first.log


def test_an_orphan_whose_loop_is_blocked_ends_too(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", "--stop-timeout", "0.5s")
    workers = running.pids()
    blocked = http.client.HTTPConnection(running.address, timeout=30)
    blocked.request("GET", "/block?60")
    wait_for(lambda: running.workers()[0]["silent"] > 1.2, what="it is blocked")
    os.kill(running.pid, signal.SIGKILL)
    # The stop limit and a margin of 5 s.
    wait_for(lambda: not _alive(workers), 8, "the thread has ended it")
    blocked.close()


def test_a_supervisor_that_was_stopped_for_a_while_blames_no_worker(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--hang-timeout", "2s")
    workers = running.pids()
    with pressure(running) as load:
        os.kill(running.pid, signal.SIGSTOP)
        try:
            time.sleep(5)  # this is the event itself, not a wait for one
        finally:
            os.kill(running.pid, signal.SIGCONT)
        wait_for(lambda: all(worker["silent"] < 1.5 for worker in running.workers()), what="all are heard again")
        assert_nothing_lost(load.stop())
    assert running.pids() == workers
    assert running.status()["hangs"] == 0


def test_threads_and_children_of_an_app_do_not_keep_a_replaced_worker(serve: Callable[..., Running]) -> None:
    running = serve("lingering", "--workers", "1", "--drain-timeout", "60s")
    (old,) = running.pids()
    running.reload()
    wait_for(lambda: not _alive({old}), 9, "it is gone well before the drain limit")
    assert "is past its limit and is killed" in running.log
    assert "time.sleep" not in running.log
    assert running.status()["crashes"] == 0


def test_threads_of_an_app_do_not_hold_up_the_stop(serve: Callable[..., Running]) -> None:
    running = serve("lingering", "--workers", "2", "--stop-timeout", "30s")
    running.signal(signal.SIGTERM)
    assert running.wait_end(9) == 0


def test_a_worker_that_boots_when_the_supervisor_dies_gives_the_address_free_and_ends_its_app(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{_free_port()}"
    lifespan = """
import asyncio, pathlib, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        pathlib.Path("begun").touch()
        await asyncio.sleep(2 if pathlib.Path("slow").exists() else 0)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        pathlib.Path("ended").touch()
        await send({"type": "lifespan.shutdown.complete"})
"""
    with service(tmp_path, "plain", "--workers", "1", "--bind", bind) as first:
        first.write("plain.py", lifespan)
        (tmp_path / "slow").touch()
        first.signal(signal.SIGHUP)
        wait_for((tmp_path / "begun").exists, what="the new worker starts its app")
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        (tmp_path / "slow").unlink()
        began = time.monotonic()
        with service(tmp_path, "plain", "--workers", "1", "--bind", bind):
            assert time.monotonic() - began < 5, "the address was free at once"
            wait_for((tmp_path / "ended").exists, what="the orphan has ended its app")


def test_a_child_that_the_app_forks_does_not_keep_the_address(tmp_path: Path) -> None:
    bind = f"127.0.0.1:{_free_port()}"
    forks = """
import os, time

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    body = b"%d" % pid
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
    (tmp_path / "forks.py").write_text(forks)
    running = Running(tmp_path, "forks:app", "--workers", "1", "--bind", bind)
    try:
        running.wait_serving()
        child = int(request(bind)[2])
        running.signal(signal.SIGTERM)
        running.wait_end()
        assert child in _alive({child}), "the child outlives the service"
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", int(bind.rpartition(":")[2])))
            sock.listen()
    finally:
        running.end()
