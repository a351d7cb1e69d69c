"""Kinds of event loops that every policy has to work on."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import uvloop

T = TypeVar("T")

RUN_SECONDS = 20.0
"""Real seconds after which a run counts as stuck."""


class RunAsync(Protocol):
    """What the fixture ``run_async`` is."""

    def __call__(self, main: Coroutine[Any, Any, T]) -> T: ...


class Kind:
    """One way to run a coroutine in real time: a loop, plain or in debug mode, with tasks that may begin eagerly."""

    def __init__(
        self, name: str, factory: Callable[[], asyncio.AbstractEventLoop], *, debug: bool = False, eager: bool = False
    ) -> None:
        self.name = name
        self._factory = factory
        self._debug = debug
        self._eager = eager

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` in a task of a loop of its own. Fails when the loop was told of an error nobody awaited."""
        reports: list[dict[str, Any]] = []

        async def checked() -> T:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reports.append(context))
            if self._eager:
                loop.set_task_factory(_eager_task)
            async with asyncio.timeout(RUN_SECONDS):
                return await main

        with asyncio.Runner(debug=self._debug, loop_factory=self._factory) as runner:
            result = runner.run(checked())
        assert not reports, reports
        return result


def _eager_task(loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any) -> "asyncio.Task[Any]":
    # asyncio.eager_task_factory of 3.13.0 does not take all that uvloop hands on.
    return asyncio.Task(coroutine, loop=loop, **options | {"eager_start": loop.is_running()})


KINDS = [
    Kind("asyncio", asyncio.new_event_loop),
    Kind("asyncio-debug", asyncio.new_event_loop, debug=True),
    Kind("uvloop", uvloop.new_event_loop),
]
if sys.version_info >= (3, 12):
    KINDS += [
        Kind("asyncio-eager", asyncio.new_event_loop, eager=True),
        Kind("uvloop-eager", uvloop.new_event_loop, eager=True),
    ]
