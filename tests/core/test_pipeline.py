"""What a folded pipeline does with one call: order, verdicts, stamps, repetition, cancellation."""

import asyncio
import contextlib
import gc
import traceback
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.forms import Runner
from core.gates import Log, Recorder, Silent, Twice, Wrapping
from holdfast.core.call import FAILED, IGNORED, OK, Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import Rejected
from holdfast.core.fuse import Around, Fragment
from holdfast.core.pipeline import POLICIES_LIMIT, Pipeline
from holdfast.core.policy import Fused, Policy
from holdfast.core.settings import PolicySettings


def test_the_order_of_reading_is_the_order_of_execution(run: Runner) -> None:
    log: Log = []
    gates = Recorder(log, "a"), Silent(log), Wrapping(log), Recorder(log, "b", waits=True), Recorder(log, "c")

    def fn(value: int, *, more: int = 0) -> int:
        log.append("fn")
        return value + more

    assert run(Pipeline("x", *gates, clock=run.clock), fn, 1, more=2) == 3
    assert [entry[:2] if isinstance(entry, tuple) else entry for entry in log] == [
        ("enter", "a"),
        ("enter", "silent"),
        ("enter", "wrapping"),
        ("admit", "b"),
        ("enter", "c"),
        "fn",
        ("exit", "c"),
        ("exit", "b"),
        ("exit", "wrapping"),
        ("exit", "a"),
    ]


def test_an_empty_pipeline_just_calls(run: Runner) -> None:
    assert run(Pipeline("x", clock=run.clock), lambda *args, **kwargs: (args, kwargs), 1, a=2) == ((1,), {"a": 2})


def test_every_gate_that_was_entered_is_left_with_the_verdict(run: Runner) -> None:
    log: Log = []

    def fn() -> None:
        run.clock.advance(5)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(Pipeline("x", Recorder(log, "a"), Recorder(log, "b"), clock=run.clock), fn)
    assert log[2:] == [("exit", "b", FAILED, 105.0), ("exit", "a", FAILED, 105.0)]


def test_a_refusal_further_in_is_ignored_further_out_and_leaves_nothing_held(run: Runner) -> None:
    log: Log = []
    pipeline = Pipeline("x", Recorder(log, "a"), Wrapping(log), Recorder(log, "b", refuses=True), clock=run.clock)
    with pytest.raises(Rejected, match="told to"):
        run(pipeline, lambda: log.append("fn"))
    assert log[2:] == [("exit", "wrapping", IGNORED, 100.0), ("exit", "a", IGNORED, 100.0)]


def test_the_end_of_a_success_is_stamped_only_where_somebody_wants_it(run: Runner) -> None:
    log: Log = []
    gate = Recorder(log, "a")

    def fn() -> None:
        run.clock.advance(5)

    began = run.clock.now()
    run(Pipeline("x", gate, clock=run.clock), fn)
    gate.timed = True
    run(Pipeline("x", gate, clock=run.clock), fn)
    assert log[1] == ("exit", "a", OK, began)
    assert log[3] == ("exit", "a", OK, began + 10)


def test_a_result_that_is_a_failure_is_returned_and_counted_as_one(run: Runner) -> None:
    log: Log = []
    pipeline = Pipeline("x", Recorder(log), classify=Classifier(failed=lambda result: result >= 500), clock=run.clock)
    assert run(pipeline, lambda: 503) == 503
    assert run(pipeline, lambda: 200) == 200
    assert [entry[2] for entry in log if entry[0] == "exit"] == [FAILED, OK]


def test_an_attempt_is_repeated_after_its_delay_with_fresh_stamps(run: Runner) -> None:
    log: Log = []
    seen: list[float] = []

    def fn() -> str:
        seen.append(run.clock.now())
        if len(seen) == 1:
            raise OSError("first")
        return "second"

    assert run(Pipeline("x", Twice(), Recorder(log), clock=run.clock), fn) == "second"
    assert seen == [100.0, 101.0]
    assert [entry[2] for entry in log if entry[0] == "exit"] == [FAILED, OK]


def test_a_failed_result_is_repeated_too_and_the_last_one_returned(run: Runner) -> None:
    results = iter([500, 501, 502])
    pipeline = Pipeline("x", Twice(), classify=Classifier(failed=lambda status: status >= 500), clock=run.clock)
    assert run(pipeline, lambda: next(results)) == 501


