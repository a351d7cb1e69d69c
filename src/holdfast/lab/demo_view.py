"""The live picture of the demo, drawn with rich from a scene."""

import math
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from holdfast.lab.link import ServiceView, WorkerView
from holdfast.lab.scene import Kind, Scene
from holdfast.lab.tally import Frame

FLOOR_SECONDS: Final = 0.001
CEILING_SECONDS: Final = 10.0
"""The plot's scale is logarithmic between these two."""
AXIS_WIDTH: Final = 8
BLOCKS: Final = " ▁▂▃▄▅▆▇█"
BORDER: Final = "grey39"
DIM: Final = "grey58"
ACCENT: Final = "bold cyan"
P50, P99, WORST = "green3", "dark_goldenrod", "grey54"
REFUSED: Final = "orange3"
STATES: Final = {
    "ready": ("●", "green3"),
    "booting": ("◌", "yellow3"),
    "draining": ("◑", "deep_sky_blue1"),
    "hung": ("✖", "bold red"),
}
SYMBOLS: Final[dict[Kind, tuple[str, str]]] = {
    "do": ("▶", ACCENT),
    "command": ("$", "bold"),
    "event": ("·", DIM),
    "good": ("✔", "green3"),
    "bad": ("✖", "bold red"),
}
MIN_PLOT: Final = 4
MAX_PLOT: Final = 10
MIN_ROWS: Final = 6
MAX_ROWS: Final = 11
"""Steps in the table of costs; older ones scroll out."""
TRAFFIC_FRAME: Final = 7
SERVICES_LINES: Final = 8
COSTS_FRAME: Final = 3
"""Lines of the three panels besides the plot and the rows of costs."""
WIDE: Final = 96
"""Columns from which there is room for what is only nice to know."""


def draw(scene: Scene, width: int, height: int) -> RenderableType:
    """The whole picture, ``height`` lines of ``width`` columns."""
    room = height - TRAFFIC_FRAME - SERVICES_LINES - COSTS_FRAME
    rows = min(MAX_ROWS, max(MIN_ROWS, len(scene.results)), max(1, room - MIN_PLOT))
    plot = max(MIN_PLOT, min(MAX_PLOT, room - rows))
    layout = Layout()
    layout.split_column(
        Layout(_traffic(scene, plot), name="traffic", size=plot + TRAFFIC_FRAME),
        Layout(name="middle", minimum_size=SERVICES_LINES),
        Layout(_costs(scene, rows), name="costs", size=rows + COSTS_FRAME),
    )
    layout["middle"].split_row(
        Layout(_services(scene, wide=width >= WIDE), ratio=5),
        Layout(_Commentary(scene), ratio=7),
    )
    return layout


def summary(scene: Scene) -> RenderableType:
    """What stays on the screen at the end."""
    return Group(_costs(scene, len(scene.results)), verdict(scene))


def verdict(scene: Scene) -> Text:
    """The result in a few lines."""
    total, orders = scene.total, scene.orders
    text = Text()
    rate = total.requests / total.ended if total.ended else 0.0
    text.append(f"{total.requests:,} requests in {_clock(total.ended)} ({rate:.0f}/s): {total.failed} lost", "bold")
    free = sum(result.tally.failed for result in scene.results if result.free)
    if total.failed:
        text.append(f", {free} of them by reloads, broken versions, upgrades, overloads and edits", _tone(not free))
        text.append("; a worker that is killed or hangs takes with it what it was answering", DIM)
    text.append(".\n")
    if total.refused:
        text.append(f"{total.refused:,} were refused", "bold")
        text.append(" by an overload or an edited limit: their clients knew at once, and nothing was begun.\n", DIM)
    text.append(f"{orders.checked:,} orders were confirmed to clients: ", "bold")
    if orders.checked and orders.holds:
        text.append("each is in the database exactly once", "green3")
    else:
        text.append(f"{orders.missing} are missing, {orders.doubled} are there twice", "bold red")
    if orders.unreceipted:
        text.append(f"; {orders.unreceipted} more were stored, but their client never got the answer", DIM)
    text.append(".\n")
    text.append(
        "✔ nothing was lost that should not be\n" if scene.ok else "✖ the promise was not kept\n", _tone(scene.ok)
    )
    return text


def plain(kind: Kind, at: float, text: str) -> str:
    """A line of the commentary for output that is no terminal."""
    return f"{_clock(at)} {SYMBOLS[kind][0] if kind != 'event' else ' '} {text}"


