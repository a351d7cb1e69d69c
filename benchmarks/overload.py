"""Real servers with more to do than they can, under an open loop of requests: what is answered, when, and to whom.

    python -m benchmarks.overload
    python -m benchmarks.overload --only cpu tenants --rounds 1
    python -m benchmarks.overload --plot

One process serves, on one core; this one sends, on another. What is compared is measured within one server's life, so
that what else the machine does falls on both; and where it may, the benchmark goes before other sessions of the
machine (autogroup). Figures are medians of ``--rounds`` lives. The exit status is 1 when a target is missed.

A *load* is a multiple of what the same server answers to a few clients that ask again and again. *Goodput* counts
answers within a second, *quiet* is a tenth of the capacity. Percentiles leave out the first second of a load, which
has rows of its own.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import uvloop
from benchmarks.apps.overload import SLOW
from benchmarks.openloop import Kind, OpenLoop, Served

ROUNDS: Final = 3
QUIET: Final = 0.1
FIRST: Final = 1.0
"""Seconds at the beginning of a load that are shown on their own."""
DEADLINE: Final = 1.0
"""A later answer is of no use."""
LATE: Final = 0.01
"""When the slowest percent of the generator's wakings is later than that, it measures itself."""
WORKERS: Final = {"cpu": 4, "io": 32, "sync": 2, "wsgi": 2}
"""How many clients that ask again and again find the capacity of each app."""
PRIORITY: Final = -10
SECONDS: Final = 6.0

Figures = dict[str, float]


class Target(NamedTuple):
    """A figure, and the least or the most that it should be."""

    figure: str
    least: float | None = None
    most: float | None = None

    def met(self, figures: Figures) -> bool:
        value = figures[self.figure]
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def take_priority(pid: int) -> None:
    """Go before what else the machine does, where that is allowed: the kernel weighs sessions against each other."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(PRIORITY))


class Life:
    """One server's life, and the load on it."""

    def __init__(self, app: str, seed: int, **admission: Any) -> None:
        self.app = app
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as sock:
            command = [sys.executable, "-m", "benchmarks.apps.overload", app, "--fd", str(sock.fileno())]
            command += ["--admission", json.dumps(admission)]
            self.server = subprocess.Popen(command, pass_fds=[sock.fileno()], start_new_session=True)
            self.load = OpenLoop(sock.getsockname()[1], seed)
        cores = sorted(os.sched_getaffinity(0) | ALL)
        os.sched_setaffinity(self.server.pid, {cores[0]})
        take_priority(self.server.pid)

    async def __aenter__(self) -> Self:
        try:
            await self.load.connect()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.terminate()
        self.server.wait(10)

    def cpu(self) -> float:
        """Seconds of CPU time that the server's main thread has used."""
        return int(Path(f"/proc/{self.server.pid}/schedstat").read_text().split()[0]) / 1e9

    async def capacity(self, seconds: float = 3.0) -> float:
        """Answers a second when there is always something to do, and no more than that."""
        served = await self.load.saturate(WORKERS[self.app], seconds, Kind("peak"))
        return useful(served, FIRST, seconds)

    async def starter(self) -> dict[str, Any]:
        """What the server says of its queue."""
        await self.load.ask(Kind("look", path="/starter"))
        found: dict[str, Any] = json.loads(self.load.last.partition(b"\r\n\r\n")[2])
        return found

    def late(self) -> float:
        return sorted(self.load.late)[int(len(self.load.late) * 0.99)]


ALL: Final[set[int]] = set()
"""The cores that this process was given, before it kept to one of them."""


def useful(served: Iterable[Served], began: float, ended: float) -> float:
    """Answers a second, of those due in a time, that came in time."""
    good = sum(one.status == 200 and one.seconds <= DEADLINE and began <= one.due < ended for one in served)
    return good / (ended - began)


def slowest(served: Iterable[Served], status: int = 200, share: float = 0.99) -> float:
    """That percentile of the seconds that answers took."""
    times = sorted(one.seconds for one in served if one.status == status)
    return times[int(len(times) * share)] if times else float("inf")


def since(served: Iterable[Served], began: float) -> list[Served]:
    return [one for one in served if one.due >= began]


def answered(served: Sequence[Served]) -> float:
    """The share of them that was answered in time."""
    return sum(one.status == 200 and one.seconds <= DEADLINE for one in served) / max(1, len(served))


