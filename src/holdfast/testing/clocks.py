"""Clocks for tests: waits that cost nothing."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline, pipeline_of


class InstantClock(VirtualClock):
    """Every wait is over at once, and the time has moved on by it. Works on any event loop and in threads.

    For tests that want to see *that* something waited, on a loop which is not the clock's own. Where several
    tasks wait at the same time use ``VirtualClock.run``, which wakes them in the right order.
    """

    async def sleep(self, seconds: float) -> None:
        self.pause(seconds)
        await asyncio.sleep(0)


@contextmanager
def without_waiting(target: "Pipeline | Callable[..., Any]") -> Iterator[InstantClock]:
    """In the block, waits of ``target`` (a pipeline, or a function decorated with one) take no real time.

    Yields the clock that tells how long they would have been. Waits of the function itself stay what they are.
    """
    pipeline = target if isinstance(target, Pipeline) else pipeline_of(target)
    before = pipeline.clock
    clock = InstantClock(before.now())
    pipeline.replace(*pipeline.policies, clock=clock)
    try:
        yield clock
    finally:
        pipeline.replace(*pipeline.policies, clock=before)
