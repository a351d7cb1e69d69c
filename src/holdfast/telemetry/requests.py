"""How many requests there were, by route and outcome, and how long they took: plain numbers, read when asked for."""

import operator
from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

import msgspec

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds, in seconds and included, of the buckets of durations; one more bucket is for what took longer.

Those that OpenTelemetry's conventions advise for ``http.server.request.duration``, and two below them."""
CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Of a request by its status; ``none`` had no response, or a status that there is not."""
ROUTES_LIMIT: Final = 500
"""Routes that are counted by themselves; further ones are counted together, as ``OTHERS``."""
REASONS_LIMIT: Final = 50
"""Likewise reasons of refusals, of one route."""
NAME_LIMIT: Final = 200
"""Characters of the name of a route or reason; a longer one is cut."""
OTHERS: Final = "others"
LONGEST: Final = 1e9
"""Seconds; a duration above, below 0 or not a number counts as 0."""

# A row has the buckets, then the classes, then the sum of the durations: one list, as each look into an object costs.
_FIRST_CLASS: Final = len(BOUNDS) + 1
_SECONDS: Final = _FIRST_CLASS + len(CLASSES)
_PLACES: Final = {status: _FIRST_CLASS + status // 100 for status in range(100, 600)}
Row: TypeAlias = list[int | float]


class RouteCounts(msgspec.Struct, frozen=True):
    """What there was on one route. ``refused`` requests, by reason, are in none of the other numbers."""

    classes: dict[str, int]
    """Requests by ``CLASSES``; all that were not refused."""
    buckets: tuple[int, ...]
    """The same requests by duration: each in one bucket only, the first whose bound it does not exceed."""
    seconds: float
    """Sum of their durations."""
    refused: dict[str, int]


class RequestCounts(msgspec.Struct, frozen=True):
    """What there was on all routes, by their name. Can be sent, and added with ``added``."""

    routes: dict[str, RouteCounts]
    bounds: tuple[float, ...] = BOUNDS
    folded: int = 0
    """Requests that are counted as ``OTHERS`` because there were too many routes."""


class RequestCounters:
    """Counts the requests of one event loop; not thread-safe. Numbers only grow.

    At most ``routes`` routes are told apart: what is beyond, by order of appearance, is counted as ``OTHERS``.
    """

    __slots__ = ("_folded", "_limit", "_refused", "_rows")

    def __init__(self, *, routes: int = ROUTES_LIMIT) -> None:
        self._limit = routes
        self._rows: dict[str, Row] = {}
        self._refused: dict[str, dict[str, int]] = {}
        self._folded = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered with ``status`` (0: not at all) after ``seconds``."""
        row = self._rows.get(route)
        if row is None:
            row = self._rows[self._name(route)]
        if not 0.0 <= seconds <= LONGEST:
            seconds = 0.0
        row[bisect_left(BOUNDS, seconds)] += 1
        row[_PLACES.get(status, _FIRST_CLASS)] += 1
        row[_SECONDS] += seconds

    def refuse(self, route: str, reason: str) -> None:
        """A request that was refused because of ``reason``, before the app was called."""
        reasons = self._refused.get(route)
        if reasons is None:
            reasons = self._refused[self._name(route)]
        name = _room_for(reason, reasons, REASONS_LIMIT)
        reasons[name] = reasons.get(name, 0) + 1

    def snapshot(self) -> RequestCounts:
        """All numbers as they are now."""
        routes = {name: _counts(row, self._refused[name]) for name, row in self._rows.items()}
        return RequestCounts(routes, folded=self._folded)

    def _name(self, route: str) -> str:
        """The name that ``route`` is counted under. Makes its row."""
        name = _room_for(route, self._rows, self._limit)
        if name == OTHERS != route:
            self._folded += 1
        if name not in self._rows:
            self._rows[name] = [0] * _SECONDS + [0.0]
            self._refused[name] = {}
        return name


def added(counts: Iterable[RequestCounts], *, routes: int = ROUTES_LIMIT) -> RequestCounts:
    """The counts of several workers as one. At most ``routes`` routes are told apart, in the order in which they come.

    Raises ValueError when they have different bounds, as those of another version of Holdfast may.
    """
    total: dict[str, RouteCounts] = {}
    folded = 0
    for one in counts:
        if one.bounds != BOUNDS:
            raise ValueError(f"these durations are counted by other bounds, {one.bounds}, than {BOUNDS}")
        folded += one.folded
        for route, more in one.routes.items():
            name = _room_for(route, total, routes)
            if name == OTHERS != route:
                folded += sum(more.classes.values()) + sum(more.refused.values())
            total[name] = _sum(total[name], more) if name in total else more
    return RequestCounts(total, folded=folded)


def _room_for(name: str, known: Collection[str], limit: int) -> str:
    if name in known:
        return name
    name = name[:NAME_LIMIT]
    return name if name in known or len(known) < limit else OTHERS


def _counts(row: Row, refused: dict[str, int]) -> RouteCounts:
    whole = [int(number) for number in row[:_SECONDS]]
    classes = dict(zip(CLASSES, whole[_FIRST_CLASS:], strict=True))
    return RouteCounts(classes, tuple(whole[:_FIRST_CLASS]), row[_SECONDS], dict(refused))


def _sum(one: RouteCounts, other: RouteCounts) -> RouteCounts:
    refused = dict(one.refused)
    for reason, number in other.refused.items():
        name = _room_for(reason, refused, REASONS_LIMIT)
        refused[name] = refused.get(name, 0) + number
    return RouteCounts(
        classes={name: one.classes.get(name, 0) + other.classes.get(name, 0) for name in CLASSES},
        buckets=tuple(map(operator.add, one.buckets, other.buckets)),
        seconds=one.seconds + other.seconds,
        refused=refused,
    )
