import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast import BulkheadFull, CircuitOpen, ConfigError, Pipeline, RateLimited, Retry, RetryBudget
from holdfast.config.document import Document
from holdfast.config.live import Live
from holdfast.config.schema import Schema
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.policy import Policy
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.timeout import Timeout
from holdfast.service.service import Service
from holdfast.supervisor.configuration import make_schema

FILE = "holdfast.toml"


def of(**pipelines: Any) -> Document:
    return Document.of({"pipelines": pipelines}, "file", FILE)


def bound(service: Service, document: Document, clock: VirtualClock | None = None) -> Live:
    live = Live(make_schema(), document, clock=clock or VirtualClock(), env={})
    service.bind(live)
    return live


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    VirtualClock().run(scene())


def shape(pipeline: Pipeline) -> list[str]:
    return [repr(policy) for policy in pipeline.policies]


def fail() -> None:
    raise OSError("down")


def test_a_pipeline_is_what_code_says_until_the_file_says_something() -> None:
    service = Service("shop")
    payments = service.pipeline("payments", Timeout("2s"), Bulkhead(3))
    assert payments.call(lambda: 5) == 5

    async def scene() -> None:
        live = bound(service, Document())
        assert shape(payments) == shape(Pipeline("x", Timeout("2s"), Bulkhead(3)))
        await live.propose(of(payments=[{"timeout": "1s"}]), who="ann")
        assert shape(payments) == shape(Pipeline("x", Timeout("1s")))
        await live.propose(of(), who="ann")
        assert shape(payments) == shape(Pipeline("x", Timeout("2s"), Bulkhead(3)))

    run(scene)


def test_a_pipeline_without_policies_in_code_has_those_of_the_file() -> None:
    service = Service("shop")
    payments = service.pipeline("payments")

    async def scene() -> None:
        bound(service, of(payments=["breaker"]))
        assert shape(payments) == shape(Pipeline("x", Breaker()))
        later = service.pipeline("later", Timeout(9))
        assert shape(later) == shape(Pipeline("x", Timeout(9)))

    run(scene)


def test_a_pipeline_that_is_asked_for_after_the_start_is_what_the_file_says() -> None:
    service = Service("shop")

    async def scene() -> None:
        live = bound(service, of(late=[{"timeout": "1s"}]))
        late = service.pipeline("late", Timeout("9s"))
        assert shape(late) == shape(Pipeline("x", Timeout("1s")))
        await live.propose(of(), who="ann")
        assert shape(late) == shape(Pipeline("x", Timeout("9s")))

    run(scene)


def test_a_breaker_stays_open_while_its_settings_change() -> None:
    clock = VirtualClock()
    service = Service("shop", clock=clock)
    payments = service.pipeline("payments", Breaker(consecutive=2, open="60s"))

    async def scene() -> None:
        live = bound(service, of(payments=[{"breaker": {"consecutive": 2, "open": "50s"}}]), clock)
        for _ in range(2):
            with pytest.raises(OSError, match="down"):
                payments.call(fail)
        await live.propose(of(payments=[{"timeout": "1s"}, {"breaker": {"consecutive": 3, "open": "50s"}}]), who="ann")
        with pytest.raises(CircuitOpen):
            payments.call(fail)
        await live.propose(of(), who="ann")
        with pytest.raises(CircuitOpen):
            payments.call(fail)
        # A file that leaves it out and takes it in again finds it as it was.
        await live.propose(of(payments=[{"timeout": "1s"}]), who="ann")
        with pytest.raises(OSError, match="down"):
            payments.call(fail)
        await live.propose(of(payments=["breaker"]), who="ann")
        with pytest.raises(CircuitOpen):
            payments.call(fail)

    clock.run(scene())


