"""What became of the demo's requests: answered, refused or lost, of each kind and of all."""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from holdfast.lab.histogram import Histogram

MAX_SAMPLES: Final = 20

Kind = Literal["orders", "parcels", "browsing"]
"""Placing an order, asking for one, looking at the products."""

REFUSALS: Final = ("status 429", "status 503")
"""An answer that says to come again later. It is no loss: the customer knows at once, and nothing was begun."""


class Count(msgspec.Struct):
    """The requests of one kind. ``latency`` is that of those that were answered, in seconds."""

    ok: int = 0
    refused: int = 0
    failed: int = 0
    latency: Histogram = msgspec.field(default_factory=Histogram)

    @property
    def requests(self) -> int:
        return self.ok + self.refused + self.failed

    @property
    def share(self) -> float:
        """What share was answered; 1.0 of none."""
        return self.ok / self.requests if self.requests else 1.0

    def add(self, other: "Count") -> None:
        """Count the other's requests too."""
        self.ok += other.ok
        self.refused += other.refused
        self.failed += other.failed
        self.latency.add(other.latency)


class Frame(msgspec.Struct):
    """What ended in a short time. ``at`` is seconds since the start; ``worst`` counts all, answered or not."""

    at: float = 0.0
    ok: int = 0
    refused: int = 0
    failed: int = 0
    worst: float = 0.0
    latency: Histogram = msgspec.field(default_factory=Histogram)
    kinds: dict[Kind, Count] = {}

    @property
    def requests(self) -> int:
        return self.ok + self.refused + self.failed

    def of(self, kind: Kind) -> Count:
        """The requests of one kind."""
        return self.kinds.setdefault(kind, Count())


class Tally(msgspec.Struct):
    """What ended in one step of the demo. Seconds; ``worst`` is the longest that anybody waited, in vain or not."""

    name: str
    began: float = 0.0
    ended: float = 0.0
    ok: int = 0
    refused: int = 0
    failures: dict[str, int] = {}
    worst: float = 0.0
    latency: Histogram = msgspec.field(default_factory=Histogram)
    samples: list[str] = []
    kinds: dict[Kind, Count] = {}

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def requests(self) -> int:
        return self.ok + self.refused + self.failed

    def of(self, kind: Kind) -> Count:
        """The requests of one kind."""
        return self.kinds.setdefault(kind, Count())

    def add(self, other: "Tally") -> None:
        """Count the other's requests too."""
        self.ok += other.ok
        self.refused += other.refused
        for kind, count in other.failures.items():
            self.failures[kind] = self.failures.get(kind, 0) + count
        self.worst = max(self.worst, other.worst)
        self.latency.add(other.latency)
        self.samples = (self.samples + other.samples)[:MAX_SAMPLES]
        self.ended = other.ended
        _add_kinds(self.kinds, other.kinds)


def together(frames: Iterable[Frame]) -> Frame:
    """One frame of several. ``at`` is that of the last one."""
    whole = Frame()
    for frame in frames:
        whole.at = frame.at
        whole.ok += frame.ok
        whole.refused += frame.refused
        whole.failed += frame.failed
        whole.worst = max(whole.worst, frame.worst)
        whole.latency.add(frame.latency)
        _add_kinds(whole.kinds, frame.kinds)
    return whole


def figures(tally: Tally) -> dict[str, object]:
    """A tally as plain values."""
    return {
        "requests": tally.requests,
        "refused": tally.refused,
        "failures": tally.failed,
        "failure_kinds": dict(sorted(tally.failures.items())),
        "p50_ms": _milliseconds(tally.latency.quantile(0.5)),
        "p99_ms": _milliseconds(tally.latency.quantile(0.99)),
        "worst_ms": _milliseconds(tally.worst),
        "kinds": {kind: plain(count) for kind, count in sorted(tally.kinds.items())},
        "samples": tally.samples,
    }


def plain(count: Count) -> dict[str, object]:
    """A count as plain values."""
    return {
        "answered": count.ok,
        "refused": count.refused,
        "failures": count.failed,
        "p99_ms": _milliseconds(count.latency.quantile(0.99)),
    }


def _add_kinds(into: dict[Kind, Count], other: dict[Kind, Count]) -> None:
    for kind, count in other.items():
        into.setdefault(kind, Count()).add(count)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 2)
