"""What can be decorated or called with a pipeline, what becomes of it, and what is bound to a call."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Generator
from typing import Any

import pytest

from core.forms import Runner
from core.gates import Log, Recorder, Silent
from holdfast.core.call import IGNORED, Call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.pipeline import Pipeline, pipeline_of
from holdfast.resilience.breaker import Breaker


def test_the_call_carries_what_was_bound(run: Runner) -> None:
    seen: list[Call] = []

    class Spy(Silent):
        def enter(self, call: Call) -> None:
            seen.append(call)

    with deadline_within(5, now=100.0):
        run(Pipeline("orders", Spy([]), clock=run.clock), lambda: None)
    assert (seen[0].operation, seen[0].deadline, seen[0].now, seen[0].attempt) == ("orders", 105.0, 100.0, 1)
    assert seen[0].key == ("k" if run.form.startswith("bound") else None)


def test_a_field_that_a_call_does_not_have_cannot_be_bound() -> None:
    with pytest.raises(TypeError, match="no field 'kee'"):
        Pipeline("x").bind(kee=1)
    with pytest.raises(TypeError, match="no field 'fn' to bind; there are operation, key"):
        Pipeline("x").bind(fn=print)
    with pytest.raises(TypeError, match="deadline_within"):
        Pipeline("x").bind(deadline=5.0)


def test_without_a_name_a_pipeline_goes_by_the_functions() -> None:
    seen: list[str] = []

    class Spy(Silent):
        def enter(self, call: Call) -> None:
            seen.append(call.operation)

    @Spy([])
    def one() -> None: ...

    @Pipeline("", Spy([]))
    def two() -> None: ...

    @Pipeline("", Spy([])).bind(key=1)
    def three() -> None: ...

    def four() -> None: ...

    for fn in (one, two, three):
        fn()
    Pipeline("", Spy([])).call(four)
    assert [name.rpartition(".")[2] for name in seen] == ["one", "two", "three", "four"]


class Awaiting:
    async def __call__(self, value: int) -> int:
        return value


def test_a_decorated_function_stays_what_it_was() -> None:
    pipeline = Pipeline("x")

    @pipeline
    def plain(value: int, *, more: str = "") -> int:
        """Plainly."""
        return value

    @pipeline
    async def waiting(value: int) -> int:
        return value

    assert (plain.__name__, plain.__doc__) == ("plain", "Plainly.")
    assert str(inspect.signature(plain)) == "(value: int, *, more: str = '') -> int"
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(waiting)
    assert inspect.iscoroutinefunction(pipeline(functools.partial(waiting, 1)))
    assert inspect.iscoroutinefunction(pipeline(Awaiting()))
    assert inspect.iscoroutinefunction(pipeline.bind(key=1)(waiting))


def test_a_method_can_be_decorated() -> None:
    class Client:
        @Pipeline("x")
        def get(self, path: str) -> tuple["Client", str]:
            return self, path

    client = Client()
    assert client.get("/a") == (client, "/a")


def test_a_parameter_may_have_any_name() -> None:
    def fn(self: int, fn: int, call: int, args: int, kwargs: int, pipeline: int) -> int:
        return self + fn + call + args + kwargs + pipeline

    values = {"self": 1, "fn": 2, "call": 3, "args": 4, "kwargs": 5, "pipeline": 6}
    assert Pipeline("x")(fn)(**values) == 21
    assert Pipeline("x").bind(key=1)(fn)(**values) == 21


def test_generator_functions_are_refused_with_advice() -> None:
    def generate() -> Generator[int, None, None]:
        yield 1

    async def agenerate() -> Any:
        yield 1

    for fn in (generate, agenerate):
        with pytest.raises(TypeError, match="guard"):
            Pipeline("x")(fn)


def test_a_coroutine_that_nobody_would_run_is_an_error_and_no_success() -> None:
    log: Log = []

    async def waiting() -> None: ...

    def plain() -> Any:
        return waiting()

    for call in (lambda: Pipeline("x", Recorder(log)).call(waiting), Pipeline("x", Recorder(log))(plain)):
        with pytest.raises(TypeError, match=r"(waiting|plain) returned a coroutine"):
            call()
        assert log[-1][2] is IGNORED


def test_the_pipeline_of_a_decorated_function_can_be_had() -> None:
    def fn() -> None: ...

    pipeline, gate = Pipeline("x"), Recorder([])
    assert pipeline_of(pipeline(fn)) is pipeline
    assert pipeline_of(pipeline.bind(key=1)(fn)) is pipeline
    assert pipeline_of(gate(fn)).policies == (gate,)
    with pytest.raises(LookupError, match="not decorated"):
        pipeline_of(print)


def test_a_policy_is_not_taken_for_the_name_of_a_pipeline() -> None:
    with pytest.raises(TypeError, match="the name of a pipeline comes first"):
        Pipeline(Recorder([]), Recorder([]))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_what_is_no_function_cannot_be_decorated(kind: Any) -> None:
    def fn(*args: Any) -> Any:
        return args

    with pytest.raises(TypeError, match=f"write @{kind.__name__} above"):
        Pipeline("x")(kind(fn))
    with pytest.raises(TypeError, match="5 cannot be called"):
        Pipeline("x")(5)  # type: ignore[arg-type]


def test_a_policy_alone_is_a_decorator_and_a_caller() -> None:
    log: Log = []
    gate = Recorder(log)

    async def waiting() -> int:
        return 2

    async def main(awaitable: Awaitable[int]) -> int:
        return await awaitable

    assert gate(lambda: 1)() == 1
    assert gate.call(lambda: 1) == 1
    assert asyncio.run(main(gate.acall(waiting))) == 2
    assert len(log) == 6


def test_a_function_that_is_not_async_is_refused_before_it_is_judged() -> None:
    breaker = Breaker(failure_rate="off", consecutive=1)
    clock = VirtualClock()
    pipeline = Pipeline("x", breaker, clock=clock)

    def plain() -> int:
        return 5

    async def wrong() -> None:
        raise TypeError("of its own")

    anything: Any = plain
    with pytest.raises(TypeError, match="plain returned nothing to await; use call"):
        clock.run(pipeline.acall(anything))
    assert breaker.state == "closed"
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        clock.run(pipeline.acall(anything, 1))
    assert breaker.state == "open"
    breaker.reset()
    with pytest.raises(TypeError, match="of its own"):
        clock.run(pipeline.acall(wrong))
    assert breaker.state == "open"
