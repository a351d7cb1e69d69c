"""Errors of hedged calls are freed as soon as nobody holds them, without the garbage collector's help."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.core.call import OK, bare_call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing.tasks import Outcome
from holdfast.resilience.racing.threads import Inbox
from holdfast.resilience.timeout import Timeout

PATIENCE = 30.0
errors: list["weakref.ref[BaseException]"] = []


class Down(OSError):
    """An error that is watched."""

    def __init__(self) -> None:
        errors.append(weakref.ref(self))


class Cancelled(asyncio.CancelledError):
    """A cancellation that is watched."""

    def __init__(self) -> None:
        errors.append(weakref.ref(self))


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    errors.clear()
    yield
    gc.enable()


async def tried(clock: VirtualClock, call: Any) -> None:
    """The task of the call ends with its error: then the error's frames must not hold the task, which holds it."""
    task = asyncio.ensure_future(call)
    await asyncio.wait([task])
    if not task.cancelled():
        assert task.exception() is not None
    del task, call
    await asyncio.sleep(1.0)


@pytest.mark.parametrize("delay", [0.1, 60.0])
@pytest.mark.parametrize("error", [Down, Cancelled])
def test_an_error_with_which_a_task_ends_is_freed_with_it(delay: float, error: type[BaseException]) -> None:
    clock = VirtualClock()

    async def fn() -> None:
        await asyncio.sleep(0.5)
        raise error()

    clock.run(tried(clock, Pipeline("x", Hedge(delay), clock=clock).acall(fn)))
    assert errors
    assert [known() for known in errors] == [None] * len(errors)


def test_an_error_that_is_an_answer_is_freed_too() -> None:
    clock = VirtualClock()

    async def fn() -> None:
        raise Down

    pipeline = Pipeline("x", Hedge(60.0), classify=Classifier(record=(KeyError,)), clock=clock)
    clock.run(tried(clock, pipeline.acall(fn)))
    assert [known() for known in errors] == [None]


def test_the_error_of_a_hedge_that_counts_is_freed_too() -> None:
    clock = VirtualClock()
    begun: list[int] = []

    async def fn() -> None:
        begun.append(1)
        await asyncio.sleep(60.0 if len(begun) == 1 else 0.0)
        raise Down

    pipeline = Pipeline("x", Timeout(30.0), Hedge(0.1), classify=Classifier(record=(KeyError,)), clock=clock)
    clock.run(tried(clock, pipeline.acall(fn)))
    assert [known() for known in errors] == [None]


def test_the_error_of_a_loser_in_a_thread_is_freed_as_soon_as_its_attempt_has_ended() -> None:
    release, freed = threading.Event(), threading.Event()
    begun: list[int] = []

    def fn() -> int:
        begun.append(1)
        if len(begun) == 1:
            assert release.wait(PATIENCE)
            error = Down()
            weakref.finalize(error, freed.set)
            try:
                raise error
            finally:
                del error
        return len(begun)

    hedge = Hedge(0.002)
    assert Pipeline("x", hedge).call(fn) == 2
    release.set()
    assert freed.wait(PATIENCE)
    hedge.close()


def test_an_error_that_is_raised_out_of_threads_is_freed_too() -> None:
    def fn() -> None:
        raise Down

    freed = threading.Semaphore(0)
    hedge = Hedge(60.0)
    with contextlib.suppress(Down):
        Pipeline("x", hedge).call(fn)
    for known in errors:
        error = known()
        if error is None:
            freed.release()
        else:
            weakref.finalize(error, freed.release)
        del error
    for _ in errors:  # the thread may have its frames for a moment longer
        assert freed.acquire(timeout=PATIENCE)
    hedge.close()
    assert len(errors) == 2


def test_what_comes_when_nobody_waits_is_not_kept() -> None:
    inbox = Inbox()
    outcome = Outcome(OK, 0.0)
    inbox.put(bare_call(), outcome)
    inbox.close()
    assert inbox.get(0.0) is None
    inbox.put(bare_call(), outcome)
    assert inbox.get(0.0) is None


def test_a_sync_call_whose_deadline_has_passed_is_not_begun() -> None:
    begun: list[int] = []
    hedge = Hedge(60.0)
    with deadline_within(0.0), pytest.raises(DeadlineExceeded, match="had passed before the call began") as caught:
        Pipeline("x", hedge).call(begun.append, 1)
    assert (begun, hedge.threads.started) == ([], 0)
    assert caught.value.snapshot["hedges"] == 0
