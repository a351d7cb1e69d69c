"""What a load saw: counts, latencies, gaps and failures, in segments between marks."""

from collections.abc import Iterable, Sequence

import msgspec

from holdfast.lab.histogram import Histogram

START = "start"
"""The name of the mark that stands at the beginning of every run."""
MAX_SAMPLES = 20
"""How many failures of each segment are kept in full; all are counted."""


class Failure(msgspec.Struct, frozen=True):
    """One request that got no whole and valid answer.

    ``at`` and ``waited`` are seconds, from the start of the run and of the request. ``served`` is the number
    of answers that the connection had given before: 0 is a fresh connection.
    """

    at: float
    kind: str
    detail: str
    waited: float
    served: int


class Second(msgspec.Struct):
    """One second of the run: the ``ok`` and ``failed`` requests that ended in it, and the worst latency."""

    ok: int = 0
    failed: int = 0
    worst: float = 0.0


class Segment(msgspec.Struct):
    """What happened from one mark to the next. A request belongs to the segment in which it ended.

    ``began`` and ``ended`` are seconds from the start of the run. ``connections`` holds, for each client, the
    serial number of the connection it had at the beginning of the segment (0: none).
    """

    mark: str
    began: float
    ended: float = 0.0
    ok: int = 0
    failures: dict[str, int] = {}
    latency: Histogram = msgspec.field(default_factory=Histogram)
    gap: float = 0.0
    opened: int = 0
    idle_closed: int = 0
    announced: int = 0
    connections: list[int] = []
    samples: list[Failure] = []


class Report(msgspec.Struct, kw_only=True):
    """The result of a load. Times are float seconds; ``began`` is counted from the start of the run.

    - ``requests`` = ``ok`` + ``failed``. ``failures`` counts them by kind: refused, reset, eof, truncated,
      timeout, ``status NNN``, protocol, body, local (the client ran out of ports or descriptors), error.
    - ``gap``: the longest time between two successes in a row, the edges of the report included.
    - ``opened``: connections opened. ``kept``: clients that still had their first connection at the end.
      ``idle_closed``: connections the server closed between requests, noticed before a request was sent on
      them: no failure. ``announced``: answers that said ``Connection: close``.
    - ``missed``: requests that a paced load should have started and, for want of a free user, never did.
    - ``started``: Unix time; ``began`` and ``duration`` delimit the part of the run this report covers.
    """

    started: float
    began: float
    duration: float
    requests: int
    ok: int
    failed: int
    failures: dict[str, int]
    latency: Histogram
    gap: float
    opened: int
    kept: int
    idle_closed: int
    announced: int
    missed: int
    segments: list[Segment]
    final: list[int]
    series: list[Second]

    @property
    def samples(self) -> list[Failure]:
        """The first failures in full: at most MAX_SAMPLES of each segment, in the order of time."""
        return [failure for segment in self.segments for failure in segment.samples]

    @property
    def rate(self) -> float:
        """Successes a second."""
        return self.ok / self.duration if self.duration > 0 else 0.0

    @property
    def p50(self) -> float:
        return self.latency.quantile(0.50)

    @property
    def p90(self) -> float:
        return self.latency.quantile(0.90)

    @property
    def p99(self) -> float:
        return self.latency.quantile(0.99)

    @property
    def p999(self) -> float:
        return self.latency.quantile(0.999)

    @property
    def worst(self) -> float:
        """The longest latency of a success, exact."""
        return self.latency.worst

    def marks(self) -> list[str]:
        """The names of the marks in order, START first."""
        return [segment.mark for segment in self.segments]

    def between(self, first: str, last: str | None = None) -> "Report":
        """The part from the mark ``first`` to the mark ``last``; to the end without one.

        ``kept`` then means: the client had the same connection at both. Raises KeyError for an unknown mark
        and ValueError when ``last`` does not come after ``first``.
        """
        begin = self._find(first)
        end = len(self.segments) if last is None else self._find(last)
        if end <= begin:
            raise ValueError(f"the mark {last!r} does not come after {first!r}")
        final = self.final if end == len(self.segments) else self.segments[end].connections
        segments = self.segments[begin:end]
        # The first and the last second may be shared with the neighbours.
        seconds = self.series[int(segments[0].began) - int(self.began) : int(segments[-1].ended) - int(self.began) + 1]
        return assemble(segments, started=self.started, final=final, series=seconds)

    def summary(self) -> dict[str, object]:
        """The figures for people and plots, in milliseconds where the name ends in ``_ms``."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "failures": dict(sorted(self.failures.items())),
            "seconds": round(self.duration, 3),
            "rate": round(self.rate, 1),
            "p50_ms": round(self.p50 * 1e3, 3),
            "p90_ms": round(self.p90 * 1e3, 3),
            "p99_ms": round(self.p99 * 1e3, 3),
            "p999_ms": round(self.p999 * 1e3, 3),
            "worst_ms": round(self.worst * 1e3, 3),
            "gap_ms": round(self.gap * 1e3, 3),
            "opened": self.opened,
            "kept": self.kept,
            "idle_closed": self.idle_closed,
            "announced": self.announced,
            "missed": self.missed,
            "samples": [msgspec.to_builtins(failure) for failure in self.samples[:MAX_SAMPLES]],
        }

    def encode(self) -> bytes:
        """The whole report as JSON, on one line; ``decode`` reads it back."""
        return msgspec.json.encode(self)

    def _find(self, name: str) -> int:
        for index, segment in enumerate(self.segments):
            if segment.mark == name:
                return index
        raise KeyError(f"no mark {name!r}; there are {self.marks()}")


def decode(data: bytes) -> Report:
    """Read a report written by ``Report.encode``. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Report)


