"""The picture of benchmarks/overload.py: a load that doubles what a server can, with the queue and without it."""

import importlib
from typing import Any, Final, NamedTuple

from benchmarks.openloop import Kind, Served
from benchmarks.overload import DEADLINE, Life, slowest

CALM: Final = (0.5, 4.0)
"""Before: the load, and its seconds."""
STORM: Final = (2.0, 6.0)
AFTER: Final = (0.5, 6.0)
STEP: Final = 0.25
"""Seconds that a point stands for."""


class Line(NamedTuple):
    """What came of each step: the share of the capacity answered in time, and the slowest percent of all, in ms."""

    times: list[float]
    good: list[float]
    slow: list[float]


async def watch(app: str, seed: int, **admission: Any) -> Line:
    """One server's life: calm, storm, calm again."""
    async with Life(app, seed, **admission) as life:
        peak = await life.capacity()
        kinds = [Kind("all")]
        calm = await life.load.run(peak * CALM[0], CALM[1], kinds)
        later = await life.load.run(peak * STORM[0], STORM[1], kinds, then=(peak * AFTER[0], AFTER[1]))
        served = calm + [one._replace(due=one.due + CALM[1]) for one in later]
    line = Line([], [], [])
    for number in range(round((CALM[1] + STORM[1] + AFTER[1]) / STEP)):
        began = number * STEP
        step = [one for one in served if began <= one.due < began + STEP]
        in_time = sum(one.status == 200 and one.seconds <= DEADLINE for one in step)
        line.times.append(began)
        line.good.append(in_time / STEP / peak)
        line.slow.append(_slowest(step) * 1000)
    return line


def _slowest(step: list[Served]) -> float:
    return min(slowest(step), 20.0) if any(one.status == 200 for one in step) else float("nan")


def draw(queue: Line, bare: Line) -> None:
    """Into docs/plots/overload.svg."""
    style: Any = importlib.import_module("scripts.plots.style")  # a script's module, which is not typed
    made, (above, below) = style.figure(2, height=2.3)
    offered = [CALM[0] if at < CALM[1] else STORM[0] if at < CALM[1] + STORM[1] else AFTER[0] for at in queue.times]
    above.step(queue.times, offered, where="post", color=style.COLOURS[-1], linestyle=":", label="asked for")
    for line, colour, name in ((queue, style.COLOURS[0], "Holdfast"), (bare, style.COLOURS[1], "without its queue")):
        above.plot(line.times, line.good, color=colour, label=name)
        below.plot(line.times, line.slow, color=colour)
    above.set_ylabel("answered within 1 s,\nof the capacity")
    above.legend(loc="upper right")
    below.set_yscale("log")
    below.set_ylabel("99th percentile, ms")
    below.set_xlabel("seconds")
    style.save(made, "overload")
