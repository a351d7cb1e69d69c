"""Listening sockets that come from a predecessor, a service manager or a parent process."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.core.errors import ConfigError
from holdfast.supervisor import sockets
from holdfast.supervisor.sockets import Address, Inherited, Listener, adopt, inherited_fds, open_listener, parse_bind

SOURCE = str(Path(sockets.__file__).parents[2])


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # tmp_path may be too long for a socket
        yield Path(made)


def listening(text: str, listener_id: int = 0) -> Listener:
    return asyncio.run(open_listener(parse_bind(text), listener_id))


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        listening(text)
    return str(caught.value)


def test_a_listener_survives_a_re_exec(directory: Path) -> None:
    path = directory / "x.sock"
    before = listening(f"unix:{path}", 9)
    kept = before.socket.detach()
    os.set_inheritable(kept, True)
    after = adopt(kept, 9, parse_bind(str(before.requested)), before.inode)
    assert (after.id, after.address, after.requested) == (9, before.address, before.requested)
    assert not os.get_inheritable(after.fileno())
    after.close()
    assert not path.exists()


def test_a_path_that_came_from_elsewhere_is_not_removed(directory: Path) -> None:
    path = directory / "x.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        listener = listening(f"fd:{theirs.dup().detach()}")
        assert listener.address == f"unix:{path}"
        listener.close()
    assert path.is_socket()


def test_a_descriptor_that_is_no_listener_is_refused_and_left_open() -> None:
    read, write = os.pipe()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    idle = socket.socket()
    one, other = socket.socketpair()
    try:
        for fd, part in {
            read: "is not a socket",
            datagram.fileno(): "is a SOCK_DGRAM socket",
            idle.fileno(): "is a stream socket that does not listen",
            one.fileno(): "is a stream socket that does not listen",
        }.items():
            message = refused(f"fd:{fd}")
            assert f"bind: got 'fd:{fd}', expected a listening stream socket; descriptor {fd} {part}" == message
            os.fstat(fd)
    finally:
        os.close(read)
        os.close(write)
        for sock in (datagram, idle, one, other):
            sock.close()
    with pytest.raises(ConfigError, match="is not open"):
        adopt(read, 0, Address("fd", fd=read))


# Descriptors from 3 belong to pytest here, so each case is a process of its own.
INHERIT = """
import os, socket, sys
from holdfast.core.errors import ConfigError
from holdfast.supervisor.sockets import inherited_fds
kind, count, names, owner = sys.argv[1:]
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
if kind == "datagram":
    made[1] = socket.socket(type=socket.SOCK_DGRAM)
high = [os.dup2(sock.fileno(), 200 + index) for index, sock in enumerate(made)]
for sock in made: sock.close()
for index, fd in enumerate(high):
    os.dup2(fd, 3 + index)
    os.close(fd)
if kind == "closed": os.close(4)
env = {"A": "1", "LISTEN_FDS": count, "LISTEN_PID": owner or str(os.getpid()), "LISTEN_FDNAMES": names}
try:
    found = inherited_fds(env)
    print([tuple(one) for one in found], [os.get_inheritable(one.fd) for one in found])
except ConfigError as error:
    print(error)
print(env)
"""


def inherit(kind: str = "", count: str = "2", names: str = "", owner: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", INHERIT, kind, count, names, owner],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    return done.stdout.splitlines()


def test_sockets_from_systemd_are_taken_with_their_names_and_the_variables_go() -> None:
    assert inherit(names="http:https") == ["[(3, 'http'), (4, 'https')] [False, False]", "{'A': '1'}"]
    assert inherit(names="http") == ["[(3, 'http'), (4, 'unknown')] [False, False]", "{'A': '1'}"]
    assert inherit(count="1") == ["[(3, 'unknown')] [False]", "{'A': '1'}"]


def test_sockets_for_another_process_are_not_taken() -> None:
    assert inherit(owner="1") == ["[] []", "{'A': '1'}"]


@pytest.mark.parametrize(
    ("kind", "count", "part"),
    [
        ("datagram", "2", "LISTEN_FDS: got '4 (b)', expected a listening stream socket; descriptor 4 is a SOCK_D"),
        ("closed", "2", "descriptor 4 is not open"),
        ("", "many", "the environment LISTEN_FDS: got 'many', expected a number from 0 to 255"),
        ("", "-1", "expected a number from 0 to 255"),
        ("", "256", "expected a number from 0 to 255"),
    ],
)
def test_what_systemd_passed_is_verified(kind: str, count: str, part: str) -> None:
    message, env = inherit(kind, count, "a:b")
    assert part in message
    assert env == "{'A': '1'}"


def test_without_systemd_nothing_is_inherited() -> None:
    assert inherited_fds({}) == []
    assert Inherited(3, "http").name == "http"
