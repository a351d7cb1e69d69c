"""Overload, simulated: what the adaptive limit and other policies make of more work than can be done.

    python -m benchmarks.overload_simulation
    python -m benchmarks.overload_simulation --only table,priorities --svg overload.svg

The model is in ``holdfast.lab.simulation``: one event loop, 2 ms a call, 0.1 ms a refusal, clients that give up after
200 ms. All figures are shares of the capacity; nothing in them depends on this machine. 1 when a target is missed.
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from holdfast.core.context import Criticality
from holdfast.lab.outcome import GOOD, Result, ceiling
from holdfast.lab.simulation import (
    Clients,
    Door,
    Draw,
    GateDoor,
    OpenDoor,
    Server,
    Simulation,
    bimodal,
    exponential,
    fixed,
)
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.limits.algorithms import LIMITS, Limit
from holdfast.resilience.limits.settings import AdaptiveLimitSettings
from holdfast.resilience.retry import RetrySettings

MEAN: Final = 0.002
SEEDS: Final = (1, 2, 3)
QUIET: Final = 5.0
"""Seconds at 0.7 of the capacity before each overload."""
LOADS: Final = (0.7, 0.95, 1.4, 2.0, 5.0, 10.0)
SPREADS: Final[dict[str, Callable[[float], Draw]]] = {
    "fixed": fixed,
    "exponential": exponential,
    "bimodal": bimodal,
}
MIX: Final = {
    Criticality.CRITICAL_PLUS: 0.1,
    Criticality.CRITICAL: 0.4,
    Criticality.SHEDDABLE_PLUS: 0.3,
    Criticality.SHEDDABLE: 0.2,
}
Phases = list[tuple[float, float]]
Making = Callable[[Simulation], Door]


def adaptive(told: bool = False, **settings: Any) -> Making:
    """An ``AdaptiveLimit`` as the gate."""
    return lambda simulation: GateDoor(AdaptiveLimit(**settings, cpu=lambda: simulation.busy), tells_deadline=told)


def policies() -> dict[str, Making]:
    """What is compared: the algorithms alone, without ranking calls, and the default with all it has."""
    made: dict[str, Making] = {
        "nothing": lambda _: OpenDoor(),
        "deadline drop": lambda _: OpenDoor(expires=True),
    }
    for name in LIMITS:
        made[name] = adaptive(algorithm=name, priorities=False)
    made["aimd, deadline told"] = adaptive(told=True, algorithm="aimd", priorities=False)
    made["AdaptiveLimit()"] = adaptive()
    return made


def run(
    making: Making, phases: Phases, server: Server | None = None, clients: Clients | None = None, seed: int = 1
) -> Result:
    """One simulation."""
    random.seed(seed)  # the jitter of vegas and envoy
    simulation = Simulation(phases, server or Server(), clients or Clients(), seed)
    return simulation.run(making(simulation))


class Naive(AdaptiveLimit):
    """What one writes first: the threshold lets through as many calls as were served in the last window.

    A throttled server serves what is let through, so the threshold confirms itself, and each window with fewer
    calls takes it down further. Here to show what that costs.
    """

    def _learn(self, limit: Limit, now: float, used: float) -> None:
        self._now = now
        super()._learn(limit, now, used)

    def _rank(self, limit: Limit, in_flight: float) -> None:
        self._ranks.admit((self._completed - self._before[0]) / (self._now - self._window_began), 0.0)

    def _derive(self, limit: Limit, settings: AdaptiveLimitSettings) -> None:
        super()._derive(limit, settings)
        self._at = self._at._replace(spare=0.0)


class Report:
    """Prints as it goes, keeps the figures, and remembers which targets were missed."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.missed: list[str] = []

    def title(self, text: str) -> None:
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def row(self, name: str, cells: Iterable[object], width: int = 10) -> None:
        print(
            f"{name:<30}" + "".join(f"{cell if isinstance(cell, str) else f'{cell:.3f}':>{width}}" for cell in cells),
            flush=True,
        )

    def target(self, what: str, value: float, least: float) -> None:
        kept = value >= least
        print(f"  {'kept  ' if kept else 'MISSED'} {what}: {value:.4f}, wanted at least {least:.4f}", flush=True)
        self.figures.setdefault("targets", {})[what] = {"value": value, "least": least}
        if not kept:
            self.missed.append(what)


