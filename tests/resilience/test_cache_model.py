"""The cache against an obvious model: a list of results in the order in which they came, and a clock."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache

TTL = 10.0
STALE_IF_ERROR = 15.0
PAUSE = 2.0
NEGATIVE_TTL = 3.0
ENTRIES = 3


class Gone(Exception):
    """An answer that is remembered."""


class Result:
    def __init__(self, key: str, value: Any, made: float) -> None:
        self.key = key
        self.value = value
        self.made = made
        self.visited = False
        self.quiet_until = 0.0

    @property
    def bad(self) -> bool:
        return isinstance(self.value, Exception)

    @property
    def fresh_until(self) -> float:
        return self.made + (NEGATIVE_TTL if self.bad else TTL)

    @property
    def useful_until(self) -> float:
        return self.fresh_until + (0.0 if self.bad else STALE_IF_ERROR)


class Model:
    def __init__(self) -> None:
        self.results: list[Result] = []  # oldest first
        self.hand: Result | None = None
        self.loads = 0

    def find(self, key: str) -> Result | None:
        return next((result for result in self.results if result.key == key), None)

    def call(self, key: str, outcome: Any, now: float) -> Any:
        found = self.find(key)
        if found is not None and now < found.fresh_until:
            found.visited = True
            return found.value
        if found is not None and not found.bad and now < found.quiet_until:
            found.visited = True
            return found.value
        self.loads += 1
        if isinstance(outcome, Exception) and found is not None and not found.bad and now < found.useful_until:
            found.visited = True
            found.quiet_until = min(now + PAUSE, found.useful_until)
            return found.value
        if not isinstance(outcome, Exception) or isinstance(outcome, Gone):
            self.put(key, outcome, now)
        return outcome

    def put(self, key: str, value: Any, now: float) -> None:
        found = self.find(key)
        if found is not None:
            found.value, found.made, found.visited, found.quiet_until = value, now, True, 0.0
            return
        if len(self.results) == ENTRIES:
            self.evict(now)
        self.results.append(Result(key, value, now))

    def evict(self, now: float) -> None:
        place = 0 if self.hand is None else self.results.index(self.hand)
        while self.results[place].visited and now < self.results[place].useful_until:
            self.results[place].visited = False
            place = (place + 1) % len(self.results)
        del self.results[place]
        self.hand = self.results[place] if place < len(self.results) else None

    def drop(self, key: str) -> bool:
        found = self.find(key)
        if found is None:
            return False
        place = self.results.index(found)
        del self.results[place]
        if self.hand is found:
            self.hand = self.results[place] if place < len(self.results) else None
        return True


OUTCOMES = st.one_of(
    st.integers(0, 1000), st.builds(OSError, st.just("failed")), st.builds(Gone, st.just("not there any more"))
)
STEPS = st.one_of(
    st.tuples(st.just("call"), st.sampled_from("abcde"), OUTCOMES),
    st.tuples(st.just("call"), st.sampled_from("abc"), OUTCOMES),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 2.0, 3.0, 9.5, 10.0, 25.0]), st.none()),
    st.tuples(st.just("invalidate"), st.sampled_from("abcde"), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_it_answers_and_asks_as_the_model_does(steps: list[tuple[str, Any, Any]]) -> None:
    clock, model = VirtualClock(start=0.0), Model()
    cache = Cache(
        TTL,
        entries=ENTRIES,
        stale_if_error=STALE_IF_ERROR,
        pause=PAUSE,
        negative=Gone,
        negative_ttl=NEGATIVE_TTL,
        jitter=0,
        key=lambda call: call.args[0],
    )

    @Pipeline("x", cache, clock=clock)
    def ask(key: str, outcome: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    for name, what, outcome in steps:
        if name == "call":
            expected = model.call(what, outcome, clock.now())
            try:
                answer = ask(what, outcome)
            except (OSError, Gone) as error:
                answer = error
            if isinstance(expected, Exception):
                assert (type(answer), answer.args) == (type(expected), expected.args)
            else:
                assert answer is expected
        elif name == "advance":
            clock.advance(what)
        elif name == "invalidate":
            assert cache.invalidate(what) is model.drop(what)
        else:
            cache.clear()
            model.results.clear()
            model.hand = None
        assert cache.snapshot()["loads"] == model.loads
        assert set(cache._sieve.entries) == {result.key for result in model.results}
