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
    """``tasks`` were left running. They are cancelled by then; a note says when some did not end for all that."""

    def __init__(self, tasks: list["asyncio.Task[Any]"]) -> None:
        self.tasks = tasks
        super().__init__(f"{_named(tasks)}; await or cancel them")


@asynccontextmanager
async def no_task_leaks() -> AsyncIterator[None]:
    """Raise ``TaskLeak`` when tasks that were started in the block are still running at its end.

    They are cancelled then, so that they do not disturb the next test, and get ``CANCEL_SECONDS`` to end. An
    exception of the block comes first: the same is done, but what comes out is that exception, with a note of the
    tasks. A cancellation while they end gets out at once. ``RuntimeError`` where no asyncio loop runs.
    """
    before = asyncio.all_tasks()
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise  # nobody runs this any more, or the loop is about to end, and whoever runs it ends the tasks
    except BaseException as error:
        left = await _left(before)
        if left:
            error.add_note(_named(left))
            await _end(left, error)
        raise
    left = await _left(before)
    if left:
        leak = TaskLeak(left)  # made while the tasks still stand where they wait
        await _end(left, leak)
        raise leak


async def _left(before: set["asyncio.Task[Any]"]) -> list["asyncio.Task[Any]"]:
    for _ in range(TURNS):
        left = asyncio.all_tasks() - before
        if not left:
            return []
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for task in left:
                task.cancel()
            raise
    return sorted(asyncio.all_tasks() - before, key=lambda task: task.get_name())


async def _end(left: list["asyncio.Task[Any]"], error: BaseException) -> None:
    for task in left:
        task.cancel()
    _, stuck = await asyncio.wait(left, timeout=CANCEL_SECONDS)
    if stuck:
        error.add_note(f"{len(stuck)} of them had not ended {CANCEL_SECONDS:g} s after their cancellation")


def _named(tasks: list["asyncio.Task[Any]"]) -> str:
    places = [f"{task.get_name()} at {_place(task)}" for task in tasks[:NAMED_LIMIT]]
    more = "" if len(tasks) <= NAMED_LIMIT else f" and {len(tasks) - NAMED_LIMIT} more"
    return f"{len(tasks)} task(s) left running: {'; '.join(places)}{more}"


def _place(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "its end"
