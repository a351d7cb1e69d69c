"""A function whose calls end when a test says so, and callers of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Work:
    """A function that ends only when told to, and counts what it sees."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.cancelled = 0
        self.ended = 0
        self._gates: list[asyncio.Future[Any]] = []

    async def __call__(self, key: Any = None) -> Any:
        self.begun.append(key)
        gate = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        try:
            return await gate
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1

    def has_begun(self, times: int) -> bool:
        return len(self.begun) == times

    def finish(self, number: int, result: Any) -> None:
        """End execution ``number`` with ``result``, which is raised when it is an exception."""
        if isinstance(result, BaseException):
            self._gates[number].set_exception(result)
        else:
            self._gates[number].set_result(result)


def start(call: Callable[..., Awaitable[Any]], *args: Any) -> "asyncio.Task[Any]":
    async def ask() -> Any:
        return await call(*args)

    return asyncio.ensure_future(ask())


async def cancelled(task: "asyncio.Task[Any]") -> bool:
    task.cancel()
    await asyncio.wait({task})
    return task.cancelled()
