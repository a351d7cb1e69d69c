"""The supervisor replaces itself: same process id, same sockets, same workers, nothing lost."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from e2e.harness import Refused, Running, wait_for
from e2e.pressure import assert_nothing_lost, pressure

UPGRADES = 10


def _held(pid: int) -> list[str]:
    """The kinds of its open descriptors, once they have stopped changing: a command's connection ends after it."""
    seen: list[list[str]] = []

    def settled() -> bool:
        seen.append(_look(pid))
        return len(seen) >= 10 and all(one == seen[-1] for one in seen[-10:])

    wait_for(settled)
    return seen[-1]


def _look(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found.append(entry.readlink().as_posix())
    # libuv opens /dev/null with the first connection, as a reserve for when descriptors run out.
    return sorted(name.partition(":")[0] for name in found if name != "/dev/null")


def _new_program(running: Running) -> bool:
    """Whether the successor has taken over the process; it does not listen to signals yet."""
    return b"HOLDFAST_RESUME=" in Path(f"/proc/{running.pid}/environ").read_bytes()


class _Asking(threading.Thread):
    """A command in the background."""

    def __init__(self, running: Running, op: str, **arguments: Any) -> None:
        super().__init__()
        self.answer: Any = None
        self.error: Exception | None = None
        self._order = running, op, arguments
        self.start()

    def run(self) -> None:
        running, op, arguments = self._order
        try:
            self.answer = running.ask(op, **arguments)
        except (Refused, OSError) as exc:
            self.error = exc


def test_upgrades_under_load_lose_nothing_and_leak_nothing(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    workers, address = running.pids(), running.address
    supervisor, worker = _held(running.pid), _held(min(workers))
    with pressure(running) as load:
        for number in range(1, UPGRADES):
            status = running.ask("upgrade", reload=False)
            assert status["upgrades"] == number, "the successor answers on the connection that asked"
        assert running.pids() == workers, "without a reload the workers stay"
        wait_for(lambda: _held(running.pid) == supervisor, what="the supervisor holds what it held at first")
        outcome = running.ask("upgrade", reload=True)
        assert outcome["ok"]
        assert outcome["generation"] == 2
        assert not running.pids() & workers
        wait_for(lambda: len(running.children()) == 2, what="the old workers have ended")
        wait_for(lambda: _held(running.pid) == supervisor, what="the supervisor holds what it held at first")
        assert_nothing_lost(load.stop())
    wait_for(lambda: _held(min(running.pids())) == worker, what="a new worker holds what the first ones did")
    status = running.status()
    assert status["pid"] == running.pid
    assert status["upgrades"] == UPGRADES
    assert running.address == address
    assert status["crashes"] == 0


def test_sigusr2_upgrades_and_reloads(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    workers = running.pids()
    with pressure(running) as load:
        running.signal(signal.SIGUSR2)
        wait_for(lambda: running.status()["upgrades"] == 1 and running.status()["generation"] == 2)
        assert_nothing_lost(load.stop())
    assert running.process.poll() is None
    assert not running.pids() & workers


def test_a_command_at_any_moment_of_an_upgrade_is_answered(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    over = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        while not over.is_set():
            try:
                running.status()
            except (Refused, OSError) as exc:
                errors.append(exc)

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for number in range(1, 6):
            assert running.ask("upgrade", reload=False)["upgrades"] == number
    finally:
        over.set()
        for thread in asking:
            thread.join(20)
    assert errors == []


def test_a_worker_that_dies_during_the_upgrade_is_replaced(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    workers = running.pids()
    asking = _Asking(running, "upgrade", reload=False)
    wait_for(lambda: _new_program(running))
    os.kill(min(workers), signal.SIGKILL)
    asking.join()
    assert asking.error is None
    wait_for(lambda: len(running.pids()) == 2 and min(workers) not in running.pids())
    assert max(workers) in running.pids()
    assert running.status()["crashes"] == 1


def test_sigterm_that_comes_during_the_upgrade_is_obeyed_afterwards(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "2")
    asking = _Asking(running, "upgrade", reload=False)
    wait_for(lambda: _new_program(running))
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
    asking.join()
    assert "stopping (SIGTERM)" in running.log
    assert not running.children()


def test_an_upgrade_waits_for_the_reload_under_way(serve: Callable[..., Running]) -> None:
    running = serve("guarded", "--workers", "1")
    (running.directory / "slow").write_text("1.5")
    reload = _Asking(running, "reload")
    wait_for(lambda: running.workers("booting"))
    upgrade = _Asking(running, "upgrade", reload=False)
    reload.join()
    upgrade.join()
    assert reload.answer["generation"] == 2
    assert upgrade.answer["upgrades"] == 1
    assert upgrade.answer["generation"] == 2


def test_code_that_fails_its_trial_changes_nothing(tmp_path: Path, serve: Callable[..., Running]) -> None:
    site = tmp_path / "site"
    shutil.copytree(Path(holdfast.__file__).parent, site / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    running = serve("plain", "--workers", "1", env={"PYTHONPATH": str(site)})
    workers = running.pids()
    victim = site / "holdfast/supervisor/upgrade.py"
    good = victim.read_text()
    running.write("site/holdfast/supervisor/upgrade.py", "raise ImportError('half of the files are missing')")
    with pressure(running) as load:
        with pytest.raises(Refused) as refused:
            running.ask("upgrade")
        assert_nothing_lost(load.stop())
    assert "failed its trial" in refused.value.reason
    assert "half of the files are missing" in refused.value.detail
    status = running.status()
    assert status["upgrades"] == 0
    assert running.pids() == workers
    running.write("site/holdfast/supervisor/upgrade.py", good)
    assert running.ask("upgrade")["ok"]


def test_settings_that_cannot_change_refuse_the_upgrade(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    running.write("holdfast.toml", '[run]\nadmin = "127.0.0.1:1"\n')
    with pytest.raises(Refused) as caught:
        running.ask("upgrade")
    assert "admin has changed from none to 127.0.0.1:1" in caught.value.detail
    assert running.status()["upgrades"] == 0
    (running.directory / "holdfast.toml").unlink()
    assert running.ask("upgrade", reload=False)["upgrades"] == 1


def test_a_reload_that_waits_behind_an_upgrade_is_told_or_done(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    upgrade = _Asking(running, "upgrade", reload=False)
    wait_for(lambda: "trying the new code out" in running.log)
    waiting = _Asking(running, "reload")
    running.signal(signal.SIGHUP)
    upgrade.join(20)
    waiting.join(20)
    assert isinstance(waiting.error, Refused)
    assert "give it again" in str(waiting.error)
    wait_for(lambda: running.status()["generation"] == 2, what="the signal has not been lost")
    assert running.status()["upgrades"] == 1
