"""The control socket takes orders from its owner, and shrugs at everything else."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from e2e.harness import Refused, Running, service, wait_for

CLIENTS = 200


@contextmanager
def _connection(running: Running) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(15)
        sock.connect(str(running.control_path))
        yield sock


def _answer(sock: socket.socket) -> dict[str, object]:
    with sock.makefile("rb") as lines:
        answer: dict[str, object] = json.loads(lines.readline())
        return answer


@pytest.mark.parametrize(
    "line", [b"\x00\xff\xfe rubbish\n", b"[]\n", b"{}\n", b'{"op": 7}\n', b'{"op": "scale", "count": "x"}\n']
)
def test_rubbish_is_answered_with_an_error(serve: Callable[..., Running], line: bytes) -> None:
    running = serve("plain", "--workers", "1")
    with _connection(running) as sock:
        sock.sendall(line)
        assert "not a request" in str(_answer(sock)["error"])
    assert running.status()["state"] == "serving"


def test_wrong_and_slow_clients_disturb_nobody(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    with pytest.raises(
        Refused, match="expected status, reload, upgrade, drain, scale, stop, kill, events, routes, config"
    ):
        running.ask("restart")
    with _connection(running) as slow, _connection(running) as large:
        slow.sendall(b'{"op": ')
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # cut off, not collected
            large.sendall(b"x" * (64 << 20))
        assert running.status()["state"] == "serving"
        slow.sendall(b'"status"}\n')
        assert "result" in _answer(slow)
    with _connection(running):
        pass  # says nothing and goes
    assert running.control_path.stat().st_mode & 0o777 == 0o600
    assert "Traceback" not in running.log


def test_two_hundred_clients_at_once_are_all_answered(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    running.signal(signal.SIGSTOP)  # so that all of them wait at the same time
    with ExitStack() as stack:
        stack.callback(running.signal, signal.SIGCONT)
        clients = [stack.enter_context(_connection(running)) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(b'{"op": "status"}\n')
        running.signal(signal.SIGCONT)
        assert all("result" in _answer(client) for client in clients)


def test_a_command_whose_client_goes_away_is_carried_out(serve: Callable[..., Running]) -> None:
    running = serve("plain", "--workers", "1")
    with _connection(running) as sock:
        sock.sendall(b'{"op": "reload"}\n')
        wait_for(lambda: running.workers("booting"))
    wait_for(lambda: running.status()["generation"] == 2)


def test_a_second_supervisor_of_the_same_name_is_turned_away(tmp_path: Path) -> None:
    with service(tmp_path, "plain", "--workers", "1") as first:
        second = Running(tmp_path, "plain:app", "--workers", "1")
        assert second.wait_end(20) != 0
        assert "another --name" in first.log
        assert f"pid {first.pid}" in first.log
        assert first.status()["pid"] == first.pid, "the first one keeps its socket"
