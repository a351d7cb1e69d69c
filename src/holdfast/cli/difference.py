"""``holdfast config diff``: what is different between files, versions, and the running service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from holdfast.cli.answers import as_json, ask, print_json
from holdfast.cli.checking import read_unresolved
from holdfast.cli.exitcode import DONE, FAILED, CommandError
from holdfast.cli.sources import imported, only, schema_of, source_options
from holdfast.cli.target import find, target_options
from holdfast.cli.versions import changed
from holdfast.config.diff import Change, Changes, changes
from holdfast.config.document import Document, merged
from holdfast.config.history import Entry, History
from holdfast.config.layers import from_flags, read_document
from holdfast.config.mistakes import Place, place_text, steps_in
from holdfast.config.schema import Schema
from holdfast.config.secret import BLOT, is_reference
from holdfast.config.snapshot import redacted
from holdfast.core.errors import ConfigError
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.configured import ConfigHistory, ConfigStatus


@click.command()
@click.argument("before", required=False, type=click.Path())
@click.argument("after", required=False, type=click.Path())
@source_options
@target_options("5s")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is a difference.")
@as_json
def diff(
    before: str | None,
    after: str | None,
    config: str | None,
    config_dir: tuple[str, ...],
    app: str | None,
    name: str | None,
    control: Path | None,
    timeout: float,
    exit_code: bool,
    as_json: bool,
) -> int:
    """Show what is different, and which of it needs a new generation of workers.

    \b
    holdfast config diff              from the running service to its files of now
    holdfast config diff FILE         from the running service to that file
    holdfast config diff FILE FILE    between two files, or directories
    holdfast config diff 12           what rollback 12 would change
    holdfast config diff 12 14        between two versions of the history

    A secret that has changed behind the same file or variable is not seen: only the service looks it up.
    """
    schema = schema_of(imported(app))
    if before is not None and after is not None and not before.isdecimal() and not after.isdecimal():
        found = changes(only(before), only(after), schema)
    else:
        path = find(name, control)
        status = ask(path, timeout, ConfigStatus, "config")
        kept = _Kept(status, ask(path, timeout, ConfigHistory, "config-history").entries, schema)
        if before is not None and before.isdecimal():
            first, second = (kept.version, int(before)) if after is None else (int(before), _number(after))
            found = kept.between(first, second)
        elif after is not None:
            raise click.UsageError("give two files or two versions")
        else:
            files = (before,) if before is not None else (config,) if config is not None else None
            found = kept.to_files(files, config_dir or None)
    if as_json:
        told = {"changes": found.items, "total": found.total, "new_generation": not found.live}
        print_json(told)
    else:
        _print(found)
    return FAILED if exit_code and found else DONE


class _Kept:
    """What the running service has, and had."""

    def __init__(self, status: ConfigStatus, entries: tuple[Entry, ...], schema: Schema) -> None:
        self.version = status.version
        self._status = status
        self._entries = entries
        self._schema = schema

    def to_files(self, files: tuple[str, ...] | None, directories: tuple[str, ...] | None) -> Changes:
        """From what runs to the files of now; its variables and options stay, since only it knows them."""
        status = self._status
        document = merged(
            read_document(
                files=[name for name in status.files if Path(name).exists()] if files is None else files,
                directories=status.directories if directories is None else directories,
            ),
            from_flags(dict(self._others(status.values, ()))),
        )
        # Without the app's types, as the supervisor: so that the same is hidden on both sides.
        snapshot = read_unresolved(make_schema(), document)
        shown = redacted(document.values, snapshot.secrets if snapshot is not None else {}, ())
        shown = _hidden(shown, (), set(_blots(status.values, ())))
        return changes(Document(status.values), Document(shown), self._schema)

    def between(self, first: int, second: int) -> Changes:
        """From one version to another: by their documents where these are kept, else by what was told of each step."""
        try:
            return changes(self._document(first), self._document(second), self._schema)
        except ConfigError:
            for version in (first, second):
                if version not in [entry.version for entry in self._entries if entry.verdict == "applied"]:
                    known = ", ".join(str(entry.version) for entry in self._entries if entry.verdict == "applied")
                    raise CommandError(FAILED, f"version {version} is not kept; there are {known}") from None
            return self._steps(first, second)

    def _document(self, version: int) -> Document:
        if version == self.version:
            return Document(self._status.values)
        directory = self._status.state_directory
        if not directory or not Path(directory).is_dir():
            raise ConfigError("version", version, "a version whose document is on the disk")
        return History(Path(directory)).document(version)

    def _steps(self, first: int, second: int) -> Changes:
        low, high = min(first, second), max(first, second)
        told: dict[str, tuple[str, str]] = {}
        for entry in self._entries:
            if entry.verdict == "applied" and low < entry.version <= high:
                for path, old, new in entry.changes:
                    told[path] = told.get(path, (old, ""))[0], new
        items = []
        for path, (old, new) in told.items():
            before, after = (old, new) if first <= second else (new, old)
            if before != after:
                place = steps_in(path)
                items.append(Change(path, _meant(before), _meant(after), self._schema.is_live(place)))
        sections = frozenset(str(steps_in(item.path)[0]) for item in items)
        return Changes(tuple(items), len(items), sections, all(item.live for item in items))

    def _others(self, value: dict[str, Any], place: Place) -> Any:
        """The values that came from no file, by their paths."""
        for key, item in value.items():
            inner = (*place, key)
            if isinstance(item, dict) and item:
                yield from self._others(item, inner)
            elif not self._from_file(inner):
                yield place_text(inner), item

    def _from_file(self, place: Place) -> bool:
        """Whether the value, or the first one in it, came from a file. What nobody told of is a table that is empty."""
        path = place_text(place)
        told = next((text for name, text in self._status.origins.items() if _within(name, path)), "")
        where, _, line = told.rpartition(":")
        name = where if line.isdecimal() else told
        return not told or name in self._status.files or any(name.startswith(f"{d}/") for d in self._status.directories)


def _meant(text: str) -> Any:
    """The value that the history has written as ``text``: a number, a list or a table as JSON, texts as they are."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def _blots(value: Any, place: Place) -> Iterator[Place]:
    """The places that are blotted out in ``value``, as its workers know secrets too. One of a list stands for all."""
    if value == BLOT:
        yield place
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _blots(item, (*place, name))
    elif isinstance(value, list):
        for item in value:
            yield from _blots(item, (*place, 0))


def _hidden(value: Any, place: Place, blots: set[Place]) -> Any:
    """``value`` with all of ``blots`` blotted out, but for what says where a secret is."""
    if isinstance(value, dict):
        if place in blots and not is_reference(value):
            return BLOT
        return {name: _hidden(item, (*place, name), blots) for name, item in value.items()}
    if place in blots:
        return BLOT
    return [_hidden(item, (*place, 0), blots) for item in value] if isinstance(value, list) else value


def _within(name: str, path: str) -> bool:
    """Whether the place ``name`` is ``path``, or is in it."""
    return name == path or name.startswith((f"{path}.", f"{path}["))


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.UsageError("give two files or two versions")
    return int(text)


def _print(found: Changes) -> None:
    if not found:
        click.echo("there is no difference")
        return
    for change in found.items:
        click.echo(changed(change))
    if found.total > len(found.items):
        click.echo(f"and {found.total - len(found.items)} more")
    count = "1 change" if found.total == 1 else f"{found.total} changes"
    later = "" if found.live else "; a new generation of workers is needed"
    click.echo(f"{count}{later}")
