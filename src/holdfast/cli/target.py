"""Which running supervisor a command is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli.client import Conversation
from holdfast.cli.exitcode import ABSENT, TIMEOUT, USAGE, CommandError
from holdfast.core.duration import parse_duration
from holdfast.core.kinds import nearest
from holdfast.supervisor.control import control_path, runtime_directory

LOOK_LIMIT: Final = 1.0
"""Seconds for finding out whether somebody listens at a path."""
MAX_FOUND: Final = 256
"""Sockets of a directory that are looked at."""


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A duration, as in settings."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def target_options(timeout: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the options ``--name`` and ``--control``, for ``find``, and ``--timeout`` in seconds."""
    options = (
        click.option("--name", envvar="HOLDFAST_NAME", help="Name of the service; not needed when only one runs."),
        click.option(
            "--control", envvar="HOLDFAST_CONTROL", type=click.Path(path_type=Path), help="Path of its control socket."
        ),
        click.option(
            "--timeout",
            type=Seconds(),
            default=timeout,
            help="How long to wait." + (f"  [{timeout}]" if timeout else ""),
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def find(name: str | None, control: Path | None) -> Path:
    """The control socket of the service ``name``, or ``control``, or of the only service that runs.

    Raises CommandError that names the choices. ``control`` is not tried out.
    """
    if control is not None:
        return control
    if name:
        path = control_path(name)
        if not _answers(path):
            running = _running()
            near = nearest(name, running)
            hint = f"did you mean --name {near}?" if near else _choices(running)
            raise CommandError(ABSENT, f"no supervisor of {name!r} is running; {hint}")
        return path
    running = _running()
    if len(running) == 1:
        return control_path(running[0])
    if not running:
        raise CommandError(ABSENT, f"no supervisor is running; {_choices(running)}")
    raise CommandError(USAGE, f"several supervisors are running; add --name: {', '.join(running)}")


def _running() -> list[str]:
    found = sorted(runtime_directory().glob("*.sock"))[:MAX_FOUND]
    return [path.stem for path in found if _answers(path)]


def _answers(path: Path) -> bool:
    try:
        with Conversation(path, LOOK_LIMIT):
            return True
    except CommandError as exc:
        return exc.status not in (ABSENT, TIMEOUT)


def _choices(running: list[str]) -> str:
    if running:
        return f"these are: {', '.join(running)}"
    return f"control sockets are looked for in {runtime_directory()}; give --control PATH for one elsewhere"
