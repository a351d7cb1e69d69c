"""Connections on their way from one worker to another, with real processes."""

import asyncio
import contextlib
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.server.http import migration
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.migration import MAX_MALFORMED, receive_connection, send_connection
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening
from holdfast.supervisor.sockets import open_intake

Pair = tuple[socket.socket, socket.socket]

PATIENCE = 20.0
SOURCE = str(Path(migration.__file__).parents[3])


@pytest.fixture
def intake() -> Iterator[Pair]:
    receive, send = open_intake()
    yield receive, send
    receive.close()
    send.close()


def tcp_pair(server: socket.socket) -> Pair:
    client = socket.create_connection(server.getsockname())
    client.settimeout(PATIENCE)
    return client, server.accept()[0]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as made:
        yield made


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def send_raw(send: socket.socket, data: bytes, fds: list[int]) -> None:
    assert socket.send_fds(send, [data], fds) == len(data)


def test_a_connection_moves_with_its_unread_bytes_and_without_a_fin(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    client, accepted = tcp_pair(server)
    with client:
        client.sendall(b"unread")
        assert send_connection(send, 254, accepted.fileno())
        accepted.close()
        received = receive_connection(receive)
        assert received is not None
        listener, moved = received
        with moved:
            assert listener == 254
            assert not moved.getblocking()
            assert not os.get_inheritable(moved.fileno())
            assert (moved.type, moved.proto) == (socket.SOCK_STREAM, socket.IPPROTO_TCP)
            assert select.select([moved], [], [], PATIENCE)[0]
            assert moved.recv(100) == b"unread"
            moved.sendall(b"answer")
            assert client.recv(100) == b"answer"


def test_an_empty_intake_gives_none_and_a_closed_one_ends(intake: Pair) -> None:
    receive, send = intake
    assert receive_connection(receive) is None
    send.close()
    with pytest.raises(EOFError, match="intake is closed"):
        receive_connection(receive)


def test_an_intake_without_readers_refuses(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    receive.close()
    assert not send_connection(send, 0, server.fileno())


@pytest.mark.parametrize("listener_id", [-1, 255, 256])
def test_an_id_that_does_not_fit_is_refused(intake: Pair, server: socket.socket, listener_id: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 254"):
        send_connection(intake[1], listener_id, server.fileno())
    assert receive_connection(intake[0]) is None


def test_a_descriptor_that_is_not_open_is_the_callers_mistake(intake: Pair) -> None:
    with socket.socket() as closed:
        fd = closed.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        send_connection(intake[1], 0, fd)
    assert receive_connection(intake[0]) is None


def test_a_full_queue_refuses_and_holds_all_that_it_took(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    send.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client, accepted = tcp_pair(server)
    with client, accepted:
        held = 0
        while send_connection(send, held % 255, accepted.fileno()):
            held += 1
            assert held < 100_000, "the queue never fills"
        assert held > 10
        for number in range(held):
            received = receive_connection(receive)
            assert received is not None
            assert received[0] == number % 255
            received[1].close()
        assert receive_connection(receive) is None
        assert send_connection(send, 1, accepted.fileno()), "there is room again"


def test_the_intake_holds_some_hundred_connections_for_any_user(server: socket.socket) -> None:
    receive, send = open_intake()
    held = 0
    with receive, send:
        while held < 500 and send_connection(send, 0, server.fileno()):
            held += 1
    # net.core.wmem_max is 212992 by default, where there is no privilege to go past it; that is 555 records.
    assert held == 500


def test_malformed_records_are_thrown_away_without_leaking(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    read, write = os.pipe()
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        before = descriptors()
        send.send(b"\0")
        send_raw(send, b"\0", [read])
        send_raw(send, b"\0", [datagram.fileno()])
        send_raw(send, b"\0", [server.fileno(), server.fileno()])
        send_raw(send, b"\0", [server.fileno()] * 3)
        send_raw(send, b"\0", [server.fileno()] * 50)
        send_raw(send, b"\xff", [server.fileno()])
        send_raw(send, b"\x07", [server.fileno()])
        received = receive_connection(receive)
        assert received is not None
        assert received[0] == 7
        received[1].close()
        assert receive_connection(receive) is None
        assert descriptors() == before
    os.close(read)
    os.close(write)


def test_a_flood_of_malformed_records_gives_the_loop_its_turn(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    for _ in range(MAX_MALFORMED):
        send.send(b"\0")
    assert send_connection(send, 3, server.fileno())
    assert receive_connection(receive) is None
    assert select.select([receive], [], [], 0)[0], "the reader is called again"
    received = receive_connection(receive)
    assert received is not None
    received[1].close()


def test_a_reader_without_a_free_descriptor_leaves_the_record_to_another(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    assert send_connection(send, 5, server.fileno())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(receive.fileno())  # the lowest free number
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            receive_connection(receive)
        assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    received = receive_connection(receive)
    assert received is not None
    assert received[0] == 5
    received[1].close()


def test_several_threads_take_each_record_exactly_once(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    total, start = 400, threading.Barrier(4)
    taken: list[list[int]] = [[], [], [], []]

    def read(found: list[int]) -> None:
        start.wait()
        while True:
            select.select([receive], [], [], PATIENCE)
            try:
                received = receive_connection(receive)
            except EOFError:
                return
            if received is not None:
                found.append(received[0])
                received[1].close()

    threads = [threading.Thread(target=read, args=(found,)) for found in taken]
    for thread in threads:
        thread.start()
    for number in range(total):
        while not send_connection(send, number % 200, server.fileno()):
            select.select([], [send], [], PATIENCE)
    send.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert Counter(number for found in taken for number in found) == dict.fromkeys(range(200), 2)


# Takes one record, says so, waits for a line, then takes all there are until the intake is closed. It answers every
# connection with the number that lies unread in it.
READER = """
import os, select, socket, sys
from holdfast.server.http.migration import receive_connection
intake = socket.socket(fileno=int(sys.argv[1]))
def take():
    while True:
        select.select([intake], [], [])
        received = receive_connection(intake)
        if received is not None:
            break
    listener, sock = received
    number = sock.recv(4)
    sock.sendall(number + bytes((listener,)) + os.getpid().to_bytes(4, "big"))
    sock.close()
take()
print("one", flush=True)
sys.stdin.readline()
try:
    while True: take()
except EOFError:
    print("end", flush=True)
"""

SENDER = """
import os, socket, sys
from holdfast.server.http.migration import send_connection
intake = socket.socket(fileno=int(sys.argv[1]))
for fd in map(int, sys.argv[2:]):
    assert send_connection(intake, 9, fd)
    os.close(fd)
print("sent", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def process(script: str, fds: list[int]) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
        env={**os.environ, "PYTHONPATH": SOURCE},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    assert select.select([child.stdout], [], [], PATIENCE)[0], "the process says nothing"
    return child.stdout.readline().strip()


def tell(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def answer(client: socket.socket) -> bytes:
    """All that the client gets until the end of the connection; a reset raises."""
    parts = []
    while part := client.recv(100):
        parts.append(part)
    return b"".join(parts)


def test_several_processes_take_each_connection_exactly_once(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(process(READER, [receive.fileno()])) for _ in range(3)]
        clients = []

        def pass_on(number: int) -> None:
            client, accepted = tcp_pair(server)
            clients.append(stack.enter_context(client))
            client.sendall(number.to_bytes(4, "big"))
            with accepted:
                while not send_connection(send, number % 255, accepted.fileno()):
                    select.select([], [send], [], PATIENCE)

        for number in range(3):
            pass_on(number)
        assert [line(reader) for reader in readers] == ["one"] * 3
        for reader in readers:
            tell(reader)
        for number in range(3, 300):
            pass_on(number)
        send.close()
        assert [line(reader) for reader in readers] == ["end"] * 3
        answers = [answer(client) for client in clients]
    for number, text in enumerate(answers):
        assert text[:5] == number.to_bytes(4, "big") + bytes((number % 255,))
        assert len(text) == 9, "one process answered, once"
    assert {int.from_bytes(text[5:], "big") for text in answers} == {reader.pid for reader in readers}


def test_records_outlive_their_sender_and_a_reader_that_is_killed(intake: Pair, server: socket.socket) -> None:
    receive, send = intake
    with contextlib.ExitStack() as stack:
        pairs = [tcp_pair(server) for _ in range(20)]
        clients = [stack.enter_context(client) for client, _ in pairs]
        for number, client in enumerate(clients):
            client.sendall(number.to_bytes(4, "big"))
        fds = [send.fileno(), *(accepted.fileno() for _, accepted in pairs)]
        with process(SENDER, fds) as sender:
            assert line(sender) == "sent"
            for _, accepted in pairs:
                accepted.close()
            sender.send_signal(signal.SIGKILL)
            sender.wait(PATIENCE)
        with process(READER, [receive.fileno()]) as first:
            assert line(first) == "one"
            first.send_signal(signal.SIGKILL)
            first.wait(PATIENCE)
        for _ in range(19):
            received = receive_connection(receive)
            assert received is not None
            assert received[0] == 9
            with received[1] as moved:
                moved.sendall(moved.recv(4) + b"\x09here")
        assert receive_connection(receive) is None
        answers = [answer(client) for client in clients]
    assert [text[:5] for text in answers] == [number.to_bytes(4, "big") + b"\x09" for number in range(20)]
    assert [text[5:] for text in answers].count(b"here") == 19


WITHOUT_PRIVILEGE = """
import ctypes, resource, socket
from holdfast.server.http.migration import receive_connection, send_connection
from holdfast.supervisor.sockets import open_intake
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
data = (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(ctypes.byref(Header(0x20080522, 0)), ctypes.byref(data)) == 0
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
receive, send = open_intake()
server = socket.create_server(("127.0.0.1", 0))
held = 0
while held < 400 and send_connection(send, 1, server.fileno()): held += 1
taken = 0
while received := receive_connection(receive):
    taken += 1
    received[1].close()
print(held, taken, send_connection(send, 1, server.fileno()))
"""


def test_too_many_descriptors_in_flight_are_refused_and_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PRIVILEGE],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    held, taken, again = done.stdout.split()
    assert 0 < int(held) < 400, "the kernel limits it by the number of files a process may open"
    assert taken == held
    assert again == "True"


def test_once_the_whole_service_stops_nobody_can_hand_over_what_nobody_would_take() -> None:
    async def refuse(scope: object, receive: object, send: object) -> None:
        raise AssertionError("no request is sent")

    async def work() -> None:
        receive, send = socket.socketpair()
        waiting, peer = socket.socketpair()
        with receive, send, waiting, peer, socket.create_server(("127.0.0.1", 0)) as listener:
            for sock in (receive, send, listener):
                sock.setblocking(False)
            engine = HttpEngine(refuse, [Listening(0, listener)], HttpSettings(), intake=(receive, send))
            await engine.start()
            await engine.drain(1.0, migrate=False, idle_grace=0.0)
            assert not migration.send_connection(send, 0, waiting.fileno())
            await engine.stop()

    asyncio.run(work())
