"""Tasks that outlive the code which started them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

TURNS: Final = 10
"""Turns of the loop that tasks get to end by themselves: callbacks of what is done already need a few."""
CANCEL_SECONDS: Final = 1.0
"""What cancelled tasks get to end."""
NAMED_LIMIT: Final = 10
"""Tasks that an error names."""


class TaskLeak(AssertionError):
    """Tasks were left running: ``tasks`` are cancelled by then."""

    def __init__(self, tasks: list["asyncio.Task[Any]"]) -> None:
        self.tasks = tasks
        places = [f"{task.get_name()} at {_place(task)}" for task in tasks[:NAMED_LIMIT]]
        more = "" if len(tasks) <= NAMED_LIMIT else f" and {len(tasks) - NAMED_LIMIT} more"
        super().__init__(f"{len(tasks)} task(s) left running: {'; '.join(places)}{more}; await or cancel them")


@asynccontextmanager
async def no_task_leaks() -> AsyncIterator[None]:
    """Raise ``TaskLeak`` when tasks that were started in the block are still running at its end.

    They are cancelled then, so that they do not disturb the next test. An exception of the block comes first.
    """
    before = asyncio.all_tasks()
    yield
    left = await _left(before)
    if left:
        leak = TaskLeak(left)  # made while the tasks still stand where they wait
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_SECONDS)
        raise leak


async def _left(before: set["asyncio.Task[Any]"]) -> list["asyncio.Task[Any]"]:
    for _ in range(TURNS):
        left = asyncio.all_tasks() - before
        if not left:
            return []
        await asyncio.sleep(0)
    return sorted(left, key=lambda task: task.get_name())


def _place(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "its end"
