"""What the demo knows at this moment: the view draws it, the plain output prints it, the director fills it in."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from holdfast.lab.histogram import Histogram
from holdfast.lab.link import ServiceView
from holdfast.lab.traffic import FRAME_SECONDS, Frame, Tally

MAX_FRAMES = 600
"""More columns than the widest terminal has."""
MAX_LINES = 200
MAX_RESULTS = 200
"""Steps shown and reported one by one; those before them are still in the totals."""
RECENT_SECONDS = 5.0

Kind = Literal["do", "command", "event", "good", "bad"]


class Line(msgspec.Struct, frozen=True):
    """One line of the commentary. ``at`` is seconds since the traffic began."""

    at: float
    kind: Kind
    text: str


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did and cost. ``free``: it may not cost a single request. Times are seconds."""

    name: str
    service: str
    round: int
    tally: Tally
    note: str
    done: bool
    free: bool

    @property
    def seconds(self) -> float:
        return self.tally.ended - self.tally.began

    @property
    def good(self) -> bool:
        """It did what it was to do, at no higher price than allowed."""
        return self.done and not (self.free and self.tally.failed)

    def as_json(self) -> dict[str, object]:
        """For scripts: plain values, times in milliseconds where the name says so."""
        return {
            "name": self.name,
            "service": self.service,
            "round": self.round,
            "ok": self.good,
            "seconds": round(self.seconds, 3),
            "note": self.note,
            **figures(self.tally),
        }


class OrderCheck(msgspec.Struct):
    """Whether the orders that clients have a receipt for are in the database exactly once."""

    checked: int = 0
    missing: int = 0
    doubled: int = 0
    unreceipted: int = 0
    """Stored, although the client never got the answer: no loss, and told."""

    @property
    def holds(self) -> bool:
        return not (self.missing or self.doubled)


class Scene:
    """Everything shown. Changed by the director only, on its event loop; ``on_line`` hears each new line."""

    def __init__(self, limit: float | None, rate: float) -> None:
        self.limit = limit
        self.rate = rate
        self.doing = "starting four services"
        self.frames: deque[Frame] = deque(maxlen=MAX_FRAMES)
        self.marks: deque[tuple[float, str]] = deque(maxlen=MAX_RESULTS)
        self.lines: deque[Line] = deque(maxlen=MAX_LINES)
        self.results: deque[StepResult] = deque(maxlen=MAX_RESULTS)
        self.services: dict[str, ServiceView] = {}
        self.total = Tally("total")
        self.orders = OrderCheck()
        self.all_good = True
        self.stopped = False
        self.on_line: Callable[[Line], None] = lambda line: None
        self._zero: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the traffic began; 0 before."""
        return 0.0 if self._zero is None else time.monotonic() - self._zero

    def begin(self) -> None:
        """The traffic begins."""
        self._zero = time.monotonic()

    def say(self, text: str, kind: Kind = "event") -> None:
        """Add to the commentary."""
        line = Line(self.elapsed, kind, text)
        self.lines.append(line)
        self.on_line(line)

    def frame(self, frame: Frame) -> None:
        """The newest piece of the traffic."""
        self.frames.append(frame)

    def mark(self, label: str) -> None:
        """Something begins that the plot should show."""
        self.marks.append((self.frames[-1].at if self.frames else 0.0, label))

    def add(self, result: StepResult) -> None:
        """A step is over."""
        self.results.append(result)
        self.total.add(result.tally)
        self.all_good = self.all_good and result.good

    def absorb(self, tally: Tally) -> None:
        """What ended between two steps belongs to the one before; before the first, nothing may be lost."""
        self.total.add(tally)
        if self.results:
            self.results[-1].tally.add(tally)
        self.all_good = self.all_good and (self.results[-1].good if self.results else not tally.failed)

    @property
    def ok(self) -> bool:
        """No step cost more than it may, and no order was lost or made twice."""
        return self.all_good and self.orders.holds and self.orders.checked > 0

    @property
    def failed(self) -> int:
        """Requests lost so far, the step under way included."""
        current = self.results[-1].tally.ended if self.results else 0.0
        return self.total.failed + sum(frame.failed for frame in self.frames if frame.at > current)

    @property
    def answered(self) -> int:
        """Requests answered so far, the step under way included."""
        current = self.results[-1].tally.ended if self.results else 0.0
        return self.total.ok + sum(frame.ok for frame in self.frames if frame.at > current)

    def recent(self) -> Frame:
        """The last seconds in one frame; ``at`` is their length."""
        count = max(1, int(RECENT_SECONDS / FRAME_SECONDS))
        frames = list(self.frames)[-count:]
        latency = Histogram()
        for frame in frames:
            latency.add(frame.latency)
        return Frame(
            at=len(frames) * FRAME_SECONDS,
            ok=sum(frame.ok for frame in frames),
            failed=sum(frame.failed for frame in frames),
            worst=max((frame.worst for frame in frames), default=0.0),
            latency=latency,
        )

    def as_json(self) -> dict[str, object]:
        """The whole result for scripts."""
        return {
            "steps": [result.as_json() for result in self.results],
            "totals": {
                **figures(self.total),
                "seconds": round(self.total.ended, 3),
                "rate": round(self.total.requests / self.total.ended, 1) if self.total.ended else 0.0,
            },
            "orders_checked": self.orders.checked,
            "orders": {
                "missing": self.orders.missing,
                "doubled": self.orders.doubled,
                "stored_without_answer": self.orders.unreceipted,
            },
            "ok": self.ok,
        }


def figures(tally: Tally) -> dict[str, object]:
    """A tally as plain values."""
    return {
        "requests": tally.requests,
        "failures": tally.failed,
        "failure_kinds": dict(sorted(tally.failures.items())),
        "p50_ms": round(tally.latency.quantile(0.5) * 1e3, 2),
        "p99_ms": round(tally.latency.quantile(0.99) * 1e3, 2),
        "worst_ms": round(tally.worst * 1e3, 2),
        "samples": tally.samples,
    }