def test_the_last_error_comes_out(run: Runner) -> None:
    errors = iter([OSError("first"), OSError("second")])

    def fn() -> None:
        raise next(errors)

    with pytest.raises(OSError, match="second"):
        run(Pipeline("x", Twice(), clock=run.clock), fn)


def test_a_tally_is_counted_up_until_its_edge_and_told_beyond(run: Runner) -> None:
    twice = Twice()
    pipeline = Pipeline("x", twice, clock=run.clock)
    run(pipeline, lambda: None)
    twice.edge = run.clock.now()
    run(pipeline, lambda: None)
    assert (twice.count, twice.begun) == (1, 1)


def test_more_policies_than_one_function_can_nest_still_nest(run: Runner) -> None:
    log: Log = []
    policies: list[Policy[Any]] = [Recorder(log, str(number)) for number in range(POLICIES_LIMIT - 12)]
    policies += [Twice() for _ in range(12)]
    assert run(Pipeline("x", *policies, clock=run.clock), lambda: 7) == 7
    entered = [entry[1] for entry in log if entry[0] == "enter"]
    left = [entry[1] for entry in log if entry[0] == "exit"]
    assert entered == [str(number) for number in range(POLICIES_LIMIT - 12)]
    assert left == entered[::-1]


def test_a_cancelled_call_leaves_its_gates_at_once() -> None:
    log: Log = []
    clock = VirtualClock(start=0.0)

    async def main() -> None:
        task = asyncio.create_task(Pipeline("x", Recorder(log), Twice(), clock=clock).acall(asyncio.sleep, 60))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert log[-1] == ("exit", "gate", IGNORED, 1.0)


def test_a_traceback_shows_the_lines_of_the_generated_function() -> None:
    def fn() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the traceback is what counts
        Pipeline("x", Recorder([])).call(fn)
    assert "result = call.fn(*call.args, **kwargs)" in "".join(traceback.format_exception(caught.value))


def test_a_failing_call_leaves_no_cycle_behind() -> None:
    class Thing: ...

    def fn(thing: Thing) -> None:
        raise ValueError

    pipeline = Pipeline("x", Recorder([]), Twice(), clock=VirtualClock())
    gc.collect()
    gc.disable()
    try:
        thing = Thing()
        reference = weakref.ref(thing)
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            pipeline.call(fn, thing)
        del thing, caught
        assert reference() is None
    finally:
        gc.enable()


@given(st.lists(st.sampled_from(["ok", "refuse", "raise"]), max_size=12), st.booleans())
def test_whatever_happens_each_entered_gate_is_left_once_in_reverse_order(behaviours: list[str], fails: bool) -> None:
    log: Log = []

    class Odd(Recorder):
        def __init__(self, name: str, behaviour: str) -> None:
            super().__init__(log, name)
            self.behaviour = behaviour

        def enter(self, call: Call) -> str:
            if self.behaviour == "refuse":
                raise Rejected(self.name, "odd")
            if self.behaviour == "raise":
                raise KeyError(self.name)
            return super().enter(call)

    def fn() -> None:
        if fails:
            raise OSError

    odds = [Odd(str(number), behaviour) for number, behaviour in enumerate(behaviours)]
    with contextlib.suppress(Rejected, KeyError, OSError):
        Pipeline("x", *odds).call(fn)
    entered = [entry[1] for entry in log if entry[0] == "enter"]
    left = [entry[1] for entry in log if entry[0] == "exit"]
    first_bad = next((number for number, behaviour in enumerate(behaviours) if behaviour != "ok"), len(behaviours))
    assert entered == [str(number) for number in range(first_bad)]
    assert left == entered[::-1]


def test_fragments_that_replace_an_exception_do_so() -> None:
    class Translating(Fused[PolicySettings]):
        def __init__(self) -> None:
            super().__init__(PolicySettings())

        def fragment(self, asynchronous: bool) -> Fragment:
            return Around(lambda call: "token", self._exit, self._failed)

        def _exit(self, call: Call, token: Any) -> None:
            raise AssertionError("not on this path")

        def _failed(self, call: Call, token: Any, error: BaseException) -> BaseException:
            return LookupError(token)

    def fn() -> None:
        raise OSError

    with pytest.raises(LookupError, match="token") as caught:
        Pipeline("x", Translating()).call(fn)
    assert isinstance(caught.value.__cause__, OSError)
