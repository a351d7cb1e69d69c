"""systemd's notification protocol, against a real datagram socket."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.supervisor.systemd import MAX_PENDING, MAX_STATUS, Notifier, scrub


class Manager:
    """The receiving side, as systemd has it."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def messages(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(8192).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path may be too long for a socket
        yield Path(directory) / "notify"


@pytest.fixture
def manager(path: Path) -> Iterator[Manager]:
    made = Manager(str(path))
    yield made
    made.socket.close()


@pytest.fixture
def notifier(path: Path) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": str(path)})
    yield made
    made.close()


def test_each_method_sends_its_assignments(manager: Manager, notifier: Notifier) -> None:
    assert notifier.enabled
    assert notifier.ready()
    assert notifier.ready("serving")
    assert notifier.reloading(123_456_789)
    assert notifier.stopping()
    assert notifier.status("2 workers")
    assert notifier.main_pid(42)
    assert notifier.watchdog()
    assert notifier.extend_timeout(1.5)
    assert manager.messages() == [
        "READY=1",
        "READY=1\nSTATUS=serving",
        "RELOADING=1\nMONOTONIC_USEC=123456789",
        "STOPPING=1",
        "STATUS=2 workers",
        "MAINPID=42",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
    ]


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "vsock:2:9"}])
def test_without_a_socket_to_speak_to_nothing_happens(env: dict[str, str]) -> None:
    notifier = Notifier(env)
    assert not notifier.enabled
    assert not any([notifier.ready("x"), notifier.watchdog(), notifier.status("x"), notifier.stopping()])
    notifier.close()


def test_an_abstract_socket_is_spoken_to() -> None:
    name = f"holdfast-test-{os.getpid()}"
    manager = Manager(f"\0{name}".encode())
    notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
    try:
        assert notifier.ready()
        assert manager.messages() == ["READY=1"]
    finally:
        notifier.close()
        manager.socket.close()


def test_a_manager_that_is_gone_raises_nothing_and_hears_all_when_it_is_back(path: Path, notifier: Notifier) -> None:
    assert not notifier.reloading(1)
    assert not notifier.ready()
    manager = Manager(str(path))
    try:
        assert notifier.status("back")
        assert manager.messages() == ["RELOADING=1\nMONOTONIC_USEC=1", "READY=1", "STATUS=back"]
    finally:
        manager.socket.close()


def test_a_full_queue_neither_blocks_nor_loses_ready(manager: Manager, notifier: Notifier) -> None:
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 100_000, "the queue never fills"
    assert not notifier.ready()
    assert not notifier.watchdog()
    assert set(manager.messages()) == {"WATCHDOG=1"}
    assert notifier.watchdog()
    assert manager.messages() == ["READY=1", "WATCHDOG=1"]


def test_what_is_kept_for_a_deaf_manager_is_bounded(path: Path, notifier: Notifier) -> None:
    for number in range(MAX_PENDING * 3):
        notifier.status(str(number))
    manager = Manager(str(path))
    try:
        heard: list[str] = []
        # The kernel's own queue may be shorter than what is kept: read between two attempts.
        for _ in range(MAX_PENDING):
            notifier.watchdog()
            heard += manager.messages()
        statuses = [message for message in heard if message.startswith("STATUS=")]
        assert statuses == [f"STATUS={number}" for number in range(MAX_PENDING * 2, MAX_PENDING * 3)]
    finally:
        manager.socket.close()


@given(st.text())
def test_a_status_cannot_smuggle_in_an_assignment(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        address = f"{directory}/n"
        manager = Manager(address)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        try:
            assert notifier.status(text + "\nREADY=1")
            (message,) = manager.messages()
        finally:
            notifier.close()
            manager.socket.close()
    assert message.startswith("STATUS=")
    assert len(message.splitlines()) == 1
    assert len(message) <= MAX_STATUS + len("STATUS=")


def test_text_that_is_not_unicode_is_sent_all_the_same(manager: Manager, notifier: Notifier) -> None:
    assert notifier.status("caf\udce9")
    assert manager.messages()[0].startswith("STATUS=caf")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_limit(env: dict[str, str], expected: float | None) -> None:
    assert Notifier(env, pid=7).watchdog_interval == expected


def test_the_environment_is_left_alone_so_that_a_re_exec_finds_it(manager: Manager, path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    before = dict(env)
    for _ in range(2):
        notifier = Notifier(env)
        assert notifier.ready()
        assert notifier.watchdog_interval == 1.0
        notifier.close()
    assert env == before


def test_the_socket_is_not_inherited(manager: Manager, notifier: Notifier) -> None:
    notifier.ready()
    held = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    ours = [fd for fd in held if fd > 2 and _is_unix_datagram(fd)]
    assert ours
    assert not any(os.get_inheritable(fd) for fd in ours)


def _is_unix_datagram(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    kind = (sock.family, sock.type)
    sock.detach()
    return kind == (socket.AF_UNIX, socket.SOCK_DGRAM)


def test_a_worker_gets_nothing_of_systemds_variables() -> None:
    env = {
        "PATH": "/bin",
        "HOLDFAST_WORKERS": "2",
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "http",
        "LISTEN_PIDFDID": "9",
    }
    before = dict(env)
    assert scrub(env) == {"PATH": "/bin", "HOLDFAST_WORKERS": "2"}
    assert env == before
