"""What the supervisor knows of a worker, and how it says so; slots, and orders to workers."""

import asyncio
import os
import random
import signal
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.duration import Duration
from holdfast.core.event import Event, Listeners
from holdfast.core.size import Size
from holdfast.supervisor.channel import Beat, Booting, Failed, Leave, Message, Ready, Retire, Retired, frame
from holdfast.supervisor.pool import WorkerPool
from holdfast.supervisor.process import EXIT_LIMIT, Worker, anonymous_file
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.slot import FIRST_PAUSE, STABLE, Slot, reason_to_recycle, restart_pause
from holdfast.supervisor.status import WorkerEnded

NOBODY = 2**22 + 1
"""A process id that Linux never gives: signals to it reach nobody."""
SETTINGS = Settings(app="x:y", drain_timeout=Duration(40.0), stop_timeout=Duration(20.0), idle_grace=Duration(3.0))


class Peer:
    """A worker whose other end the test holds."""

    def __init__(self, slot: int = 0, pid: int = NOBODY) -> None:
        now = asyncio.get_running_loop().time()
        self.worker = Worker(1, slot, 1, pid, anonymous_file(), now)
        self.socket, ours = socket.socketpair()
        self.worker.connect(ours)

    async def say(self, *messages: Message) -> Worker:
        for message in messages:
            self.socket.sendall(frame(message))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return self.worker

    def heard(self) -> list[dict[str, object]]:
        self.socket.setblocking(False)
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        found = []
        while data:
            (length,) = struct.unpack_from("!I", data)
            found.append(msgspec.json.decode(data[4 : 4 + length]))
            data = data[4 + length :]
        return found

    def end(self, status: int = 0) -> None:
        if self.worker.exit_status is None:
            self.worker.reaped(status)
        self.socket.close()


def _pool(events: list[Event] | None = None) -> WorkerPool:
    listeners = Listeners()
    if events is not None:
        listeners.subscribe(events.append)
    return WorkerPool(
        SETTINGS, sockets=(), intake=(-1, -1), directory="/", environment={}, events=listeners, rng=random.Random(1)
    )


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with status 0"),
        (3 << 8, "exited with status 3"),
        (signal.SIGSEGV, "was ended by SIGSEGV"),
        (signal.SIGKILL, "was ended by SIGKILL (perhaps by the kernel, out of memory)"),
    ],
)
def test_an_ending_is_told_in_words(status: int, words: str) -> None:
    async def test() -> None:
        peer = Peer()
        assert peer.worker.ending == "is running"
        peer.end(int(status))
        assert peer.worker.ending == words

    run(test)


def test_a_kill_of_the_supervisors_own_is_not_blamed_on_the_kernel() -> None:
    async def test() -> None:
        peer = Peer()
        peer.worker.kill()
        peer.end(int(signal.SIGKILL))
        assert peer.worker.ending == "was ended by SIGKILL, sent by the supervisor"
        peer.worker.kill()  # its number may be another's by now

    run(test)


def test_why_a_boot_failed_is_the_apps_word_then_the_exit_then_the_phase() -> None:
    async def test() -> None:
        peer = Peer()
        worker = await peer.say(Booting("importing the app"), Beat(checks=("db: no route",)))
        error = worker.boot_error(2.5)
        assert error.reason == "the worker was not ready within 2.5 s: it was still importing the app"
        assert error.detail == "db: no route"
        await peer.say(Failed("no table", "Traceback ..."))
        assert (worker.boot_error(2).reason, worker.boot_error(2).detail) == ("no table", "Traceback ...")
        peer.end()
        silent = Peer()
        silent.end(0)
        assert (
            silent.worker.boot_error(2).reason == "the worker exited with status 0 before it was ready, while starting"
        )

    run(test)


def test_a_worker_that_has_drained_has_a_short_time_to_exit() -> None:
    async def test() -> None:
        peer = Peer()
        worker = await peer.say(Ready(), Retired(("GET /",), 3))
        assert worker.retired == Retired(("GET /",), 3)
        assert worker.kill_at == pytest.approx(worker.beat_at + EXIT_LIMIT)
        peer.end()

    run(test)


def test_ready_counts_once_and_not_after_the_drain_began() -> None:
    async def test() -> None:
        peer = Peer()
        worker = await peer.say(Ready())
        assert worker.state == "ready"
        assert worker.settled.is_set()
        worker.state = "draining"
        await peer.say(Ready())
        assert worker.state == "draining"
        peer.end()

    run(test)


