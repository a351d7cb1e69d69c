import asyncio
import contextlib
import itertools
import socket
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.clock import (
    DEADLOCK_PATIENCE,
    OUTSIDE_PATIENCE,
    SYSTEM,
    WALL_OFFSET,
    Clock,
    SystemClock,
    VirtualClock,
    VirtualTimeError,
)


def test_a_day_passes_in_a_moment_and_exactly() -> None:
    clock = VirtualClock(start=1000.0)

    async def main() -> float:
        await asyncio.sleep(86_400)
        return clock.now()

    began = time.monotonic()
    assert clock.run(main(), limit=100_000) == 87_400.0
    assert time.monotonic() - began < 5
    assert clock.now() == 87_400.0
    assert clock.wall() == 87_400.0 + WALL_OFFSET


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=20))
@example([1e-9, 2e-9, 1.9e-9, 0.5e-9])
@example([5.0, 5.0 + 1e-9])
def test_sleepers_wake_in_order_at_their_own_time(delays: list[float]) -> None:
    clock = VirtualClock()
    woken: list[tuple[float, float]] = []

    async def sleeper(delay: float) -> None:
        due = clock.now() + delay
        await clock.sleep(delay)
        woken.append((due, clock.now()))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for delay in delays:
                group.create_task(sleeper(delay))

    clock.run(main())
    assert len(woken) == len(delays)
    # asyncio runs timers that lie within its resolution of a nanosecond together.
    assert all(abs(now - due) <= 1e-9 for due, now in woken)
    assert [due for due, _ in woken] == sorted(due for due, _ in woken)


@given(st.floats(0, 1000), st.floats(1e-3, 1), st.floats(2, 3000))
@example(0.21976923887144084, 0.9325466799393285, 28.05599601454778)
def test_a_jump_lands_exactly_on_the_timer(start: float, first: float, second: float) -> None:
    """asyncio hands over distances only; added up, two of them miss the second timer by a rounding."""
    clock = VirtualClock(start)

    async def main() -> float:
        later = asyncio.create_task(clock.sleep(second))
        await asyncio.sleep(0)
        await clock.sleep(first)
        await later
        return clock.now()

    assert clock.run(main()) == start + second


def test_timeouts_and_call_later_are_virtual() -> None:
    clock = VirtualClock()
    called: list[float] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.5, lambda: called.append(clock.now()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(3000)

    clock.run(main())
    assert called == [1001.5]
    assert clock.now() == 1060.0


def test_a_cancelled_timer_does_not_stop_the_clock_at_its_time() -> None:
    clock = VirtualClock()

    async def main() -> float:
        asyncio.get_running_loop().call_later(1, lambda: None).cancel()
        await asyncio.sleep(2)
        return clock.now()

    assert clock.run(main()) == 1002.0


def test_advance_inside_a_run_makes_timers_due() -> None:
    clock = VirtualClock()

    async def main() -> float:
        sleeper = asyncio.create_task(clock.sleep(10))
        await asyncio.sleep(0)
        clock.advance(10)
        await sleeper
        return clock.now()

    assert clock.run(main()) == 1010.0


def test_time_does_not_go_backwards() -> None:
    clock = VirtualClock()
    with pytest.raises(ValueError, match=r"-1"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="nan"):
        clock.advance(float("nan"))
    clock.move_to(5.0)
    assert clock.now() == 1000.0


def test_a_deadlock_is_an_error_that_names_the_task_and_the_place() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("the-stuck-one")
        await asyncio.Event().wait()

    with pytest.raises(VirtualTimeError, match=r"deadlock.*the-stuck-one at .*test_clock\.py:\d+"):
        VirtualClock().run(main())


def test_a_run_past_its_limit_is_an_error() -> None:
    clock = VirtualClock()

    async def main() -> None:
        for _ in itertools.count():
            await asyncio.sleep(7)

    with pytest.raises(VirtualTimeError, match="limit of 60 virtual seconds"):
        clock.run(main(), limit=60)
    assert 1053.0 <= clock.now() <= 1060.0


def test_a_sleep_without_end_is_past_the_limit() -> None:
    with pytest.raises(VirtualTimeError, match="limit"):
        VirtualClock().run(asyncio.sleep(float("inf")))


def test_a_spinning_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.core.clock.SPIN_LIMIT", 1000)

    async def main() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(VirtualTimeError, match="without time passing"):
        VirtualClock().run(main())


def test_what_is_left_over_after_a_failure_may_clean_up() -> None:
    cleaned: list[float] = []
    clock = VirtualClock()

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            cleaned.append(clock.now())

    with pytest.raises(VirtualTimeError, match="deadlock"):
        clock.run(main(), limit=1)
    assert cleaned == [1005.0]


def test_the_result_and_the_error_of_the_coroutine_come_back() -> None:
    async def answer() -> int:
        return 42

    async def failure() -> None:
        raise LookupError("gone")

    assert VirtualClock().run(answer()) == 42
    with pytest.raises(LookupError, match="gone"):
        VirtualClock().run(failure())


def test_a_thread_that_takes_a_while_neither_hangs_nor_times_out() -> None:
    clock = VirtualClock()
    release = threading.Event()

    async def main() -> bool:
        # The thread is set free by another one, so the loop really has nothing to do meanwhile.
        threading.Timer(OUTSIDE_PATIENCE / 10, release.set).start()
        async with asyncio.timeout(0.5):
            return await asyncio.to_thread(release.wait, 10)

    assert clock.run(main()) is True
    assert clock.now() == 1000.0


def test_a_thread_that_waits_for_virtual_time_does_not_hang_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.core.clock.OUTSIDE_PATIENCE", 0.05)
    moved = threading.Event()

    async def main() -> bool:
        asyncio.get_running_loop().call_later(30, moved.set)
        return await asyncio.to_thread(moved.wait, 10)

    assert VirtualClock().run(main()) is True


def test_a_thread_of_ones_own_may_wake_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(future.set_result, "woken")).start()
        return await future

    assert DEADLOCK_PATIENCE > 0.05
    assert VirtualClock().run(main()) == "woken"


