import asyncio
import logging
import random
import threading
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, AsyncHandler, Handler, Verdict
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import colour, use_deadline
from holdfast.core.errors import CircuitOpen, DeadlineExceeded, FaultInjected
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy
from holdfast.core.settings import PolicySettings
from holdfast.resilience.cache import Cache
from holdfast.resilience.fault import Fault, Injected
from holdfast.resilience.retry import Retry
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.witness import Witness

COUNTERS = ("injected", "delayed", "aborted", "corrupted")
THREADS = 50


def real(*args: Any) -> Any:
    return ("real", *args)


async def real_async(*args: Any) -> Any:
    await asyncio.sleep(0)
    return ("real", *args)


def counts(policy: Fault) -> tuple[int, ...]:
    return tuple(policy.snapshot()[name] for name in COUNTERS)


def faults(call: Any, times: int = 100) -> list[bool]:
    """Whether each of so many calls failed."""
    seen = []
    for number in range(times):
        try:
            assert call(number) == ("real", number)
            seen.append(False)
        except FaultInjected:
            seen.append(True)
    return seen


@pytest.mark.parametrize("settings", [{}, {"rate": 1, "enabled": False}], ids=["no rate", "disabled"])
def test_turned_off_it_is_not_there(settings: Any, run_async: RunAsync) -> None:
    policy = Fault(**settings)
    pipeline = Pipeline("x", policy)
    assert pipeline.call(real, 1) == ("real", 1)
    assert run_async(pipeline.acall(real_async, 1)) == ("real", 1)
    assert counts(policy) == (0, 0, 0, 0)
    # The very same code runs as in a pipeline without it.
    bare = Pipeline("x")
    assert pipeline.run.__code__ == bare.run.__code__ != Pipeline("x", Fault(1.0)).run.__code__
    assert pipeline.run_async.__code__ == bare.run_async.__code__
    assert pipeline(real).__code__ == bare(real).__code__


def test_the_share_of_calls_that_fail_is_the_rate_and_the_same_for_a_seed() -> None:
    seed = 11
    first = faults(Pipeline("x", Fault(0.3, random=seed))(real), 2000)
    again = faults(Pipeline("x", Fault(0.3, random=random.Random(seed)))(real), 2000)
    other = faults(Pipeline("x", Fault(0.3, random=seed + 1))(real), 2000)
    assert first == again != other
    chance = random.Random(seed)
    assert first == [chance.random() < 0.3 for _ in range(2000)]
    assert 540 < sum(first) < 660, f"seed {seed}"


def test_it_is_turned_on_and_off_while_it_is_in_use() -> None:
    policy = Fault()
    call = Pipeline("x", policy)(real)
    assert not any(faults(call))
    policy.update(rate=1.0)
    assert all(faults(call))
    policy.update(enabled=False)
    assert not any(faults(call))
    policy.update(enabled=True)
    assert all(faults(call))
    policy.update(rate=0.0)
    assert not any(faults(call))
    assert counts(policy) == (200, 0, 200, 0)
    assert policy.snapshot()["rate"] == 0.0


def test_a_seeded_sequence_goes_on_when_settings_change() -> None:
    policy = Fault(0.5, random=3)
    call = Pipeline("x", policy)(real)
    seen = faults(call, 50)
    policy.update(name="other")
    seen += faults(call, 50)
    assert seen == faults(Pipeline("x", Fault(0.5, random=3))(real), 100)


@pytest.mark.parametrize(
    ("abort", "kind", "text"),
    [
        (None, FaultInjected, "('fault', 'a fault was injected')"),
        (True, FaultInjected, "('fault', 'a fault was injected')"),
        (ConnectionResetError, ConnectionResetError, "fault: a fault was injected"),
        ("ConnectionResetError", ConnectionResetError, "fault: a fault was injected"),
        (CircuitOpen, CircuitOpen, "fault: a fault was injected"),
        (lambda call: KeyError(call.args[0]), KeyError, "7"),
        (lambda call: "nothing", TypeError, "fault: the function given as abort made 'nothing', which is no exception"),
    ],
)
def test_calls_fail_with_the_exception_that_was_asked_for(
    abort: Any, kind: type[Exception], text: str, run_async: RunAsync
) -> None:
    policy = Fault(1.0, abort=abort)
    with pytest.raises(kind) as caught:
        Pipeline("x", policy)(real)(7)
    assert str(caught.value) == text
    with pytest.raises(kind):
        run_async(Pipeline("x", policy)(real_async)(7))
    assert counts(policy) == (2, 0, 2, 0)


def test_each_fault_is_an_exception_of_its_own() -> None:
    call = Fault(1.0)(real)
    errors = []
    for _ in range(3):
        with pytest.raises(FaultInjected) as caught:
            call()
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3


