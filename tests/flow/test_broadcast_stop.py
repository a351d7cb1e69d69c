"""What ``stop`` does about a source that takes its time, or does not listen."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

import pytest

from flow.loops import Run, at_rest, turns, until
from holdfast.flow import Broadcast


class Slow:
    """A source that goes on for ``seconds`` after its cancellation, and may fail at last."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.closed = False

    async def __aiter__(self) -> AsyncGenerator[int, None]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            end = asyncio.get_running_loop().time() + self.seconds
            while (left := end - asyncio.get_running_loop().time()) > 0:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    continue
            if self.error is not None:
                raise self.error from None
            raise
        finally:
            self.closed = True


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_source_that_does_not_listen_holds_the_stop_up_for_its_time_only(
    run_in_virtual_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = Slow(60.0)
        hub = Broadcast(source, buffer=1, stop_within=5.0, name="feed")
        await hub.start()
        subscription = hub.subscribe()
        assert await anext(subscription) == 0
        began = now()
        await hub.stop()
        assert now() - began == pytest.approx(5.0)
        assert [item async for item in subscription] == []
        closed = [source.closed]
        await asyncio.sleep(60)
        assert [*closed, source.closed] == [False, True]
        await at_rest()

    run_in_virtual_time(main)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "feed: its source is stuck, not ended 5 s after its end"
    ]


def test_a_source_that_ends_in_time_is_waited_for_and_no_longer(
    run_in_virtual_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = Slow(3.0)
        async with Broadcast(source, buffer=1, stop_within=5.0) as hub:
            await anext(hub.subscribe())
            began = now()
        assert now() - began == pytest.approx(3.0)
        assert source.closed

    run_in_virtual_time(main)
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


def test_without_any_time_a_source_that_listens_still_ends(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = Slow(0.0)
        async with Broadcast(source, buffer=1, stop_within=0.0) as hub:
            await anext(hub.subscribe())
        await until(lambda: source.closed)
        await at_rest()

    run(main)


def test_cancelling_the_stop_does_not_prolong_it(run_in_virtual_time: Run) -> None:
    async def main() -> None:
        hub = Broadcast(Slow(60.0), buffer=1, stop_within=5.0)
        await hub.start()
        subscription = hub.subscribe()
        await anext(subscription)
        began = now()
        stopping = asyncio.ensure_future(hub.stop())
        for _ in range(3):
            await asyncio.sleep(1)
            stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert now() - began == pytest.approx(5.0)
        assert [item async for item in subscription] == []
        await asyncio.sleep(60)

    run_in_virtual_time(main)


def test_what_a_stuck_source_raises_later_is_reported_once(run_in_virtual_time: Run) -> None:
    async def main() -> list[str]:
        reports: list[str] = []
        loop = asyncio.get_running_loop()
        report: Callable[..., object] = lambda _, context: reports.append(str(context["exception"]))  # noqa: E731
        before = loop.get_exception_handler()
        loop.set_exception_handler(report)
        hub = Broadcast(Slow(60.0, OSError("at last")), buffer=1, stop_within=5.0)
        await hub.start()
        await anext(hub.subscribe())
        await hub.stop()
        await hub.stop()
        await asyncio.sleep(60)
        seen = tuple(reports)
        await hub.stop()
        await turns(3)
        assert tuple(reports) == seen
        loop.set_exception_handler(before)
        return list(seen)

    assert run_in_virtual_time(main) == ["at last"]


def test_what_a_source_raises_while_it_is_closed_is_reported_once_however_often_it_is_stopped(
    run_in_virtual_time: Run,
) -> None:
    async def main() -> list[str]:
        reports: list[str] = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reports.append(str(context["exception"])))
        async with Broadcast(Slow(1.0, OSError("while closing")), buffer=1) as hub:
            await anext(hub.subscribe())
            await hub.stop()
        loop.set_exception_handler(before)
        return reports

    assert run_in_virtual_time(main) == ["while closing"]
