"""The supervisor's sockets, on the real kernel."""

import asyncio
import contextlib
import errno
import os
import select
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError
from holdfast.supervisor import sockets
from holdfast.supervisor.sockets import (
    Address,
    Listener,
    adopt,
    open_intake,
    open_listener,
    parse_bind,
)

PATIENCE = 15.0
SOURCE = str(Path(sockets.__file__).parents[2])


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:  # tmp_path may be too long for a socket
        yield Path(made)


def listening(text: str, listener_id: int = 0, unix_mode: int = 0o660) -> Listener:
    return asyncio.run(open_listener(parse_bind(text), listener_id, unix_mode=unix_mode))


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        listening(text)
    return str(caught.value)


def address_of(listener: Listener) -> tuple[str, int]:
    name: tuple[str, int] = listener.socket.getsockname()[:2]
    return name


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_tcp_listener_is_private_to_this_process_and_not_shared_by_port() -> None:
    listener = listening("127.0.0.1:0", 7)
    try:
        sock = listener.socket
        host, port = address_of(listener)
        assert (listener.id, listener.family) == (7, socket.AF_INET)
        assert listener.requested == Address("tcp", "127.0.0.1", 0)
        assert port > 0
        assert listener.address == f"{host}:{port}"
        assert listener.url() == f"http://127.0.0.1:{port}"
        assert listener.url(tls=True) == f"https://127.0.0.1:{port}"
        assert not sock.getblocking()
        assert not os.get_inheritable(sock.fileno())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        with socket.create_connection((host, port)):
            assert select.select([sock], [], [], PATIENCE)[0]
            sock.accept()[0].close()
    finally:
        listener.close()
    assert listener.fileno() == -1


def test_a_name_is_bound_to_its_ipv4_address() -> None:
    listener = listening("localhost:0")
    assert address_of(listener)[0] == "127.0.0.1"
    assert listener.requested.host == "localhost"
    listener.close()


def test_an_ipv6_listener_takes_ipv6_only() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # a container without IPv6: then the refusal must be ours
        assert "address" in refused("[::1]:0")
        return
    listener = listening("[::]:0")
    assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    port = address_of(listener)[1]
    assert listener.url() == f"http://[::]:{port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    socket.create_connection(("::1", port)).close()
    listener.close()


@pytest.mark.parametrize("through_a_descriptor", [False, True])
def test_small_answers_leave_at_once_whatever_the_loop_does(through_a_descriptor: bool) -> None:
    listener = listening("127.0.0.1:0")
    if through_a_descriptor:
        fd = listener.socket.detach()
        with socket.socket(fileno=fd) as other:
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            listener = adopt(other.detach(), 0, listener.requested)
    with socket.create_connection(address_of(listener)), listener.socket.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.proto == socket.IPPROTO_TCP, "asyncio asks for this before it sets anything"
    listener.close()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_loops_keep_nodelay(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> int:
        listener = await open_listener(parse_bind("0"), 0)
        client = socket.create_connection(address_of(listener))
        accepted, _ = listener.socket.accept()
        accepted.setblocking(False)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
        found: int = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()
        client.close()
        listener.close()
        await asyncio.sleep(0)
        return found

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main())


def test_an_address_in_use_is_taken_as_soon_as_it_is_free() -> None:
    clock = VirtualClock()
    holder = socket.create_server(("127.0.0.1", 0))
    address = Address("tcp", *holder.getsockname())

    async def main() -> float:
        begun = clock.now()
        asyncio.get_running_loop().call_later(0.52, holder.close)
        listener = await open_listener(address, 0, wait=5.0, clock=clock)
        listener.close()
        return clock.now() - begun

    assert 0.52 - 1e-6 <= clock.run(main()) <= 0.52 + sockets.BIND_RETRY_INTERVAL + 1e-6


def test_waiting_for_an_address_ends_in_time_and_names_who_holds_it() -> None:
    clock = VirtualClock()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = Address("tcp", *holder.getsockname())

        async def main() -> None:
            begun = clock.now()
            with pytest.raises(ConfigError) as caught:
                await open_listener(address, 0, wait=3.0, clock=clock)
            assert clock.now() - begun == pytest.approx(3.0)
            assert str(caught.value) == (
                f"bind: got '{address}', expected a free address; "
                f"it is held by pid {os.getpid()} (this process); stop that one or choose another address"
            )

        clock.run(main())


