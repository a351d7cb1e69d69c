"""How to install, start, reload and stop each server, as its own documentation says."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

import holdfast

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "benchmarks" / "apps"
VENV = ROOT / "build" / "peers"
PACKAGES = ("uvicorn", "httptools", "uvloop", "gunicorn", "uvicorn-worker", "granian")
START_WITHIN = 30.0
"""Seconds a server has to answer for the first time."""
STOP_WITHIN = 15.0
"""Seconds a server has to end before it is killed; between two scenes, not as a measurement."""
POLL = 0.02


class Place(NamedTuple):
    """Where a server runs: its address, how many workers, which app, and a directory of its own."""

    port: int
    workers: int
    app: str
    directory: Path


class Peer(NamedTuple):
    """A kind of server. ``settle``: seconds for its new workers to boot once the old ones are gone."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Place], list[str]]
    settle: float = 1.0


def _uvicorn(at: Place) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(at.port), "--workers", str(at.workers)]
    return [_script("uvicorn"), at.app, *flags, "--no-access-log", "--log-level", "warning"]


def _gunicorn(worker: str) -> Callable[[Place], list[str]]:
    def command(at: Place) -> list[str]:
        flags = ["-k", worker, "-b", f"127.0.0.1:{at.port}", "-w", str(at.workers), "--log-level", "warning"]
        return [_script("gunicorn"), at.app, *flags]

    return command


def _granian(at: Place) -> list[str]:
    flags = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(at.port), "--workers", str(at.workers)]
    return [_script("granian"), *flags, "--log-level", "warning", at.app]


def _holdfast(at: Place) -> list[str]:
    start = [sys.executable, "-c", "import sys; from holdfast.cli.main import main; sys.exit(main())"]
    flags = ["--bind", f"127.0.0.1:{at.port}", "--workers", str(at.workers), "--name", f"bench{at.port}"]
    return [*start, "run", at.app, *flags, "--control", str(at.directory / "control")]


# Each of them reloads on SIGHUP to its main process, and says so in its documentation.
PEERS = {
    peer.name: peer
    for peer in (
        Peer("holdfast", (), _holdfast, settle=0.3),
        Peer("uvicorn", ("uvicorn", "httptools", "uvloop"), _uvicorn),
        Peer("gunicorn+uvicorn", ("gunicorn", "uvicorn-worker", "uvicorn"), _gunicorn("uvicorn_worker.UvicornWorker")),
        Peer("gunicorn-asgi", ("gunicorn",), _gunicorn("asgi")),
        Peer("granian", ("granian",), _granian),
    )
}


def _script(name: str) -> str:
    return str(VENV / "bin" / name)


def install() -> None:
    """Make the peers' environment under build/ if it is not there, with what PyPI gives today."""
    if all(Path(_script(name)).exists() for name in ("uvicorn", "gunicorn", "granian")):
        return
    print(f"installing the peers into {VENV}", file=sys.stderr)
    venv.create(VENV, with_pip=True, clear=True)
    subprocess.run([_script("python"), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def versions() -> dict[str, str]:
    """The version of Python and of every server; those of the peers only if they are installed."""
    found = {"python": sys.version.split()[0], "holdfast": holdfast.__version__}
    if Path(_script("python")).exists():
        ask = f"from importlib.metadata import version as v\nfor p in {PACKAGES!r}: print(p, v(p))"
        lines = subprocess.run([_script("python"), "-c", ask], check=True, capture_output=True, text=True).stdout
        found |= dict(line.split() for line in lines.splitlines())
    return found


class Server:
    """A running server. A context manager: leaving it ends every process of it.

    Raises RuntimeError, with the end of the server's own output, when it does not start.
    """

    def __init__(self, peer: Peer, app: str, *, workers: int = 2, environment: dict[str, str] | None = None) -> None:
        self.peer = peer
        self.workers = workers
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._scratch = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        directory = Path(self._scratch.name)
        self._log = directory / "log"
        paths = [str(APPS)]
        if peer.name == "holdfast":
            paths.append(str(Path(holdfast.__file__).parent.parent))
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                peer.command(Place(self.port, workers, app, directory)),
                cwd=directory,  # gunicorn and others leave files where they are started
                env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_start()
        except BaseException:
            self.end()
            raise

    def worker_pids(self) -> set[int]:
        """The processes that run the app."""
        pids = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline()):
                        pids.add(child.pid)
        return pids

    def alive(self) -> bool:
        return self.process.poll() is None

    def answers(self) -> bool:
        """Does it give a whole answer on a new connection within two seconds?"""
        return self.ask("/") == b"ok"

    def ask(self, path: str) -> bytes | None:
        """The body of the answer on a new connection; None when there is none within two seconds."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as link:
                link.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: link.recv(65536), b""))
        except OSError:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        return body if head.startswith(b"HTTP/1.1 200") else None

    def reload(self) -> None:
        """Ask for a reload; it goes on after this returns."""
        self.process.send_signal(signal.SIGHUP)

    def await_reload(self, before: set[int], within: float) -> float | None:
        """Wait until none of ``before`` is left and all workers are new; the seconds it took, None when it did not."""
        return self.await_workers(lambda now: len(now) >= self.workers and now.isdisjoint(before), within)

    def await_workers(self, wanted: Callable[[set[int]], bool], within: float) -> float | None:
        """Wait until the workers are as wanted; the seconds it took, None when it did not come to that."""
        began = time.monotonic()
        while time.monotonic() < began + within and self.alive():
            if wanted(self.worker_pids()):
                return time.monotonic() - began
            time.sleep(POLL)
        return None

    def await_newcomer(self, before: set[int], within: float) -> float | None:
        """Wait until a process not in ``before`` answers (the app is pid:app); the seconds it took, or None."""
        began = time.monotonic()
        while time.monotonic() < began + within and self.alive():
            answer = self.ask("/pid")
            if answer is not None and int(answer) not in before:
                return time.monotonic() - began
            time.sleep(POLL / 4)
        return None

    def await_exit(self, within: float) -> float | None:
        """Wait for the end of the main process; the seconds it took, None when it did not end."""
        began = time.monotonic()
        try:
            self.process.wait(within)
        except psutil.TimeoutExpired:
            return None
        return time.monotonic() - began

    def end(self) -> None:
        """TERM, and what is left after STOP_WITHIN is killed."""
        family: list[psutil.Process] = [self.process]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += self.process.children(recursive=True)
        if self.alive():
            self.process.terminate()
            self.await_exit(STOP_WITHIN)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(STOP_WITHIN)
        self._scratch.cleanup()

    def output(self) -> str:
        """The last lines the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline and self.alive():
            # Plain uvicorn with one worker runs the app in its main process.
            if self.answers() and (self.workers == 1 or len(self.worker_pids()) >= self.workers):
                time.sleep(self.peer.settle)  # the first worker answers before the second has booted
                return
            time.sleep(POLL)
        raise RuntimeError(f"{self.peer.name} does not answer at {self.address}; it wrote:\n{self.output()}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
