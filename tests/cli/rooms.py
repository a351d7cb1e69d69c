"""Real supervisors on loopback, for the commands to speak to."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import holdfast

LIMIT = 20.0
"""Seconds within which anything that a test waits for must have happened."""
LOOK = 0.02
"""Seconds between two looks: another process does not say when something has happened in it."""
SOURCE = str(Path(holdfast.__file__).parent.parent)

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def exchange(file: Path, text: str) -> None:
    """Put a file with ``text`` in the place of ``file`` at once: nobody sees half of it."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)


def eventually(happened: Callable[[], Any], what: str) -> Any:
    """The first true answer of ``happened``; fails when there is none within LIMIT."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if answer := happened():
            return answer
        time.sleep(LOOK)
    raise AssertionError(f"not within {LIMIT:g} s: {what}")


class Room:
    """A directory with an app, a runtime directory, and the processes that a test starts in it."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self.runtime = runtime
        self.app = directory / "app.py"
        self.app.write_text(APP)
        self.processes: list[subprocess.Popen[bytes]] = []

    def save(self, text: str) -> None:
        """Replace the app, with a time stamp of its own, so that no stale bytecode is taken for it."""
        before = self.app.stat().st_mtime
        self.app.write_text(text)
        os.utime(self.app, (before + 1, before + 1))

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "LISTEN_"))}
        ours = {"PYTHONPATH": SOURCE, "HOLDFAST_RUNTIME": str(self.runtime), "PWD": str(self.directory)}
        return {**kept, **ours, **extra}

    def call(self, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """``holdfast`` with these arguments, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            cwd=self.directory,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def start(
        self, command: str = "run", *arguments: str, name: str = "app", bind: str = "127.0.0.1:0"
    ) -> "subprocess.Popen[bytes]":
        """``holdfast run`` or ``dev``, without waiting for anything."""
        given = [command, "app:app", "--name", name, "--log-format", "text"]
        if bind:
            given += ["--bind", bind]
        if command == "run":
            given += ["--workers", "1", "--idle-grace", "0s", "--stop-timeout", "3s"]
        given += arguments
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast", *given],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def serve(
        self, command: str = "run", *arguments: str, name: str = "app", bind: str = "127.0.0.1:0"
    ) -> "subprocess.Popen[bytes]":
        """The same, and wait until it serves."""
        process = self.start(command, *arguments, name=name, bind=bind)
        self.wait_for("serves http", name)
        return process

    def log(self, name: str = "app") -> Path:
        return self.runtime / f"{name}.log"

    def wait_for(self, text: str, name: str = "app") -> None:
        """Wait until the log of the service says so."""
        eventually(lambda: text in self.log(name).read_text(), f"{text!r} in the log of {name}")

    def status(self, *arguments: str) -> Any:
        answer = self.call("status", "--json", *arguments)
        assert answer.returncode == 0, answer.stderr
        return msgspec.json.decode(answer.stdout)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
        for process in self.processes:
            try:
                process.wait(LIMIT / 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def room_in(directory: Path) -> Iterator[Room]:
    """A room whose processes end with it."""
    with tempfile.TemporaryDirectory() as runtime:  # the directory of a test may have too long a name for a socket
        room = Room(directory, Path(runtime))
        try:
            yield room
        finally:
            room.end()
