"""What Holdfast may cost, and what it costs. By the minimum over all rounds: the machine's noise only ever adds.

What a gate adds to a sync call is shown in three ways. *Marginal*, the five with it less the five without it: what
one gate more costs somebody who has a pipeline. This one is judged. *Over an empty pipeline*, and *alone over the bare
call*: the latter has what any decorator costs, a call of a Python function with any arguments, in it as well. All five
are judged by what they add to the bare call or await.
"""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.policies.contestant import Mode
from benchmarks.policies.lineup import BASELINE, Cell
from benchmarks.policies.ours import Holdfast
from benchmarks.policies.race import Figures
from benchmarks.policies.table import NOTHING, markdown


class Gate(NamedTuple):
    """The rows that tell what a gate costs: on its own, and a stack with it and without it."""

    title: str
    alone: str
    with_it: str
    without: str


GATES = (
    Gate("Breaker", "breaker", "five", "but_breaker"),
    Gate("RateLimit", "ratelimit", "five", "four"),
    Gate("Bulkhead", "bulkhead", "five", "but_bulkhead"),
    Gate("AdaptiveLimit", "adaptive", "five_adaptive", "but_bulkhead"),
)
A_GATE = 250.0
"""Nanoseconds that one gate more adds to a sync call through a pipeline."""
FIVE = {Mode.SYNC: 1000.0, Mode.ASYNC: 1500.0}
"""Nanoseconds of a call through Timeout+Retry+Breaker+RateLimit+Bulkhead."""
OF_TIMEOUT = 0.5
"""The five, as a share of asyncio.timeout alone."""
PEER_STACKS = (("pyresilience", "five"), ("hyx", "four"))
TIMES = 7.0
"""How many times the five a peer's stack takes, async. Sync, a peer's timeout runs the call in a thread, and ours
does not: that is no comparison of like with like, and is not judged."""
GATES_READ = (
    "A gate is judged by its marginal cost, which is the five with it less the five without it. Alone over the bare "
    "call it also pays for the pipeline's own frame, which a pipeline of several pays once."
)
NOISY = 1.25
"""A median of the bare call so many times its minimum tells of a machine that does other things."""
BUSY = " The machine was busy: the bare call's median is far above its minimum, and a verdict of MISSED tells little."
A_REFUSAL = 1000.0
"""Nanoseconds of a refused call, with its exception raised and caught."""


class Line(NamedTuple):
    """One figure and its target; without one it is shown and not judged. ``figure``: None when a side is missing."""

    what: str
    figure: float | None
    target: float | None
    unit: str
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.figure is None or self.target is None:
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
    rows = [(line.what, _shown(line, line.figure), _target(line), f"{_verdict(line)}{line.note}") for line in budget]
    table = markdown(("budget", "figure", "target", "verdict"), rows)
    bare = figures.get(Cell("call", Mode.SYNC, BASELINE))
    busy = BUSY if bare is not None and bare.median > NOISY * bare.minimum else ""
    here = f"; on this machine a {' and a '.join(scale)}" if scale else ""
    return f"By the minimum{here}. {GATES_READ}{busy}\n\n{table}"


def _lines(figures: Figures) -> Iterator[Line]:
    def ours(row: str, mode: Mode) -> float | None:
        return _minimum(figures, row, mode, Holdfast.name)

    bare = _minimum(figures, "call", Mode.SYNC, BASELINE)
    nothing = ours("nothing", Mode.SYNC)
    for gate in GATES:
        marginal = _less(ours(gate.with_it, Mode.SYNC), ours(gate.without, Mode.SYNC))
        yield Line(f"{gate.title}, marginal in the five, sync", marginal, A_GATE, "ns")
        alone = ours(gate.alone, Mode.SYNC)
        yield Line(f"{gate.title} over an empty pipeline, sync", _less(alone, nothing), None, "ns")
        yield Line(f"{gate.title} alone over the bare call, sync", _less(alone, bare), None, "ns")
    for mode, bare_key in ((Mode.SYNC, "call"), (Mode.ASYNC, "await")):
        five = ours("five", mode)
        yield Line(
            f"the five over the bare call, {mode}",
            _less(five, _minimum(figures, bare_key, mode, BASELINE)),
            FIVE[mode],
            "ns",
        )
        yield Line(f"the five, with the call itself, {mode}", five, None, "ns")
    timeout = _minimum(figures, "asyncio.timeout", Mode.ASYNC, BASELINE)
    yield Line("the five, async / asyncio.timeout", _ratio(ours("five", Mode.ASYNC), timeout), OF_TIMEOUT, "x")
    for peer, stack in PEER_STACKS:
        for mode in Mode:
            theirs = _minimum(figures, stack, mode, peer)
            if theirs is not None or mode is Mode.ASYNC:
                ratio = _ratio(theirs, ours("five", mode))
                target = TIMES if mode is Mode.ASYNC else None
                note = "" if target else "; its timeout runs the call in a thread, ours does not"
                yield Line(f"{peer}'s {stack} / the five, {mode}", ratio, target, "x", at_least=True, note=note)
    for row, title in (("open", "refused by an open breaker"), ("empty", "refused by an empty bucket")):
        for mode in Mode:
            yield Line(f"{title}, {mode}", ours(row, mode), A_REFUSAL, "ns")


def _minimum(figures: Figures, row: str, mode: Mode, contestant: str) -> float | None:
    figure = figures.get(Cell(row, mode, contestant))
    return None if figure is None else figure.minimum


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part


def _shown(line: Line, value: float | None) -> str:
    return NOTHING if value is None else f"{value:.{_digits(line)}f} {line.unit}"


def _target(line: Line) -> str:
    return NOTHING if line.target is None else f"{'>=' if line.at_least else '<='} {_shown(line, line.target)}"


def _verdict(line: Line) -> str:
    if line.figure is None:
        return "not measured"
    if line.target is None:
        return "not judged"
    return "met" if line.met else "MISSED"


def _digits(line: Line) -> int:
    return 0 if line.unit == "ns" else 2
