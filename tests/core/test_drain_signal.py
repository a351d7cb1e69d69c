import asyncio
import threading

import pytest

import holdfast
from holdfast.core.clock import VirtualClock
from holdfast.core.drain import Drain, current_drain, use_drain


def test_a_drain_begins_once_and_keeps_its_first_reason() -> None:
    drain = Drain()
    assert (drain.draining, drain.reason) == (False, "")
    drain.begin("reload")
    drain.begin("stop")
    assert drain.draining
    assert drain.reason == "reload"


def test_everybody_who_waits_is_told_and_later_ones_at_once() -> None:
    drain = Drain()
    clock = VirtualClock()

    async def main() -> None:
        asyncio.get_running_loop().call_later(5, drain.begin, "reload")
        await asyncio.gather(*(drain.wait() for _ in range(10)))
        assert clock.now() == 1005.0
        await drain.wait()
        assert clock.now() == 1005.0

    clock.run(main())


def test_a_cancelled_wait_leaves_nothing_behind_and_hurts_nobody() -> None:
    drain = Drain()

    async def main() -> None:
        staying = asyncio.create_task(drain.wait())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await drain.wait()
        assert len(drain._waiters) == 1
        drain.begin("reload")
        await staying
        assert not drain._waiters

    VirtualClock().run(main())


def test_a_drain_reaches_waiters_on_another_threads_loop() -> None:
    drain = Drain()
    waiting = threading.Event()
    told = threading.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(waiting.set)
        await drain.wait()
        told.set()

    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    assert waiting.wait(10)
    drain.begin("reload")
    thread.join(10)
    assert told.is_set()


def test_a_waiter_whose_loop_is_closed_is_passed_over() -> None:
    drain = Drain()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(drain.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    drain.begin("reload")
    assert drain.draining
    # The task cannot end any more; closing its coroutine keeps the interpreter from complaining about it.
    coroutine = waiting.get_coro()
    assert coroutine is not None
    coroutine.close()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_outside_of_a_worker_the_drain_never_begins() -> None:
    drain = current_drain()
    assert not drain.draining
    with pytest.raises(RuntimeError, match="use_drain"):
        drain.begin("by mistake")
    assert not current_drain().draining


def test_the_drain_in_use_reaches_tasks_and_threads() -> None:
    drain = Drain()

    async def main() -> tuple[Drain, Drain]:
        with use_drain(drain):
            task = asyncio.create_task(asyncio.to_thread(current_drain))
            return current_drain(), await task

    assert VirtualClock().run(main()) == (drain, drain)
    assert current_drain() is not drain


def test_the_package_exports_it() -> None:
    assert holdfast.current_drain is current_drain
    assert holdfast.Drain is Drain
