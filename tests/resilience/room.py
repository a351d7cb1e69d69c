"""Calls that stay inside a bulkhead until they are told to go."""

import asyncio
from typing import Any

from holdfast.core.pipeline import Pipeline

TURNS = 8
"""Turns of the loop in which everything that needs no time has happened."""


class Room:
    """Calls that stay inside until they are told to go; counts the most that were inside at once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.inside: list[Any] = []
        self.order: list[Any] = []
        self.most = 0
        self._doors: dict[Any, asyncio.Event] = {}

    def call(self, name: Any, **fields: Any) -> "asyncio.Task[Any]":
        self._doors[name] = asyncio.Event()
        return asyncio.get_running_loop().create_task(self.pipeline.bind(**fields).acall(self._stay, name))

    def finish(self, name: Any) -> None:
        self._doors[name].set()

    async def _stay(self, name: Any) -> Any:
        self.inside.append(name)
        self.order.append(name)
        self.most = max(self.most, len(self.inside))
        try:
            await self._doors[name].wait()
        finally:
            self.inside.remove(name)
        return name


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
