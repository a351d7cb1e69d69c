"""``holdfast routes``: what each route lets in, and which one a request takes."""

from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from holdfast.cli.answers import as_json, print_json
from holdfast.cli.routes_running import show_running
from holdfast.cli.routing import QUEUE, Explanation, RouteRow, Routing, target
from holdfast.cli.sources import Source, imported, schema_of, source_options, with_code
from holdfast.cli.table import show_table
from holdfast.cli.target import target_options
from holdfast.config.mistakes import Place
from holdfast.config.snapshot import Snapshot
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.settings import AdmissionSettings

COLUMNS: Final = ("match", "host", "headers", "policies, in order", "timeout", "criticality", "from")
OF_FILES: Final = frozenset(("method", "path", "host", "headers", "config", "config_dir", "app"))
OF_SERVICES: Final = frozenset(("name", "control", "timeout", "watch"))
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What shells offer; any other may be written."""


class Header(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """``NAME=VALUE``, or as on the wire ``NAME: VALUE``."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[bytes, bytes]:
        at = min((place for sign in "=:" if (place := value.find(sign)) > 0), default=0)
        if not at:
            self.fail(f"{value!r} is no header; write x-version=2", param, ctx)
        name, text = value[:at].strip().lower(), value[at + 1 :].strip()
        try:
            return name.encode("ascii"), text.encode("latin-1")
        except UnicodeEncodeError:
            self.fail(f"{value!r} is no header: names are ASCII, values latin-1", param, ctx)


def _complete_method(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(method) for method in METHODS if method.startswith(incomplete.upper())]


