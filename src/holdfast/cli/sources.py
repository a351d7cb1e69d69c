"""The configuration that commands look at: the files, directories and variables of now, and the types of an app."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from holdfast.cli.exitcode import FAILED, CommandError
from holdfast.cli.settings import CONFIG_VARIABLE, DIRECTORIES_VARIABLE, PREFIX, TABLE, SettingsSource
from holdfast.config.document import Document
from holdfast.config.layers import read_document
from holdfast.config.schema import Schema
from holdfast.core.errors import BootError
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.settings import Settings

CONFIG_HELP: Final = "Settings file; ./holdfast.toml when it is there."
DIRECTORY_HELP: Final = "Directory of settings, as Kubernetes mounts them. Repeatable."
APP_HELP: Final = "Import this app too, for the types of its own settings, its exceptions and its routes."


def app_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the option ``--app``."""
    return click.option("--app", metavar="MODULE:ATTRIBUTE", help=APP_HELP)(function)


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the options ``--config``, ``--config-dir`` and ``--app``."""
    kind = click.Path()
    options = (
        click.option("--config", metavar="FILE", envvar=CONFIG_VARIABLE, type=kind, help=CONFIG_HELP),
        click.option(
            "--config-dir",
            metavar="DIRECTORY",
            multiple=True,
            envvar=DIRECTORIES_VARIABLE,
            type=kind,
            help=DIRECTORY_HELP,
        ),
        app_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


class Source(msgspec.Struct, frozen=True):
    """Where a configuration is read from, as ``run`` would with these options and no others."""

    config: str | None = None
    directories: tuple[str, ...] = ()

    def settings(self, flags: dict[str, object] | None = None) -> SettingsSource:
        """What reads it. Relative paths start here."""
        return SettingsSource(flags or {}, config=self.config, directory=Path(), config_dirs=self.directories)

    def document(self) -> Document:
        """All layers. Raises ``ConfigErrors``. Reads files."""
        return self.settings().document()

    def layers(self) -> Document:
        """The same, when nobody has looked yet at what stands in them. Raises ``ConfigErrors`` for no TOML."""
        file = self.settings().file
        return read_document(
            files=() if file is None else (file,),
            directories=self.directories,
            env=os.environ,
            aliases={f"{PREFIX}{name.upper()}": (TABLE, name) for name in Settings.__struct_fields__},
        )

    def __str__(self) -> str:
        file = self.settings().file
        return ", ".join((*([str(file)] if file else []), *self.directories)) or "variables and defaults"


def only(name: str) -> Document:
    """What stands in the file ``name``, or in that directory, and nothing else: no variables."""
    if Path(name).is_dir():
        return read_document(directories=(name,))
    return read_document(files=(name,))


def imported(app: str | None) -> Any:
    """The app that ``--app`` names, None without one. Raises CommandError with the app's own error."""
    if app is None:
        return None
    from holdfast.service.interface import load

    try:
        return load(app, app_dir=".")
    except BootError as exc:
        raise CommandError(FAILED, exc.reason, exc.detail) from exc


def schema_of(app: Any) -> Schema:
    """The sections and their types; with the app's own settings when it has a type for them.

    Raises CommandError for a type that no file can fill.
    """
    own = getattr(app, "settings_type", None)
    try:
        return make_schema(dict if own is None else own)
    except TypeError as exc:
        raise CommandError(FAILED, f"the app's settings cannot be read from a file: {exc}") from exc


def with_code(document: Document, app: Any) -> Document:
    """``document`` with the routes that the code of ``app`` gives below its own, as a worker has it; None has none.

    Raises CommandError when they cannot be found.
    """
    if app is None:
        return document
    from holdfast.service.service import Service
    from holdfast.supervisor.follower import with_routes

    service = app if isinstance(app, Service) else Service("app", app)
    try:
        return with_routes(document, service.routes_from_code())
    except BootError as exc:
        raise CommandError(FAILED, exc.reason, exc.detail) from exc
