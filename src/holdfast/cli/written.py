"""A configuration written as TOML, for people: each value with the place that it came from."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from holdfast.config.mistakes import Place

INLINE_LIMIT: Final = 88
"""Characters up to which a table inside of others is written in one line."""
COLUMN_LIMIT: Final = 64
"""The furthest column at which origins are lined up."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Line(NamedTuple):
    """One line. ``head``: it begins a table. ``origin`` is where its value came from; empty when that is not told."""

    text: str
    origin: str = ""
    head: bool = False


def written(values: Mapping[str, Any], origin: Callable[[Place], str]) -> list[Line]:
    """``values`` as lines of TOML, with a blank one before each table. ``origin`` tells where a value came from.

    TOML has no null: such a name is a comment, and in a list or an inline table it is the word.
    """
    lines = list(_table(values, (), "", origin))
    return lines[1:] if lines and not lines[0].text else lines


def plain(lines: list[Line]) -> str:
    """The lines with their origins as comments, lined up within each table."""
    return "\n".join(text + comment for text, comment in columns(lines))


def columns(lines: list[Line]) -> Iterator[tuple[str, str]]:
    """The lines, and the comments to put behind them, as two columns."""
    start = 0
    while start < len(lines):
        end = start + 1
        while end < len(lines) and lines[end].text:
            end += 1
        block = lines[start:end]
        width = min(max((len(line.text) for line in block if line.origin), default=0), COLUMN_LIMIT)
        for line in block:
            yield (f"{line.text.ljust(width)}  ", f"# {line.origin}") if line.origin else (line.text, "")
        start = end


def quoted(text: str) -> str:
    """``text`` as a basic string of TOML. What does not print is escaped, so that no terminal obeys it."""
    return "".join(char if char.isprintable() else _escaped(char) for char in json.dumps(text, ensure_ascii=False))


def inline(value: Any) -> str:
    """``value`` in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        items = ", ".join(f"{_key(name)} = {inline(item)}" for name, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return "null" if value is None else repr(value)


def _table(values: Mapping[str, Any], place: Place, path: str, origin: Callable[[Place], str]) -> Iterator[Line]:
    """First what is written in one line, since all that follows a table's head belongs to it."""
    tables = {name: value for name, value in values.items() if not _in_one_line(value, (*place, name), origin)}
    for name, value in values.items():
        if name not in tables:
            comment = "# " if value is None else ""
            yield Line(f"{comment}{_key(name)} = {inline(value)}", _told(value, (*place, name), origin))
    for name, value in tables.items():
        inner, inside = (*place, name), f"{path}.{_key(name)}" if path else _key(name)
        if isinstance(value, Mapping):
            yield from _headed(f"[{inside}]", value, inner, inside, origin)
        else:
            for number, item in enumerate(value):
                yield from _headed(f"[[{inside}]]", item, (*inner, number), inside, origin)


def _headed(
    head: str, value: Mapping[str, Any], place: Place, path: str, origin: Callable[[Place], str]
) -> Iterator[Line]:
    inside = list(_table(value, place, path, origin))
    # A head that only leads to another one says nothing: TOML makes the tables on the way itself.
    if not inside or inside[0].text or head.startswith("[["):
        yield from (Line(""), Line(head, "" if inside else origin(place), head=True))
    yield from inside


def _in_one_line(value: Any, place: Place, origin: Callable[[Place], str]) -> bool:
    if isinstance(value, list):
        if not value or not all(isinstance(item, Mapping) for item in value):
            return True
    elif not isinstance(value, Mapping):
        return True
    # The tables of a section stand by themselves; those inside of them only when they came from several places.
    return len(place) > 1 and len(inline(value)) <= INLINE_LIMIT and len(set(_origins(value, place, origin))) == 1


def _told(value: Any, place: Place, origin: Callable[[Place], str]) -> str:
    """Where ``value`` came from: for a list or a table that nobody told of, where the first value in it did."""
    return origin(place) or next(_origins(value, place, origin), "")


def _origins(value: Any, place: Place, origin: Callable[[Place], str]) -> Iterator[str]:
    """Where each of the values came from that are in ``value``, which are no tables themselves."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _origins(item, (*place, name), origin)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _origins(item, (*place, number), origin)
    else:
        yield origin(place)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else quoted(name)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