def test_real_sockets_work_under_virtual_timeouts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        here, there = socket.socketpair()
        ours, theirs = await asyncio.open_connection(sock=here), await asyncio.open_connection(sock=there)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(echo(*theirs))
            ours[1].write(b"hello\n")
            line = await ours[0].readline()
        ours[1].close()
        await ours[1].wait_closed()
        return line

    clock = VirtualClock()
    assert clock.run(main()) == b"hello\n"
    assert clock.now() < 1030.0


def test_on_an_ordinary_loop_a_sleeper_waits_for_advance() -> None:
    clock = VirtualClock()

    async def main() -> bool:
        sleeper = asyncio.create_task(clock.sleep(10))
        cancelled = asyncio.create_task(clock.sleep(5))
        await asyncio.sleep(0)
        cancelled.cancel()
        clock.advance(9.5)
        await asyncio.wait([cancelled])
        assert not sleeper.done()
        clock.advance(0.5)
        async with asyncio.timeout(5):
            await sleeper
        return cancelled.cancelled()

    assert asyncio.run(main())


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.monotonic()) < 5
    assert abs(clock.wall() - time.time()) < 5
    asyncio.run(clock.sleep(0))


class Limit:
    """Sets a timer, and would look at its own clock when that runs."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ran = False

    def run(self) -> None:
        self.ran = True


def set_timer(limit: Limit, call: object = None) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(1, limit.run)


def test_a_timer_of_somebody_on_this_clock_runs() -> None:
    clock = VirtualClock()
    limit = Limit(clock)

    async def main() -> None:
        set_timer(limit)
        await asyncio.sleep(2)

    clock.run(main())
    assert limit.ran


@pytest.mark.parametrize("other", [SYSTEM, VirtualClock()], ids=["the system's", "another virtual one"])
def test_a_timer_of_somebody_on_another_clock_is_an_error_that_names_the_call(other: Clock) -> None:
    class Named:
        operation = "stock"

    async def main(call: object) -> None:
        set_timer(Limit(other), call)

    with pytest.raises(VirtualTimeError, match=rf"^stock has a time limit by a {type(other).__name__}"):
        VirtualClock().run(main(Named()))
    with pytest.raises(VirtualTimeError, match=r"^something has a time limit"):
        VirtualClock().run(main(None))


def test_an_error_that_comes_of_a_wrong_clock_is_not_shown_in_its_place() -> None:
    async def main() -> None:
        try:
            set_timer(Limit(SYSTEM))
        except VirtualTimeError:
            raise LookupError("what came of it") from None

    with pytest.raises(VirtualTimeError, match="time limit") as caught:
        VirtualClock().run(main())
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_run_in_which_a_wrong_clock_went_unnoticed_has_no_result() -> None:
    async def main() -> str:
        for _ in range(2):
            with contextlib.suppress(VirtualTimeError):
                set_timer(Limit(SYSTEM))
        return "done"

    clock = VirtualClock()
    with pytest.raises(VirtualTimeError, match="time limit"):
        clock.run(main())
    assert clock.run(asyncio.sleep(0, "the next run")) == "the next run"


def test_a_run_inside_of_an_event_loop_says_where_it_belongs() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"runs an event loop already.*belongs in a plain def test"):
            VirtualClock().run(asyncio.sleep(1))

    asyncio.run(main())
