"""Clocks for tests: waits that cost nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from holdfast.core.clock import Clock, VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.testing.renewal import fresh
from holdfast.testing.stage import Target, pipeline_under

C = TypeVar("C", bound=Clock)


class InstantClock(VirtualClock):
    """Every wait is over at once, and the time has moved on by it. Works on any event loop and in threads.

    For tests that want to see *that* something waited, on a loop which is not the clock's own. Where several
    tasks wait at the same time use ``VirtualClock.run``, which wakes them in the right order.
    """

    async def sleep(self, seconds: float) -> None:
        self.pause(seconds)
        await asyncio.sleep(0)


@contextmanager
def without_waiting(target: Target) -> Iterator[InstantClock]:
    """In the block, waits of ``target`` (a pipeline, or a function decorated with one) take no real time.

    Yields the clock that tells how long they would have been. Waits of the function itself stay what they are, and
    no time limit ends them, since this clock does not move meanwhile: ``slowed`` stands in for them, or use
    ``on_clock``.
    """
    pipeline = pipeline_under(target)
    clock = InstantClock(pipeline.clock.now())
    with _timed_by(pipeline, clock):
        yield clock


@contextmanager
def on_clock(clock: C, *targets: Target) -> Iterator[C]:
    """In the block, ``targets`` (pipelines, or functions decorated with one) go by ``clock``, with ``fresh`` policies.

    For pipelines that a module made on the system clock, in a test that runs on a virtual one::

        with on_clock(virtual_clock, fetch):
            virtual_clock.run(main())

    The policies are fresh, since what they know is in the times of another clock; see ``fresh`` for what that means.
    ``TypeError`` without targets.
    """
    if not targets:
        raise TypeError("on_clock() needs what is to go by the clock, such as on_clock(clock, fetch)")
    with fresh(*targets), ExitStack() as stack:
        for pipeline in {id(pipeline): pipeline for pipeline in map(pipeline_under, targets)}.values():
            stack.enter_context(_timed_by(pipeline, clock))
        yield clock


@contextmanager
def _timed_by(pipeline: Pipeline, clock: Clock) -> Iterator[None]:
    before = pipeline.clock
    pipeline.replace(*pipeline.policies, clock=clock)
    try:
        yield
    finally:
        pipeline.replace(*pipeline.policies, clock=before)
