"""What is measured: the policies, the stacks, the refusals; how each is built, and how it is proved to work."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from benchmarks.policies import proofs
from benchmarks.policies.contestant import ANSWER, ROOMY, Absent, Function, Mode, Sizes
from benchmarks.policies.proofs import Proof, Subject


def _answer() -> int:
    return ANSWER


async def _answer_async() -> int:
    return ANSWER


def trivial(mode: Mode) -> Function:
    """The function that everyone protects: it returns at once."""
    return _answer_async if mode is Mode.ASYNC else _answer


class Row(NamedTuple):
    """``method`` of the contestant builds it; ``refuse`` brings what it built to where every call is refused."""

    key: str
    title: str
    method: str
    proofs: tuple[Proof, ...]
    sizes: Sizes = ROOMY
    refuse: Callable[[Subject], Awaitable[Function]] | None = None

    async def ready(self, subject: Subject) -> Function:
        """What is measured."""
        if self.refuse is not None:
            return await self.refuse(subject)
        return subject.put(trivial(subject.mode), self.sizes)


async def _opened(subject: Subject) -> Function:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("it is down")

    function = subject.build(fail, ROOMY)
    await proofs.open_breaker(subject, function, lambda: calls)
    return function


async def _emptied(subject: Subject) -> Function:
    if subject.contestant.waits:
        raise Absent("lets the caller wait instead")
    function = subject.put(trivial(subject.mode), ROOMY._replace(rate=1, unit="hour"))
    await proofs.run(function)
    await proofs.check_refused(subject, function)
    return function


_TIMEOUT, _RETRY, _BREAKER = proofs.gives_up_slow_calls, proofs.tries_again, proofs.opens_after_failures
_LIMIT, _BULKHEAD = proofs.refuses_when_empty, proofs.holds_one_at_a_time

ROWS = (
    Row("nothing", "no policy in it", "nothing", (proofs.calls_once,)),
    Row("timeout", "Timeout", "timeout", (_TIMEOUT,)),
    Row("retry", "Retry", "retry", (_RETRY,)),
    Row("breaker", "Breaker", "breaker", (_BREAKER,)),
    Row("ratelimit", "RateLimit", "ratelimit", (_LIMIT,)),
    Row("bulkhead", "Bulkhead", "bulkhead", (_BULKHEAD,)),
    Row("adaptive", "AdaptiveLimit", "adaptive", (_BULKHEAD,)),
    Row("throttle", "Throttle", "throttle", (_BREAKER,)),
    Row("fallback", "Fallback", "fallback", (proofs.falls_back,)),
    Row("cache", "Cache, hit", "cache", (proofs.remembers,)),
    Row("singleflight", "SingleFlight", "singleflight", (proofs.shares_one_call,)),
    Row("hedge", "Hedge", "hedge", (proofs.hedges,)),
    Row("fault", "Fault, no hit", "fault", (proofs.injects,)),
    Row("two", "Retry+Breaker", "two", (_RETRY, _BREAKER)),
    Row("four", "Timeout+Retry+Breaker+Bulkhead", "four", (_TIMEOUT, _RETRY, _BREAKER, _BULKHEAD)),
    Row(
        "five",
        "Timeout+Retry+Breaker+RateLimit+Bulkhead",
        "five",
        (_TIMEOUT, _RETRY, _BREAKER, _LIMIT, _BULKHEAD),
    ),
    # Each gate's own part of the five: these with it against these without it. The four are the five but RateLimit.
    Row("but_breaker", "the five but Breaker", "but_breaker", (_TIMEOUT, _RETRY, _LIMIT, _BULKHEAD)),
    Row("but_bulkhead", "the five but Bulkhead", "but_bulkhead", (_TIMEOUT, _RETRY, _BREAKER, _LIMIT)),
    Row(
        "five_adaptive",
        "the five, AdaptiveLimit for Bulkhead",
        "five_adaptive",
        (_TIMEOUT, _RETRY, _BREAKER, _LIMIT, _BULKHEAD),
    ),
    Row("open", "refused: breaker open", "breaker", (), refuse=_opened),
    Row("empty", "refused: bucket empty", "ratelimit", (), refuse=_emptied),
)
"""In the order of the tables."""
