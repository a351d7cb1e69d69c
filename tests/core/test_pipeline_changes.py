"""A pipeline whose policies, settings or clock change, and what can be found in it."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from core.gates import Log, Recorder, Wrapping
from holdfast.core.call import Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull
from holdfast.core.fuse import Around, Fragment, Version
from holdfast.core.pipeline import FOLDS_LIMIT, POLICIES_LIMIT, Pipeline
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.retry import Retry
from holdfast.resilience.throttle import Throttle
from holdfast.resilience.timeout import Timeout


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


def test_folding_again_meanwhile_does_not_bring_replaced_policies_back() -> None:
    old, new = Recorder([], "old"), Meeting([], "new")
    pipeline = Pipeline("x", old)
    versions = [pipeline.version]
    other = threading.Thread(target=pipeline.compile)

    def compile_elsewhere() -> None:
        other.start()
        other.join(10)
        assert not other.is_alive()  # no lock is held over a policy's own code
        versions.append(pipeline.version)

    new.meanwhile = compile_elsewhere
    pipeline.replace(new)
    assert pipeline.policies == (new,)
    assert len({*versions, pipeline.version}) == 3


def test_a_pipeline_that_changes_whenever_it_is_folded_is_given_up() -> None:
    class Restless(Recorder):
        def fragment(self, asynchronous: bool) -> Fragment:
            if pipeline.policies:
                pipeline.version = Version()
            return super().fragment(asynchronous)

    steady = Recorder([], "steady")
    pipeline = Pipeline("x", steady)
    with pytest.raises(RuntimeError, match=f"'x' was changed {FOLDS_LIMIT} times"):
        pipeline.replace(Restless([], "restless"))
    assert pipeline.policies == (steady,)


def test_an_update_of_a_number_leaves_decorated_functions_as_fast_as_they_were() -> None:
    stack = Timeout(2.0), Retry(3), Breaker(), RateLimit(100), Bulkhead(25), AdaptiveLimit(), Throttle(), Fallback(1)
    pipeline = Pipeline("x", *stack)
    version = pipeline.version
    stack[0].update(3.0)
    stack[1].update(attempts=5)
    stack[2].update(open="9s")
    stack[3].update(rate=200)
    stack[4].update(limit=30)
    stack[5].update(initial=30)
    stack[6].update(k=3.0)
    assert pipeline.version is version
    stack[2].update(slow_call="1s")  # calls are timed from now on
    assert pipeline.version is not version


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


class Faulty(Limit):
    """Cannot be folded when it observes, or when it is told so."""

    broken = False

    def fragment(self, asynchronous: bool) -> Fragment:
        if self.broken or self.settings.observe:
            raise LookupError("cannot be folded")
        return super().fragment(asynchronous)


def test_an_update_that_cannot_be_folded_changes_nothing() -> None:
    faulty = Faulty()
    pipeline = Pipeline("x", faulty)
    version = pipeline.version
    with pytest.raises(LookupError, match="cannot be folded"):
        faulty.update(observe=True, name="other")
    assert (faulty.settings.observe, faulty.waits, faulty.name) == (False, False, "limit")
    assert pipeline.version is version
    assert version.current


def test_a_replacement_that_cannot_be_folded_changes_nothing() -> None:
    faulty, steady = Faulty(), Recorder([], "steady")
    faulty.broken = True
    pipeline = Pipeline("x", steady)
    decorated, version = pipeline(lambda: 5), pipeline.version
    with pytest.raises(LookupError, match="cannot be folded"):
        pipeline.replace(faulty, clock=VirtualClock())
    assert (pipeline.policies, pipeline.version, decorated()) == ((steady,), version, 5)
    assert version.current
    assert not faulty._users


def test_a_pipeline_that_cannot_be_folded_does_not_keep_the_others_from_it() -> None:
    limit, faulty = Limit(), Faulty()
    pipelines = [Pipeline(f"{number}", limit, *([faulty] if number % 2 else [])) for number in range(8)]
    faulty.broken = True
    with pytest.raises(LookupError, match="cannot be folded"):
        limit.update(observe=True)
    assert [pipeline.call(lambda: 5) for pipeline in pipelines[::2]] == [5] * 4


class Equal:
    """Something to call that takes itself for any other of its kind."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __call__(self, call: Call) -> None:
        self.log.append(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 0


def test_a_part_that_only_equals_the_former_one_is_folded_in() -> None:
    class Made(Limit):
        def apply(self, settings: GateSettings) -> None:
            self.part = Equal(log)

        def fragment(self, asynchronous: bool) -> Fragment:
            return Around(self.part)

    log: Log = []
    made = Made()
    decorated = Pipeline("x", made)(lambda: None)
    decorated()
    made.update(observe=True)
    decorated()
    assert log[0] is not log[1]
    assert log[1] is made.part


def test_a_classifier_and_a_clock_that_are_false_are_used_all_the_same() -> None:
    class Doubtful(VirtualClock):
        def __bool__(self) -> bool:
            return False

    class Unsure(Classifier, frozen=True):
        def __bool__(self) -> bool:
            return False

    clock, unsure = Doubtful(), Unsure()
    pipeline = Pipeline("x")
    pipeline.replace(classify=unsure, clock=clock)
    assert pipeline.clock is clock
    assert pipeline.classifier is unsure


def test_an_exit_that_was_set_on_the_gate_itself_is_used() -> None:
    limit = Limit(observe=True)
    left: Log = []
    limit.exit = lambda call, token: left.append(token)  # type: ignore[method-assign]
    assert Pipeline("x", limit).call(lambda: 5) == 5
    assert left == ["admitted"]
