"""``holdfast config``: what the configuration is, what is wrong with it, and what may be written into it."""

import json
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from click.core import ParameterSource

from holdfast.cli.answers import as_json, ask, print_json
from holdfast.cli.checking import check_all, read_unresolved
from holdfast.cli.exitcode import DONE, FAILED, CommandError
from holdfast.cli.lazy import LazyGroup
from holdfast.cli.settings import PREFIX, TABLE
from holdfast.cli.sources import Source, app_option, imported, only, schema_of, source_options, with_code
from holdfast.cli.target import find, target_options
from holdfast.cli.versions import dated
from holdfast.cli.written import columns, written
from holdfast.config.document import Document
from holdfast.config.mistakes import ConfigErrors, Place, all_of, each, place_text
from holdfast.config.schema import Schema
from holdfast.core.errors import ConfigError
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.configured import ConfigStatus

SECTIONS: Final = ("run", "admission", "routes", "errors", "pipelines", "settings")
"""What ``show`` can be asked for."""
UNNAMED: Final = "app:app"
"""What is checked in the place of an app that is not named."""
COMMANDS: Final = {
    "show": ("holdfast.cli.config:show", "Show every value and where it comes from."),
    "check": ("holdfast.cli.config:check", "Say everything that is wrong, and start nothing."),
    "diff": ("holdfast.cli.difference:diff", "Show what would change, and what needs new workers."),
    "apply": ("holdfast.cli.versions:apply", "Have the running service read its files now."),
    "history": ("holdfast.cli.versions:history", "Show what was proposed, when, by whom, and what became of it."),
    "rollback": ("holdfast.cli.versions:rollback", "Go back to an earlier version."),
    "schema": ("holdfast.cli.config:schema", "Print the JSON Schema of the file, for editors."),
}
"""Each command, where it is, and its line in the list."""

config = LazyGroup(
    "config",
    table=COMMANDS,
    help="Look at the configuration, check it, and change that of a running service.",
    short_help="Show, check and change the configuration.",
)