async def overload(app: str, seed: int) -> Figures:
    """Twice and five times the capacity."""
    found: Figures = {}
    async with Life(app, seed) as life:
        kinds = [Kind("all")]
        before = life.cpu()
        peak = found["capacity"] = await life.capacity()
        each = (life.cpu() - before) / (peak * 3)
        quiet = await life.load.run(peak * QUIET, 5.0, kinds)
        found["quiet p99"] = slowest(quiet)
        for times in (2.0, 5.0):
            before = life.cpu()
            served = await life.load.run(peak * times, SECONDS, kinds)
            cpu = life.cpu() - before
            name = f"{times:g}x "
            refused = sum(one.status == 503 for one in served)
            cost = (cpu - each * sum(one.status == 200 for one in served)) / max(1, refused)
            found[name + "first second"] = useful(served, 0, FIRST) / peak
            found[name + "goodput"] = useful(served, FIRST, SECONDS) / peak
            # Only where the loop is what is short can refusals take anything from it.
            left = 1 - max(0.0, refused * cost / SECONDS) if app == "cpu" else 1.0
            found[name + "of what is left"] = found[name + "goodput"] / left
            found[name + "first p99"] = slowest(one for one in served if one.due < FIRST)
            found[name + "p99"] = slowest(since(served, FIRST))
            found[name + "p99 to quiet"] = found[name + "p99"] / found["quiet p99"]
            found[name + "refused p99"] = slowest(since(served, FIRST), 503)
            found[name + "lost"] = sum(one.status not in (200, 503) for one in served)
            if app == "cpu":
                found[name + "us a refusal"] = cost * 1e6
            found[name + "limit"] = (await life.starter())["limit"]
            await life.load.run(peak * 0.3, 1.0, kinds)
        found["bare refusals"] = len(life.load.bare)
        found["generator late"] = life.late()
    return found


async def classes(app: str, seed: int) -> Figures:
    """Twice the capacity, without classes and then with a quarter of it most critical."""
    kinds = [
        Kind("top", 0.25, headers=("holdfast-criticality: critical_plus",)),
        Kind("usual", 0.5),
        Kind("least", 0.25, headers=("holdfast-criticality: sheddable",)),
    ]
    found: Figures = {}
    async with Life(app, seed) as life:
        peak = await life.capacity()
        await life.load.run(peak * 0.3, 2.0, kinds)
        without = await life.load.run(peak * 2, SECONDS, [Kind("all")])
        await life.load.run(peak * 0.3, 2.0, kinds)
        served = await life.load.run(peak * 2, SECONDS, kinds)
        for kind in kinds:
            found[kind.name] = answered([one for one in since(served, FIRST) if one.kind == kind.name])
        found["top, first second"] = answered([one for one in served if one.kind == "top" and one.due < FIRST])
        found["without classes"] = useful(without, FIRST, SECONDS) / peak
        found["with classes"] = useful(served, FIRST, SECONDS) / peak
        found["difference"] = found["with classes"] - found["without classes"]
        found["generator late"] = life.late()
    return found


async def retries(app: str, seed: int) -> Figures:
    """Ten seconds of 1.3 times the capacity, with clients that try four times in all; then 0.6 times."""
    found: Figures = {}
    async with Life(app, seed) as life:
        kinds = [Kind("all")]
        peak = await life.capacity()
        quiet = await life.load.run(peak * 0.6, 4.0, kinds, 3)
        served = await life.load.run(peak * 1.3, 10.0, kinds, 3, then=(peak * 0.6, 6.0))
        found["goodput meanwhile"] = useful(served, FIRST, 10.0) / peak
        found["tries meanwhile"] = statistics.fmean(one.tries for one in served if FIRST <= one.due < 10.0)
        after = since(served, 12.0)
        found["answered before"] = answered(quiet)
        found["answered from 2 s after"] = answered(after)
        found["tries from 2 s after"] = statistics.fmean(one.tries for one in after)
        found["p99 before"] = slowest(quiet)
        found["p99 from 2 s after"] = slowest(after)
        found["generator late"] = life.late()
    return found


async def tenants(app: str, seed: int) -> Figures:
    """Five tenants with a tenth of the capacity each; then one of them sends twelve times as much."""
    kinds = [Kind(f"tenant {number}", headers=(f"x-tenant: t{number}",)) for number in range(5)]
    loud = [kinds[0]._replace(share=12.0), *kinds[1:]]
    found: Figures = {}
    async with Life(app, seed) as life:
        peak = await life.capacity()
        before = await life.load.run(peak * 0.5, 2 * SECONDS, kinds)
        served = await life.load.run(peak * 1.6, 2 * SECONDS, loud)
        others = [one for one in served if one.kind != "tenant 0"]
        found["others refused"] = 1 - answered(others)
        found["the loud one refused"] = 1 - answered([one for one in served if one.kind == "tenant 0"])
        found["others p99 before"] = slowest(one for one in before if one.kind != "tenant 0")
        found["others p99"] = slowest(others)
        found["p99 to before"] = found["others p99"] / found["others p99 before"]
        found["generator late"] = life.late()
    return found