def _traffic(scene: Scene, rows: int) -> Panel:
    recent = scene.recent()
    figures = Text(no_wrap=True, overflow="ellipsis")
    seconds = recent.at or 1.0
    rate = recent.requests / seconds
    lost = scene.failed
    figures.append(f" {rate:4.0f}", ACCENT)
    figures.append(" requests/s    ", DIM)
    figures.append(f"{lost}", "bold red" if lost else "bold green3")
    figures.append(f" lost of {scene.requests:,}    ", DIM)
    for name, value, style in (
        ("p50", recent.latency.quantile(0.5), P50),
        ("p99", recent.latency.quantile(0.99), P99),
        ("longest", recent.worst, WORST),
    ):
        figures.append(f"{name} ", DIM)
        figures.append(_duration(value), f"bold {style}")
        figures.append("    ")
    figures.append("(last 5 s)", DIM)
    orders, browsing = recent.of("orders"), recent.of("browsing")
    kinds = Text(no_wrap=True, overflow="ellipsis")
    for text, style in (
        (f" {orders.ok / seconds:4.0f}", ACCENT),
        (" orders/s, p99 ", DIM),
        (_duration(orders.latency.quantile(0.99)), f"bold {P99}"),
        (f"    {browsing.ok / seconds:.0f}", ACCENT),
        (" browse/s, ", DIM),
        (f"{browsing.refused / seconds:.0f}", f"bold {REFUSED}" if browsing.refused else "bold green3"),
        (f" refused/s    {scene.refused:,} refused in all", DIM),
    ):
        kinds.append(text, style)
    clock = _clock(scene.elapsed) + (f" of {_clock(scene.limit)}" if scene.limit else "")
    return Panel(
        Group(figures, kinds, _Plot(scene, rows)),
        title=Text.assemble(
            (" holdfast ", ACCENT), (f"a shop under load, {scene.rate:.0f} requests/s, no retries ", DIM)
        ),
        title_align="left",
        subtitle=Text(f" {clock} ", DIM),
        subtitle_align="right",
        border_style=BORDER,
        box=box.ROUNDED,
    )


class _Plot:
    """Latency over time, a frame a column; below it how many were lost, what share was refused, and what was done."""

    def __init__(self, scene: Scene, rows: int) -> None:
        self._scene = scene
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(10, options.max_width - AXIS_WIDTH)
        frames = list(self._scene.frames)[-width:]
        columns = [_heights(frame, self._rows) for frame in frames]
        for row in range(self._rows - 1, -1, -1):
            line = Text(_axis(row, self._rows), DIM, no_wrap=True)
            for p50, p99, worst in columns:
                block = BLOCKS[max(0, min(8, round((worst - row) * 8)))]
                middle = row + 0.5
                line.append(block, P50 if middle <= p50 else P99 if middle <= p99 else WORST)
            yield line
        line = Text("lost".rjust(AXIS_WIDTH - 2) + "  ", DIM, no_wrap=True)
        for frame in frames:
            count = str(frame.failed) if frame.failed < 10 else "+"
            line.append(count if frame.failed else "·", "bold red" if frame.failed else BORDER)
        yield line
        line = Text("refused".rjust(AXIS_WIDTH - 1) + " ", DIM, no_wrap=True)
        for frame in frames:
            share = frame.refused / frame.requests if frame.refused else 0.0
            line.append(BLOCKS[math.ceil(share * 8)] if share else "·", REFUSED if share else BORDER)
        yield line
        yield self._marks(frames, width)

    def _marks(self, frames: Sequence[Frame], width: int) -> Text:
        line = [" "] * width
        for at, label in self._scene.marks:
            start = next((index for index, frame in enumerate(frames) if frame.at >= at), None)
            if start is None or not frames or at < frames[0].at - 1.0:
                continue
            line[start:] = [" "] * (width - start)
            for offset, character in enumerate(f"▲{label}"[: width - start]):
                line[start + offset] = character
        return Text(" " * AXIS_WIDTH + "".join(line), "cyan", no_wrap=True)