def test_calls_wait_for_a_fixed_time_or_one_in_a_range(run_async: RunAsync) -> None:
    clock = VirtualClock()
    policy = Fault(1.0, delay=3, random=1)
    call = Pipeline("x", policy, clock=clock)(real)
    began = clock.now()
    assert call(1) == ("real", 1)
    assert clock.now() - began == 3
    policy.update(delay=(1, 2))
    took = []
    for _ in range(100):
        began = clock.now()
        call()
        took.append(clock.now() - began)
    assert 1 <= min(took) < 1.1
    assert 1.9 < max(took) < 2
    assert run_async(Pipeline("x", Fault(1.0, delay=0.001))(real_async)(1)) == ("real", 1)
    assert counts(policy) == (101, 101, 0, 0)


def test_a_coroutine_waits_without_blocking_its_loop() -> None:
    clock = VirtualClock()
    call = Pipeline("x", Fault(1.0, delay=5), clock=clock)(real_async)

    async def main() -> float:
        began = clock.now()
        await asyncio.gather(*(call(number) for number in range(10)))
        return clock.now() - began

    assert clock.run(main()) == 5


def test_a_delay_and_an_exception_come_one_after_the_other() -> None:
    clock = VirtualClock()
    policy = Fault(1.0, delay=3, abort=ConnectionResetError)
    began = clock.now()
    with pytest.raises(ConnectionResetError):
        Pipeline("x", policy, clock=clock).call(real)
    assert clock.now() - began == 3
    assert counts(policy) == (1, 1, 1, 0)


@pytest.mark.parametrize("inside", [False, True])
def test_a_delay_ends_at_the_deadline(inside: bool) -> None:
    clock, outside, called = VirtualClock(), Witness(), []
    fault = Fault(1.0, delay=60)
    policies = (fault, Timeout(2)) if inside else (Timeout(2), fault)
    pipeline = Pipeline("x", outside, *policies, clock=clock)
    began = clock.now()
    with pytest.raises(DeadlineExceeded, match="fault: the deadline passed in an injected delay"):
        pipeline.call(lambda: called.append(1))
    assert clock.now() - began == 2
    with pytest.raises(DeadlineExceeded):
        clock.run(pipeline.acall(real_async))
    assert clock.now() - began == 4
    assert not called
    assert outside.verdicts == [FAILED, FAILED]


class Copying(Policy[PolicySettings]):
    """Runs a copy of the call, as policies do that run several at a time."""

    def wrap(self, inner: Handler) -> Handler:
        return lambda call: inner(call.copy())

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        return lambda call: inner(call.copy())


def test_a_delay_ends_at_the_deadline_that_holds_where_it_happens() -> None:
    clock, fault = VirtualClock(), Fault(1.0, delay=60)
    began = clock.now()
    pipeline = Pipeline("x", fault, Copying(PolicySettings()), Timeout(2), clock=clock)
    with pytest.raises(DeadlineExceeded, match="fault"):
        pipeline.call(real)
    assert clock.now() == began + 2

    async def ask() -> None:
        with use_deadline(began + 5):
            await Pipeline("x", fault, clock=clock).acall(real_async)

    with pytest.raises(DeadlineExceeded, match="fault"):
        clock.run(ask())
    assert clock.now() == began + 5


def test_a_delay_of_a_call_whose_deadline_has_passed_takes_no_time() -> None:
    clock = VirtualClock()
    began = clock.now()
    with use_deadline(began - 1), pytest.raises(DeadlineExceeded):
        Pipeline("x", Fault(1.0, delay=60), clock=clock).call(real)
    assert clock.now() == began


def test_a_cancellation_ends_a_delay_at_once(run_async: RunAsync) -> None:
    outside = Witness()
    call = Pipeline("x", outside, Fault(1.0, delay=3600))(real_async)

    async def main() -> None:
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task}, timeout=1)
        assert task.cancelled()

    run_async(main())
    assert outside.verdicts == [IGNORED]


def test_results_are_changed(run_async: RunAsync) -> None:
    policy = Fault(1.0, corrupt=lambda result: [*result, "corrupted"])
    assert Pipeline("x", policy).call(real, 1) == ["real", 1, "corrupted"]
    assert run_async(Pipeline("x", policy).acall(real_async, 1)) == ["real", 1, "corrupted"]
    assert counts(policy) == (2, 0, 0, 2)


def test_only_the_calls_that_it_is_meant_for_get_faults() -> None:
    policy = Fault(1.0)
    users, orders = Pipeline("users.get", policy)(real), Pipeline("orders", policy)(real)
    keyed = Pipeline("users.get", policy).bind(key=7)(real)

    def hit() -> tuple[bool, ...]:
        return tuple(faults(call, 1) == [True] for call in (users, orders, keyed))

    assert hit() == (True, True, True)
    policy.update(operations=("users.*", "others"))
    assert hit() == (True, False, True)
    policy.update(operations=("user", "get", "users.?"))
    assert hit() == (False, False, False)
    policy.update(operations=(), keys=(7, "x"))
    assert hit() == (False, False, True)
    policy.update(keys=(), when=lambda call: call.operation == "orders")
    assert hit() == (False, True, False)
    policy.update(when=None, colour="chaos")
    assert hit() == (False, False, False)
    with colour("chaos"):
        assert hit() == (True, True, True)
        assert faults(Pipeline("x", policy).bind(colour="")(real), 1) == [False]
    assert faults(Pipeline("x", policy).bind(colour="chaos")(real), 1) == [True]