def table(report: Report) -> None:
    """Every policy at 2 and 5 times the load, in the first ten seconds and after twenty."""
    report.title(
        "Goodput after a step from 0.7 (first 10 s / after 20 s; then 5 minutes of 2x; ceiling 0.947 and 0.789)"
    )
    report.row("", ("2x first", "2x later", "5x first", "5x later", "5 min"))
    found = {}
    for name, making in policies().items():
        cells = []
        for load in (2.0, 5.0):
            result = run(making, [(QUIET, 0.7), (30, load)])
            cells += [result.goodput(QUIET, QUIET + 10), result.goodput(QUIET + 20, QUIET + 30)]
        # Without a gate the server would work for minutes on what nobody waits for; the figure is known.
        cells.append(0.0 if name == "nothing" else run(making, [(QUIET, 0.7), (300, 2.0)]).goodput(285, 305))
        found[name] = cells
        report.row(name, cells)
    varied = Server(cpu=exponential(MEAN))
    drops = [run(policies()["deadline drop"], [(QUIET, 0.7), (30, load)], varied) for load in (2.0, 5.0)]
    spans = ((0, 10), (20, 30))
    cells = [result.goodput(QUIET + begin, QUIET + end) for result in drops for begin, end in spans]
    report.row("deadline drop, exponential", cells)
    report.figures["table"] = found


def loads(report: Report) -> None:
    """The default under all loads and spreads of service times."""
    report.title("AdaptiveLimit(): goodput by load, mean of three seeds (p99 of served calls in ms)")
    report.row("", [f"{load:g}x" for load in LOADS], 14)
    report.row("ceiling", [ceiling(load) for load in LOADS], 14)
    for name, spread in SPREADS.items():
        server = Server(cpu=spread(MEAN))
        cells = []
        for load in LOADS:
            results = [run(adaptive(), [(QUIET, 0.7), (12, load)], server, seed=seed) for seed in SEEDS]
            good = fmean(result.goodput(QUIET + 2, QUIET + 12) for result in results)
            late = max(result.latency(QUIET + 2, QUIET + 12, 0.99) for result in results)
            cells.append(f"{good:.3f} ({late * 1e3:.0f})")
            report.figures.setdefault("loads", {}).setdefault(name, {})[f"{load:g}"] = [good, late]
            if name == "fixed" and load in (2.0, 5.0):
                report.target(f"{load:g}x, share of the ceiling", good / ceiling(load), 0.97 if load == 5 else 0.99)
        report.row(name, cells, 14)


def step(report: Report) -> None:
    """How long it takes after a step to 1.4 times the load."""
    report.title("AdaptiveLimit(): goodput in each 100 ms after a step from 0.7 to 1.4 (ceiling 0.979)")
    worst = 1.0
    for seed in SEEDS:
        series = run(adaptive(), [(QUIET, 0.7), (3, 1.4)], seed=seed).series(0.1, QUIET + 3)
        after = series[round(QUIET * 10) :]
        report.row(f"seed {seed}", [f"{share:.2f}" for share in after[:14]], 6)
        worst = min(worst, fmean(after[5:]))
    report.target("goodput from 500 ms after the step", worst, 0.95)


