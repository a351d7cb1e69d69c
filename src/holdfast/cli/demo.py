"""``holdfast demo``."""

import asyncio
import contextlib
import importlib.util
import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.exitcode import DONE, FAILED, INTERRUPTED, CommandError

if TYPE_CHECKING:
    from holdfast.lab.demo import Director
    from holdfast.lab.scene import Scene

NEEDED: Final = ("aiohttp", "httptools", "starlette", "uvicorn", "websockets")
REFRESH_SECONDS: Final = 0.25
PICTURE: Final = (116, 42)
"""Columns and lines of ``--svg``."""
MIN_TERMINAL: Final = (72, 24)
"""Below this the live view would be unreadable; plain lines are not."""


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="When to end; each step is shown once all the same.")
@click.option("--rate", type=click.FloatRange(10, 2000), default=200.0, help="Requests a second.  [200]")
@click.option("--workers", type=click.IntRange(1, 16), default=2, help="Workers of each service.  [2]")
@click.option("--json", "as_json", is_flag=True, help="Print only the result, as one JSON object.")
@click.option("--svg", type=click.Path(path_type=Path), hidden=True, help="Write the last picture to this file.")
def demo(seconds: float | None, rate: float, workers: int, as_json: bool, svg: Path | None) -> int:
    """Watch a shop of four services survive what normally costs requests.

    Real processes on this machine's loopback serve a steady load without retries. In turn a service is reloaded, gets
    a broken version, loses a worker to SIGKILL, has a worker hang, and its supervisor is upgraded. Then more people
    browse than the gateway can serve, while orders go on; and a limit is edited while it runs, once with a typing
    error. Each time the lost requests are counted, and those that were refused. At the end each order that a client got
    a confirmation for is looked up in the database. Without --seconds it goes on until Ctrl-C.

    The exit status is 0 when nothing but a killed or a hung worker cost a request, orders were refused at most once
    in a hundred and only in the last two steps, and no order was lost.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(FAILED, f'the demo needs {missing[0]}: pip install "holdfast[demo]"')
    from holdfast.lab.demo import Settings
    from holdfast.lab.scene import Scene
    from holdfast.lab.shop import DemoError

    scene = Scene(seconds, rate)
    try:
        asyncio.run(_perform(Settings(seconds=seconds, rate=rate, workers=workers), scene, as_json))
    except DemoError as error:
        reason, _, detail = str(error).partition("\n")
        raise CommandError(FAILED, f"the demo cannot go on: {reason}", detail) from error
    except asyncio.CancelledError:
        return INTERRUPTED  # a second Ctrl-C: it could not wait for the result
    if not scene.total.requests:
        return INTERRUPTED
    if as_json:
        print(json.dumps(scene.as_json()))
    else:
        _conclude(scene)
    if svg is not None:
        _save(scene, svg)
    return DONE if scene.ok else FAILED


async def _perform(settings: object, scene: "Scene", as_json: bool) -> None:
    from holdfast.lab.demo import Director
    from holdfast.lab.demo import Settings as DemoSettings

    assert isinstance(settings, DemoSettings)
    director = Director(settings, scene)
    with _signals(director), contextlib.ExitStack() as shown:
        painting = None if as_json else _show(scene, shown)
        try:
            await director.run()
        finally:
            if painting is not None:
                painting.cancel()
                await asyncio.gather(painting, return_exceptions=True)


@contextmanager
def _signals(director: "Director") -> Iterator[None]:
    """The first signal ends the demo in order, the second one at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    asked = False

    def end() -> None:
        nonlocal asked
        if asked:
            task.cancel()
        asked = True
        director.stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _show(scene: "Scene", shown: contextlib.ExitStack) -> "asyncio.Task[None] | None":
    """Begin to show the scene: a picture on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.live import Live

    from holdfast.lab.demo_view import draw, plain

    console = Console()
    if not console.is_terminal or console.width < MIN_TERMINAL[0] or console.height < MIN_TERMINAL[1]:
        scene.on_line = lambda line: print(plain(line.kind, line.at, line.text), flush=True)
        return None
    live = shown.enter_context(Live(console=console, screen=True, auto_refresh=False))

    async def paint() -> None:
        while True:
            live.update(draw(scene, console.width, console.height), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)

    return asyncio.create_task(paint(), name="view")


def _conclude(scene: "Scene") -> None:
    from rich.console import Console

    from holdfast.lab.demo_view import summary

    console = Console()
    if not sys.stdout.isatty():
        console = Console(width=PICTURE[0])
    console.print(summary(scene))


def _save(scene: "Scene", path: Path) -> None:
    from rich.console import Console

    from holdfast.lab.demo_view import draw

    width, height = PICTURE
    console = Console(
        record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(draw(scene, width, height), height=height)
    console.save_svg(str(path), title="holdfast demo")
