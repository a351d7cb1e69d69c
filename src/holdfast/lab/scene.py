"""What the demo knows at this moment: the view draws it, the plain output prints it, the director fills it in."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from holdfast.lab.link import ServiceView
from holdfast.lab.tally import Frame, Tally, figures, together
from holdfast.lab.traffic import FRAME_SECONDS

MAX_FRAMES = 600
"""More columns than the widest terminal has."""
MAX_LINES = 200
MAX_RESULTS = 200
"""Steps shown and reported one by one; those before them are still in the totals."""
RECENT_SECONDS = 5.0
ORDERS_SHARE = 0.99
"""Of the orders so many are answered in an overload."""

Kind = Literal["do", "command", "event", "good", "bad"]


class Line(msgspec.Struct, frozen=True):
    """One line of the commentary. ``at`` is seconds since the traffic began."""

    at: float
    kind: Kind
    text: str


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did and cost. Times are seconds.

    ``free``: it may not lose a single request, nor have any refused but of those who browse, who are the first to be
    refused where a machine has too much to do. ``sheds``: it brings more than there is room for, so others may be
    refused too; of the orders at most one in a hundred.
    """

    name: str
    service: str
    round: int
    tally: Tally
    note: str
    done: bool
    free: bool
    sheds: bool = False
    detail: dict[str, object] = {}

    @property
    def seconds(self) -> float:
        return self.tally.ended - self.tally.began

    @property
    def good(self) -> bool:
        """It did what it was to do, at no higher price than allowed."""
        if not self.done or not self.free:
            return self.done
        tally = self.tally
        if self.sheds:
            return not tally.failed and tally.of("orders").share >= ORDERS_SHARE
        return not tally.failed and tally.refused == tally.of("browsing").refused

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
            **self.detail,
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
        self.all_good = self.all_good and (
            self.results[-1].good if self.results else not (tally.failed or tally.refused)
        )

    @property
    def ok(self) -> bool:
        """No step cost more than it may, and no order was lost or made twice."""
        return self.all_good and self.orders.holds and self.orders.checked > 0

    @property
    def failed(self) -> int:
        """Requests lost so far, the step under way included."""
        return self.total.failed + sum(frame.failed for frame in self._current())

    @property
    def refused(self) -> int:
        """Requests refused so far, likewise."""
        return self.total.refused + sum(frame.refused for frame in self._current())

    @property
    def requests(self) -> int:
        """Requests that have ended so far, likewise."""
        return self.total.requests + sum(frame.requests for frame in self._current())

    def recent(self) -> Frame:
        """The last seconds in one frame; ``at`` is their length."""
        count = max(1, int(RECENT_SECONDS / FRAME_SECONDS))
        frames = list(self.frames)[-count:]
        whole = together(frames)
        whole.at = len(frames) * FRAME_SECONDS
        return whole

    def since(self, at: float) -> Frame:
        """All that ended after ``at``, as frames count time, in one frame; its own ``at`` is the end of that."""
        whole = together(frame for frame in self.frames if frame.at > at)
        whole.at = whole.at or at
        return whole

    def _current(self) -> list[Frame]:
        current = self.results[-1].tally.ended if self.results else 0.0
        return [frame for frame in self.frames if frame.at > current]

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
