"""Rounds of everybody in turn, so that what else the machine does falls on all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.policies.lineup import Cell, Entry

LEAST_ROUNDS = 3


class Figure(NamedTuple):
    """Nanoseconds a call over all rounds, and how many calls each of them had."""

    minimum: float
    median: float
    calls: int
    rounds: int


Figures = dict[Cell, Figure]


def race(
    entries: Sequence[Entry], rounds: int, seconds: float, at_most: float, say: Callable[[str], None]
) -> dict[Cell, Figure]:
    """Time everybody in each of ``rounds``, ``seconds`` at a time.

    No round is begun ``at_most`` seconds after the first, but for ``LEAST_ROUNDS``: a minimum needs some. The garbage
    collector stays on, as users have it; what it has to do is done between rounds, and not by the one whose turn it
    happens to be.
    """
    for number, entry in enumerate(entries, 1):
        say(f"calibrating {number} of {len(entries)}")
        entry.calibrate(seconds)
    until = time.monotonic() + at_most
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() > until:
            say(f"the time is over after {number} rounds")
            break
        gc.collect()
        say(f"round {number + 1} of {rounds}")
        # Every other round backwards: nobody always runs behind the same neighbour.
        for entry in entries if number % 2 == 0 else reversed(entries):
            entry.sample()
    return {
        entry.cell: Figure(min(entry.samples), statistics.median(entry.samples), entry.calls, len(entry.samples))
        for entry in entries
    }
