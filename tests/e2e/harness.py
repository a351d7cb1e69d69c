"""A real service under a real supervisor, started and ended by a test."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

APPS = Path(__file__).parent / "apps"
T = TypeVar("T")
GATES = """
[admission]
clients = { rate = "1000/s" }
concurrency = { algorithm = "vegas" }
[[routes]]
match = "GET /"
bulkhead = 20
[pipelines]
payments = ["breaker"]
"""
"""Settings that need what a worker does not load by itself."""


def wait_for(look: Callable[[], T], within: float = 15.0, what: str = "") -> T:
    """The first true answer of ``look``. Fails after ``within`` seconds with the last answer."""
    deadline = time.monotonic() + within
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or look.__name__}; last: {answer!r}")
        time.sleep(0.02)


class Refused(Exception):
    """The supervisor's own refusal of a command."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Unanswered(ConnectionError):
    """The connection of a command ended without an answer to it."""


class Running:
    """One supervised service. ``directory`` holds its app, its log and its control socket."""

    def __init__(self, directory: Path, app: str, *options: str, env: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.app = app
        self.options = options
        self.control_path = directory / "control.sock"
        self.log_path = directory / "log"
        self.environment = {**os.environ, "HOLDFAST_RUNTIME": str(directory), "PWD": str(directory), **(env or {})}
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        arguments = [self.app, "--control", str(self.control_path), "--log-format", "text", *self.options]
        if not any(option.startswith("--bind") for option in self.options):
            arguments += ["--bind", "127.0.0.1:0"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "holdfast", "run", *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    # -- what it says

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ask(self, op: str, within: float = 60.0, **arguments: Any) -> Any:
        """Send a command to the control socket. Raises Refused, OSError when nobody listens, Unanswered (an OSError
        too) when the supervisor has gone before it answered."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(within)
            sock.connect(str(self.control_path))
            sock.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline()
        if not line.endswith(b"\n"):
            raise Unanswered(f"no answer to {op}; {len(line)} bytes, then the end. The log:\n{self.log}")
        answer = json.loads(line)
        if error := answer.get("error"):
            raise Refused(error["reason"], error["detail"])
        return answer.get("result")

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status")
        return status

    def reload(self) -> dict[str, Any]:
        outcome: dict[str, Any] = self.ask("reload")
        return outcome

    def workers(self, state: str = "ready") -> list[dict[str, Any]]:
        return [worker for worker in self.status()["workers"] if worker["state"] == state]

    def pids(self) -> set[int]:
        return {worker["pid"] for worker in self.workers()}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> str:
        """HOST:PORT of the first listener."""
        url: str = self.status()["addresses"][0]
        return url.partition("://")[2]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    # -- what is done to it

    def wait_serving(self, within: float = 20.0) -> "Running":
        def serving() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            with contextlib.suppress(OSError):
                return bool(self.status()["state"] == "serving")
            return False

        wait_for(serving, within, "the service serves")
        return self

    def write(self, name: str, text: str) -> None:
        """Replace a module, with a time stamp of its own so that no stale bytecode is taken for it."""
        path = self.directory / name
        path.write_text(text)
        stamp = time.time() + len(list(self.directory.iterdir())) + _stamps()
        os.utime(path, (stamp, stamp))

    def deploy(self, app: str, name: str | None = None) -> None:
        """Put the app of this name from tests/e2e/apps in place."""
        self.write(name or f"{self.app.partition(':')[0]}.py", (APPS / f"{app}.py").read_text())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_end(self, within: float = 40.0) -> int:
        return self.process.wait(within)

    def end(self) -> None:
        """End it and every process that it started."""
        workers = self._descendants()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        for process in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def _descendants(self) -> list[psutil.Process]:
        """Found by the session that the supervisor leads: an orphan has another parent."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
                if os.getsid(process.pid) == self.process.pid and process.pid != self.process.pid:
                    found.append(process)
        return found

    def children(self) -> list[int]:
        """Every living process of the service but the supervisor."""
        return [process.pid for process in self._descendants() if process.status() != psutil.STATUS_ZOMBIE]


_count = 0


def _stamps() -> int:
    global _count
    _count += 1
    return _count


@contextlib.contextmanager
def service(directory: Path, app: str, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Copy the app from tests/e2e/apps into ``directory``, serve it, and end everything afterwards."""
    shutil.copy(APPS / f"{app}.py", directory / f"{app}.py")
    running = Running(directory, f"{app}:app", *options, env=env)
    try:
        yield running.wait_serving()
    finally:
        running.end()


def request(
    address: str, path: str = "/", *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    import http.client

    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()
