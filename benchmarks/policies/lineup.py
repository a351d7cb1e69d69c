"""Who takes part in what: every contestant in every row and mode, proved first; and the reason of each one missing."""

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.policies import proofs
from benchmarks.policies.baselines import BASELINES
from benchmarks.policies.contestant import Absent, Contestant, Function, Mode
from benchmarks.policies.ours import Holdfast
from benchmarks.policies.proofs import Subject, Unproved
from benchmarks.policies.rows import ROWS, Row
from benchmarks.policies.stopwatch import Stopwatch

BASELINE = "baseline"
"""Where a contestant's name stands, for the baselines."""


class Cell(NamedTuple):
    """A place in the tables: a row's key, a mode, a contestant's name."""

    row: str
    mode: Mode
    contestant: str


class Entry:
    """One that is timed. ``wears_out``: after so many calls its function is built anew."""

    def __init__(
        self,
        cell: Cell,
        build: Callable[[], Function],
        runner: asyncio.Runner,
        refusals: tuple[type[Exception], ...] = (),
        wears_out: int | None = None,
    ) -> None:
        self.cell = cell
        self.samples: list[float] = []
        self._build = build
        self._wears_out = wears_out
        self._loops = 1
        self._watch = Stopwatch(build(), cell.mode, runner, refusals)

    @property
    def calls(self) -> int:
        """How many calls one sample is the average of."""
        return self._watch.calls * self._loops

    def calibrate(self, seconds: float) -> None:
        """Choose the number of calls that take about so long."""
        if self._wears_out is None:
            self._watch.calibrate(seconds)
            return
        self._watch.calls = self._wears_out
        spent = self._watch.nanoseconds() * self._wears_out / 1e9
        self._loops = max(1, round(seconds / spent))

    def sample(self) -> None:
        """Take one more average."""
        figures = []
        for _ in range(self._loops):
            if self._wears_out is not None:
                self._watch.function = self._build()
            figures.append(self._watch.nanoseconds())
        self.samples.append(statistics.mean(figures))


class Lineup(NamedTuple):
    """Those that take part, and why others do not."""

    entries: list[Entry]
    absent: dict[Cell, str]


def line_up(
    contestants: Sequence[Contestant], only: Sequence[str], runner: asyncio.Runner, say: Callable[[str], None]
) -> Lineup:
    """Prove and build everything. ``only``: names of contestants, keys of rows; an empty one means all.

    Raises ``Unproved`` when a policy does not do what it should.
    """
    entries: list[Entry] = []
    for baseline in BASELINES:
        cell = Cell(baseline.key, baseline.mode, BASELINE)
        build = _in_its_place(baseline.mode, _as_coroutine(baseline.make), runner)
        entries.append(Entry(cell, build, runner, baseline.raises))
    absent: dict[Cell, str] = {}
    for row, mode, contestant in _wanted(contestants, only):
        cell = Cell(row.key, mode, contestant.name)
        say(f"proving {contestant.name}: {row.title}, {mode}")
        try:
            subject = Subject(contestant, row.method, mode)
            _prove(row, subject, runner)
            build = _in_its_place(mode, _ready(row, subject), runner)
            if row.refuse is None:
                entries.append(Entry(cell, build, runner))
            else:
                entries.append(Entry(cell, build, runner, contestant.refusals, contestant.wears_out))
        except Absent as reason:
            absent[cell] = str(reason)
        except Unproved as reason:
            raise Unproved(f"{contestant.name}: {row.title}, {mode}: {reason}") from reason
        except Exception as error:  # a peer that has changed, or does not fit this Python, must not end it for all
            if isinstance(contestant, Holdfast):
                raise
            absent[cell] = f"raised {error!r}"
    return Lineup(entries, absent)


def _wanted(contestants: Sequence[Contestant], only: Sequence[str]) -> Iterator[tuple[Row, Mode, Contestant]]:
    names = {contestant.name for contestant in contestants} & set(only)
    keys = {row.key for row in ROWS} & set(only)
    for row in ROWS:
        for mode in Mode:
            for contestant in contestants:
                if (not keys or row.key in keys) and (not names or contestant.name in names):
                    yield row, mode, contestant


def _prove(row: Row, subject: Subject, runner: asyncio.Runner) -> None:
    for proof in row.proofs:
        steps = proof(subject)
        if subject.mode is Mode.ASYNC:
            runner.run(_awaited(steps))
        else:
            proofs.drive(steps)


async def _awaited(steps: Any) -> Any:
    return await steps


def _ready(row: Row, subject: Subject) -> Callable[[], Coroutine[Any, Any, Function]]:
    return lambda: row.ready(subject)


def _as_coroutine(make: Callable[[], Function]) -> Callable[[], Coroutine[Any, Any, Function]]:
    async def made() -> Function:
        return make()

    return made


def _in_its_place(
    mode: Mode, make: Callable[[], Coroutine[Any, Any, Function]], runner: asyncio.Runner
) -> Callable[[], Function]:
    """Async functions are made inside the event loop that will call them, sync ones outside of any."""

    def build() -> Function:
        made: Function = runner.run(make()) if mode is Mode.ASYNC else proofs.drive(make())
        return made

    return build
