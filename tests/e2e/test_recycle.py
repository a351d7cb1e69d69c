"""Workers that have served enough, or hold too much, are replaced: the replacement first, nothing lost."""

import os
import signal
from collections.abc import Callable

from e2e.harness import Running, wait_for
from e2e.pressure import assert_nothing_lost, pressure


def test_workers_are_recycled_by_requests_without_a_loss(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2", "--max-requests", "150")
    before = running.pids()
    with pressure(running, rate=400) as load:
        wait_for(lambda: running.log.count("it served") >= 4, 30, "four replacements")
        assert_nothing_lost(load.stop())
    assert not running.pids() & before
    status = running.status()
    assert status["generation"] == 1
    assert status["crashes"] == 0
    assert len(running.pids()) == 2


def test_workers_are_recycled_by_memory_without_a_loss(serve: Callable[..., Running]) -> None:
    running = serve("hungry", "--workers", "1", "--max-memory", "120MB", "--recycle-jitter", "0")
    (before,) = running.pids()
    with pressure(running, path="/eat", rate=60) as load:
        wait_for(lambda: "MiB of memory" in running.log, 30, "it is replaced")
        wait_for(lambda: before not in running.children(), what="it has ended")
        assert_nothing_lost(load.stop())
    assert len(running.pids()) == 1


def test_a_worker_that_is_told_to_end_gets_its_replacement_first(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    (before,) = running.pids()
    with pressure(running) as load:
        os.kill(before, signal.SIGTERM)
        wait_for(lambda: before not in running.children(), what="it has ended")
        assert_nothing_lost(load.stop())
    assert "it got SIGTERM" in running.log
    assert running.status()["crashes"] == 0
