"""More and fewer workers, and settings that change while the service runs."""

import signal
from collections.abc import Callable

import pytest

from e2e.harness import Refused, Running, wait_for
from e2e.pressure import Mode, assert_nothing_lost, pressure


@pytest.mark.parametrize("mode", ["keepalive", "connect"])
def test_scaling_up_and_down_under_load_loses_nothing(serve: Callable[..., Running], mode: Mode) -> None:
    running = serve("plain", "--workers", "1")
    with pressure(running, mode, rate=400) as load:
        for count in (3, 1, 2):
            assert running.ask("scale", count=count)["wanted"] == count
            assert len(running.pids()) == count
        wait_for(lambda: len(running.children()) == 2, what="the others have ended")
        assert_nothing_lost(load.stop())
    assert running.status()["generation"] == 1
    assert running.status()["crashes"] == 0


def test_a_senseless_number_of_workers_is_refused(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    for count in (0, -3, 5000):
        with pytest.raises(Refused, match=f"workers: got {count}, expected a number from 1 to 1024"):
            running.ask("scale", count=count)
    assert len(running.pids()) == 1


def test_ttin_and_ttou_add_and_take_one_worker(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    running.signal(signal.SIGTTIN)
    wait_for(lambda: len(running.pids()) == 2)
    running.signal(signal.SIGTTOU)
    wait_for(lambda: len(running.pids()) == 1)
    running.signal(signal.SIGTTOU)
    wait_for(lambda: "refused: workers: got 0" in running.log)
    assert len(running.pids()) == 1


def test_settings_of_the_file_are_applied_by_a_reload(serve: Callable[..., Running]) -> None:
    running = serve("plain")
    settings = running.directory / "holdfast.toml"
    settings.write_text("[run]\nworkers = 3\nmax_requests = 40\nrecycle_jitter = 0.0\n")
    running.reload()
    status = running.status()
    assert status["wanted"] == 3
    with pressure(running, rate=400) as load:
        wait_for(lambda: "it served" in running.log, what="the new limit is applied")
        settings.write_text("[run]\nworkers = 1\n")
        running.reload()
        assert running.status()["wanted"] == 1
        wait_for(lambda: len(running.children()) == 1, what="the others have ended")
        assert_nothing_lost(load.stop())


def test_a_reload_that_would_change_the_sockets_is_refused_with_a_clear_line(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    pids = running.pids()
    (running.directory / "holdfast.toml").write_text("[run]\nbacklog = 17\n")
    with pytest.raises(Refused, match="backlog: got '17', expected 2048, as at the start; stop and start to change it"):
        running.reload()
    assert running.pids() == pids
