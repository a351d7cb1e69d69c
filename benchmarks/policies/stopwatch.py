"""The loops that take the time. What they add themselves is in the bare call's figure too."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from itertools import repeat
from types import FunctionType
from typing import Any, TypeAlias

from benchmarks.policies.contestant import Function, Mode

TURN = 1000
"""Awaited calls between two turns of the event loop: cancelled timers are cleared away only then."""
PROBE = 0.004
"""Seconds of a trial that is long enough to reckon with."""
TRIALS = 3
MOST_CALLS = 10_000_000

Loop: TypeAlias = Callable[[Function, int, tuple[type[Exception], ...]], float]
AsyncLoop: TypeAlias = Callable[[Function, int, tuple[type[Exception], ...]], Coroutine[Any, Any, float]]


def _succeed(function: Function, calls: int, refusals: tuple[type[Exception], ...]) -> float:
    began = time.perf_counter()
    for _ in repeat(None, calls):
        function()
    return time.perf_counter() - began


def _be_refused(function: Function, calls: int, refusals: tuple[type[Exception], ...]) -> float:
    began = time.perf_counter()
    for _ in repeat(None, calls):
        try:
            function()
        except refusals:
            pass
        else:
            raise RuntimeError("a call was not refused")
    return time.perf_counter() - began


async def _succeed_async(function: Function, calls: int, refusals: tuple[type[Exception], ...]) -> float:
    began = time.perf_counter()
    for start in range(0, calls, TURN):
        for _ in repeat(None, min(TURN, calls - start)):
            await function()
        await asyncio.sleep(0)
    return time.perf_counter() - began


async def _be_refused_async(function: Function, calls: int, refusals: tuple[type[Exception], ...]) -> float:
    began = time.perf_counter()
    for start in range(0, calls, TURN):
        for _ in repeat(None, min(TURN, calls - start)):
            try:
                await function()
            except refusals:
                pass
            else:
                raise RuntimeError("a call was not refused")
        await asyncio.sleep(0)
    return time.perf_counter() - began


class Stopwatch:
    """Times one function, always with the same number of calls. ``refusals``: every call has to raise one of them."""

    def __init__(self, function: Function, mode: Mode, runner: asyncio.Runner, refusals: tuple[type[Exception], ...]):
        self.function = function
        self.calls = 1
        self._runner = runner
        self._refusals = refusals
        # The interpreter specialises a loop for what it calls. With code of its own, nobody runs in another's loop.
        if mode is Mode.ASYNC:
            self._async: AsyncLoop | None = _own(_be_refused_async if refusals else _succeed_async)
            self._sync: Loop | None = None
        else:
            self._async = None
            self._sync = _own(_be_refused if refusals else _succeed)

    def calibrate(self, seconds: float) -> None:
        """Choose the number of calls that take about so long."""
        spent = self._fastest()
        while spent < PROBE and self.calls < MOST_CALLS:
            self.calls *= 4
            spent = self._fastest()
        self.calls = max(1, min(MOST_CALLS, round(self.calls * seconds / spent)))

    def nanoseconds(self) -> float:
        """A call, on average over one loop."""
        return self._run() / self.calls * 1e9

    def _fastest(self) -> float:
        # A stall of the machine is longer than PROBE: one alone would pass for many calls.
        return min(self._run() for _ in range(TRIALS))

    def _run(self) -> float:
        if self._async is not None:
            return self._runner.run(self._async(self.function, self.calls, self._refusals))
        assert self._sync is not None
        return self._sync(self.function, self.calls, self._refusals)


def _own(loop: Any) -> Any:
    """The same function with a copy of its code."""
    original: FunctionType = loop
    return FunctionType(original.__code__.replace(), original.__globals__, original.__name__)
