import gc
import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.resilience.sharing.sieve import Sieve, Slot

THREADS = 20


class Source:
    forgotten = False


class Held(Slot):
    __slots__ = ("__weakref__", "value")

    def __init__(self, key: Any, value: Any = None, until: float = float("inf")) -> None:
        super().__init__(key, until)
        self.value = value


SOURCE = Source()


def put(sieve: Sieve[Held], key: Any, value: Any = None, now: float = 0.0, until: float = float("inf")) -> Any:
    return sieve.put(Held(key, value, until), now, SOURCE)


def hit(sieve: Sieve[Held], key: Any) -> bool:
    entry = sieve.entries.get(key)
    if entry is not None:
        entry.visited = True
    return entry is not None


def order(sieve: Sieve[Held]) -> list[Any]:
    """The keys, oldest first, by the links in both directions."""
    upwards, slot = [], sieve._oldest
    while slot is not None:
        upwards.append(slot.key)
        slot = slot.newer
    downwards, slot = [], sieve._newest
    while slot is not None:
        downwards.append(slot.key)
        slot = slot.older
    assert upwards == downwards[::-1]
    assert set(upwards) == set(sieve.entries)
    return upwards


class Model:
    """Algorithm 1 of the paper, on a list: oldest first, the hand is a place in it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queue: list[list[Any]] = []  # key, visited, until
        self.hand: Any = None

    def find(self, key: Any) -> list[Any] | None:
        return next((item for item in self.queue if item[0] == key), None)

    def put(self, key: Any, now: float, until: float) -> Any:
        item = self.find(key)
        if item is not None:
            item[1:] = [True, until]
            return key
        gone = self.evict(now) if len(self.queue) == self.limit else None
        self.queue.append([key, False, until])
        return gone

    def evict(self, now: float) -> Any:
        place = 0 if self.hand is None else self.queue.index(self.hand)
        while self.queue[place][1] and self.queue[place][2] > now:
            self.queue[place][1] = False
            place = (place + 1) % len(self.queue)
        gone = self.queue[place]
        self.leave(gone)
        self.hand = self.queue[place] if place < len(self.queue) else None
        return gone[0]

    def leave(self, item: list[Any]) -> None:
        place = self.queue.index(item)
        del self.queue[place]
        if self.hand is item:
            self.hand = self.queue[place] if place < len(self.queue) else None


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "put", "hit", "hit", "hit", "drop", "advance"]),
            st.integers(0, 5),
            st.sampled_from([1.0, 3.0, 100.0, 100.0, 100.0]),
        ),
        min_size=20,
        max_size=60,
    ),
)
def test_it_keeps_and_evicts_as_the_algorithm_of_the_paper_does(
    limit: int, steps: list[tuple[str, int, float]]
) -> None:
    sieve: Sieve[Held] = Sieve(limit)
    model = Model(limit)
    now = 0.0
    for step, key, seconds in steps:
        if step == "put":
            gone = put(sieve, key, now=now, until=now + seconds)
            assert (None if gone is None else gone.key) == model.put(key, now, now + seconds)
        elif step == "hit":
            item = model.find(key)
            assert hit(sieve, key) is (item is not None)
            if item is not None:
                item[1] = True
        elif step == "drop":
            item = model.find(key)
            assert (sieve.drop(key) is not None) is (item is not None)
            if item is not None:
                model.leave(item)
        else:
            now += seconds
        assert order(sieve) == [item[0] for item in model.queue]
        assert (sieve._hand.key if sieve._hand else None) == (model.hand[0] if model.hand else None)


def test_an_entry_that_was_asked_for_outlives_a_flood_of_others() -> None:
    sieve: Sieve[Held] = Sieve(3)
    for key in "abc":
        put(sieve, key)
    hit(sieve, "a")
    assert [put(sieve, key).key for key in "de"] == ["b", "c"]
    assert order(sieve) == ["a", "d", "e"]


def test_one_mark_saves_an_entry_from_one_eviction() -> None:
    sieve: Sieve[Held] = Sieve(2)
    for key in "ab":
        put(sieve, key)
        hit(sieve, key)
    assert [put(sieve, key).key for key in "cde"] == ["a", "b", "c"]


def test_an_entry_that_is_of_no_use_any_more_goes_first_although_it_was_asked_for() -> None:
    sieve: Sieve[Held] = Sieve(2)
    put(sieve, "old", until=5.0)
    put(sieve, "new")
    hit(sieve, "old")
    assert put(sieve, "x", now=5.0).key == "old"


def test_a_new_value_takes_the_old_ones_place_and_counts_as_asked_for() -> None:
    sieve: Sieve[Held] = Sieve(2)
    put(sieve, "a", 1)
    put(sieve, "b")
    assert put(sieve, "a", 2).value == 1
    assert order(sieve) == ["a", "b"]
    assert put(sieve, "c").key == "b"
    assert sieve.entries["a"].value == 2
    assert sieve.evicted == 1


def test_it_misses_less_than_least_recently_used_on_a_skewed_load() -> None:
    # The paper's point (section 5): on power-law loads SIEVE misses less than LRU at every size of the cache.
    chance = random.Random(1)
    keys = range(10_000)
    requests = chance.choices(keys, [1 / (key + 1) for key in keys], k=60_000)
    for size in (100, 1000):
        sieve: Sieve[Held] = Sieve(size)
        recent: OrderedDict[int, None] = OrderedDict()
        misses = least_recently_used = 0
        for key in requests:
            if not hit(sieve, key):
                misses += 1
                put(sieve, key)
            if key in recent:
                recent.move_to_end(key)
            else:
                least_recently_used += 1
                recent[key] = None
                if len(recent) > size:
                    recent.popitem(last=False)
        assert misses < 0.95 * least_recently_used


def test_a_lower_limit_removes_what_is_too_much() -> None:
    sieve: Sieve[Held] = Sieve(5)
    for key in range(5):
        put(sieve, key)
    assert [entry.key for entry in sieve.bound(2)] == [0, 1, 2]
    assert put(sieve, 5).key == 3
    assert sieve.bound(10) == []
    assert put(sieve, 6) is None


def test_nothing_is_taken_from_a_source_that_is_forgotten() -> None:
    sieve: Sieve[Held] = Sieve(2)
    source = Source()
    source.forgotten = True
    assert sieve.put(Held("a"), 0.0, source) is None
    assert not sieve.entries


def test_what_is_removed_is_freed_at_once() -> None:
    sieve: Sieve[Held] = Sieve(2)
    gc.collect()
    gc.disable()
    try:
        seen = []
        for key in (0, 1, 2, 1, 3, 2, 4):
            put(sieve, key)
            seen.append(weakref.ref(sieve.entries[key]))
        assert sum(ref() is not None for ref in seen) == 2
        sieve.drop(4)
        assert sum(ref() is not None for ref in seen) == 1
        put(sieve, 5)
        seen.append(weakref.ref(sieve.entries[5]))
        sieve.clear()
        assert [ref() for ref in seen] == [None] * 8
    finally:
        gc.enable()


@pytest.mark.parametrize("keys", ["abcdefg", "aabbccd", "ababcab"])
def test_whoever_still_holds_a_removed_entry_holds_no_other(keys: str) -> None:
    sieve: Sieve[Held] = Sieve(3)
    first = put(sieve, keys[0]) or sieve.entries[keys[0]]
    seen = []
    for key in keys[1:] * 3:
        put(sieve, key)
        seen.append(weakref.ref(sieve.entries[key]))
    sieve.drop(first.key)
    assert first not in sieve.entries.values()
    sieve.clear()
    assert [ref() for ref in seen] == [None] * len(seen)


def test_values_are_given_up_outside_of_the_lock() -> None:
    sieve: Sieve[Held] = Sieve(1)
    seen: list[str] = []

    class Value:
        """Asks the sieve for something when it is freed, as a finalizer of the user's may."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            sieve.drop("nothing")
            seen.append(self.name)

    def work() -> None:
        for name in ("first", "second"):
            put(sieve, name, Value(name))
        put(sieve, "second", Value("third"))
        sieve.drop("second")
        put(sieve, "x", Value("fourth"))
        sieve.clear()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert seen == ["first", "second", "third", "fourth"]


