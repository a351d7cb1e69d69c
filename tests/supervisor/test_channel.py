"""Framing between the supervisor and a worker."""

import asyncio
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.duration import Duration
from holdfast.core.errors import BootError
from holdfast.supervisor.channel import (
    MAX_FRAME,
    MAX_PENDING,
    AnyMessage,
    Beat,
    Booting,
    Channel,
    Failed,
    LameDuck,
    Leave,
    Message,
    Ready,
    Retire,
    Retired,
    Socket,
    Start,
    frame,
    read_start,
)
from holdfast.supervisor.settings import Settings

START = Start(
    Settings(app="shop:app", boot_timeout=Duration(2.5)), 1, 7, "/srv", (Socket(0, 3, "127.0.0.1:80"),), (4, 5), 12.5, 9
)
words = st.text(max_size=40)
times = st.floats(0, 1e6)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Booting, words),
    st.builds(Ready),
    st.builds(Failed, words, words),
    st.builds(Beat, requests=st.integers(0, 2**40), lag=times, checks=st.lists(words, max_size=3).map(tuple)),
    st.builds(Leave, words),
    st.builds(LameDuck, st.booleans()),
    st.builds(Retire, times, st.booleans(), times, words),
    st.builds(Retired, st.lists(words, max_size=3).map(tuple), st.integers(0, 2**40)),
    st.just(START),
)


class Ends:
    """A channel on one end of a socketpair, and what it has heard."""

    def __init__(self, unread: bytes = b"") -> None:
        self.heard: list[AnyMessage] = []
        self.closed = 0
        self.peer, ours = socket.socketpair()
        self.channel = Channel(ours, self.heard.append, self._end, unread)

    def _end(self) -> None:
        self.closed += 1

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


async def _turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def _hear(chunks: list[bytes]) -> Ends:
    """What a channel makes of these bytes, arriving in these pieces."""

    async def talk() -> Ends:
        ends = Ends()
        for chunk in chunks:
            ends.peer.sendall(chunk)
            await _turns()
        return ends

    async def run() -> Ends:
        ends = await talk()
        ends.close()
        return ends

    return asyncio.run(run())


@given(st.lists(messages, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_messages_survive_any_cutting_of_the_stream(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    ends = _hear([stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b])
    assert ends.heard == sent
    assert ends.closed == 0


@given(st.binary(max_size=200), messages)
@settings(max_examples=60, deadline=None)
def test_a_body_that_is_no_message_is_skipped_and_the_next_one_heard(body: bytes, message: Message) -> None:
    ends = _hear([struct.pack("!I", len(body)) + body + frame(message)])
    assert ends.heard[-1:] == [message]
    assert ends.closed == 0


@given(st.integers(MAX_FRAME + 1, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_an_oversized_length_closes_the_channel_once(length: int) -> None:
    ends = _hear([frame(Ready()) + struct.pack("!I", length)])
    assert ends.heard == [Ready()]
    assert ends.closed == 1


@given(st.binary(max_size=2000))
@settings(max_examples=60, deadline=None)
def test_garbage_never_raises_and_never_collects_more_than_a_frame(data: bytes) -> None:
    ends = _hear([data] if data else [])
    assert ends.closed <= 1
    assert len(ends.channel.unread) <= MAX_FRAME + 4


def test_a_message_begun_before_a_re_exec_is_finished_after_it() -> None:
    whole = frame(Leave("memory"))

    async def run() -> list[AnyMessage]:
        first = Ends()
        first.peer.sendall(whole[:7])
        await _turns()
        assert first.channel.unread == whole[:7]
        second = Ends(first.channel.unread)
        second.peer.sendall(whole[7:])
        await _turns()
        first.close()
        second.close()
        return second.heard

    assert asyncio.run(run()) == [Leave("memory")]


def test_what_a_dead_peer_said_last_is_heard_before_the_end() -> None:
    async def run() -> Ends:
        ends = Ends()
        ends.peer.sendall(frame(Failed("no", "why")))
        ends.peer.close()
        ends.channel.finish()
        ends.channel.close()
        return ends

    ends = asyncio.run(run())
    assert ends.heard == [Failed("no", "why")]
    assert ends.closed == 1


def test_a_peer_that_does_not_read_is_bounded_and_nothing_blocks() -> None:
    message = Failed("x", "y" * 100_000)

    async def run() -> None:
        ends = Ends()
        sent = 0
        while ends.channel.send(message):
            sent += 1
            assert sent < 1000
        assert ends.channel.dropped == 1
        assert ends.channel.idle is False
        assert sent >= MAX_PENDING // 100_100
        data = b""
        ends.peer.setblocking(False)
        while len(data) < sent * len(frame(message)):
            try:
                data += ends.peer.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert data == frame(message) * sent, "what was accepted arrives whole"
        await _turns()
        assert bool(ends.channel.idle)
        ends.close()

    asyncio.run(run())


def test_sending_to_the_dead_or_on_a_closed_channel_does_not_raise() -> None:
    async def run() -> None:
        ends = Ends()
        ends.peer.close()
        ends.channel.send(Ready())
        await _turns()
        assert ends.closed == 1
        assert ends.channel.send(Ready()) is False
        ends.channel.close()

    asyncio.run(run())


def test_the_first_word_is_read_whole_before_any_loop_runs() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame(START))
        read = read_start(theirs, 1.0)
        assert read == START
        assert read.settings.boot_timeout == 2.5
        assert theirs.gettimeout() is None


@pytest.mark.parametrize("data", [b"", b"\0\0", struct.pack("!I", 40) + b"{", frame(Ready()), b"\xff" * 400])
def test_a_supervisor_that_is_gone_or_says_something_else_gives_no_start(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(data)
        ours.close()
        assert read_start(theirs, 1.0) is None


def test_a_supervisor_of_another_version_is_named_as_the_trouble() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack("!I", 2) + b"{}")
        with pytest.raises(BootError, match="holdfast upgrade"):
            read_start(theirs, 1.0)


def test_a_silent_supervisor_is_waited_for_within_the_limit() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_start(theirs, 0.05) is None
