from typing import Annotated, Any

from hypothesis import given
from hypothesis import strategies as st

from config.sections import NO_ENV, SCHEMA, values
from config.trees import TABLES, leaves_of
from holdfast.config.diff import ABSENT, CHANGES_LIMIT, changes
from holdfast.config.document import Document, same
from holdfast.config.mistakes import place_text
from holdfast.config.schema import Schema
from holdfast.core.settings import Settings, about

FREE = Schema({"a": dict})


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [str(change) for change in changes(values(**before), values(**after), SCHEMA).items]


def test_each_difference_is_told_with_before_and_after() -> None:
    assert told(
        {"admission": {"lanes": 4, "trusted_proxies": ["a"]}, "errors": {"x": "a", "y": "b"}},
        {"admission": {"lanes": 5, "trusted_proxies": ["a", "b"]}, "errors": {"y": "b", "z": "c"}},
    ) == [
        "admission.lanes: 4 -> 5 (needs a new generation)",
        "admission.trusted_proxies: ['a'] -> ['a', 'b']",
        f"errors.x: 'a' -> {ABSENT} (needs a new generation)",
        f"errors.z: {ABSENT} -> 'c' (needs a new generation)",
    ]


def test_a_route_that_comes_or_goes_is_one_change() -> None:
    a, b, c, d = ({"match": name} for name in "abcd")
    assert told({"routes": [a, b, c]}, {"routes": [a, d, b, c]}) == [f"routes[1]: {ABSENT} -> {{'match': 'd'}}"]
    assert told({"routes": [a, b, c]}, {"routes": [a, c]}) == [f"routes[1]: {{'match': 'b'}} -> {ABSENT}"]
    assert told({"routes": [a, b, c]}, {"routes": [a, {**b, "bulkhead": 3}, c]}) == [
        f"routes[1].bulkhead: {ABSENT} -> 3"
    ]
    assert told({"routes": [a, b]}, {"routes": []}) == [
        f"routes[0]: {{'match': 'a'}} -> {ABSENT}",
        f"routes[1]: {{'match': 'b'}} -> {ABSENT}",
    ]


def test_sections_and_the_need_of_a_generation_are_of_all_changes() -> None:
    before = {"errors": {str(number): "a" for number in range(CHANGES_LIMIT)}}
    found = changes(values(**before), values(admission={"lanes": 5}), SCHEMA)
    assert found.total == CHANGES_LIMIT + 1
    assert [str(change) for change in changes(values(), values(admission={"lanes": 5}), SCHEMA).items] == [
        f"admission.lanes: {ABSENT} -> 5 (needs a new generation)"
    ]
    many = {str(number): "a" for number in range(CHANGES_LIMIT + 50)}
    found = changes(values(errors=many), values(errors={}, routes=[{"match": "x"}]), SCHEMA)
    assert len(found.items) == CHANGES_LIMIT
    assert found.total == CHANGES_LIMIT + 51
    assert found.sections == {"errors", "routes"}
    assert not found.live
    assert changes(values(), values(routes=[{"match": "x"}]), SCHEMA).live


def test_nothing_changed_is_false() -> None:
    found = changes(values(errors={"a": "b"}), values(errors={"a": "b"}), SCHEMA)
    assert not found
    assert found.live
    assert found.sections == frozenset()


@given(TABLES, TABLES)
def test_the_changes_are_the_leaves_that_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = Document.of({"a": one}), Document.of({"a": other})
    found = changes(before, after, FREE)
    assert bool(found) == (not same(before.values, after.values))
    old, new = leaves_of({"a": one}), leaves_of({"a": other})
    differing = {
        place
        for place in old.keys() | new.keys()
        if place not in old or place not in new or not same(old[place], new[place])
    }
    paths = {change.path for change in found.items}
    for place in differing:
        # A difference is told at its place, at a table that came or went as a whole, or inside of a list.
        above = {place_text(place[:length]) for length in range(1, len(place) + 1)}
        assert above & paths or any(path.startswith(place_text(place)) for path in paths), place
    assert found.total <= len(leaves_of({"a": one})) + len(leaves_of({"a": other})) + 20 * len(differing)


@given(TABLES, TABLES, st.booleans())
def test_the_way_back_has_the_same_places(one: dict[str, Any], other: dict[str, Any], as_snapshots: bool) -> None:
    before: Any = Document.of({"a": one})
    after: Any = Document.of({"a": other})
    if as_snapshots:
        before, after = FREE.read(before, env=NO_ENV), FREE.read(after, env=NO_ENV)
    there, back = changes(before, after, FREE), changes(after, before, FREE)
    assert there.total == back.total
    assert sorted(map(repr, ((c.path, c.before, c.after) for c in there.items))) == sorted(
        map(repr, ((c.path, c.after, c.before) for c in back.items))
    )


def test_a_long_value_is_cut() -> None:
    (text,) = told({"errors": {}}, {"errors": {"a": "x" * 500}})
    assert len(text) < 150


class Item(Settings, frozen=True):
    a: int = 0
    b: Annotated[int, about("cold", live=False)] = 0


def test_an_item_with_a_setting_that_is_not_live_needs_a_generation() -> None:
    schema = Schema({"items": list[Item]})

    def live(before: list[Any], after: list[Any]) -> bool:
        return changes(Document.of({"items": before}), Document.of({"items": after}), schema).live

    assert live([], [{"a": 1}])
    assert not live([], [{"a": 1, "b": 1}])
    assert not live([{"a": 1, "b": 1}], [])
    assert live([{"a": 1, "b": 1}], [{"a": 2, "b": 1}])
    assert not live([{"a": 1, "b": 1}], [{"a": 1, "b": 2}])


def test_an_item_that_comes_twice_is_one_change() -> None:
    a = {"match": "a"}
    assert told({"routes": [a]}, {"routes": [a, a]}) == [f"routes[1]: {ABSENT} -> {{'match': 'a'}}"]
    assert told({"routes": [a, a]}, {"routes": [a]}) == [f"routes[1]: {{'match': 'a'}} -> {ABSENT}"]
