"""What is different between two configurations: place, before, after. Never with a secret in it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from holdfast.config.document import Document, same
from holdfast.config.mistakes import Place, place_text
from holdfast.config.schema import Schema
from holdfast.config.secret import BLOT
from holdfast.config.snapshot import Snapshot, redacted

CHANGES_LIMIT: Final = 200
"""Changes that are told; more are only counted."""
ABSENT: Final = "<absent>"
"""What is shown where there is no value."""


class Change(msgspec.Struct, frozen=True):
    """One difference, for people. ``live``: whether workers that are running can take it over."""

    path: str
    before: Any
    after: Any
    live: bool = True

    def __str__(self) -> str:
        later = "" if self.live else " (needs a new generation)"
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}{later}"


class Changes(msgspec.Struct, frozen=True):
    """All differences. ``items`` are the first ``CHANGES_LIMIT``, ``total`` counts all of them.

    ``sections`` are those that anything has changed in; ``live`` is false when a new generation is needed.
    """

    items: tuple[Change, ...]
    total: int
    sections: frozenset[str]
    live: bool

    def __bool__(self) -> bool:
        return self.total > 0


def changes(before: Snapshot | Document, after: Snapshot | Document, schema: Schema) -> Changes:
    """The differences from ``before`` to ``after``.

    Of snapshots, a secret whose file or variable holds another text now is one too. Lists are compared from both ends,
    so that an item that came or went is one change, and what was in the middle place by place.
    """
    items: list[Change] = []
    total = 0
    sections = set()
    live = True
    one, other = _Side(before), _Side(after)
    for place, old, new in _differences(one, other, schema):
        total += 1
        sections.add(str(place[0]) if place else "")
        here = all(schema.is_live(inner) for value in (old, new) for inner in _places(value, place))
        live = live and here
        if len(items) < CHANGES_LIMIT:
            items.append(Change(place_text(place), old, new, here))
    return Changes(tuple(items), total, frozenset(sections), live)


def _places(value: Any, place: Place) -> Iterator[Place]:
    """The places of all that is in ``value``."""
    yield place
    inside: Any = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, item in inside:
        yield from _places(item, (*place, key))


class _Side:
    """One of the two, with what is needed to look at it."""

    def __init__(self, given: Snapshot | Document) -> None:
        snapshot = given if isinstance(given, Snapshot) else None
        self.values: Mapping[str, Any] = (given.document if isinstance(given, Snapshot) else given).values
        self.secrets: Mapping[Place, str] = snapshot.secrets if snapshot is not None else {}
        self.unread = snapshot is None


def _differences(one: _Side, other: _Side, schema: Schema) -> Iterator[tuple[Place, Any, Any]]:
    found: set[Place] = set()
    for old_place, new_place, old, new in _walk(one.values, other.values, (), ()):
        place = new_place if new is not msgspec.UNSET else old_place
        found.add(place)
        yield place, _safe(old, old_place, one, schema), _safe(new, new_place, other, schema)
    for place, text in other.secrets.items():
        if place in one.secrets and one.secrets[place] != text and not _within(place, found):
            yield place, BLOT, BLOT


def _within(place: Place, found: set[Place]) -> bool:
    return any(place[:length] in found for length in range(len(place) + 1))


def _walk(old: Any, new: Any, old_place: Place, new_place: Place) -> Iterator[tuple[Place, Place, Any, Any]]:
    if same(old, new):
        return
    if new_place and isinstance(new_place[-1], str):
        # A table that came or went is all that came or went with it; an item of a list is told as one.
        old, new = _or_empty(old, new), _or_empty(new, old)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in (*old, *(name for name in new if name not in old)):
            before, after = old.get(name, msgspec.UNSET), new.get(name, msgspec.UNSET)
            yield from _walk(before, after, (*old_place, name), (*new_place, name))
    elif isinstance(old, list) and isinstance(new, list) and _tables(old) and _tables(new):
        yield from _walk_lists(old, new, old_place, new_place)
    else:
        yield old_place, new_place, old, new


def _walk_lists(old: list[Any], new: list[Any], old_place: Place, new_place: Place) -> Any:
    shorter = min(len(old), len(new))
    first = 0
    while first < shorter and same(old[first], new[first]):
        first += 1
    last = 0
    while last < shorter - first and same(old[-1 - last], new[-1 - last]):
        last += 1
    for number in range(first, max(len(old), len(new)) - last):
        before = old[number] if number < len(old) - last else msgspec.UNSET
        after = new[number] if number < len(new) - last else msgspec.UNSET
        yield from _walk(before, after, (*old_place, number), (*new_place, number))


def _or_empty(value: Any, other: Any) -> Any:
    return {} if value is msgspec.UNSET and isinstance(other, Mapping) and other else value


def _tables(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) for item in items)


def _safe(value: Any, place: Place, side: _Side, schema: Schema) -> Any:
    if value is msgspec.UNSET:
        return ABSENT
    shown = redacted(value, side.secrets, place)
    return _hidden(shown, place, schema) if side.unread else shown


def _hidden(value: Any, place: Place, schema: Schema) -> Any:
    """``value`` without what the schema knows to be secret: a document alone does not know it."""
    if isinstance(value, Mapping):
        if schema.is_secret(place):
            return value if set(value) <= {"file", "env"} else BLOT
        return {name: _hidden(item, (*place, name), schema) for name, item in value.items()}
    if isinstance(value, list) and not schema.is_secret(place):
        return [_hidden(item, (*place, number), schema) for number, item in enumerate(value)]
    if isinstance(value, str) and schema.may_hold_secret(place, value):
        return BLOT
    return BLOT if value is not None and schema.is_secret(place) else value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value in (ABSENT, BLOT) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
