import asyncio
import contextlib
import functools
import gc
import inspect
import threading
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable, Generator
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.call import FAILED, IGNORED, OK, AsyncHandler, Call, Handler
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull, Rejected
from holdfast.core.fuse import Again, Around, Fragment
from holdfast.core.pipeline import POLICIES_LIMIT, Pipeline, pipeline_of
from holdfast.core.policy import Fused, Gate, Policy, accepts
from holdfast.core.settings import GateSettings, PolicySettings

Log = list[Any]


class Recorder(Gate[GateSettings]):
    """Writes down what it sees; refuses when told to."""

    kind = "recorder"

    def __init__(self, log: Log, name: str = "gate", *, refuses: bool = False, waits: bool = False) -> None:
        self.log = log
        self.refuses = refuses
        self.waits = waits
        super().__init__(GateSettings(name=name))

    def enter(self, call: Call) -> str:
        if self.refuses:
            raise Rejected(self.name, "told to")
        self.log.append(("enter", self.name))
        return self.name

    def admit(self, call: Call) -> str:
        self.log.append(("admit", self.name))
        return self.name

    async def admit_async(self, call: Call) -> str:
        await asyncio.sleep(0)
        return self.admit(call)

    def exit(self, call: Call, token: Any) -> None:
        assert token == self.name
        self.log.append(("exit", self.name, call.verdict, call.now))


class Silent(Gate[GateSettings]):
    """Has no exit."""

    def __init__(self, log: Log, name: str = "silent") -> None:
        self.log = log
        super().__init__(GateSettings(name=name))

    def enter(self, call: Call) -> None:
        self.log.append(("enter", self.name))


class Wrapping(Policy[PolicySettings]):
    """A policy that is no fragment."""

    kind = "wrapping"

    def __init__(self, log: Log, name: str = "wrapping") -> None:
        self.log = log
        super().__init__(PolicySettings(name=name))

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            self.log.append(("enter", self.name))
            try:
                return inner(call)
            finally:
                self.log.append(("exit", self.name, call.verdict, call.now))

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            self.log.append(("enter", self.name))
            try:
                return await inner(call)
            finally:
                self.log.append(("exit", self.name, call.verdict, call.now))

        return run


class Twice(Fused[PolicySettings]):
    """Tries a second time, after a second."""

    kind = "twice"

    def __init__(self) -> None:
        self.edge = inf
        self.count = 0
        self.begun = 0
        super().__init__(PolicySettings())

    def fragment(self, asynchronous: bool) -> Fragment:
        sleep = self._sleep if asynchronous else self._pause
        return Again(self._after, self._after, sleep, tally=self, begin=self._begin)

    def _begin(self, call: Call) -> None:
        self.begun += 1

    def _after(self, call: Call, outcome: Any, *known: object) -> float | None:
        return 1.0 if call.attempt == 1 else None

    def _pause(self, call: Call, seconds: float) -> None:
        call.clock.pause(seconds)

    async def _sleep(self, call: Call, seconds: float) -> None:
        await call.clock.sleep(seconds)


