"""Where a service listens: unix sockets, inherited descriptors, IPv6, several at once."""

import contextlib
import http.client
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.harness import Running, request, wait_for
from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


def ask(client: http.client.HTTPConnection) -> tuple[int, str | None]:
    """The process that answered, and whether it said close."""
    client.request("GET", "/")
    answer = client.getresponse()
    return int(answer.read().split()[0]), answer.getheader("connection")


def test_connections_on_a_unix_socket_move_at_a_reload(serve: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    running = serve("plain", "--workers", "2", f"--bind=unix:{path}", "--unix-mode", "600")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    clients = [UnixConnection(str(path)) for _ in range(10)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
            ask(client)
        socks = [client.sock for client in clients]
        running.reload()
        wait_for(lambda: not running.workers("draining"), what="the old workers have handed all of them over")
        assert {ask(client) for client in clients} <= {(pid, None) for pid in running.pids()}
        assert [client.sock for client in clients] == socks


@pytest.mark.parametrize("mode", ["think", "connect"])
def test_a_stop_on_a_unix_socket_loses_nothing_and_removes_it(
    serve: Callable[..., Running], tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "http.sock"
    running = serve("plain", "--workers", "2", f"--bind=unix:{path}")
    load = Load(addresses=(f"unix:{path}",), connections=30, duration=60, mode=mode)  # type: ignore[arg-type]
    with LoadProcess(load) as process:
        process.mark("reload")
        running.reload()
        running.signal(signal.SIGTERM)
        assert running.wait_end(20) == 0
        report = process.stop()
    assert set(report.failures) <= {"refused"}, report.samples
    assert report.ok > 100
    assert not path.exists()


def test_several_addresses_at_once_and_ipv6(serve: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    running = serve("plain", "--workers", "1", "--bind=127.0.0.1:0", "--bind=[::1]:0", f"--bind=unix:{path}")
    four, six, unix = running.status()["addresses"]
    assert six.startswith("http://[::1]:")
    assert str(path) in unix
    clients = [
        http.client.HTTPConnection(four.partition("://")[2], timeout=10),
        http.client.HTTPConnection("::1", int(six.rpartition(":")[2]), timeout=10),
        UnixConnection(str(path)),
    ]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
            assert ask(client)[0] in running.pids()
        running.reload()
        wait_for(lambda: not running.workers("draining"))
        for client in clients:
            assert ask(client) in {(pid, None) for pid in running.pids()}, "each moved to the new worker"


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket that the supervisor inherits."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        os.set_inheritable(sock.fileno(), True)
        real = subprocess.Popen

        def start(*arguments: object, **options: object) -> object:
            return real(*arguments, pass_fds=(sock.fileno(),), **options)  # type: ignore[call-overload]

        monkeypatch.setattr(subprocess, "Popen", start)
        yield sock


def test_an_inherited_descriptor_is_served_and_left_to_its_owner(
    serve: Callable[..., Running], inherited: socket.socket
) -> None:
    running = serve("plain", "--workers", "1", f"--bind=fd:{inherited.fileno()}")
    address = f"127.0.0.1:{inherited.getsockname()[1]}"
    assert request(address)[0] == 200
    running.reload()
    assert request(address)[0] == 200
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
