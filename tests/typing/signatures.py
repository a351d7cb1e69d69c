"""Read by type checkers, not run: a decorated function keeps its exact signature, settings are checked."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, assert_type

from holdfast import (
    AdaptiveLimit,
    Breaker,
    Bulkhead,
    Cache,
    Fallback,
    Fault,
    Hedge,
    Pipeline,
    RateLimit,
    Retry,
    RetryBudget,
    SingleFlight,
    Throttle,
    Timeout,
)
from holdfast.core.call import Call
from holdfast.core.duration import Duration
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings, Seconds, SecondsText, about
from holdfast.resilience.breaker import BreakerSettings
from holdfast.resilience.fallback import FallbackRule
from holdfast.resilience.retrying.backoff import Constant, Exponential, Linear, Listed

budget = RetryBudget(0.1, floor=3.0)
pipeline = Pipeline(
    "inventory",
    Fallback(0.0),
    Cache(30.0, stale=60.0),
    SingleFlight(),
    Timeout(2.0),
    Retry(3, on=(OSError, ValueError), budget=budget),
    Hedge(0.1),
    Throttle(),
    Breaker(0.5, window=10.0, consecutive=5),
    RateLimit("100/s", burst=200),
    RateLimit(100, key=lambda call: call.key),
    AdaptiveLimit(),
    Bulkhead(25, queue=10, max_wait=0.5),
    Fault(0.01),
)


@pipeline
def plain(a: int, *, b: str = "") -> float:
    return a + len(b)


@pipeline
async def waiting(a: int, *, b: str = "") -> float:
    return a + len(b)


@Timeout(1.0)
async def alone(a: int) -> str:
    return str(a)


@pipeline.bind(key="tenant")
async def bound(a: int) -> str:
    return str(a)


class WindowSettings(GateSettings, frozen=True):
    length: Annotated[Seconds, about("How long.", gt=0)] = Duration(600)
    pause: Annotated[SecondsText | None, about("How long after that.")] = None


class Window(Gate[WindowSettings]):
    @accepts(WindowSettings)
    def __init__(self, settings: WindowSettings) -> None:
        super().__init__(settings)

    def enter(self, call: Call) -> None:
        assert_type(self.settings.length, float)


class Client:
    @pipeline
    async def get(self, path: str) -> bytes:
        return path.encode()


async def use() -> None:
    assert_type(plain(1, b="x"), float)
    assert_type(await waiting(1, b="x"), float)
    assert_type(await alone(1), str)
    assert_type(await bound(1), str)
    assert_type(await Client().get("/"), bytes)
    assert_type(pipeline.call(plain, 1, b="x"), float)
    assert_type(await pipeline.acall(waiting, 1, b="x"), float)
    assert_type(await Timeout(1.0).acall(alone, 1), str)

    coroutine: Coroutine[Any, Any, float] = waiting(1)
    await coroutine
    callback: Callable[[int], float] = plain
    callback(1)

    plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain(1, c="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await waiting(1, b=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await pipeline.acall(waiting, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pipeline.call(plain)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    Timeout(1.0, name="total")
    Timeout(seconds=1.0)
    Timeout(1.0, sekonds=2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Timeout([])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(3, on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RateLimit("100/s", brust=200)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Bulkhead("many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Breaker(observe="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Timeout()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def durations() -> None:
    Timeout("2s")
    Timeout(2)
    Timeout(seconds="500ms", name="attempt")
    Cache("5m", stale="1h", stale_if_error=3600, pause="1s", refresh_timeout="10s", negative_ttl=0.5)
    Breaker(open="2s", open_max="1m", window=30, slow_call="800ms", half_open_timeout="1m")
    Breaker(slow_call=0.8)
    Breaker(slow_call=None)
    Throttle(window="30s", pass_every="500ms")
    RateLimit("100/s", max_wait="200ms", warm_up="1m")
    Bulkhead(5, queue=5, max_wait="250ms")
    AdaptiveLimit(target="20ms", window="100ms")
    Hedge("50ms", window="2m", min_delay="1ms")
    Hedge(0.05)
    Fallback(0, last_good="1h", rules=[FallbackRule(OSError, value=1)])
    Fault(0.1, delay="200ms")
    Retry(3, backoff="50ms", retry_after_limit="10s")
    Retry(3, backoff=["50ms", 0.2, "1s"])
    Retry(3, backoff=Exponential("50ms", cap="2s"))
    Retry(3, backoff=Linear("50ms", step="50ms"))
    Retry(3, backoff=Constant("50ms"))
    Retry(3, backoff=Listed(("50ms", 1)))
    RetryBudget(0.1, window="30s")
    Window("10m", pause="1m")
    Timeout(1.0).update("500ms")
    Timeout(1.0).update(seconds="500ms")
    Breaker().trip("maintenance", seconds="1m")

    settings = BreakerSettings(open="2s")
    assert_type(settings.open, float)
    assert_type(Timeout("2s").settings.seconds, float)

    Timeout(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Timeout(b"2s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Timeout(limt=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Cache(ttl=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Cache(stale=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Breaker(open=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Breaker(open=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Breaker(slow_call=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Breaker(failure_rat=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Hedge([])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Exponential({})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Window([])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    settings.open = 3.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Breaker().trip("maintenance", seconds=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