class Runner:
    """Runs a function under a pipeline in each of the forms that there are."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.clock = VirtualClock(start=100.0)

    def __call__(self, pipeline: Pipeline, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        if self.form == "decorated":
            return pipeline(fn)(*args, **kwargs)
        if self.form == "call":
            return pipeline.call(fn, *args, **kwargs)
        if self.form == "bound":
            return pipeline.bind(key="k")(fn)(*args, **kwargs)
        if self.form == "replaced":
            decorated = pipeline(fn)
            pipeline.compile()
            return decorated(*args, **kwargs)
        if self.form == "decorated async":
            return self.clock.run(pipeline(awaited)(*args, **kwargs))
        if self.form == "replaced async":
            decorated_async = pipeline(awaited)
            pipeline.compile()
            return self.clock.run(decorated_async(*args, **kwargs))
        if self.form == "bound async":
            return self.clock.run(pipeline.bind(key="k")(awaited)(*args, **kwargs))
        return self.clock.run(pipeline.acall(awaited, *args, **kwargs))


FORMS = [
    *("decorated", "call", "bound", "replaced"),
    *("decorated async", "acall", "bound async", "replaced async"),
]


@pytest.fixture(params=FORMS)
def run(request: pytest.FixtureRequest) -> Runner:
    return Runner(request.param)


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


def test_a_replaced_chain_serves_the_next_call_and_calls_in_flight_finish_on_theirs() -> None:
    log: Log = []
    clock = VirtualClock()
    old, new = Recorder(log, "old"), Recorder(log, "new")
    pipeline = Pipeline("x", old, clock=clock)

    @pipeline
    async def fn() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        running = asyncio.create_task(fn())
        await asyncio.sleep(0.5)
        pipeline.replace(new)
        await fn()
        await running

    clock.run(main())
    assert [entry[:2] for entry in log] == [("enter", "old"), ("enter", "new"), ("exit", "old"), ("exit", "new")]


def test_a_replaced_clock_is_that_of_the_next_call() -> None:
    log: Log = []
    gate = Recorder(log)
    gate.timed = True
    pipeline = Pipeline("x", gate)
    decorated = pipeline(lambda: None)
    pipeline.replace(gate, clock=VirtualClock(start=77.0))
    decorated()
    assert log[-1][3] == 77.0


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


class Meeting(Recorder):
    """Lets something happen in another thread while it is folded, or while others wait to be."""

    def __init__(self, log: Log, name: str) -> None:
        self.meanwhile: Callable[[], None] | None = None
        super().__init__(log, name)

    def fragment(self, asynchronous: bool) -> Fragment:
        fragment = super().fragment(asynchronous)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return fragment


def test_an_update_does_not_bring_replaced_policies_back() -> None:
    old, new = Recorder([], "old"), Meeting([], "new")
    pipeline = Pipeline("x", old)
    updating = threading.Thread(target=lambda: old.update(observe=True))

    def update() -> None:
        updating.start()
        while old.settings.observe is False:
            time.sleep(0)
        updating.join(0.05)  # it goes on to the lock that this replacement holds

    new.meanwhile = update
    pipeline.replace(new)
    updating.join(10)
    assert pipeline.policies == (new,)


def test_an_update_in_the_moment_of_a_replacement_is_folded_in() -> None:
    class Late(Meeting):
        def apply(self, settings: GateSettings) -> None:
            self.waits = settings.observe

    log: Log = []
    late = Late(log, "late")
    updating = threading.Thread(target=lambda: late.update(observe=True))
    pipeline = Pipeline("x")

    def update() -> None:
        updating.start()
        updating.join(0.05)

    late.meanwhile = update
    pipeline.replace(late)
    updating.join(10)
    pipeline.call(lambda: None)
    assert log[0] == ("admit", "late")


def test_what_cannot_be_a_pipeline_changes_nothing() -> None:
    log: Log = []
    gate = Recorder(log)
    pipeline = Pipeline("x", gate)
    with pytest.raises(TypeError, match="no policy"):
        pipeline.replace(Recorder)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stands twice"):
        pipeline.replace(gate, Recorder(log), gate)
    with pytest.raises(ValueError, match="the limit"):
        pipeline.replace(*(Recorder(log) for _ in range(POLICIES_LIMIT + 1)))
    pipeline.call(lambda: None)
    assert pipeline.policies == (gate,)
    assert len(log) == 2


def test_policies_are_found_by_name_or_kind() -> None:
    gate = Recorder([], "door")
    pipeline = Pipeline("x", Wrapping([]), gate)
    assert pipeline.find("door") is gate
    assert pipeline.find("recorder") is gate
    with pytest.raises(LookupError, match="it has wrapping, door"):
        pipeline.find("window")


def test_a_snapshot_has_every_policy_in_order() -> None:
    pipeline = Pipeline("x", Wrapping([]), Recorder([], "door"))
    assert [(entry["policy"], entry["kind"]) for entry in pipeline.snapshot()] == [
        ("wrapping", "wrapping"),
        ("door", "recorder"),
    ]
    assert pipeline.snapshot()[1]["refused"] == 0


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
    assert "result = (call.fn(*call.args, **kwargs)" in "".join(traceback.format_exception(caught.value))


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


def test_pipelines_are_freed_although_policies_know_them() -> None:
    gate = Recorder([])
    reference = weakref.ref(Pipeline("x", gate))
    gc.collect()
    assert reference() is None


class Limit(Gate[GateSettings]):
    """Waits or not, by its settings: another fragment after an update."""

    kind = "limit"

    @accepts(GateSettings)
    def __init__(self, settings: GateSettings) -> None:
        super().__init__(settings)

    def apply(self, settings: GateSettings) -> None:
        self.waits = settings.observe

    def enter(self, call: Call) -> str:
        error = BulkheadFull(self.name, "entered")
        raise error

    def admit(self, call: Call) -> str:
        return "admitted"


def test_an_update_that_changes_the_fragment_folds_the_pipelines_again() -> None:
    limit = Limit()
    pipeline = Pipeline("x", limit)
    decorated = pipeline(lambda: 5)
    with pytest.raises(BulkheadFull):
        decorated()
    limit.update(observe=True)
    assert decorated() == 5
    assert pipeline.call(lambda: 6) == 6


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
