"""Workers that die: only what they had in hand is lost, they are back at once, and a crash loop is slowed down."""

import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise

from e2e.harness import Running, wait_for
from e2e.pressure import assert_nothing_lost, pressure

KILLS = 3


def _replaced(running: Running, before: set[int]) -> set[int]:
    def look() -> set[int]:
        now = running.pids()
        return now - before if len(now) == len(before) else set()

    return wait_for(look, what="it is replaced")


def test_a_killed_worker_costs_what_it_had_in_hand_and_is_back_within_a_second(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    times = []
    with pressure(running, connections=20) as load:
        for number in range(KILLS):
            mark = f"kill {number}"
            # Heartbeats bring the number of connections: two of them after the load began, it is the present one.
            wait_for(lambda: sum(worker["connections"] for worker in running.workers()) == 20, what="20 connections")
            load.mark(mark)
            before = running.pids()
            victim = running.workers()[number % 2]
            os.kill(victim["pid"], signal.SIGKILL)
            began = time.monotonic()
            _replaced(running, before)
            times.append(time.monotonic() - began)
            lost = load.snapshot().between(mark)
            assert lost.failed <= victim["connections"], lost.summary()
            assert set(lost.failures) <= {"eof", "reset", "truncated"}, lost.summary()
        load.mark("after")
        wait_for(lambda: load.snapshot().between("after").requests > 100)
        assert_nothing_lost(load.stop().between("after"))
    # The fastest of three: the machine may be busy with other things.
    assert min(times) < 1.0, times
    assert running.status()["crashes"] == KILLS


def test_the_other_worker_does_not_notice_a_death(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    victim, other = running.workers()
    os.kill(victim["pid"], signal.SIGSTOP)  # takes no connection: the load is the other worker's alone
    with pressure(running) as load:
        os.kill(victim["pid"], signal.SIGKILL)
        _replaced(running, {victim["pid"], other["pid"]})
        assert_nothing_lost(load.stop())
    assert other["pid"] in running.pids()


def test_a_crash_loop_backs_off_and_a_good_deploy_ends_it(serve: Callable[..., Running]) -> None:
    running = serve("sick", "--workers", "1", "--restart-backoff", "60s")

    def starts() -> list[float]:
        return [float(line.split()[1]) for line in (running.directory / "starts").read_text().splitlines()]

    (running.directory / "sick").touch()
    running.reload()
    first = len(starts())
    wait_for(lambda: len(starts()) >= first + 4, 30, "four more starts")
    gaps = [after - before for before, after in pairwise(starts()[first - 1 :])]
    # Pauses of 0, 0.125 to 0.25, 0.25 to 0.5, 0.5 to 1 s, each beside 0.3 s of life and a boot.
    assert gaps[3] > gaps[0] + 0.25, gaps
    status = wait_for(lambda: (now := running.status())["restarting"] and now, what="the status tells")
    assert status["restarting"] == ["slot 0: the worker exited with status 7"]
    assert status["crashes"] >= 4
    (running.directory / "sick").unlink()
    assert running.reload()["ok"]
    assert not running.status()["restarting"]
    crashes = running.status()["crashes"]
    with pressure(running) as load:
        wait_for(lambda: load.snapshot().requests > 100)
        assert_nothing_lost(load.stop())
    assert running.status()["crashes"] == crashes


def test_one_worker_that_cannot_boot_leaves_the_others_alone(serve: Callable[..., Running]) -> None:
    running = serve("sick", "--workers", "2")
    (running.directory / "refuse-1").touch()
    keeper, victim = sorted(running.workers(), key=lambda worker: int(worker["slot"]))
    os.kill(victim["pid"], signal.SIGKILL)
    wait_for(lambda: running.log.count("no licence for slot 1") >= 3, what="three boots have failed")
    with pressure(running) as load:
        wait_for(lambda: load.snapshot().requests > 100)
        assert_nothing_lost(load.stop())
    status = running.status()
    assert [line.partition(":")[0] for line in status["restarting"]] == ["slot 1"]
    assert status["state"] == "serving"
    assert running.pids() == {keeper["pid"]}
    (running.directory / "refuse-1").unlink()
    wait_for(lambda: len(running.pids()) == 2, what="it has recovered by itself")
    assert keeper["pid"] in running.pids()