def test_a_mistake_in_when_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    policy = Fault(1.0, when=lambda call: 1 / 0 > 0)
    with caplog.at_level(logging.ERROR):
        assert Pipeline("users", policy).call(real, 1) == ("real", 1)
    assert "fault: when failed on a call of users" in caplog.text
    assert counts(policy) == (0, 0, 0, 0)


def test_after_so_many_faults_there_are_no_more() -> None:
    policy = Fault(1.0, limit=3)
    call = Pipeline("x", policy)(real)
    assert faults(call, 5) == [True, True, True, False, False]
    policy.update(limit=4)
    assert faults(call, 5) == [True, False, False, False, False]


@pytest.mark.usefixtures("switching_often")
def test_threads_together_get_exactly_as_many_faults_as_allowed() -> None:
    policy = Fault(0.5, limit=500, random=1)
    call = Pipeline("x", policy)(real)
    seen: list[int] = []

    def run() -> None:
        seen.append(sum(faults(call, 100)))

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(seen) == 500
    assert counts(policy) == (500, 0, 500, 0)


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({}, OK),  # the classifier does not know FaultInjected: as an answer of the dependency
        ({"abort": OSError}, FAILED),
        ({"abort": KeyError}, IGNORED),
        ({"abort": DeadlineExceeded}, FAILED),
        ({"abort": CircuitOpen}, IGNORED),
        ({"corrupt": lambda result: "bad"}, FAILED),
        ({"corrupt": lambda result: "odd"}, OK),
        ({"corrupt": lambda result: 1 / 0}, OK),
    ],
)
def test_a_fault_is_judged_as_the_real_thing_would_be(settings: Any, verdict: Verdict) -> None:
    classify = Classifier(ignore=(KeyError,), record=(OSError,), failed=lambda result: result == "bad")
    witness, clock = Witness(), VirtualClock()
    pipeline = Pipeline("x", witness, Fault(1.0, delay=2, **settings), classify=classify, clock=clock)
    kind = settings.get("abort", Exception)
    for is_async in (False, True):
        began = clock.now()
        try:
            answer = clock.run(pipeline.acall(real_async)) if is_async else pipeline.call(real)
            assert answer in ("bad", "odd")
        except kind:
            assert "corrupt" not in settings or verdict is OK
        # Stamped when it happened, as a slow dependency's answer is.
        assert witness.calls[-1].now - began == 2 or verdict is OK
    assert witness.verdicts == [verdict] * 2


def test_inside_of_a_retry_chance_is_asked_for_each_attempt_and_outside_once_a_call() -> None:
    def attempts(*policies: Any) -> tuple[bool, int]:
        called: list[int] = []
        try:
            Pipeline("x", *policies).call(lambda: called.append(1))
        except ConnectionResetError:
            return False, len(called)
        return True, len(called)

    retry = Retry(3, backoff=0)
    hits = iter([0.0, 0.9])
    inside = Fault(0.5, abort=ConnectionResetError, random=hits.__next__)
    assert attempts(retry, inside) == (True, 1)
    hits = iter([0.0, 0.9])
    outside = Fault(0.5, abort=ConnectionResetError, random=hits.__next__)
    assert attempts(outside, retry) == (False, 0)
    assert (counts(inside), counts(outside)) == ((1, 0, 1, 0), (1, 0, 3, 0))


def test_the_call_is_as_it_was_when_the_fault_is_over(run_async: RunAsync) -> None:
    witness = Witness()
    pipeline = Pipeline("x", witness, Fault(1.0))
    with pytest.raises(FaultInjected):
        pipeline.call(real)
    with pytest.raises(FaultInjected):
        run_async(pipeline.acall(real_async))
    assert [call.fn for call in witness.calls] == [real, real_async]


def test_what_a_fault_corrupted_is_not_remembered_for_the_real_function() -> None:
    fault = Fault(1.0, corrupt=lambda result: "corrupted")
    call = Pipeline("x", fault, Cache())(real)
    assert call() == "corrupted"
    fault.update(rate=0.0)
    assert call() == ("real",)


def test_whoever_listens_hears_of_each_fault() -> None:
    clock, events = VirtualClock(), list[Any]()
    policy = Fault(1.0, delay=2)
    policy.listeners.subscribe(events.append)
    pipeline = Pipeline("users", policy, clock=clock)
    at, known = clock.wall(), ("fault", "users")
    pipeline.call(real)
    policy.update(delay=0, corrupt=lambda result: result)
    pipeline.call(real)
    policy.update(corrupt=None, abort="ConnectionResetError")
    with pytest.raises(ConnectionResetError):
        pipeline.call(real)
    assert events == [
        Injected(at, *known, "delay", 2.0, ""),
        Injected(at + 2, *known, "corrupt", 0.0, ""),
        Injected(at + 2, *known, "abort", 0.0, "ConnectionResetError"),
    ]
