import asyncio
import gc
from typing import Any

import pytest

from core.gates import Recorder, Twice
from holdfast.core.call import FAILED, IGNORED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.timeout import Timeout
from holdfast.testing import failing, recorded, slowed, without_waiting


def test_faults_take_turns_and_end() -> None:
    pipeline = Pipeline("x")
    seen: list[Any] = []
    with failing(pipeline, OSError, ValueError("v"), times=3):
        for _ in range(4):
            try:
                seen.append(pipeline.call(lambda: "fine"))
            except (OSError, ValueError) as error:
                seen.append(type(error))
    assert seen == [OSError, ValueError, OSError, "fine"]
    assert pipeline.policies == ()
    with pytest.raises(TypeError, match="needs the exceptions"), failing(pipeline):
        pass


def test_an_injected_fault_is_the_dependencys_failure() -> None:
    log: list[Any] = []
    pipeline = Pipeline("x", Recorder(log))
    with failing(pipeline, OSError("injected")), pytest.raises(OSError, match="injected"):
        pipeline.call(lambda: 1)
    assert log[-1][2] is FAILED


def test_an_injected_fault_is_judged_as_the_functions_own_would_be() -> None:
    log: list[Any] = []
    pipeline = Pipeline("x", Recorder(log), classify=Classifier(ignore=(KeyError,), record=(OSError,)))
    with failing(pipeline, KeyError, OSError, ValueError):
        for kind in (KeyError, OSError, ValueError):
            with pytest.raises(kind):
                pipeline.call(lambda: 1)
    assert [entry[2] for entry in log if entry[0] == "exit"] == [IGNORED, FAILED, OK]


def test_slow_attempts_meet_the_limit() -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", Timeout(2.0), clock=clock)

    async def answer() -> str:
        return "yes"

    async def main() -> None:
        with slowed(pipeline, 5.0, times=1):
            with pytest.raises(DeadlineExceeded):
                await pipeline.acall(answer)
            assert await pipeline.acall(answer) == "yes"
        with slowed(pipeline, 1.0):
            await pipeline.acall(answer)
        assert clock.now() == pytest.approx(3.0, abs=0.01)

    clock.run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_slow_attempts_meet_the_limit_also_where_nothing_takes_time(asynchronous: bool) -> None:
    pipeline = Pipeline("x", Timeout(1.0))

    async def answer() -> int:
        return 5

    with slowed(pipeline, 2.0), without_waiting(pipeline) as clock, recorded(pipeline) as calls:
        began = clock.now()
        with pytest.raises(DeadlineExceeded):
            asyncio.run(pipeline.acall(answer)) if asynchronous else pipeline.call(lambda: 5)
        assert clock.now() - began == pytest.approx(1.0)
    assert calls.last.attempts == [] or calls.last.attempts[0].verdict is FAILED
    with slowed(pipeline, 0.5), without_waiting(pipeline):
        assert pipeline.call(lambda: 5) == 5


def test_a_block_that_is_to_fail_does_not_run_and_is_a_failure() -> None:
    log: list[Any] = []
    pipeline = Pipeline("x", Recorder(log), clock=VirtualClock())
    with failing(pipeline, OSError("down"), times=1):
        with pytest.raises(OSError, match="down"), pipeline.guard():
            log.append("ran")
        with pipeline.guard():
            log.append("ran")
    assert [entry[2] if entry[0] == "exit" else entry for entry in log if entry[0] != "enter"] == [FAILED, "ran", OK]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slowed_block_begins_later(asynchronous: bool) -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", Recorder([]), clock=clock)
    seen: list[tuple[float, float]] = []

    async def main() -> None:
        async with pipeline.guard() as guard:
            seen.append((clock.now(), guard.call.now))

    with slowed(pipeline, 5.0):
        if asynchronous:
            clock.run(main())
        else:
            with pipeline.guard() as guard:
                seen.append((clock.now(), guard.call.now))
    assert seen == [(5.0, 5.0)]


@pytest.mark.parametrize("fault_first", [False, True])
def test_an_attempt_that_is_slowed_and_fails_does_so_late(fault_first: bool) -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", clock=clock)
    faults = failing(pipeline, OSError), slowed(pipeline, 5.0)
    first, second = faults if fault_first else faults[::-1]
    with first, second, pytest.raises(OSError):  # noqa: PT011 - it has no text
        pipeline.call(lambda: 5)
    assert clock.now() == 5.0
    assert pipeline.policies == ()


def test_calls_that_overlap_get_one_fault_each() -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", clock=clock)

    async def answer() -> float:
        return clock.now()

    async def main() -> None:
        with slowed(pipeline, 3.0, times=2):
            assert sorted(await asyncio.gather(*(pipeline.acall(answer) for _ in range(4)))) == [0.0, 0.0, 3.0, 3.0]

    clock.run(main())


def test_a_cancelled_delay_is_neutral_and_the_function_is_not_called() -> None:
    log: list[Any] = []
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", Recorder(log), clock=clock)

    async def answer() -> None:
        log.append("ran")

    async def main() -> None:
        with slowed(pipeline, 60.0):
            task = asyncio.create_task(pipeline.acall(answer))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert clock.now() == 1.0

    clock.run(main())
    assert [entry[:3] for entry in log] == [("enter", "gate"), ("exit", "gate", IGNORED)]


def test_one_exception_that_is_raised_often_does_not_grow() -> None:
    error = OSError("again")
    pipeline = Pipeline("x")
    lengths: list[int] = []
    with failing(pipeline, error):
        for _ in range(3):
            with pytest.raises(OSError, match="again"):
                pipeline.call(lambda: 5)
            gc.collect()
            frames, traceback = 0, error.__traceback__
            while traceback is not None:
                frames, traceback = frames + 1, traceback.tb_next
            lengths.append(frames)
    assert len(set(lengths)) == 1


def test_faults_meet_retries() -> None:
    pipeline = Pipeline("x", Twice(), clock=VirtualClock(start=0.0))
    with (
        recorded(pipeline) as calls,
        failing(pipeline, OSError),
        slowed(pipeline, 2.0, times=1),
        pytest.raises(OSError),  # noqa: PT011 - it has no text
    ):
        pipeline.call(lambda: 5)
    assert [(attempt.began, attempt.ended) for attempt in calls.last.attempts] == [(0.0, 2.0), (3.0, 3.0)]


@pytest.mark.parametrize("error", ["reset", 5, UnicodeDecodeError, Pipeline])
def test_what_cannot_be_raised_is_refused_before_a_policy_takes_it_for_a_failure(error: Any) -> None:
    pipeline = Pipeline("x")
    with pytest.raises(TypeError, match=r"no exception|without arguments"), failing(pipeline, OSError, error):
        raise AssertionError("not to run")
    assert pipeline.policies == ()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_delay_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="0 or more seconds"), slowed(Pipeline("x"), seconds):
        raise AssertionError("not to run")


def test_of_two_faults_the_one_that_was_named_first_goes_first() -> None:
    pipeline = Pipeline("x")
    seen: list[type[BaseException]] = []
    with failing(pipeline, OSError, times=1), failing(pipeline, KeyError):
        for _ in range(2):
            try:
                pipeline.call(lambda: 5)
            except (OSError, KeyError) as error:
                seen.append(type(error))
    assert seen == [OSError, KeyError]