def test_a_retired_worker_hands_over_unless_the_service_stops() -> None:
    async def test() -> None:
        pool = _pool()
        first, second = Peer(), Peer()
        pool.retire(first.worker, "reload")
        assert first.heard() == [_retire(40.0, True, 40.0, "reload")]
        pool.workers[1] = first.worker
        pool.prepare_stop(20.0, "SIGTERM")
        assert first.heard() == [_retire(20.0, False, 3.0, "SIGTERM")], (
            "one that drains already learns that it is alone"
        )
        pool.retire(second.worker, "reload")
        assert second.heard() == [_retire(20.0, False, 3.0, "reload")]
        first.end()
        second.end()

    run(test)


def _retire(within: float, migrate: bool, grace: float, reason: str) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.json.decode(frame(Retire(within, migrate, grace, reason))[4:])
    return decoded


def test_a_new_worker_that_serves_already_is_drained_when_it_is_not_wanted() -> None:
    async def test() -> None:
        pool = _pool()
        ready, booting = Peer(), Peer()
        await ready.say(Ready())
        pool.dismiss(ready.worker, "refused")
        pool.dismiss(booting.worker, "refused")
        assert [message["type"] for message in ready.heard()] == ["Retire"]
        assert (ready.worker.state, ready.worker.killed) == ("draining", False)
        assert booting.worker.killed
        assert booting.heard() == []
        ready.end()
        booting.end()

    run(test)


def test_a_death_is_told_with_what_was_left_and_whether_it_was_expected() -> None:
    async def test() -> None:
        events: list[Event] = []
        pool = _pool(events)
        pool.stopping = True
        peer = Peer(pid=NOBODY)
        await peer.say(Ready(), Retired(("GET /slow",), 0))
        pool.workers[NOBODY] = peer.worker
        pool.reaped(NOBODY, 0)
        pool.reaped(NOBODY, 0)  # somebody else's child
        (ended,) = events
        assert isinstance(ended, WorkerEnded)
        assert ended.unfinished == ("GET /slow",)
        assert ended.expected
        assert pool.workers == {}
        peer.end()

    run(test)


def test_a_filling_that_was_cancelled_before_its_first_step_does_not_hold_the_slot() -> None:
    async def test() -> None:
        pool = _pool()
        pool.set_slots(1)
        slot = pool.slots[0]
        pool.fill(slot, "first")
        first = slot.filling
        slot.give_up_filling()
        pool.fill(slot, "second")
        assert first is not slot.filling
        assert slot.filling is not None
        slot.give_up_filling()
        await asyncio.sleep(0)
        assert first is not None
        assert first.cancelled()

    run(test)


@given(crashes=st.integers(0, 10**6), longest=st.floats(0, 3600), share=st.floats(0.5, 1.0))
def test_the_pause_between_restarts_is_bounded_and_never_shrinks(crashes: int, longest: float, share: float) -> None:
    pause = restart_pause(crashes, longest, share)
    assert 0 <= pause <= longest
    assert pause <= restart_pause(crashes + 1, longest, share)
    if crashes < 2:
        assert pause == 0


def test_the_pause_doubles() -> None:
    pauses = [restart_pause(crashes, 30.0, 1.0) for crashes in range(11)]
    assert pauses == [0, 0, *(FIRST_PAUSE * 2**n for n in range(7)), 30.0, 30.0]


def test_only_deaths_soon_after_the_start_count_towards_a_crash_loop() -> None:
    slot = Slot(0)
    slot.crashed(0.3, "exited with status 7")
    slot.crashed(STABLE - 0.1, "exited with status 7")
    assert slot.crashes == 2
    assert slot.trouble == "the worker exited with status 7"
    slot.crashed(STABLE, "was ended by SIGKILL")
    assert slot.crashes == 0


def test_recycling_follows_its_limits_and_their_jitter() -> None:
    async def test() -> None:
        peer = Peer(pid=os.getpid())
        slot = Slot(0)
        assert reason_to_recycle(slot, SETTINGS) == ""
        slot.worker = await peer.say(Ready(), Beat(requests=99, memory=32 << 20))
        by_requests = msgspec.structs.replace(SETTINGS, max_requests=100)
        assert reason_to_recycle(slot, by_requests) == ""
        slot.jitter = -0.1
        assert reason_to_recycle(slot, by_requests) == "it served 99 requests"
        assert reason_to_recycle(slot, SETTINGS) == ""
        assert "MiB of memory" in reason_to_recycle(slot, msgspec.structs.replace(SETTINGS, max_memory=Size(1 << 20)))
        assert reason_to_recycle(slot, msgspec.structs.replace(SETTINGS, max_memory=Size(1 << 40))) == ""
        await peer.say(Leave("it got SIGTERM"))
        assert reason_to_recycle(slot, SETTINGS) == "it got SIGTERM"
        slot.worker.state = "draining"
        assert reason_to_recycle(slot, by_requests) == ""
        peer.end()

    run(test)
