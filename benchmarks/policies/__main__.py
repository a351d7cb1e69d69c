"""Each policy and each stack beside the peers' nearest equivalent, in one process, on this interpreter.

    python -m benchmarks.policies
    python -m benchmarks.policies --quick --only breaker --only hyx
    python -m benchmarks.policies --verify

Every call is one of a decorated function (or of the library's documented call) that returns at once: state in
memory, limits so wide that nothing is refused, no logging, each library's own defaults otherwise. Before anything
is measured, every policy is proved to work on what the same code builds. Then everybody is timed in turn, over
several rounds. Exits with 1 when a target of the budget is missed.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.policies import budget, packages, table
from benchmarks.policies.contestant import Contestant, Mode
from benchmarks.policies.lineup import Cell, Lineup, line_up
from benchmarks.policies.ours import Holdfast
from benchmarks.policies.peers import PEERS
from benchmarks.policies.race import Figures, race
from benchmarks.policies.rows import ROWS

import holdfast

EVERYBODY: tuple[type[Contestant], ...] = (Holdfast, *PEERS)
ROUNDS, SECONDS, AT_MOST = 25, 0.025, 150.0
"""Rounds, seconds of each loop, and seconds of rounds after which no further one is begun."""
QUICK_ROUNDS, QUICK_SECONDS, QUICK_AT_MOST = 5, 0.02, 20.0


def main() -> int:
    """Prove, measure, print; 1 when a target is missed."""
    options = _parse()
    say = _progress()
    contestants, missing = _contestants(options.only)
    quick = options.quick
    with asyncio.Runner() as runner:
        try:
            lineup = line_up(contestants, options.only, runner, say)
            if options.verify:
                say("")
                print(f"{len(lineup.entries)} places proved")
                return 0
            seconds = QUICK_SECONDS if quick else SECONDS
            rounds = options.rounds or (QUICK_ROUNDS if quick else ROUNDS)
            at_most = QUICK_AT_MOST if quick else AT_MOST
            figures = race(lineup.entries, rounds, seconds, at_most, say)
        finally:
            for contestant in contestants:
                contestant.close()
    say("")
    lines = budget.lines(figures)
    print(_report(figures, lineup, missing, contestants, lines, options.statistic))
    if options.json is not None:
        options.json.write_text(json.dumps(_plain(figures, lineup, missing, lines), indent=1) + "\n")
    return 1 if any(line.met is False for line in lines) else 0


def _contestants(only: Sequence[str]) -> tuple[list[Contestant], dict[str, str]]:
    """Those who take part, their packages installed; why the others cannot, by their names."""
    named = [one for one in EVERYBODY if one.name in only]
    wanted = named or EVERYBODY
    missing = packages.install([one.package for one in wanted if one is not Holdfast])
    found: list[Contestant] = []
    reasons: dict[str, str] = {}
    for one in wanted:
        if one.package in missing:
            reasons[one.name] = missing[one.package]
            continue
        try:
            found.append(one())
        except Exception as error:  # whatever a peer's import or its names raise, it must not keep the others out
            if one is Holdfast:
                raise
            reasons[one.name] = f"cannot be used: {error!r}"
    return found, reasons


def _report(
    figures: Figures,
    lineup: Lineup,
    missing: dict[str, str],
    contestants: Sequence[Contestant],
    lines: list[budget.Line],
    statistic: str,
) -> str:
    taking_part = {cell.contestant for cell in figures} | {cell.contestant for cell in lineup.absent}
    names = [one.name for one in EVERYBODY if one.name in taking_part | set(missing)]
    rounds = {figure.rounds for figure in figures.values()}
    ratios = [table.ratios(figures, mode, names, statistic) for mode in Mode]
    parts = [
        ", ".join(f"{name} {version}" for name, version in _versions().items()),
        f"Nanoseconds a call, the {statistic} of {max(rounds)} rounds; the loop and the function itself included.",
        table.baselines(figures, statistic),
        *(table.nanoseconds(figures, mode, names, statistic) for mode in Mode),
        f"How many times as long as {Holdfast.name}:" if any(ratios) else "",
        *ratios,
        f"A place is empty (`{table.NOTHING}`) where a library has no such policy, or for the reason given here:",
        table.reasons(lineup.absent, missing, [one for one in contestants if one.name in names]),
        budget.report(lines, figures),
    ]
    return "\n\n".join(filter(None, parts))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "holdfast": holdfast.__version__, "msgspec": ""}
    found |= dict.fromkeys((peer.package for peer in PEERS), "")
    return {name: known or packages.version(name) or "(not installed)" for name, known in found.items()}


def _plain(figures: Figures, lineup: Lineup, missing: dict[str, str], lines: list[budget.Line]) -> dict[str, Any]:
    def place(cell: Cell) -> dict[str, str]:
        return {"row": cell.row, "mode": cell.mode, "contestant": cell.contestant}

    return {
        "versions": _versions(),
        "platform": platform.platform(),
        "unit": "nanoseconds a call",
        "figures": [place(cell) | figure._asdict() for cell, figure in figures.items()],
        "absent": [place(cell) | {"reason": reason} for cell, reason in lineup.absent.items()],
        "missing": missing,
        "budget": [line._asdict() | {"met": line.met} for line in lines],
    }


def _progress() -> Callable[[str], None]:
    """Words on one line of a terminal, or on lines of their own when nobody watches but a log."""
    began = time.monotonic()
    shown = ""

    def say(text: str) -> None:
        nonlocal shown
        kind = text.partition(" ")[0]
        if sys.stderr.isatty():
            line = f"{time.monotonic() - began:4.0f} s  {text}" if text else ""
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif text and (kind == "round" or kind != shown):
            print(f"{time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)
        shown = kind

    return say


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.key for row in ROWS] + [one.name for one in EVERYBODY]
    parser.add_argument("--quick", action="store_true", help="half a minute instead of three, and more noise")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how many ({ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help=f"a row or a contestant, may be given several times: {', '.join(names)}",
    )
    parser.add_argument("--statistic", choices=("minimum", "median"), default="minimum", help="what the tables show")
    parser.add_argument("--verify", action="store_true", help="prove that every policy works, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    return options


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
