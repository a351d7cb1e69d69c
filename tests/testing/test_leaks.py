import asyncio

import pytest

from holdfast.testing import TaskLeak, no_task_leaks


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


def test_the_error_of_the_block_comes_first() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="mine"):
            async with no_task_leaks():
                raise ValueError("mine")

    asyncio.run(main())


def test_many_leaks_do_not_flood_the_message() -> None:
    async def main() -> None:
        with pytest.raises(TaskLeak, match="and 40 more"):  # noqa: PT012
            async with no_task_leaks():
                for _ in range(50):
                    asyncio.create_task(asyncio.sleep(60))  # noqa: RUF006

    asyncio.run(main())