@click.command()
@click.argument("sections", nargs=-1, metavar="[SECTION]...", type=click.Choice(SECTIONS))
@source_options
@click.option("--running", is_flag=True, help="Ask the running service what it has.")
@target_options("5s")
@as_json
def show(
    sections: tuple[str, ...],
    config: str | None,
    config_dir: tuple[str, ...],
    app: str | None,
    running: bool,
    name: str | None,
    control: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show every value and the file and line, the variable or the option that it comes from.

    It is what the files and variables of now say; with --running, what the running service goes by, and which of its
    workers have it. Secrets are not shown.
    """
    wanted = sections or SECTIONS
    if running:
        found = ask(find(name, control), timeout, ConfigStatus, "config")
        values = {section: value for section, value in found.values.items() if section in wanted}
        if as_json:
            print_json(msgspec.structs.replace(found, values=values))
            return
        for line in about(found):
            click.secho(f"# {line}", dim=True)
        _print_values(values, found.origins)
        return
    document = Source(config, config_dir).document()
    snapshot = schema_of(imported(app)).read(document)
    values = {section: value for section, value in snapshot.redacted().items() if section in wanted}
    origins = dict(origins_in(document, values))
    if as_json:
        print_json({"values": values, "origins": origins})
        return
    _print_values(values, origins)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path())
@source_options
@click.option(
    "--no-secrets",
    is_flag=True,
    help="Look up no secrets: where they come from may not be here, in a build for example.",
)
@as_json
def check(
    files: tuple[str, ...],
    config: str | None,
    config_dir: tuple[str, ...],
    app: str | None,
    no_secrets: bool,
    as_json: bool,
) -> int:
    """Say everything that is wrong: the place, the value, what is expected, the nearest name.

    Without FILE it is what holdfast run would read here, variables included. Each FILE, or directory of settings, is
    checked by itself, without variables. The exit status is 1 when anything is wrong.
    """
    context = click.get_current_context()
    if files and any(
        context.get_parameter_source(one) is ParameterSource.COMMANDLINE for one in ("config", "config_dir")
    ):
        raise click.UsageError("give files, or --config and --config-dir")
    found = imported(app)
    schema = schema_of(found)
    sources: list[Any] = list(files) or [Source(config, config_dir)]
    told = []
    for source in sources:
        try:
            if files:
                check_all(schema, with_code(only(source), found), found, secrets=not no_secrets)
            else:
                _check_here(source, schema, app, found, secrets=not no_secrets)
        except ConfigError as error:
            mistakes, total = each(error), getattr(error, "total", 1)
        else:
            mistakes, total = (), 0
        told.append({"source": str(source), "total": total, "mistakes": [_mistake(one) for one in mistakes]})
        if not as_json:
            _print_check(str(source), total, mistakes)
    good = not any(one["total"] for one in told)
    if as_json:
        print_json({"ok": good, "checked": told})
    return DONE if good else FAILED


@click.command()
@app_option
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
def schema(app: str | None, output: Path | None) -> None:
    """Print the JSON Schema (draft 2020-12) of the file. Editors complete and check by it.

    With --app it knows the app's own settings too.
    """
    made = {
        **schema_of(imported(app)).json_schema(),
        "title": "holdfast.toml",
        "description": "Settings of a service that Holdfast runs.",
    }
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as exc:
        raise CommandError(FAILED, f"{output} cannot be written: {exc.strerror}") from exc
    click.echo(f"{output} is written; begin holdfast.toml with the line  #:schema ./{output.name}")


def about(found: ConfigStatus) -> list[str]:
    """What is true of the whole running configuration, one fact a line."""
    lines = [f"version {found.version}, {found.digest[:12]}, since {dated(found.at)} by {found.who}"]
    if found.why:
        lines[0] += f": {found.why}"
    for worker in found.workers:
        has = f"has version {worker.version}" if worker.version else "has not said yet what it has"
        refusal = f"; it refuses: {worker.refusal}" if worker.refusal else ""
        lines.append(f"worker {worker.slot} (pid {worker.pid}, generation {worker.generation}) {has}{refusal}")
    if found.tried:
        lines.append(f"being tried: {found.tried}")
    lines += [f"waits for its turn: {text}" for text in found.waiting]
    if found.start:
        lines.append(found.start)
    lines += [f"refused: {text}" for text in found.refused]
    if found.trouble:
        lines.append(f"the history is not kept: {found.trouble}")
    return [" ".join(line.split()) for line in lines]


def origins_in(document: Document, values: Any, place: Place = ()) -> Any:
    """The places of ``values`` that hold no table, in words, and where each came from."""
    items: Any = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        inner = (*place, key)
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            yield from origins_in(document, value, inner)
        else:
            yield place_text(inner), str(document.origin(inner))


def _print_values(values: dict[str, Any], origins: dict[str, str]) -> None:
    def origin(place: Place) -> str:
        return next((found for n in range(len(place), 0, -1) if (found := origins.get(place_text(place[:n])))), "")

    lines = written(values, origin)
    if not lines:
        click.secho("# nothing is set: all settings are at their defaults", dim=True)
    for line, (text, comment) in zip(lines, columns(lines), strict=True):
        name, equals, rest = text.partition(" = ")
        shown = click.style(text, bold=True) if line.head else f"{click.style(name, fg='cyan')}{equals}{rest}"
        click.echo(shown + click.style(comment, dim=True))


def _check_here(source: Source, schema: Schema, app: str | None, found: Any, *, secrets: bool) -> None:
    """What ``run`` would complain of here, but that no app is named: it may be named on the command line."""
    mistakes: list[ConfigError] = []
    try:
        check_all(schema, with_code(source.layers(), found), found, secrets=secrets)
    except ConfigErrors as error:
        if error.total > len(error.errors):
            raise
        mistakes += error.errors
    settings = source.settings({"app": app} if app is not None else {})
    try:
        document = settings.document()
    except ConfigErrors as error:  # of [run], or there would be none
        # Variables that are no settings, and what another layer covers. All else has been told.
        told = set(map(_where, mistakes))
        mistakes += [one for one in error.errors if _where(one) not in told and _is_of_run(one)]
        if not mistakes:
            raise
    if mistakes:
        raise all_of(mistakes)
    if not document.get(("run", "app")):
        settings = source.settings({"app": UNNAMED})
    snapshot = read_unresolved(make_schema(), settings.document())
    if snapshot is not None:
        settings.check(snapshot)


def _where(mistake: ConfigError) -> str:
    variable = mistake.source or mistake.path
    return variable if variable.startswith(PREFIX) else f"{mistake.source} {mistake.path}"


def _is_of_run(mistake: ConfigError) -> bool:
    return not mistake.source or mistake.path.startswith(f"{TABLE}.")


def _print_check(source: str, total: int, mistakes: tuple[ConfigError, ...]) -> None:
    if not total:
        click.echo(f"{source}: {click.style('nothing is wrong', fg='green')}")
        return
    for mistake in mistakes:
        click.echo(_coloured(mistake), err=True)
    if total > len(mistakes):
        click.echo(f"and {total - len(mistakes)} more", err=True)
    count = "1 mistake" if total == 1 else f"{total} mistakes"
    click.echo(f"{source}: {click.style(count, fg='red', bold=True)}", err=True)


def _coloured(mistake: ConfigError) -> str:
    text = str(mistake)
    where = f"{mistake.source} {mistake.path}".strip()
    if where and text.startswith(where):
        return click.style(where, bold=True) + text.removeprefix(where)
    return text


def _mistake(error: ConfigError) -> dict[str, Any]:
    return {
        "source": error.source,
        "path": error.path,
        "expected": error.expected,
        "hint": error.hint,
        "text": str(error),
    }
