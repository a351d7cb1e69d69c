"""The configuration of a running service through time: what has been proposed, the next version, and the way back."""

import getpass
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from click.shell_completion import CompletionItem

from holdfast.cli.answers import STATUS_LIMIT, as_json, ask, order, print_json, read
from holdfast.cli.exitcode import CommandError
from holdfast.cli.progress import waiting
from holdfast.cli.table import show_table
from holdfast.cli.target import find, target_options
from holdfast.cli.written import inline
from holdfast.config.diff import ABSENT, Change
from holdfast.config.history import Entry
from holdfast.config.secret import BLOT
from holdfast.supervisor.configured import ConfigApplied, ConfigHistory, ConfigStatus

COLUMNS: Final = ("version", "verdict", "when", "who", "why", "what")
COLOURS: Final = {"applied": "green", "refused": "red"}
PATHS_SHOWN: Final = 3
"""Places that a line of the history names."""
VALUE_LIMIT: Final = 80
"""Characters of a value in the line of a change."""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container has users without names
        return f"user {os.getuid()}"


def reason_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the options ``--why`` and ``--who``."""
    function = click.option("--who", default=_user, metavar="NAME", help="Who does it.  [you]")(function)
    return click.option("--why", default="", metavar="TEXT", help="The reason, for the history.")(function)


def _complete_version(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The versions that the running service keeps; nothing when none answers."""
    try:
        path = find(ctx.params.get("name"), ctx.params.get("control"))
        told = ask(path, STATUS_LIMIT, ConfigHistory, "config-history")
    except CommandError:
        return []
    return [
        CompletionItem(str(entry.version), help=f"{dated(entry.at)} {entry.who} {entry.why}".strip())
        for entry in reversed(told.entries)
        if entry.verdict == "applied" and str(entry.version).startswith(incomplete)
    ]


@click.command()
@target_options("10m")
@reason_options
@as_json
def apply(name: str | None, control: Path | None, timeout: float, why: str, who: str, as_json: bool) -> None:
    """Have the running service read its files, directories and variables now.

    It does so by itself when a file changes; this tells what came of it. When anything is wrong all of it is told,
    nothing has changed, and the exit status is 1. Returns when every worker has the new version; when something has
    changed that running workers cannot take over, when a new generation serves.
    """
    path = find(name, control)
    with waiting("reading the configuration"):
        applied = _proposed(path, timeout, as_json, "apply", who=who, why=why)
    _tell(path, applied, as_json)


@click.command()
@click.argument("version", type=click.IntRange(min=1), shell_complete=_complete_version)
@target_options("10m")
@reason_options
@as_json
def rollback(
    version: int, name: str | None, control: Path | None, timeout: float, why: str, who: str, as_json: bool
) -> None:
    """Make VERSION of the history hold again, under a new number.

    The files stay as they are: mend them, for the next change in one of them is read with all of it.
    """
    path = find(name, control)
    with waiting(f"going back to version {version}"):
        applied = _proposed(path, timeout, as_json, "rollback", version=version, who=who, why=why)
    _tell(path, applied, as_json)


@click.command()
@target_options("5s")
@as_json
def history(name: str | None, control: Path | None, timeout: float, as_json: bool) -> None:
    """Show the proposals that are kept, the newest first: when, by whom, why, and what became of each.

    A refused one has the number of the version that stayed. * is the current one.
    """
    found = ask(find(name, control), timeout, ConfigHistory, "config-history")
    if as_json:
        print_json(found)
        return
    show_table(COLUMNS, [_row(entry, found.current) for entry in reversed(found.entries)], COLOURS)
    if found.trouble:
        click.echo(f"the history is not kept: {found.trouble}", err=True)


def dated(at: float) -> str:
    """A moment in the time zone of this machine."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def changed(change: Change) -> str:
    """One change in a line, with its values as a file has them."""
    later = "" if change.live else click.style("  (needs a new generation)", fg="yellow")
    return f"{click.style(change.path, bold=True)}: {_value(change.before)} -> {_value(change.after)}{later}"


def _proposed(path: Path, timeout: float, as_json: bool, verb: str, **parameters: Any) -> ConfigApplied:
    answer = order(path, timeout, as_json, f"config-{verb}", verb=verb, see="config history", **parameters)
    return read(path, answer, ConfigApplied)


def _tell(path: Path, applied: ConfigApplied, as_json: bool) -> None:
    try:
        workers = ask(path, STATUS_LIMIT, ConfigStatus, "config").workers
    except CommandError as exc:
        raise CommandError(exc.status, f"it is done, but then: {exc.reason}") from exc
    having = sum(worker.version == applied.version for worker in workers)
    if as_json:
        print_json({"ok": True, **msgspec.to_builtins(applied), "workers": having})
        return
    if not applied.total:
        click.echo(f"nothing has changed: version {applied.version} holds")
        return
    for change in applied.changes:
        click.echo(changed(change))
    if applied.total > len(applied.changes):
        click.echo(f"and {applied.total - len(applied.changes)} more")
    where = "1 worker" if having == 1 else f"{having} workers"
    new = f"generation {applied.generation} serves: " if applied.generation else ""
    click.echo(f"{new}version {applied.version} holds in {where} after {applied.seconds:.1f} s")


def _row(entry: Entry, current: int) -> tuple[str, ...]:
    applied = entry.verdict == "applied"
    mark = "*" if applied and entry.version == current else ""
    told = [path for path, _, _ in entry.changes][:PATHS_SHOWN] if applied else list(entry.errors[:1])
    more = len(entry.changes if applied else entry.errors) - len(told)
    what = ", ".join(told) + (f" and {more} more" if more > 0 else "")
    return f"{entry.version}{mark}", entry.verdict, dated(entry.at), entry.who, entry.why, what


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and value in (ABSENT, BLOT) else inline(value)
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 3]}..."