@click.command()
@click.argument("method", required=False, shell_complete=_complete_method)
@click.argument("path", required=False)
@click.option("--host", metavar="NAME", default="", help="The request's Host.")
@click.option("--header", "headers", multiple=True, type=Header(), help="A header of the request. Repeatable.")
@source_options
@click.option("--running", is_flag=True, help="Show what the running service has counted on each, in all workers.")
@click.option("--watch", is_flag=True, help="With --running: again every second, until interrupted.")
@target_options("5s")
@as_json
@click.pass_context
def routes(
    context: click.Context,
    /,
    method: str | None,
    path: str | None,
    host: str,
    headers: tuple[tuple[bytes, bytes], ...],
    config: str | None,
    config_dir: tuple[str, ...],
    app: str | None,
    running: bool,
    watch: bool,
    name: str | None,
    control: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show the routes, the most specific first; with METHOD and PATH, which of them such a request takes and why.

    \b
    holdfast routes                                     all of them
    holdfast routes /orders/7                           GET /orders/7
    holdfast routes POST /orders --header x-version=2
    holdfast routes GET https://shop.example/orders/7
    holdfast routes --running                           how many requests each has

    Nothing need be running: it reads the files and variables of now. With --app it has the routes that the app
    declares in its code too. With --running a service is asked: what its workers have counted since they began, and
    what is under way.
    """
    _check_together(context, running)
    if running:
        show_running(name, control, timeout, as_json, watch)
        return
    if method is not None and path is None:
        method, path = "GET", method
        if not path.startswith("/") and "://" not in path:
            raise click.UsageError(f"a method and a path, or a path; write for example {path.upper()} /orders/7")
    if path is None and (host or headers):
        raise click.UsageError("--host and --header are of a request; name its method and path")
    routing = _routing(config, config_dir, app)
    if method is None or path is None:
        if as_json:
            print_json({"routes": routing.rows, "others": routing.others, "queue": routing.queue})
        else:
            _print_all(routing)
        return
    where, at = target(path, host)
    found = routing.explain(method.upper(), where, at, headers)
    if as_json:
        print_json(found)
    else:
        _print(found, routing.admission)


def _check_together(context: click.Context, running: bool) -> None:
    """Raises ``UsageError`` for what is of files, when a running service is asked, and the other way round."""
    of = OF_FILES if running else OF_SERVICES
    written = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        if option.name in of and context.get_parameter_source(option.name) is written:
            shown = option.opts[0] if option.opts[0].startswith("-") else option.opts[0].upper()
            raise click.UsageError(f"{shown} {'cannot go with' if running else 'needs'} --running")


def _routing(config: str | None, config_dir: tuple[str, ...], app: str | None) -> Routing:
    loaded = imported(app)
    snapshot = schema_of(loaded).read(with_code(Source(config, config_dir).document(), loaded))
    origins = [_origin(snapshot, ("routes", number)) for number in range(len(snapshot.routes))]
    return Routing(snapshot.admission, snapshot.routes, origins, ErrorTable(snapshot.errors))


def _origin(snapshot: Snapshot, place: Place) -> str:
    origin = snapshot.origin(place)
    return str(origin) if origin.place else ""


def _print_all(routing: Routing) -> None:
    for line in _process(routing):
        click.echo(line)
    rows = [_cells(row) for row in (*routing.rows, routing.others)]
    # A column in which nobody has anything says nothing.
    used = [index for index in range(len(COLUMNS)) if any(cells[index] for cells in rows)]
    click.echo()
    show_table([COLUMNS[index] for index in used], [[cells[index] for index in used] for cells in rows])


def _process(routing: Routing) -> list[str]:
    """What is true of all routes."""
    admission = routing.admission
    gates = [*routing.others.gates, *([routing.queue] if routing.queue is not None else [])]
    lines = [f"for all of the process: {', '.join(map(str, gates)) or 'none'}"]
    if connections := admission.per_client.connections:
        lines.append(f"connections of one client: {connections}")
    believed = ", ".join(admission.trusted_proxies) or "nobody"
    lines.append(f"believed about clients, deadlines and criticality: {believed}")
    return lines


def _cells(row: RouteRow) -> tuple[str, ...]:
    gates = ", ".join(
        [*(gate.name if gate.shared else str(gate) for gate in row.gates), *([QUEUE] if row.queued else [])]
    )
    headers = ", ".join(f"{name}: {value}" for name, value in row.headers.items())
    match = row.match if row.match != "*" or row.origin else f"({row.name})"
    return match, row.host, headers, gates or "none", row.timeout or "none", row.criticality, row.origin


def _print(found: Explanation, admission: AdmissionSettings) -> None:
    route = found.route
    request = " ".join((found.method, found.path, *([f"on {found.host}"] if found.host else [])))
    click.secho(request, bold=True)
    click.echo()
    if found.fits:
        more = [f"host {route.host}"] if route.host else []
        more += [f"{name}: {value}" for name, value in route.headers.items()]
        narrowed = f" ({', '.join(more)})" if more else ""
        click.echo(f"it takes     {click.style(route.match + narrowed, fg='green', bold=True)}  {route.origin}")
        if route.name != route.match + narrowed:
            click.echo(f"which is     {route.name}")
    click.echo(f"because      {found.why}")
    click.echo(f"criticality  {route.criticality}")
    if route.must_finish:
        click.echo("must finish  its handler goes on when its client has gone")
    if connections := admission.per_client.connections:
        click.echo(f"connections  {connections} of one client")
    click.echo()
    steps = [(str(gate), f"{gate.status} {gate.reason}") for gate in route.gates]
    if route.timeout:
        steps.append((f"timeout({route.timeout})", found.late))
    if found.queue is not None:
        steps.append((str(found.queue), f"{found.queue.status} {found.queue.reason}"))
    if steps:
        click.echo("on its way it meets, in this order")
        show_table(
            ("", "gate", "refuses with"),
            [(str(number), gate, refusal) for number, (gate, refusal) in enumerate(steps, 1)],
        )
    else:
        click.echo("on its way it meets nothing")
    if found.others:
        click.echo()
        click.echo("the others")
        show_table(("route", "why not", "from"), [(why.match, why.why, why.origin) for why in found.others])