def test_a_cancelled_wait_leaves_no_descriptor() -> None:
    clock = VirtualClock()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = Address("tcp", *holder.getsockname())

        async def main() -> None:
            before = open_descriptors()
            task = asyncio.ensure_future(open_listener(address, 0, wait=60.0, clock=clock))
            await clock.sleep(1.0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_descriptors() == before

        clock.run(main())


HOLD = """
import socket, sys
sock = socket.socket(getattr(socket, sys.argv[1]))
sock.bind(sys.argv[2] if sys.argv[1] == "AF_UNIX" else (sys.argv[2], 0))
sock.listen()
print(sock.getsockname()[1] if sys.argv[1] == "AF_INET" else "", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process_holds(family: str, where: str) -> Iterator[tuple[int, str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, family, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield child.pid, child.stdout.readline().strip()
        finally:
            child.kill()


@pytest.mark.parametrize("held", ["127.0.0.1", "0.0.0.0"])
def test_the_process_that_holds_a_port_is_named(held: str) -> None:
    with another_process_holds("AF_INET", held) as (pid, port):
        assert f"it is held by pid {pid} ({sys.executable}"[:40] in refused(f"127.0.0.1:{port}")
        assert f"pid {pid} (" in refused(f"0.0.0.0:{port}")


def test_the_process_that_holds_a_path_is_named(directory: Path) -> None:
    path = directory / "x.sock"
    with another_process_holds("AF_UNIX", str(path)) as (pid, _):
        assert f"pid {pid} (" in refused(f"unix:{path}")


def test_an_address_of_another_host_is_refused() -> None:
    assert "an address of this host; no interface has 192.0.2.1" in refused("192.0.2.1:0")


def test_a_name_that_does_not_resolve_is_refused() -> None:
    assert "a host name that resolves" in refused("nowhere.invalid:80")


@pytest.mark.parametrize(("port", "part"), [(80, "CAP_NET_BIND_SERVICE"), (8000, "permission denied")])
def test_a_port_without_permission_says_what_it_needs(port: int, part: str) -> None:
    # A test that runs as root cannot provoke it.
    error = PermissionError(errno.EACCES, "Permission denied")
    refusal = sockets._refusal(Address("tcp", "127.0.0.1", port), ("127.0.0.1", port), error)
    assert part in str(refusal)


@pytest.mark.parametrize("listener_id", [-1, 255])
def test_an_id_that_does_not_fit_a_byte_is_refused(listener_id: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(ValueError, match="expected 0 to 254"):
        Listener(listener_id, Address("tcp"), sock)


def test_a_unix_listener_has_its_mode_and_removes_its_path(directory: Path) -> None:
    path = directory / "x.sock"
    listener = listening(f"unix:{path}", unix_mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert listener.address == listener.url() == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not path.exists()
    listener.close()


def test_a_unix_listener_lets_the_group_in_unless_told_otherwise(directory: Path) -> None:
    listener = listening(f"unix:{directory}/x.sock")
    assert stat.S_IMODE((directory / "x.sock").stat().st_mode) == 0o660
    listener.close()


def test_a_relative_path_is_removed_from_where_it_was_made(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    listener = listening("unix:x.sock")
    monkeypatch.chdir("/")
    listener.close()
    assert list(directory.iterdir()) == []


def test_a_stale_unix_socket_is_replaced(directory: Path) -> None:
    path = directory / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listener = listening(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_live_unix_socket_is_an_error_even_when_its_backlog_is_full(directory: Path) -> None:
    path = directory / "x.sock"
    with socket.socket(socket.AF_UNIX) as alive, contextlib.ExitStack() as clients:
        alive.bind(str(path))
        alive.listen(0)
        assert f"held by pid {os.getpid()}" in refused(f"unix:{path}")
        for _ in range(10):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        assert f"held by pid {os.getpid()}" in refused(f"unix:{path}")
        assert path.is_socket()


def test_a_unix_path_that_a_predecessor_s_worker_holds_is_waited_for(directory: Path) -> None:
    clock = VirtualClock()
    path = directory / "x.sock"
    holder = socket.socket(socket.AF_UNIX)
    holder.bind(str(path))
    holder.listen()

    async def main() -> float:
        begun = clock.now()
        asyncio.get_running_loop().call_later(1.0, holder.close)
        (await open_listener(Address("unix", path=str(path)), 0, wait=5.0, clock=clock)).close()
        return clock.now() - begun

    assert 1.0 - 1e-6 <= clock.run(main()) <= 1.0 + sockets.BIND_RETRY_INTERVAL + 1e-6


def test_a_datagram_socket_at_the_path_is_left_alone(directory: Path) -> None:
    path = directory / "x.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alive:
        alive.bind(str(path))
        assert "a free address" in refused(f"unix:{path}")
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_never_removed(directory: Path) -> None:
    (directory / "file").write_text("precious")
    (directory / "directory").mkdir()
    (directory / "link").symlink_to("nowhere")
    for path in sorted(directory.iterdir()):
        assert "exists and is not a socket" in refused(f"unix:{path}")
    assert sorted(path.name for path in directory.iterdir()) == ["directory", "file", "link"]
    assert (directory / "file").read_text() == "precious"


def test_a_missing_directory_is_named(directory: Path) -> None:
    assert f"create the directory {directory}/no first" in refused(f"unix:{directory}/no/x.sock")
    (directory / "file").touch()
    assert f"create the directory {directory}/file first" in refused(f"unix:{directory}/file/x.sock")


def test_a_path_that_somebody_else_has_taken_since_is_not_removed(directory: Path) -> None:
    path = directory / "x.sock"
    listener = listening(f"unix:{path}")
    path.rename(directory / "aside")  # keeps the inode from being used again
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        listener.close()
        assert path.is_socket()


def test_a_worker_s_copy_leaves_the_path(directory: Path) -> None:
    path = directory / "x.sock"
    listener = listening(f"unix:{path}")
    listener.close(unlink=False)
    assert path.is_socket()


def test_the_intake_is_a_private_stream_that_never_blocks() -> None:
    receive, send = open_intake()
    try:
        for sock in (receive, send):
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            assert not sock.getblocking()
            assert not os.get_inheritable(sock.fileno())
        with socket.socket(socket.AF_UNIX) as plain:
            ordinary = plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert send.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > ordinary
        send.send(b"x")
        assert receive.recv(2) == b"x"
    finally:
        receive.close()
        send.close()
