"""New handshakes kept away from a listener, on the real kernel."""

import asyncio
import contextlib
import select
import socket
import tempfile
from collections.abc import Iterator

import pytest

from holdfast.supervisor.sockets import Listener, allow_handshakes, drop_new_handshakes, open_listener, parse_bind

PATIENCE = 15.0


def address_of(listener: Listener) -> tuple[str, int]:
    name: tuple[str, int] = listener.socket.getsockname()[:2]
    return name


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = asyncio.run(open_listener(parse_bind("127.0.0.1:0"), 0))
    yield made
    made.close()


def begin_connect(listener: Listener) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.connect(address_of(listener))
    return client


def connected(client: socket.socket, within: float) -> bool:
    return bool(select.select([], [client], [], within)[1])


def test_the_filter_keeps_new_connections_out_and_lets_the_accepted_and_the_waiting_live(
    listener: Listener,
) -> None:
    with contextlib.ExitStack() as open_sockets:
        early = open_sockets.enter_context(begin_connect(listener))
        waiting = open_sockets.enter_context(begin_connect(listener))
        assert connected(early, PATIENCE)
        assert connected(waiting, PATIENCE)
        accepted = open_sockets.enter_context(listener.socket.accept()[0])
        assert drop_new_handshakes(listener.socket)
        late = open_sockets.enter_context(begin_connect(listener))
        # On loopback a handshake is over before connect() returns; a dropped SYN is sent again only after 1 s.
        assert not connected(late, 0.3)
        early.send(b"ping")
        assert select.select([accepted], [], [], PATIENCE)[0]
        assert accepted.recv(10) == b"ping"
        from_queue = open_sockets.enter_context(listener.socket.accept()[0])
        waiting.send(b"pong")
        assert select.select([from_queue], [], [], PATIENCE)[0]
        assert from_queue.recv(10) == b"pong"
        with pytest.raises(BlockingIOError):
            listener.socket.accept()
        assert allow_handshakes(listener.socket)
        assert connected(late, PATIENCE)
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        open_sockets.enter_context(listener.socket.accept()[0])


def test_a_handshake_under_way_completes_behind_the_filter(listener: Listener) -> None:
    # With deferred accept the kernel waits for the client's data before it completes the handshake.
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    with begin_connect(listener) as client:
        assert connected(client, PATIENCE)
        assert not select.select([listener.socket], [], [], 0)[0], "the handshake is still under way"
        assert drop_new_handshakes(listener.socket)
        client.send(b"data")
        assert select.select([listener.socket], [], [], PATIENCE)[0]
        accepted, _ = listener.socket.accept()
        with accepted:
            assert select.select([accepted], [], [], PATIENCE)[0]
            assert accepted.recv(10) == b"data"


def test_the_filter_is_shared_by_every_copy_of_the_socket(listener: Listener) -> None:
    with listener.socket.dup() as copy:
        assert drop_new_handshakes(copy)
    with begin_connect(listener) as client:
        assert not connected(client, 0.3)


def test_a_unix_listener_takes_no_filter() -> None:
    with tempfile.TemporaryDirectory() as directory:
        listener = asyncio.run(open_listener(parse_bind(f"unix:{directory}/x.sock"), 0))
        assert not drop_new_handshakes(listener.socket)
        listener.close()


def test_a_filter_that_may_not_be_attached_is_reported(listener: Listener) -> None:
    assert drop_new_handshakes(listener.socket)
    listener.socket.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER: nobody may change it any more
    assert not drop_new_handshakes(listener.socket)
    assert not allow_handshakes(listener.socket)


def test_without_a_filter_there_is_nothing_to_take_off(listener: Listener) -> None:
    assert not allow_handshakes(listener.socket)