def test_a_rate_limit_keeps_what_was_spent_and_a_bulkhead_its_permits() -> None:
    clock = VirtualClock()
    service = Service("shop", clock=clock)
    payments = service.pipeline("payments")

    async def scene() -> None:
        live = bound(service, of(payments=[{"rate_limit": "2/h"}, {"bulkhead": 1}]), clock)
        go = asyncio.Event()
        held = asyncio.create_task(payments.acall(go.wait))
        await asyncio.sleep(0)
        await live.propose(of(payments=[{"bulkhead": 1}, {"rate_limit": "2/h"}, {"timeout": "1m"}]), who="ann")
        with pytest.raises(BulkheadFull):
            payments.call(int)
        go.set()
        await held
        assert payments.call(int) == 0
        with pytest.raises(RateLimited):
            payments.call(int)

    clock.run(scene())


def test_what_only_code_can_give_comes_back_with_its_policy() -> None:
    service = Service("shop")
    judge = Classifier(record=(KeyError,))
    payments = service.pipeline("payments", Fallback(value=7), Timeout(2), classify=judge)
    keyed = service.pipeline("keyed", RateLimit("1/h", key=lambda call: call.args[0]))

    async def scene() -> None:
        live = bound(service, of(payments=[{"timeout": "1s"}], keyed=["breaker"]))
        data = [{"classify": {"ignore": ["OSError"]}}, {"timeout": "1s"}]
        await live.propose(of(payments=data, keyed=[{"rate_limit": "1/m"}]), who="ann")
        assert (keyed.call(int, 1), keyed.call(int, 2)) == (1, 2)
        with pytest.raises(RateLimited):
            keyed.call(int, 2)
        assert payments.classifier is not judge
        await live.propose(of(payments=[{"timeout": "1s"}]), who="ann")
        assert payments.classifier is judge
        await live.propose(of(payments=data), who="ann")
        await live.propose(of(), who="ann")
        assert payments.call(fail) == 7
        assert payments.classifier is judge

    run(scene)


def test_what_the_file_says_in_place_of_code_goes_and_codes_is_back() -> None:
    service = Service("shop")
    budget = RetryBudget()
    makes = service.pipeline("makes", Fallback(function=lambda: "made"), Retry(2, budget=budget))

    def settings_of_retry() -> Any:
        return makes.find("retry").settings

    async def scene() -> None:
        live = bound(service, Document())
        assert makes.call(fail) == "made"
        await live.propose(of(makes=[{"fallback": {"value": 7}}, {"retry": {"budget": {"ratio": 0.2}}}]), who="ann")
        assert makes.call(fail) == 7
        assert settings_of_retry().budget is not budget
        await live.propose(of(makes=[{"fallback": {"value": 8}}, {"retry": 2}]), who="ann")
        assert makes.call(fail) == 8
        assert settings_of_retry().budget is budget
        await live.propose(of(), who="ann")
        assert makes.call(fail) == "made"

    run(scene)


def test_what_has_not_changed_is_left_alone() -> None:
    service = Service("shop")
    one, two = service.pipeline("one"), service.pipeline("two", Timeout(3))

    async def scene() -> None:
        live = bound(service, of(one=[{"timeout": 1}]))
        versions = one.version, two.version
        await live.propose(of(one=[{"timeout": 1}], other=["breaker"]), who="ann")
        assert (one.version, two.version) == versions
        await live.propose(of(one=[{"retry": True}]), who="ann")
        before = shape(one)
        await live.propose(of(one=[{"retry": 1}]), who="ann")  # 1 is not true
        assert shape(one) != before

    run(scene)


def test_a_change_that_no_policies_can_be_made_of_is_refused_and_changes_nothing() -> None:
    service = Service("shop")
    payments = service.pipeline("payments", Timeout(3))

    async def scene() -> None:
        live = bound(service, Document())
        before = payments.version
        with pytest.raises(ConfigError, match=r"holdfast.toml pipelines.payments\[0\].timeout.seconds: got '-1s'"):
            await live.propose(of(payments=[{"timeout": "-1s"}]), who="ann")
        assert payments.version is before

    run(scene)


