"""Does the policy really do its work? Each proof fails loudly when it does not.

They run once before anything is measured, on what the very same methods build, only narrower: a bucket of one call,
a bulkhead of one place, a timeout that is over at once.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from benchmarks.policies.contestant import ANSWER, ROOMY, SPARE, Contestant, Function, Mode, Sizes

NARROW = ROOMY._replace(delay=0.001)
"""For proofs, retries do not keep us waiting."""
PAUSE = 0.5
"""Seconds of a call that is too slow; a timeout of PAUSE / 20 has to end it within half of it."""
MOST_FAILURES = 200
"""A breaker has to open within so many failures in a row."""
DEEPEST = 3
"""Calls within calls, should a bulkhead not hold them."""
LEARNT = 200
"""Calls after which a hedge knows how long they usually take."""


class Unproved(AssertionError):
    """A policy did not do what its name says. The text tells which one and how."""


class Subject:
    """A method of a contestant in one mode: what is proved and then measured."""

    def __init__(self, contestant: Contestant, method: str, mode: Mode) -> None:
        self.contestant = contestant
        self.mode = mode
        self.put = contestant.policy(method, mode)

    def build(self, body: Callable[[], Any], sizes: Sizes) -> Function:
        """The policy around a function that does ``body``. In async mode the body may return an awaitable."""
        return self.put(as_function(body, self.mode), sizes)

    def pause(self) -> Any:
        """A body that is too slow."""
        return asyncio.sleep(PAUSE, ANSWER) if self.mode is Mode.ASYNC else time.sleep(PAUSE)


Proof: TypeAlias = Callable[[Subject], Awaitable[None]]


def as_function(body: Callable[[], Any], mode: Mode) -> Function:
    """A def or an async def that does ``body``."""

    def plain() -> Any:
        return body()

    async def coroutine() -> Any:
        result = body()
        return await result if inspect.isawaitable(result) else result

    return coroutine if mode is Mode.ASYNC else plain


async def run(function: Function) -> Any:
    """Call either kind of function."""
    result = function()
    return await result if inspect.isawaitable(result) else result


async def gives_up_slow_calls(subject: Subject) -> None:
    seconds = PAUSE / 20
    if subject.mode is Mode.SYNC and not subject.contestant.interrupts:
        left = await run(subject.build(subject.contestant.remaining, NARROW._replace(seconds=seconds)))
        check(0 < left <= seconds, f"the call is told that it has {left} s")
        return
    function = subject.build(subject.pause, NARROW._replace(seconds=seconds))
    began = time.monotonic()
    try:
        await run(function)
    except subject.contestant.refusals:
        check(time.monotonic() - began < PAUSE / 2, "the timeout came late")
    else:
        raise Unproved("a slow call was let through")


async def tries_again(subject: Subject) -> None:
    calls = 0

    def fail_once() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("the first attempt")
        return ANSWER

    check(await run(subject.build(fail_once, NARROW)) == ANSWER, "the second attempt's answer is lost")
    check(calls == 2, f"{calls} attempts instead of 2")


async def opens_after_failures(subject: Subject) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("it is down")

    await open_breaker(subject, subject.build(fail, NARROW), lambda: calls)


async def open_breaker(subject: Subject, function: Function, calls: Callable[[], int]) -> None:
    """Call a failing function until it is refused without being called."""
    for _ in range(MOST_FAILURES):
        before = calls()
        try:
            await run(function)
        except subject.contestant.refusals:
            if calls() == before:
                return
        except Exception as error:  # a retry may wrap the failure in an error of its own
            check(calls() > before, f"neither called nor refused: {error!r}")
        else:
            raise Unproved("a failure was turned into a success")
    raise Unproved(f"not open after {MOST_FAILURES} failures")


async def refuses_when_empty(subject: Subject) -> None:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return ANSWER

    function = subject.build(count, NARROW._replace(rate=1, unit="hour"))
    check(await run(function) == ANSWER, "the first call was refused")
    if subject.contestant.waits:
        try:
            await asyncio.wait_for(run(function), PAUSE / 10)
        except TimeoutError:
            check(calls == 1, "called without a token")
            return
        raise Unproved("the second call did not wait")
    await check_refused(subject, function)
    check(calls == 1, "called without a token")


async def holds_one_at_a_time(subject: Subject) -> None:
    depth = refused = 0

    async def call_again() -> int:
        nonlocal depth, refused
        depth += 1
        if depth <= DEEPEST:
            try:
                await run(outer)
            except Exception:  # a retry may wrap the refusal in an error of its own
                refused += 1
        return ANSWER

    def body() -> Any:
        return call_again() if subject.mode is Mode.ASYNC else drive(call_again())

    outer = subject.build(body, NARROW._replace(slots=1))
    check(await run(outer) == ANSWER, "the outer call was refused")
    check(depth == 1 and refused == 1, f"{depth} calls at once in one place")


async def falls_back(subject: Subject) -> None:
    def fail() -> None:
        raise ConnectionError("it is down")

    check(await run(subject.build(fail, NARROW)) == SPARE, "no fallback")


async def remembers(subject: Subject) -> None:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    function = subject.build(count, NARROW)
    check(await run(function) == await run(function) == 1, "the second call was not answered from memory")


async def shares_one_call(subject: Subject) -> None:
    calls = 0

    def count() -> Any:
        nonlocal calls
        calls += 1
        # Long enough for the other one to come.
        return asyncio.sleep(PAUSE / 5, ANSWER) if subject.mode is Mode.ASYNC else time.sleep(PAUSE / 5)

    function = subject.build(count, NARROW)
    if subject.mode is Mode.ASYNC:
        await asyncio.gather(run(function), run(function))
    else:
        with ThreadPoolExecutor(2) as pool:
            for call in [pool.submit(function) for _ in range(2)]:
                call.result()
    check(calls == 1, f"{calls} calls for two callers at the same time")


async def hedges(subject: Subject) -> None:
    slow = False
    after = 0

    def slow_once() -> Any:
        nonlocal slow, after
        if slow:
            slow = False
            return subject.pause()
        after += 1
        return ANSWER

    function = subject.build(slow_once, NARROW)
    for _ in range(LEARNT):
        await run(function)
    slow, after = True, 0
    began = time.monotonic()
    check(await run(function) == ANSWER, "the hedge's answer is lost")
    took = time.monotonic() - began
    check(not slow and after == 1 and took < PAUSE / 2, f"a slow call had {after} hedges, and took {took:.3f} s")


async def injects(subject: Subject) -> None:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return ANSWER

    try:
        await run(subject.build(count, NARROW._replace(share=1.0)))
    except Exception:  # whatever the fault is
        check(calls == 0, "the fault came after the call")
    else:
        raise Unproved("no fault")


async def calls_once(subject: Subject) -> None:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return ANSWER

    check(await run(subject.build(count, NARROW)) == ANSWER and calls == 1, f"{calls} calls instead of 1")


async def check_refused(subject: Subject, function: Function) -> None:
    """The function is refused now."""
    try:
        await run(function)
    except subject.contestant.refusals:
        return
    raise Unproved("not refused")


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unproved(otherwise)


def drive(proof: Awaitable[Any]) -> Any:
    """Run what never suspends, without an event loop: sync calls are proved as they are made, outside of one."""
    steps = proof.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    raise Unproved("a sync call waited for an event loop")