def priorities(report: Report) -> None:
    """Who is served, and what it costs."""
    report.title("Priorities (10 % critical_plus, 40 % critical, 30 % sheddable_plus, 20 % sheddable)")
    report.row("", ("without", "naive", "with", "c_plus", "critical", "shed_plus", "sheddable", "c_plus*"), 11)
    for name, spread in SPREADS.items():
        server = Server(cpu=spread(MEAN))
        for load in (1.4, 2.0, 3.0, 5.0):
            phases: Phases = [(QUIET, 0.7), (10, load)]
            clients = Clients(mix=MIX)
            without = [run(adaptive(priorities=False), phases, server, clients, seed) for seed in SEEDS]
            ranked = [run(adaptive(), phases, server, clients, seed) for seed in SEEDS]
            naive = [run(lambda _: GateDoor(Naive()), phases, server, clients, seed) for seed in SEEDS]
            plain = fmean(result.goodput(QUIET + 0.5, QUIET + 10) for result in without)
            first = fmean(result.goodput(QUIET + 0.5, QUIET + 10) for result in naive)
            total = fmean(result.goodput(QUIET + 0.5, QUIET + 10) for result in ranked)
            shares = [
                fmean(result.success(QUIET, QUIET + 9.5, criticality) for result in ranked) for criticality in MIX
            ]
            unranked = fmean(result.success(QUIET, QUIET + 9.5, Criticality.CRITICAL_PLUS) for result in without)
            report.row(f"{name} {load:g}x", [plain, first, total, *shares, unranked], 11)
            if name == "fixed":
                report.target(f"{load:g}x, critical_plus answered", shares[0], 0.99)
                report.target(f"{load:g}x, goodput against that without priorities", total - plain, -0.03)
    print("* without priorities; naive: the threshold follows what was served in the last window")


def users(report: Report) -> None:
    """Whether one user sees one answer."""
    report.title("One user, one answer (all calls critical, 200 users, 20 s, without the first 2 s)")
    report.row("", ("1.4x", "2x", "5x"))
    for name, spread in SPREADS.items():
        cells = []
        for load in (1.4, 2.0, 5.0):
            result = run(adaptive(), [(QUIET, 0.7), (20, load)], Server(cpu=spread(MEAN)))
            answers: dict[int, list[bool]] = defaultdict(list)
            for one in result.outcomes:
                if one.born > QUIET + 2:
                    answers[one.user].append(one.kind == GOOD)
            shares = [sum(given) / len(given) for given in answers.values()]
            cells.append(fmean(max(share, 1 - share) for share in shares))
        report.row(f"{name}: same answer", cells)


def retries(report: Report) -> None:
    """Ten seconds at 1.3, and then whether clients that retry let the server come back."""
    report.title("Success in each half second after 10 s at 1.3x, load back at 0.7x, clients retry (budget 10 %)")
    clients = Clients(retry=RetrySettings())
    end = QUIET + 10
    for name in ("nothing", "deadline drop", "gradient2", "bbr", "AdaptiveLimit()"):
        result = run(policies()[name], [(QUIET, 0.7), (10, 1.3), (20, 0.7)], clients=clients)
        series = [result.success(end + slot / 2, end + slot / 2 + 0.5) for slot in range(36)]
        back = next((f"{slot / 2:g} s" for slot, share in enumerate(series) if min(series[slot:]) >= 0.999), "never")
        report.row(name, [*(f"{share:.2f}" for share in series[:10]), f"back after {back}"], 6)
    for seed in SEEDS:
        result = run(adaptive(), [(QUIET, 0.7), (10, 1.3), (5, 0.7)], clients=clients, seed=seed)
        report.target(f"success from 1 s after the overload, seed {seed}", result.success(end + 1, end + 4.5), 1.0)


def backends(report: Report) -> None:
    """Services that wait for a backend, with a knee in their latency."""
    shapes = {
        "20 at once, 10 ms": (2000.0, 0.01, 20, 0.2),
        "10 at once, 100 ms": (100.0, 0.1, 10, 1.0),
        "40 at once, 500 ms": (80.0, 0.5, 40, 2.0),
        "200 at once, 500 ms": (400.0, 0.5, 200, 2.0),
    }
    for title, spread in (("exponential", exponential), ("fixed", fixed)):
        report.title(f"I/O-bound, {title} waits: goodput from 20 to 40 s of 0.7x / 2x / 5x, begun cold, limit 20")
        report.row("", list(shapes), 22)
        for name in (*LIMITS, "AdaptiveLimit()"):
            cells = []
            for capacity, wait, parallel, deadline in shapes.values():
                server = Server(capacity, fixed(0.0001), 0.00005, spread(wait), parallel)
                clients = Clients(deadline=deadline)
                three = [
                    run(policies()[name], [(40, load)], server, clients).goodput(20, 40) for load in (0.7, 2.0, 5.0)
                ]
                cells.append(" ".join(f"{good:.2f}" for good in three))
            report.row(name, cells, 22)


