import asyncio

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.testing import TaskLeak, no_task_leaks
from holdfast.testing.leaks import CANCEL_SECONDS, TURNS


def test_a_task_left_running_is_named_with_its_place_and_cancelled() -> None:
    async def main() -> None:
        with pytest.raises(TaskLeak, match=r"1 task\(s\) left running: forgotten at .*\.py:\d+") as caught:
            async with no_task_leaks():
                asyncio.create_task(asyncio.sleep(60), name="forgotten")  # noqa: RUF006
        assert caught.value.tasks[0].cancelled()

    asyncio.run(main())


def test_tasks_that_end_and_tasks_from_before_are_no_leak() -> None:
    async def main() -> None:
        before = asyncio.create_task(asyncio.sleep(60))
        async with no_task_leaks():
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(5)))
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006 - it ends by itself, a turn later
        before.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError("mine"), pytest.fail.Exception("mine")])
def test_the_error_of_the_block_comes_first_and_its_tasks_have_ended(error: BaseException) -> None:
    async def main() -> None:
        left: list[asyncio.Task[None]] = []
        with pytest.raises(type(error)) as caught:  # noqa: PT012
            async with no_task_leaks():
                left.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))
                await asyncio.sleep(0)
                raise error
        assert caught.value is error
        assert left[0].cancelled()
        assert any("1 task(s) left running: forgotten at" in note for note in error.__notes__)

    asyncio.run(main())


def test_an_error_without_leaks_is_left_alone() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="mine") as caught:
            async with no_task_leaks():
                raise ValueError("mine")
        assert not hasattr(caught.value, "__notes__")

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_does_not_listen_is_not_waited_for_and_told_of(fails: bool) -> None:
    clock = VirtualClock(start=0.0)

    async def deaf() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(10)

    async def main() -> None:
        with pytest.raises(ValueError if fails else TaskLeak) as caught:  # noqa: PT012
            async with no_task_leaks():
                task = asyncio.create_task(deaf())
                asyncio.create_task(asyncio.sleep(3600))  # noqa: RUF006
                await asyncio.sleep(0)
                if fails:
                    raise ValueError
        assert clock.now() == CANCEL_SECONDS
        assert "1 of them had not ended 1 s after their cancellation" in caught.value.__notes__
        await task

    clock.run(main())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("turns", range(TURNS + 5))
def test_a_cancellation_at_any_await_gets_out_at_once_and_leaves_the_tasks_cancelled(turns: int, fails: bool) -> None:
    clock = VirtualClock(start=0.0)

    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            raise

    async def main() -> None:
        left: list[asyncio.Task[None]] = []
        over = asyncio.Event()

        async def block() -> None:
            async with no_task_leaks():
                left.append(asyncio.create_task(slow()))
                await asyncio.sleep(0)
                over.set()
                if fails:
                    raise ValueError

        task = asyncio.create_task(block())
        await over.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.now() == 0.0
        with pytest.raises(asyncio.CancelledError):
            await left[0]
        assert clock.now() == 0.5

    clock.run(main())


def test_a_coroutine_that_is_closed_in_the_block_closes() -> None:
    async def main() -> None:
        async def block() -> None:
            async with no_task_leaks():
                left.append(asyncio.create_task(asyncio.sleep(60)))
                await asyncio.sleep(60)

        left: list[asyncio.Task[None]] = []
        coroutine = block()
        coroutine.send(None)
        coroutine.close()
        assert not left[0].done()
        left[0].cancel()

    asyncio.run(main())


def test_many_leaks_do_not_flood_the_message() -> None:
    async def main() -> None:
        with pytest.raises(TaskLeak, match="and 40 more"):  # noqa: PT012
            async with no_task_leaks():
                for _ in range(50):
                    asyncio.create_task(asyncio.sleep(60))  # noqa: RUF006

    asyncio.run(main())
