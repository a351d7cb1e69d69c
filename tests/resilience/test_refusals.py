"""What holds for the refusals of every gate."""

import asyncio
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.ratelimit import RateLimit


class Thing:
    """Something that can be watched as it goes."""


def opened(**settings: Any) -> Breaker:
    breaker = Breaker(**settings)
    breaker.trip(seconds=100.0)
    return breaker


def empty(**settings: Any) -> RateLimit:
    limit = RateLimit("1/h", **settings)
    assert limit.try_acquire()
    return limit


def full(**settings: Any) -> Bulkhead:
    bulkhead = Bulkhead(1, **settings)
    bulkhead.guard().__enter__()
    return bulkhead


REFUSING: dict[str, Callable[[], Policy[Any]]] = {
    "open breaker": opened,
    "forced open breaker": lambda: _forced(Breaker()),
    "empty bucket": empty,
    "empty log": lambda: empty(algorithm="sliding_log"),
    "empty bucket with a queue": lambda: empty(max_wait=0.001),
    "full bulkhead": full,
    "full bulkhead with a queue": lambda: full(queue=1, max_wait=0.001),
}


def _forced(breaker: Breaker) -> Breaker:
    breaker.force_open()
    return breaker


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def take(thing: Thing) -> None:
    raise AssertionError("the call was to be refused")


async def take_async(thing: Thing) -> None:
    raise AssertionError("the call was to be refused")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", REFUSING.values(), ids=REFUSING)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_refusal_frees_the_calls_arguments_at_once(make: Callable[[], Policy[Any]], asynchronous: bool) -> None:
    pipeline = Pipeline("x", make())
    thing = Thing()
    reference = weakref.ref(thing)

    async def ask(thing: Thing) -> None:
        try:
            await pipeline.acall(take_async, thing)
        except Rejected:
            return
        raise AssertionError("not refused")

    if asynchronous:
        asyncio.run(ask(thing))
    else:
        try:
            pipeline.call(take, thing)
        except Rejected:
            pass
        else:
            raise AssertionError("not refused")
    del thing
    assert reference() is None, "only the garbage collector would have freed it"


@pytest.mark.parametrize("make", REFUSING.values(), ids=REFUSING)
def test_a_refusal_says_who_why_and_what_it_went_by(make: Callable[[], Policy[Any]]) -> None:
    policy = make()
    with pytest.raises(Rejected) as caught:
        Pipeline("x", policy).call(take, Thing())
    refusal = caught.value
    assert refusal.policy == policy.name
    assert refusal.reason
    assert refusal.snapshot
    assert refusal.retry_after is None or refusal.retry_after > 0


def test_a_half_open_breaker_refuses_the_same_way() -> None:
    clock = VirtualClock()
    breaker = Breaker(probes=1)
    pipeline = Pipeline("x", breaker, clock=clock)
    breaker.trip(seconds=1.0)
    clock.advance(2)
    with pipeline.guard(), pytest.raises(Rejected, match="half-open"):
        pipeline.call(take, Thing())


def test_refusals_name_the_operation() -> None:
    held = Bulkhead(1)
    spent = RateLimit("1/h", burst=1)
    tripped = Breaker()
    tripped.trip()
    busy = AdaptiveLimit(initial=1, maximum=1)
    with held.guard(), spent.guard(), busy.guard():
        for policy in (held, spent, tripped, busy):
            with pytest.raises(Rejected) as caught:
                Pipeline("stock", policy).call(lambda: None)
            assert caught.value.operation == "stock"
            assert str(caught.value).startswith(f"stock: {policy.name}: ")
            with pytest.raises(Rejected, match=rf"^{policy.name}: "):
                policy.call(lambda: None)  # its own name is not said twice


def test_an_error_of_ones_own_gets_the_operation_once() -> None:
    anything: Any = Rejected
    assert anything().of("a").args == (None, None, None, None, "a")
    assert str(Rejected("gate", "full").of("a").of("b")) == "a: gate: full"
    again = pickle.loads(pickle.dumps(DeadlineExceeded("gate", "late").of("a")))
    assert (again.operation, again.reason) == ("a", "late")