async def accident(app: str, seed: int) -> Figures:
    """A fifth of the capacity, and once a handler that holds the loop for a second."""
    async with Life(app, seed) as life:
        peak = await life.capacity()
        await life.load.run(peak * 0.2, 2.0, [Kind("all")])
        kinds = [Kind("all"), Kind("block", 1.0 / (peak * 0.2 * 4), "/block")]
        served = await life.load.run(peak * 0.2, 8.0, kinds)
        return {
            "blocks": sum(one.kind == "block" for one in served),
            "refused": sum(one.status != 200 for one in served),
            "p99": slowest(served),
        }


async def slow(app: str, seed: int) -> Figures:
    """Five hundred requests at once that wait for two seconds on purpose, beside quick ones."""
    async with Life(app, seed) as life:
        peak = await life.capacity()
        quick, waiting = Kind("quick", peak * 0.3), Kind("slow", 500 / SLOW, "/slow")
        await life.load.run(quick.share, 3.0, [quick])
        served = await life.load.run(quick.share + waiting.share, 2 * SECONDS, [quick, waiting])
        return {
            "refused": sum(one.status != 200 for one in served),
            "slow p99": slowest(one for one in served if one.kind == "slow"),
            "quick p99": slowest(one for one in served if one.kind == "quick"),
            "limits imposed": (await life.starter())["concurrency"]["imposed"],
        }


def loaded(*more: Target) -> tuple[Target, ...]:
    return (
        Target("2x first second", least=0.9),
        Target("2x goodput", least=0.9),
        Target("2x p99 to quiet", most=3.0),
        Target("5x of what is left", least=0.95),
        Target("bare refusals", most=0),
        Target("2x lost", most=0),
        Target("generator late", most=LATE),
        *more,
    )


Scenario = Callable[[str, int], Coroutine[Any, Any, Figures]]
SCENES: Final[dict[str, tuple[Scenario, str, tuple[Target, ...]]]] = {
    "cpu": (overload, "cpu", loaded(Target("5x us a refusal", most=25.0))),
    "io": (overload, "io", loaded()),
    "sync": (overload, "sync", loaded()),
    "wsgi": (overload, "wsgi", loaded()),
    "classes": (classes, "cpu", (Target("top", least=0.99), Target("difference", least=-0.05))),
    "classes-io": (classes, "io", (Target("top", least=0.99), Target("difference", least=-0.05))),
    "retries": (retries, "cpu", (Target("answered from 2 s after", least=0.999),)),
    "retries-io": (retries, "io", (Target("answered from 2 s after", least=0.999),)),
    "tenants": (tenants, "cpu", (Target("others refused", most=0.01), Target("p99 to before", most=1.5))),
    "accident": (accident, "cpu", (Target("blocks", least=1), Target("refused", most=0))),
    "slow": (slow, "io", (Target("refused", most=0), Target("limits imposed", most=0))),
}


def shown(figures: Figures, targets: Sequence[Target]) -> Iterable[str]:
    wanted = {target.figure: target for target in targets}
    for name, value in figures.items():
        target = wanted.get(name)
        line = f"  {name:26} {value:10.4g}"
        if target is not None:
            bound = f"at least {target.least:g}" if target.least is not None else f"at most {target.most:g}"
            line += f"  {bound}: {'met' if target.met(figures) else 'MISSED'}"
        yield line


def setup() -> None:
    """Keep to the last core, and go first there."""
    ALL.update(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {max(ALL)})
    with contextlib.suppress(OSError):
        os.setsid()
    take_priority(os.getpid())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", action="store_true", help="draw docs/plots/overload.svg, and measure nothing else")
    options = parser.parse_args()
    setup()
    if options.plot:
        from benchmarks import overload_plot

        queue = uvloop.run(overload_plot.watch("cpu", options.seed))
        bare = uvloop.run(overload_plot.watch("cpu", options.seed, queue=False, concurrency=False))
        overload_plot.draw(queue, bare)
        return 0
    missed = 0
    everything: dict[str, list[Figures]] = {}
    for name in options.only:
        scenario, app, targets = SCENES[name]
        rounds: list[Figures] = [uvloop.run(scenario(app, options.seed + number)) for number in range(options.rounds)]
        everything[name] = rounds
        figures = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name}: {(scenario.__doc__ or '').strip()}")
        print(*shown(figures, targets), sep="\n", flush=True)
        missed += sum(not target.met(figures) for target in targets)
        if options.json is not None:
            options.json.write_text(json.dumps(everything, indent=1) + "\n")
    print(f"{missed} targets missed" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
