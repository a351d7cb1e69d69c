"""Tables for people: with colours on a terminal, as text that can be cut and searched elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

SEPARATOR: Final = " | "


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], colours: Mapping[str, str] | None = None) -> None:
    """Print ``rows`` under ``columns``. A cell that begins with a word in ``colours`` has that colour."""
    if not sys.stdout.isatty():
        click.echo(text_table(columns, rows))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=(colours or {}).get(cell.partition(" ")[0], "")) for cell in row))
    Console().print(table)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as text, whatever the width of a terminal."""
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(_joined(line, widths) for line in lines)


def _joined(line: Sequence[str], widths: Sequence[int]) -> str:
    filled = max((index for index, cell in enumerate(line, 1) if cell), default=0)
    return SEPARATOR.join(cell.ljust(width) for cell, width in zip(line[:filled], widths, strict=False)).rstrip()
