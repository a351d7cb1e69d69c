import asyncio
from typing import Any

import pytest

from core.gates import Log, Recorder, Wrapping
from holdfast.core.call import FAILED, IGNORED, OK, Call, Verdict
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import Rejected
from holdfast.core.pipeline import Pipeline


def test_a_block_enters_and_leaves_the_gates() -> None:
    log: Log = []
    clock = VirtualClock(start=100.0)
    pipeline = Pipeline("x", Recorder(log, "a"), Recorder(log, "b", waits=True), clock=clock)
    with pipeline.guard(key="k") as guard:
        clock.advance(5)
        assert guard.call.key == "k"
    assert log == [("enter", "a"), ("admit", "b"), ("exit", "b", OK, 105.0), ("exit", "a", OK, 105.0)]


def test_an_async_block_may_wait() -> None:
    log: Log = []

    async def main() -> None:
        async with Pipeline("x", Recorder(log, "a", waits=True), Recorder(log, "b")).guard():
            await asyncio.sleep(0)

    asyncio.run(main())
    assert [entry[:2] for entry in log] == [("admit", "a"), ("enter", "b"), ("exit", "b"), ("exit", "a")]


def test_the_exception_of_a_block_is_classified_and_comes_out() -> None:
    log: Log = []
    pipeline = Pipeline("x", Recorder(log), classify=Classifier(ignore=(KeyError,)))
    with pytest.raises(OSError, match="no"), pipeline.guard():
        raise OSError("no")
    with pytest.raises(KeyError), pipeline.guard():
        raise KeyError
    assert [entry[2] for entry in log if entry[0] == "exit"] == [FAILED, IGNORED]


def test_a_block_can_say_that_it_failed() -> None:
    log: Log = []
    with Recorder(log).guard() as guard:
        guard.failed()
    assert log[-1][2] is FAILED


def test_a_refused_block_does_not_run_and_holds_nothing() -> None:
    log: Log = []
    with pytest.raises(Rejected), Pipeline("x", Recorder(log, "a"), Recorder(log, "b", refuses=True)).guard():
        log.append("ran")
    assert [entry[:2] for entry in log] == [("enter", "a"), ("exit", "a")]
    assert log[-1][2] is IGNORED


@pytest.mark.parametrize("pipeline", [Pipeline("x"), Pipeline("x", Recorder([]))], ids=["empty", "a gate"])
def test_a_guard_is_for_one_block(pipeline: Pipeline) -> None:
    guard = pipeline.guard()
    with guard, pytest.raises(RuntimeError, match="one block"), guard:
        pass
    with pytest.raises(RuntimeError, match="one block"), guard:
        pass


def test_an_interrupt_in_the_exit_of_one_gate_leaves_the_others() -> None:
    log: Log = []

    class Interrupted(Recorder):
        def exit(self, call: Call, token: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Pipeline("x", Recorder(log, "a"), Interrupted(log, "b")).guard():
        pass
    assert log[-1][:2] == ("exit", "a")


def test_policies_that_run_functions_cannot_guard_a_block() -> None:
    with pytest.raises(TypeError, match="wrapping"):
        Pipeline("x", Recorder([]), Wrapping([])).guard()


def test_a_field_that_a_call_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="no field"):
        Recorder([]).guard(kee=1)


def test_the_gates_are_left_also_when_the_classifier_fails() -> None:
    class Broken(Classifier, frozen=True):
        def of_error(self, error: BaseException, call: Call) -> Verdict:
            raise LookupError("broken")

    log: Log = []
    with pytest.raises(LookupError, match="broken"), Pipeline("x", Recorder(log), classify=Broken()).guard():
        raise OSError
    assert [entry[0] for entry in log] == ["enter", "exit"]
    assert log[1][2] is IGNORED