def assemble(
    segments: Sequence[Segment],
    *,
    started: float,
    final: Sequence[int],
    series: Sequence[Second],
    missed: int = 0,
) -> Report:
    """Add up segments into a report that shares them. ``final``: each client's connection at the end."""
    total = Histogram()
    failures: dict[str, int] = {}
    for segment in segments:
        total.add(segment.latency)
        for kind, count in segment.failures.items():
            failures[kind] = failures.get(kind, 0) + count
    ok = sum(segment.ok for segment in segments)
    failed = sum(failures.values())
    first = segments[0]
    # At the very start no client has a connection: its first one, number 1, is what can be kept.
    initial = [serial or 1 for serial in first.connections] if first.mark == START else first.connections
    kept = sum(1 for before, after in zip(initial, final, strict=True) if before == after != 0)
    return Report(
        started=started,
        began=first.began,
        duration=segments[-1].ended - first.began,
        requests=ok + failed,
        ok=ok,
        failed=failed,
        failures=failures,
        latency=total,
        gap=max(segment.gap for segment in segments),
        opened=sum(segment.opened for segment in segments),
        kept=kept,
        idle_closed=sum(segment.idle_closed for segment in segments),
        announced=sum(segment.announced for segment in segments),
        missed=missed,
        segments=list(segments),
        final=list(final),
        series=list(series),
    )


def merge(reports: Iterable[Report]) -> Report:
    """One report of several loads that ran side by side.

    Loads with the same marks keep them; otherwise only START remains. Each load's clock starts at 0, so start
    them together. ``gap`` is an upper bound, the shortest of the loads' longest gaps: a time in which nobody
    had a success is a gap of each of them. Raises ValueError when there is nothing to merge.
    """
    parts = list(reports)
    if not parts:
        raise ValueError("no reports to merge")
    same = all(part.marks() == parts[0].marks() for part in parts)
    columns = zip(*(part.segments for part in parts), strict=True) if same else [[_flatten(part) for part in parts]]
    segments = [_join(list(column)) for column in columns]
    length = max(len(part.series) for part in parts)
    series = [Second() for _ in range(length)]
    for part in parts:
        for into, second in zip(series, part.series, strict=False):
            into.ok += second.ok
            into.failed += second.failed
            into.worst = max(into.worst, second.worst)
    report = assemble(
        segments,
        started=min(part.started for part in parts),
        final=[serial for part in parts for serial in part.final],
        series=series,
        missed=sum(part.missed for part in parts),
    )
    report.kept = sum(part.kept for part in parts)
    return report


def _flatten(report: Report) -> Segment:
    return Segment(
        mark=START,
        began=report.began,
        ended=report.began + report.duration,
        ok=report.ok,
        failures=report.failures,
        latency=report.latency,
        gap=report.gap,
        opened=report.opened,
        idle_closed=report.idle_closed,
        announced=report.announced,
        connections=report.segments[0].connections,
        samples=report.samples[:MAX_SAMPLES],
    )


def _join(column: Sequence[Segment]) -> Segment:
    joined = Segment(mark=column[0].mark, began=min(one.began for one in column))
    joined.gap = min(one.gap for one in column)
    for one in column:
        joined.ended = max(joined.ended, one.ended)
        joined.ok += one.ok
        joined.opened += one.opened
        joined.idle_closed += one.idle_closed
        joined.announced += one.announced
        joined.connections += one.connections
        joined.samples += one.samples
        joined.latency.add(one.latency)
        for kind, count in one.failures.items():
            joined.failures[kind] = joined.failures.get(kind, 0) + count
    joined.samples = sorted(joined.samples, key=lambda failure: failure.at)[:MAX_SAMPLES]
    return joined