def test_pipelines_that_the_schema_has_not_read_are_checked_all_the_same() -> None:
    service = Service("shop")
    payments = service.pipeline("payments", Timeout(3))
    schema = Schema({"settings": dict, "pipelines": dict})

    async def scene() -> None:
        with pytest.raises(ConfigError, match=r"holdfast.toml pipelines.payments\[0\]: got 5, expected one policy"):
            service.bind(Live(schema, of(payments=[5]), env={}))
        live = Live(schema, of(payments=["breaker"]), env={})
        service.bind(live)
        with pytest.raises(ConfigError, match=r"pipelines.other\[0\].tiemout: .* did you mean timeout"):
            await live.propose(of(payments=[], other=[{"tiemout": 5}]), who="ann")
        assert shape(payments) == shape(Pipeline("x", Breaker()))

    run(scene)


def test_a_name_that_no_code_asks_for_is_a_warning_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("shop")
    service.pipeline("payments")

    async def scene() -> None:
        live = bound(service, of(paymnets=["breaker"]))
        await live.propose(of(paymnets=["breaker"], zzz=["breaker"]), who="ann")

    with caplog.at_level(logging.WARNING, "holdfast.service"):
        run(scene)
    assert [record.getMessage() for record in caplog.records] == [
        "holdfast.toml pipelines.paymnets: the app asks for no pipeline of this name; did you mean payments?",
        "holdfast.toml pipelines.zzz: the app asks for no pipeline of this name; there are payments",
    ]


def test_the_same_name_is_the_same_pipeline_and_has_its_policies_from_one_place() -> None:
    service = Service("shop")
    payments = service.pipeline("payments", Timeout(3))
    assert service.pipeline("payments") is payments
    with pytest.raises(ConfigError, match="pipeline 'payments' policies: expected policies in one place only"):
        service.pipeline("payments", Timeout(4))
    with pytest.raises(ConfigError, match=r"pipeline name: .* write service\.pipeline"):
        service.pipeline(" ")
    with pytest.raises(ConfigError, match=r"pipeline name: "):
        service.pipeline(Timeout(3))  # type: ignore[arg-type]


def test_hooks_find_the_pipelines_as_they_are_now() -> None:
    service = Service("shop")
    payments = service.pipeline("payments")
    seen: list[list[str]] = []

    @service.on_change
    def look(pipelines: Any) -> None:
        seen.append(shape(payments))

    async def scene() -> None:
        live = bound(service, Document())
        await live.propose(of(payments=["breaker"]), who="ann")

    run(scene)
    assert seen == [shape(Pipeline("x", Breaker()))]


POLICIES: dict[str, st.SearchStrategy[Any]] = {
    "timeout": st.sampled_from(["1s", "2s"]),
    "bulkhead": st.integers(1, 3),
    "rate_limit": st.sampled_from(["5/s", "9/m"]),
}


def rows(kinds: list[str]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(*(st.fixed_dictionaries({kind: POLICIES[kind]}) for kind in kinds)).map(list)


ROWS = st.lists(st.sampled_from(sorted(POLICIES)), unique=True, max_size=3).flatmap(rows)


@settings(max_examples=examples(60), deadline=None)
@given(steps=st.lists(st.none() | ROWS, max_size=6), seed=st.integers(0, 2**32))
def test_after_any_changes_a_pipeline_is_what_the_last_one_says(steps: list[Any], seed: int) -> None:
    """Beside a model that makes everything anew each time; and what code gave is the same object all the way."""
    dice = random.Random(seed)
    whole: list[Policy[Any]] = [Timeout("7s"), Bulkhead(7), RateLimit("7/s")]
    given = dice.sample(whole, dice.randrange(4))
    by_kind = {policy.kind: policy for policy in given}
    service = Service("shop")
    pipeline = service.pipeline("p", *given)
    first = shape(pipeline)

    async def scene() -> None:
        live = bound(service, Document())
        for step in steps:
            await live.propose(of() if step is None else of(p=step), who="ann")
            if step is None:
                assert shape(pipeline) == first
                assert all(one is other for one, other in zip(pipeline.policies, given, strict=True))
            else:
                other = Service("other")
                fresh = other.pipeline("p")
                bound(other, of(p=step))
                assert shape(pipeline) == shape(fresh)
                assert all(by_kind.get(policy.kind, policy) is policy for policy in pipeline.policies)

    run(scene)
