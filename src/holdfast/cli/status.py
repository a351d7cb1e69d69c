"""``holdfast status``: the workers and how they are."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from holdfast.cli.answers import read
from holdfast.cli.client import Conversation
from holdfast.cli.exitcode import FAILED, CommandError
from holdfast.cli.target import find, target_options
from holdfast.supervisor.status import Status, WorkerStatus

if TYPE_CHECKING:
    from rich.console import Group

REFRESH: Final = 1.0
"""Seconds between two looks of --watch; workers give their figures that often."""
GAP: Final = 5.0
"""Seconds for which --watch bears a supervisor that does not answer: it may be upgrading itself."""
COLUMNS: Final = (
    "slot",
    "pid",
    "gen",
    "state",
    "uptime",
    "requests",
    "in flight",
    "conns",
    "memory",
    "lag",
    "health",
)
COLOURS: Final = {"ready": "green", "pass": "green", "hung": "red", "fail": "red", "booting": "cyan", "warn": "yellow"}


@click.command()
@target_options("5s")
@click.option("--watch", is_flag=True, help="Look again every second, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def status(name: str | None, control: Path | None, timeout: float, watch: bool, as_json: bool) -> None:
    """Show the supervisor, its workers and how they are."""
    path = find(name, control)
    if not watch:
        _show(path, _raw(path, timeout), as_json)
        return
    try:
        if as_json or not sys.stdout.isatty():
            while True:
                _show(path, _patient(path, timeout), as_json)
                time.sleep(REFRESH)
        _live(path, timeout)
    except KeyboardInterrupt:
        return


def _raw(path: Path, timeout: float) -> msgspec.Raw:
    with Conversation(path, timeout) as conversation:
        return conversation.ask("status")


def _patient(path: Path, timeout: float) -> msgspec.Raw:
    """The status; through the moment in which the supervisor replaces itself."""
    last = time.monotonic() + GAP
    while True:
        try:
            return _raw(path, timeout)
        except CommandError as exc:
            if exc.status == FAILED and time.monotonic() < last:
                time.sleep(REFRESH / 10)
                continue
            raise


def _show(path: Path, raw: msgspec.Raw, as_json: bool) -> None:
    if as_json:
        click.echo(bytes(raw).decode())
        return
    found = read(path, raw, Status)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(panel(found))
    else:
        click.echo(plain(found))


def _live(path: Path, timeout: float) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, transient=False) as live:
        while True:
            live.update(panel(read(path, _patient(path, timeout), Status)), refresh=True)
            time.sleep(REFRESH)


def plain(found: Status) -> str:
    """The table as text without colours or a terminal's width."""
    rows = [COLUMNS, *(row(worker) for worker in found.workers)]
    widths = [max(len(one[index]) for one in rows) for index in range(len(COLUMNS))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip() for one in rows]
    return "\n".join([*header(found), "", *lines])


def header(found: Status) -> list[str]:
    """What is true of the whole service, one fact or two a line."""
    upgrades = f", {found.upgrades} upgrade{'s' * (found.upgrades > 1)}" if found.upgrades else ""
    lines = [
        f"{found.name}: {found.state}, generation {found.generation}, up {short(found.uptime)}{upgrades}",
        f"at      {', '.join(found.addresses) or 'nowhere'}",
        f"runs    Holdfast {found.version} on Python {found.python}, process {found.pid}",
        f"workers {found.wanted} wanted, {sum(one.state == 'ready' for one in found.workers)} ready,"
        f" {found.crashes} crashed, {found.hangs} hung so far",
    ]
    if found.admin:
        lines.insert(2, f"admin   {', '.join(found.admin)}")
    if (last := found.last_reload) is not None:
        ago = short(max(0.0, time.time() - last.at))
        how = f"generation {last.generation} serves" if last.ok else f"generation {last.generation} refused"
        lines.append(f"reload  {how}, {ago} ago, took {last.seconds:.1f} s{f': {last.reason}' if last.reason else ''}")
    lines += [f"trouble {text}" for text in found.restarting]
    lines += [f"check   slot {one.slot}: {text}" for one in found.workers for text in one.checks]
    return lines


def row(worker: WorkerStatus) -> tuple[str, ...]:
    """One line of the table, in the order of COLUMNS."""
    return (
        str(worker.slot),
        str(worker.pid),
        str(worker.generation),
        f"{worker.state} ({worker.phase})" if worker.phase else worker.state,
        short(worker.uptime),
        f"{worker.requests:,}",
        str(worker.in_flight),
        str(worker.connections),
        f"{worker.memory / (1 << 20):.0f} MiB" if worker.memory else "-",
        f"{worker.lag * 1000:.0f} ms",
        worker.health or "-",
    )


def short(seconds: float) -> str:
    """A duration for a glance: its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def panel(found: Status) -> "Group":
    """The same for a terminal, with colours."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("state", "health") else "right", no_wrap=True)
    for worker in found.workers:
        cells = [Text(cell, style=COLOURS.get(cell.partition(" ")[0], "")) for cell in row(worker)]
        table.add_row(*cells, style="" if worker.state == "ready" else "dim")
    title, *rest = header(found)
    colour = "green" if found.ready else "yellow" if found.state != "stopping" else "red"
    lines = [Text(title, style=f"bold {colour}"), *(Text(line) for line in rest)]
    return Group(*lines, table)