def _services(scene: Scene, *, wide: bool) -> Panel:
    table = Table(box=None, padding=(0, 1), expand=True, header_style=DIM)
    table.add_column("service", no_wrap=True)
    table.add_column("gen", justify="right")
    table.add_column("workers", no_wrap=True, ratio=1)
    if wide:
        table.add_column("config", justify="right", no_wrap=True)
        table.add_column("MB", justify="right", style=DIM)
    for view in scene.services.values():
        workers = Text()
        for worker in view.workers:
            symbol, style = STATES.get(worker.state, ("?", "white"))
            workers.append(f"{symbol}", style)
            workers.append(f"{worker.generation} ", DIM)
        upgraded = f" +{view.upgrades}" if view.upgrades else ""
        name = Text.assemble(view.name, (upgraded, "deep_sky_blue1"))
        row: list[Text | str] = [name, str(view.generation), workers]
        if wide:
            row += [_versions(view), str(_memory(view.workers))]
        table.add_row(*row)
    legend = Text(" ", no_wrap=True, overflow="crop")
    for state, (symbol, style) in STATES.items():
        legend.append(symbol, style)
        legend.append(f"{state} ", DIM)
    return Panel(Group(table, legend), title=Text(" services ", DIM), title_align="left", border_style=BORDER)


class _Commentary:
    """The last lines that fit."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(1, (options.height or 8) - 2)
        width = max(10, options.max_width - 4)
        lines: list[Text] = []
        for line in list(self._scene.lines)[-height:]:
            symbol, style = SYMBOLS[line.kind]
            text = Text.assemble((f"{symbol} ", style), (line.text, DIM if line.kind == "event" else style))
            lines += text.wrap(console, width)
        yield Panel(
            Group(*lines[-height:]),
            title=Text(" what happens ", DIM),
            title_align="left",
            border_style=BORDER,
            height=options.height,
        )


def _costs(scene: Scene, rows: int) -> Panel:
    table = Table(box=None, padding=(0, 1), expand=True, header_style=DIM)
    for name, justify in (
        ("", "left"),
        ("step", "left"),
        ("service", "left"),
        ("requests", "right"),
        ("lost", "right"),
        ("refused", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("longest", justify="right", no_wrap=True)
    table.add_column("what happened", ratio=1, no_wrap=True, overflow="ellipsis", style=DIM)
    for result in list(scene.results)[-rows:]:
        failed = result.tally.failed
        table.add_row(
            Text("✔" if result.good else "✖", _tone(result.good)),
            result.name,
            result.service,
            f"{result.tally.requests:,}",
            Text(str(failed), "bold green3" if not failed else "yellow3" if result.good else "bold red"),
            Text(f"{result.tally.refused:,}", REFUSED if result.tally.refused else DIM),
            _duration(result.tally.worst),
            result.note.partition("\n")[0],
        )
    return Panel(
        table, title=Text(" what each step cost ", DIM), title_align="left", border_style=BORDER, box=box.ROUNDED
    )


def _versions(view: ServiceView) -> Text:
    """Of the configuration, with a sign of what is under way: some workers have another, or the file is wrong."""
    versions = {worker.configuration for worker in view.workers} - {0}
    style = "bold red" if view.refused else "yellow3" if len(versions) > 1 else ""
    return Text("/".join(map(str, sorted(versions))) + ("!" if view.refused else ""), style)


def _heights(frame: Frame, rows: int) -> tuple[float, float, float]:
    return (
        _height(frame.latency.quantile(0.5), rows),
        _height(frame.latency.quantile(0.99), rows),
        _height(frame.worst, rows),
    )


def _height(seconds: float, rows: int) -> float:
    """How many rows of the plot, logarithmic."""
    if seconds <= FLOOR_SECONDS:
        return 0.125 if seconds > 0 else 0.0
    share = math.log(seconds / FLOOR_SECONDS) / math.log(CEILING_SECONDS / FLOOR_SECONDS)
    return min(1.0, share) * rows


def _axis(row: int, rows: int) -> str:
    """The powers of ten, each at the row in which it lies."""
    for power in range(5):
        seconds = FLOOR_SECONDS * 10**power
        if int(_height(seconds, rows)) == row and (power or row == 0):
            return _duration(seconds).rjust(AXIS_WIDTH - 2) + " ┤"
    return " " * (AXIS_WIDTH - 1) + "│"


def _duration(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 or seconds in (0.0, 0.001) else f"{seconds * 1e3:.1f} ms"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _memory(workers: Sequence[WorkerView]) -> int:
    return sum(worker.memory for worker in workers) // (1024 * 1024)


def _tone(good: bool) -> str:
    return "bold green3" if good else "bold red"
