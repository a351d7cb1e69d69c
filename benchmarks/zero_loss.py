"""What does a reload cost? Holdfast and, side by side, uvicorn, gunicorn and granian as installed from PyPI.

    python -m benchmarks.zero_loss                                      everything (an hour)
    python -m benchmarks.zero_loss --servers holdfast --groups reload --loads AB --reloads 5

A load client without retries keeps 50 connections busy. It runs in a process of its own; nothing hides a failure.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import peers, scenes
from benchmarks.scenes import KINDS, Row

GROUPS = ("reload", "slow-boot", "broken-deploy", "sigterm", "kill", "streams")
COLUMNS = (
    "group",
    "server",
    "load",
    "requests",
    "lost",
    "how",
    "worst",
    "quiet worst",
    "gap",
    "opened",
    "kept",
    "note",
)


class Planned(NamedTuple):
    """One scene to play."""

    group: str
    server: str
    load: str
    play: Callable[[], Row]


def main() -> int:
    """Play the scenes that were asked for; 1 when Holdfast lost a request in a reload, otherwise 0."""
    options = _parse()
    chosen = [peers.PEERS[name] for name in options.servers]
    if any(peer.packages for peer in chosen):
        peers.install()
    versions = peers.versions()
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "versions": versions}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    rows: list[Row] = []
    for planned in _plan(options, chosen):
        label = {"group": planned.group, "server": planned.server, "load": planned.load}
        print(f"… {', '.join(label.values())}", file=sys.stderr, flush=True)
        try:
            rows.append(planned.play())
        except RuntimeError as error:
            print(error, file=sys.stderr)
            rows.append({**label, "note": "did not run", "error": str(error)})
        if options.json is not None:
            # After every scene: a run that is interrupted has not been for nothing.
            found = {"machine": machine, "finished": time.time(), "rows": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    print_table(rows)
    ours = [row for row in rows if row["server"] == "holdfast" and row["group"] == "reload"]
    return 1 if any(row.get("failed", 1) for row in ours) else 0


def _plan(options: argparse.Namespace, chosen: Sequence[peers.Peer]) -> Iterator[Planned]:
    """Group by group, so that the servers stand side by side, also in time."""
    for group in options.groups:
        for letter in options.loads if group == "reload" else "BC" if group == "slow-boot" else "AC":
            kind = KINDS[letter]
            for peer in chosen:
                times = options.reloads if peer.name == "holdfast" else options.peer_reloads
                reloads = partial(scenes.reloads, peer, kind, times=times, baseline=options.seconds)
                plays: dict[str, Callable[[], Row]] = {
                    "reload": reloads,
                    "slow-boot": partial(reloads, times=1, app="slow_boot:app"),
                    "sigterm": partial(scenes.final_stop, peer, kind),
                }
                if group in plays:
                    yield Planned(group, peer.name, letter, plays[group])
        once: dict[str, Callable[[peers.Peer], Row]] = {
            "broken-deploy": partial(scenes.broken_deploy, kind=KINDS["B"]),
            "kill": partial(scenes.killed_worker, kind=KINDS["A"]),
            "streams": scenes.open_streams,
        }
        if group in once:
            for peer in chosen:
                yield Planned(group, peer.name, "", partial(once[group], peer))


def print_table(rows: Sequence[Row]) -> None:
    """One line for each row, columns as wide as they need to be."""
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("lost: requests without a whole, valid answer; worst and gap in ms; quiet worst: before the first reload.")
    for kind in KINDS.values():
        print(f"{kind.letter}: {kind.text}")


def _cells(row: Row) -> tuple[str, ...]:
    how = ", ".join(f"{count} {kind}" for kind, count in row.get("failures", {}).items())
    quiet = row.get("baseline", {}).get("worst_ms")
    note = row["note"]
    if "reloads" in row and not note:
        note = f"{row['reloads']} reloads"
    return (
        row["group"],
        row["server"],
        row["load"],
        str(row.get("requests", "")),
        str(row.get("failed", "")),
        how,
        _millis(row.get("worst_ms")),
        _millis(quiet),
        _millis(row.get("gap_ms")),
        str(row.get("opened", "")),
        str(row.get("kept", "")),
        note,
    )


def _millis(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=list(peers.PEERS), default=list(peers.PEERS))
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--loads", default="ABCD", help="letters of the loads for the group reload (ABCD)")
    parser.add_argument("--reloads", type=int, default=20, help="reloads of Holdfast under each load (20)")
    parser.add_argument("--peer-reloads", type=int, default=3, help="reloads of the others under each load (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="quiet seconds before the first reload (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    unknown = set(options.loads) - set(KINDS)
    if unknown or options.reloads < 1 or options.peer_reloads < 1 or options.seconds <= 0:
        parser.error(f"--loads takes letters of {''.join(KINDS)}; counts and seconds are above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
