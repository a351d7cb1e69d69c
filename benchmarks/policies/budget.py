"""What Holdfast may cost, and what it costs. By the minimum over all rounds: the machine's noise only ever adds."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.policies.contestant import Mode
from benchmarks.policies.lineup import BASELINE, Cell
from benchmarks.policies.ours import Holdfast
from benchmarks.policies.race import Figures
from benchmarks.policies.table import NOTHING, markdown

GATES = {"breaker": "Breaker", "ratelimit": "RateLimit", "bulkhead": "Bulkhead", "adaptive": "AdaptiveLimit"}
A_GATE = 250.0
"""Nanoseconds that one gate adds to a sync call."""
FIVE = {Mode.SYNC: 1000.0, Mode.ASYNC: 1500.0}
"""Nanoseconds of a call through Timeout+Retry+Breaker+RateLimit+Bulkhead."""
OF_TIMEOUT = 0.5
"""The five, as a share of asyncio.timeout alone."""
PEER_STACKS = (("pyresilience", "five"), ("hyx", "four"))
TIMES = 7.0
"""How many times the five a peer's stack takes."""
A_REFUSAL = 1000.0
"""Nanoseconds of a refused call, with its exception raised and caught."""


class Line(NamedTuple):
    """One target. ``figure`` is None when one of its sides was not measured."""

    what: str
    figure: float | None
    target: float
    unit: str
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.target if self.at_least else self.figure <= self.target


def lines(figures: Figures) -> list[Line]:
    """Every target with its figure."""
    return list(_lines(figures))


def report(budget: list[Line], figures: Figures) -> str:
    """The table, with the bare call beside it."""
    scale = [
        f"{title} {value:.0f} ns"
        for key, mode, title in (("call", Mode.SYNC, "bare call"), ("await", Mode.ASYNC, "bare await"))
        if (value := _minimum(figures, key, mode, BASELINE)) is not None
    ]
    words = {True: "met", False: "MISSED", None: "not measured"}
    rows = [
        (
            line.what,
            NOTHING if line.figure is None else f"{line.figure:.{_digits(line)}f} {line.unit}",
            f"{'>=' if line.at_least else '<='} {line.target:.{_digits(line)}f} {line.unit}",
            f"{words[line.met]}{line.note}",
        )
        for line in budget
    ]
    table = markdown(("budget", "figure", "target", "verdict"), rows)
    return f"By the minimum; on this machine a {' and a '.join(scale)}.\n\n{table}"


def _lines(figures: Figures) -> Iterator[Line]:
    def ours(row: str, mode: Mode) -> float | None:
        return _minimum(figures, row, mode, Holdfast.name)

    bare = _minimum(figures, "call", Mode.SYNC, BASELINE)
    nothing = ours("nothing", Mode.SYNC)
    for row, title in GATES.items():
        gate = ours(row, Mode.SYNC)
        note = "" if gate is None or nothing is None else f"; {gate - nothing:.0f} ns over a pipeline without policies"
        added = None if gate is None or bare is None else gate - bare
        yield Line(f"{title} alone over the bare call, sync", added, A_GATE, "ns", note=note)
    for mode in Mode:
        yield Line(f"the five, {mode}", ours("five", mode), FIVE[mode], "ns")
    timeout = _minimum(figures, "asyncio.timeout", Mode.ASYNC, BASELINE)
    yield Line("the five, async / asyncio.timeout", _ratio(ours("five", Mode.ASYNC), timeout), OF_TIMEOUT, "x")
    for peer, stack in PEER_STACKS:
        for mode in Mode:
            theirs = _minimum(figures, stack, mode, peer)
            if theirs is not None or mode is Mode.ASYNC:
                ratio = _ratio(theirs, ours("five", mode))
                yield Line(f"{peer}'s {stack} / the five, {mode}", ratio, TIMES, "x", at_least=True)
    for row, title in (("open", "refused by an open breaker"), ("empty", "refused by an empty bucket")):
        for mode in Mode:
            yield Line(f"{title}, {mode}", ours(row, mode), A_REFUSAL, "ns")


def _minimum(figures: Figures, row: str, mode: Mode, contestant: str) -> float | None:
    figure = figures.get(Cell(row, mode, contestant))
    return None if figure is None else figure.minimum


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _digits(line: Line) -> int:
    return 0 if line.unit == "ns" else 2
