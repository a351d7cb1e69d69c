"""Read by type checkers, not run: a decorated function keeps its exact signature, settings are checked."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

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