def handler(report: Report) -> None:
    """The gate in the wrong place: in a middleware, behind the queue."""
    report.title("The gate in the handler: goodput with and without call.arrived")
    report.row("", ("0.7x", "1.4x", "2x", "5x"))
    server = Server(gate_in_handler=True)

    class Forgetful(GateDoor):
        def admit(self, request: Any, now: float, parsed: float) -> bool:
            return super().admit(request, now, now)

    makings: dict[str, Making] = {
        "arrived is stamped": adaptive(),
        "arrived is not known": lambda _: Forgetful(AdaptiveLimit()),
    }
    for name, making in makings.items():
        results = [run(making, [(QUIET, 0.7), (10, load)], server) for load in (0.7, 1.4, 2.0, 5.0)]
        report.row(name, [result.goodput(QUIET + 1, QUIET + 10) for result in results])


SECTIONS: Final[dict[str, Callable[[Report], None]]] = {
    "table": table,
    "loads": loads,
    "step": step,
    "priorities": priorities,
    "users": users,
    "retries": retries,
    "backends": backends,
    "handler": handler,
}


def draw(path: Path) -> None:
    """A plot of goodput over time as SVG: 5 s at 0.7, 10 s at 2x, 10 s at 0.7."""
    colours = {"nothing": "#888", "deadline drop": "#e6ab02", "bbr": "#d95f02", "AdaptiveLimit()": "#1b9e77"}
    phases: Phases = [(5, 0.7), (10, 2.0), (10, 0.7)]
    width, height, left, top = 760, 300, 50, 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + left + 170} {height + 70}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width + left + 170}" height="{height + 70}" fill="white"/>',
    ]

    def across(second: float) -> float:
        return left + second / 25 * width

    def up(share: float) -> float:
        return top + height * (1 - share)

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{up(share)}" y2="{up(share)}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{up(share) + 4}" text-anchor="end">{share:.0%}</text>')
    parts.extend(
        f'<text x="{across(second)}" y="{top + height + 20}" text-anchor="middle">{second} s</text>'
        for second in range(0, 26, 5)
    )
    parts.append(
        f'<line x1="{across(5)}" x2="{across(15)}" y1="{up(ceiling(2))}" y2="{up(ceiling(2))}" stroke="black" '
        f'stroke-dasharray="4 4"/><text x="{across(7)}" y="{up(ceiling(2)) - 8}">what refusing leaves: '
        f"{ceiling(2):.1%}</text>"
    )
    for number, (name, colour) in enumerate(colours.items()):
        series = run(policies()[name], phases).series(0.5, 25)
        points = " ".join(
            f"{across((slot + 0.5) / 2):.1f},{up(min(share, 1)):.1f}" for slot, share in enumerate(series)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + width + 12}" y="{top + 20 + 22 * number}" fill="{colour}">{name}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">goodput: 5 s at 0.7 of the '
        "capacity, 10 s at twice that, 10 s at 0.7</text></svg>"
    )
    path.write_text("\n".join(parts) + "\n")


def main() -> int:
    """Run the sections; 1 when a target is missed."""
    options = _parse()
    report = Report()
    began = time.perf_counter()
    for name in options.only:
        SECTIONS[name](report)
    print(f"\n{time.perf_counter() - began:.0f} s", flush=True)
    if options.svg is not None:
        draw(options.svg)
    if options.json is not None:
        options.json.write_text(json.dumps(report.figures, indent=1) + "\n")
    if report.missed:
        print("missed: " + "; ".join(report.missed))
    return 1 if report.missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw goodput over time here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in options.only if name not in SECTIONS]:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
