"""``holdfast run``."""

import asyncio
from typing import Any

import click

from holdfast.cli.exitcode import START, CommandError
from holdfast.cli.options import options_of
from holdfast.cli.serve import ENGINE, arguments, configure_log, demand, settle, start, take_over
from holdfast.cli.settings import CONFIG_VARIABLE, DIRECTORIES_VARIABLE, SettingsSource
from holdfast.core.errors import ConfigError
from holdfast.supervisor.master import Supervisor
from holdfast.supervisor.settings import Settings

CONFIG_HELP = "Settings file; ./holdfast.toml when it is there."
DIRECTORIES_HELP = "Directory of settings, as Kubernetes mounts them. Repeatable."


@click.command(
    epilog="""\b
Every option is also a variable, HOLDFAST_WORKERS for --workers, and an entry of [run] in holdfast.toml, workers.
Flags win over variables, variables over the file.

\b
Signals:  HUP reloads    USR2 upgrades the supervisor itself    TERM drains and stops
          INT stops without delays; the second one, or QUIT, stops at once    TTIN, TTOU: one worker more, or less
"""
)
@options_of(Settings, argument="app")
@click.option("--config", metavar="FILE", envvar=CONFIG_VARIABLE, type=click.Path(), help=CONFIG_HELP)
@click.option(
    "--config-dir",
    metavar="DIRECTORY",
    multiple=True,
    envvar=DIRECTORIES_VARIABLE,
    type=click.Path(),
    help=DIRECTORIES_HELP,
)
def run(config: str | None, config_dir: tuple[str, ...], **flags: Any) -> int:
    """Serve APP, an ASGI or WSGI application given as module:attribute, and lose no request."""
    demand(*ENGINE)
    resumed = take_over()
    source = SettingsSource(flags, config=config, directory=settle(resumed), config_dirs=config_dir)
    beginning = start(source, resumed)
    if resumed is not None and resumed.trial:
        print("ready to take over")
        return 0
    settings: Settings = beginning.live.current.run
    configure_log(settings)
    control = source.control(settings)
    supervisor = Supervisor(source, beginning, control=control, arguments=arguments(), resumed=resumed)
    try:
        return asyncio.run(supervisor.run())
    except ConfigError as exc:  # the settings were sound: it is the machine that refuses
        raise CommandError(START, str(exc)) from exc
