"""A dependency that answers as its script says: for each attempt, in the order in which they begin, when and what."""

import asyncio
from collections.abc import Sequence
from typing import Any

from holdfast.core.context import current_deadline

NEVER = 3600.0


class Dependency:
    """``script`` has a pair for each attempt: seconds, and a result, or an exception to raise."""

    def __init__(self, *script: tuple[float, Any]) -> None:
        self.script: Sequence[tuple[float, Any]] = script
        self.begun: list[float] = []
        self.cancelled: list[int] = []
        self.ended: list[int] = []
        self.deadlines: list[float] = []
        self.tasks: list[asyncio.Task[Any] | None] = []

    async def __call__(self) -> Any:
        number = len(self.begun)
        self.begun.append(asyncio.get_running_loop().time())
        self.deadlines.append(current_deadline())
        self.tasks.append(asyncio.current_task())
        seconds, outcome = self.script[number]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.ended.append(number)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def others() -> "set[asyncio.Task[Any]]":
    """Every task but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