@pytest.mark.usefixtures("switching_often")
def test_threads_never_break_the_order_or_the_limit() -> None:
    sieve: Sieve[Held] = Sieve(10)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            key = chance.randrange(30)
            if not hit(sieve, key):
                put(sieve, key)
            if chance.random() < 0.1:
                sieve.drop(chance.randrange(30))
            assert len(sieve.entries) <= 10

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order(sieve)) <= 10


class Moody:
    """A key that does something when it is hashed: what the test says."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mood: Callable[[], object] | None = None

    def __hash__(self) -> int:
        if self.mood is not None:
            self.mood()
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moody) and self.number == other.number


def in_order(sieve: Sieve[Held]) -> list[Any]:
    """The keys, oldest first; all that is linked is found, and nothing else."""
    linked, slot = [], sieve._oldest
    while slot is not None:
        linked.append(slot)
        slot = slot.newer
    assert {id(one) for one in linked} == {id(one) for one in sieve.entries.values()}
    assert len(linked) <= sieve.limit
    return [one.key for one in linked]


def test_a_key_that_raises_as_it_is_taken_in_leaves_everything_as_it_was() -> None:
    sieve: Sieve[Held] = Sieve(5)
    put(sieve, "a")
    key = Moody(1)
    hashed: list[int] = []

    def second_time() -> None:
        hashed.append(1)
        if len(hashed) == 2:
            raise ValueError("hash")

    key.mood = second_time
    with pytest.raises(ValueError, match="hash"):
        put(sieve, key)
    assert in_order(sieve) == ["a"]


@pytest.mark.parametrize("how", ["changes", "raises"])
def test_keys_that_cannot_be_found_any_more_go_when_one_of_them_is_evicted(how: str) -> None:
    sieve: Sieve[Held] = Sieve(4)
    keys = [Moody(number) for number in range(3)]
    for key in keys:
        put(sieve, key)
    put(sieve, "kept")
    sieve.entries["kept"].visited = True

    def refuse() -> None:
        raise ValueError("hash")

    for key in keys:
        if how == "changes":
            key.number = 7  # all the same now: one of them can be found by it
        else:
            key.mood = refuse
    put(sieve, "new")
    assert in_order(sieve) == ([keys[1]] if how == "changes" else []) + ["kept", "new"]
    assert sieve.evicted == (2 if how == "changes" else 3)
    for number in range(10):
        put(sieve, number)
        in_order(sieve)


@pytest.mark.parametrize("change", ["drop", "clear", "bound", "put"])
def test_a_change_that_comes_in_the_middle_of_another_is_made_after_it(change: str) -> None:
    sieve: Sieve[Held] = Sieve(2)
    key = Moody(1)
    put(sieve, key)
    put(sieve, "b")
    told: list[Any] = []

    def meanwhile() -> None:
        key.mood = None
        if change == "drop":
            told.append(sieve.drop(key))
            told.append(sieve.drop("b"))
        elif change == "clear":
            told.extend(sieve.clear())
        elif change == "bound":
            told.extend(sieve.bound(1))
        else:
            told.append(put(sieve, "d"))

    key.mood = meanwhile
    gone = put(sieve, "c")  # evicts the one with the mood
    assert gone is not None
    assert gone.key is key
    assert [one for one in told if one is not None] == []
    assert in_order(sieve) == {"drop": ["c"], "clear": [], "bound": ["c"], "put": ["c", "d"]}[change]
