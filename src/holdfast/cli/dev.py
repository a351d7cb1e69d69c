"""``holdfast dev``: one worker, readable logs, and a reload whenever a file is saved."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli.changes import saved
from holdfast.cli.exitcode import START, CommandError
from holdfast.cli.options import options_of
from holdfast.cli.run import CONFIG_HELP, DIRECTORIES_HELP
from holdfast.cli.serve import ENGINE, arguments, configure_log, demand, settle, start, take_over
from holdfast.cli.settings import CONFIG_VARIABLE, DIRECTORIES_VARIABLE, SettingsSource
from holdfast.core.errors import ConfigError
from holdfast.core.event import Event
from holdfast.supervisor.beginning import Beginning, begin
from holdfast.supervisor.master import EXIT_BOOT, Supervisor
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.status import GenerationReplaced
from holdfast.supervisor.upgrade import Resumed

PRESETS: Final = {
    "workers": 1,
    "health": True,
    "access_log": True,
    "log_format": "text",
    "prestop_delay": "0s",
    "idle_grace": "0s",
    "drain_timeout": "5s",
    "stop_timeout": "5s",
    "state_dir": "none",
}
"""What a developer wants whatever the file and the environment say; flags still win."""
SHOWN: Final = 3
"""Changed files that are named; more are counted."""


@click.command()
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
@click.option(
    "--watch",
    multiple=True,
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where a saved file causes a reload; --app-dir unless given. Repeatable.",
)
def dev(config: str | None, config_dir: tuple[str, ...], watch: tuple[Path, ...], **flags: Any) -> int:
    """Serve APP with one worker, and reload it when code, a template or a settings file is saved.

    A save that does not start prints the app's own error, and the code before it serves on. Unless flags say
    otherwise: one worker, logs for people with a line for each request, health pages, and no waiting at the end.
    """
    demand(*ENGINE, "watchfiles")
    resumed = take_over()
    directory = settle(resumed)
    source = SettingsSource(flags, config=config, directory=directory, presets=PRESETS, config_dirs=config_dir)
    beginning = start(source, resumed)
    if resumed is not None and resumed.trial:
        print("ready to take over")
        return 0
    settings: Settings = beginning.live.current.run
    configure_log(settings)
    watched = list(watch) or [directory / settings.app_dir]
    return asyncio.run(_Development(source, watched).run(beginning, resumed))


class _Development:
    """Supervisors, one after the other, until one ends well; and the files that make them reload."""

    def __init__(self, source: SettingsSource, directories: Sequence[Path]) -> None:
        self._source = source
        self._directories = directories
        self._changed = asyncio.Event()
        self._names = ""

    async def run(self, beginning: Beginning, resumed: Resumed | None) -> int:
        watcher = asyncio.create_task(self._watch(), name="file watch")
        watcher.add_done_callback(self._watch_ended)
        try:
            while (status := await self._serve(beginning, resumed)) == EXIT_BOOT:
                resumed = None
                following = await self._after_failure()
                if following is None:
                    return status
                beginning = following
            return status
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self) -> None:
        async for paths in saved(self._directories):
            names = ", ".join(path.name for path in paths[:SHOWN])
            self._names = names + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
            self._changed.set()

    def _watch_ended(self, watcher: "asyncio.Task[None]") -> None:
        if not watcher.cancelled() and (exc := watcher.exception()) is not None:
            _say(f"saved files are not noticed any more: {exc}")

    async def _serve(self, beginning: Beginning, resumed: Resumed | None) -> int:
        control = self._source.control(beginning.live.current.run)
        supervisor = Supervisor(self._source, beginning, control=control, arguments=arguments(), resumed=resumed)
        serving = asyncio.Event()
        if resumed is not None:
            serving.set()

        def hear(event: Event) -> None:
            if isinstance(event, GenerationReplaced):
                serving.set()

        supervisor.events.subscribe(hear)
        reloads = asyncio.create_task(self._reload_on_change(supervisor, serving), name="reload on change")
        try:
            return await supervisor.run()
        except ConfigError as exc:
            raise CommandError(START, str(exc)) from exc
        finally:
            reloads.cancel()
            await asyncio.gather(reloads, return_exceptions=True)

    async def _reload_on_change(self, supervisor: Supervisor, serving: asyncio.Event) -> None:
        """A save while the last one still boots calls that one off: nobody wants it any more."""
        await serving.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            _say(f"{self._names} changed")
            reload = asyncio.create_task(supervisor.reload(f"{self._names} changed"))
            newer = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait((reload, newer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                newer.cancel()
                reload.cancel()  # does nothing to one that is done; its outcome is in the log
                await asyncio.gather(reload, newer, return_exceptions=True)
            if not reload.cancelled() and (exc := reload.exception()) is not None:
                _say(f"not reloaded: {exc}")

    async def _after_failure(self) -> Beginning | None:
        """Wait for a save that gives sound settings. None when told to end before."""
        _say("waiting for a file to be saved; Ctrl-C ends")
        ended = asyncio.Event()
        with _signals(ended.set):
            while True:
                waits = [asyncio.create_task(self._changed.wait()), asyncio.create_task(ended.wait())]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                if ended.is_set():
                    return None
                self._changed.clear()
                try:
                    return begin(self._source)
                except ConfigError as exc:
                    _say(str(exc))


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _say(text: str) -> None:
    print(f"holdfast dev: {text}", file=sys.stderr, flush=True)
