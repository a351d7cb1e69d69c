"""What a service manager sees and gives: notifications on a real socket, and sockets that it has bound itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.harness import Running, request, wait_for

SHOW = """
import os
BODY = ",".join(sorted(name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_")))).encode()
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})
"""
# As systemd does: the descriptor is number 3 and LISTEN_PID is the process that is executed.
LAUNCH = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3) if fd != 3 else os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web", WATCHDOG_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.said: list[dict[str, str]] = []

    def hear(self) -> list[dict[str, str]]:
        """Everything so far."""
        while True:
            try:
                message = self.socket.recv(4096)
            except BlockingIOError:
                return self.said
            self.said.append(dict(line.split("=", 1) for line in message.decode().splitlines()))

    def wait_for(self, name: str, times: int = 1) -> None:
        wait_for(lambda: sum(name in one for one in self.hear()) >= times, what=f"{name} was said {times} times")

    def order(self, *names: str) -> list[str]:
        """Which of these came, in the order of their coming."""
        return [name for one in self.hear() for name in one if name in names]


class Launched(Running):
    """A service whose first listener was bound by somebody else."""

    given: socket.socket

    def _start(self) -> "subprocess.Popen[bytes]":
        arguments = ["-P", "-m", "holdfast", "run", self.app, "--control", str(self.control_path), *self.options]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(self.given.fileno()), *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                pass_fds=[self.given.fileno()],
                start_new_session=True,
            )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


def test_start_reload_upgrade_and_stop_are_told_in_order(manager: Manager, serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", env={"NOTIFY_SOCKET": str(manager.path)})
    manager.wait_for("READY")
    assert {"MAINPID": str(running.pid)} in manager.hear()
    ready = next(one for one in manager.hear() if "READY" in one)
    assert ready["STATUS"] == "serving: generation 1, 1 worker"
    before = time.monotonic_ns() // 1000
    running.signal(signal.SIGHUP)
    manager.wait_for("READY", 2)
    reloading = next(one for one in manager.hear() if "RELOADING" in one)
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.order("READY", "RELOADING") == ["READY", "RELOADING", "READY"]
    assert manager.hear()[-1]["STATUS"] == "serving: generation 2, 1 worker"
    running.ask("upgrade", reload=False)
    manager.wait_for("READY", 3)
    assert manager.order("READY", "RELOADING")[3:] == ["RELOADING", "READY"]
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
    assert manager.order("READY", "RELOADING", "STOPPING")[5:] == ["STOPPING"]


def test_a_refused_reload_ends_with_ready_too(manager: Manager, serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", env={"NOTIFY_SOCKET": str(manager.path)})
    running.write("plain.py", "raise LookupError")
    running.signal(signal.SIGHUP)
    manager.wait_for("READY", 2)
    assert manager.order("READY", "RELOADING") == ["READY", "RELOADING", "READY"]
    assert not running.status()["last_reload"]["ok"]


def test_the_watchdog_is_fed_while_the_supervisor_lives(manager: Manager, serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1", env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"})
    manager.wait_for("WATCHDOG", 3)
    os.kill(running.pid, signal.SIGSTOP)
    manager.hear()
    fed = len(manager.order("WATCHDOG"))
    time.sleep(1.2)  # the silence is what is looked for
    assert len(manager.order("WATCHDOG")) == fed
    os.kill(running.pid, signal.SIGCONT)
    manager.wait_for("WATCHDOG", fed + 1)


def test_a_socket_of_the_manager_is_served_and_its_variables_reach_no_worker(tmp_path: Path, manager: Manager) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    with ExitStack() as stack:
        given = Launched.given = stack.enter_context(socket.socket())
        given.bind(("127.0.0.1", 0))
        given.listen()
        address = "{}:{}".format(*given.getsockname())
        environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "5000000"}
        running = Launched(tmp_path, "show:app", "--workers", "1", env=environment)
        stack.callback(running.end)
        running.wait_serving()
        given.close()
        assert running.address == address
        status, _, body = request(address)
        assert (status, body) == (200, b"")
        running.ask("upgrade", reload=True)
        assert running.address == address
        assert request(address)[2] == b""
        running.signal(signal.SIGTERM)
        assert running.wait_end() == 0
