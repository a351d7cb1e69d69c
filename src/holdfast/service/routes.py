"""Routes that stand in code, as tables in the form of ``[[routes]]``."""

import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from holdfast.core.errors import BootError
from holdfast.service.marks import MARK, Mark, innermost, made, mark_of, mark_with
from holdfast.service.tables import HTTP_METHODS, Served, served, views_of

MISTAKES_LIMIT: Final = 20
"""Mistakes that one error tells."""

_EXAMPLE: Final = 'say it: match="POST /orders/{id}"'
_NAME: Final = re.compile(r"\{[^}.]*(\.\.\.)?\}")


class CodeRoute(dict[str, Any]):
    """One entry in the form of ``[[routes]]``; ``where`` it stands in the code (``shop.orders:create``)."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where


def condition(table: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an entry of ``[[routes]]`` is for, in a form that is equal for entries that are for the same requests.

    The names of placeholders and the order of methods do not count. For values that nobody has checked, too.
    """
    words = str(table.get("match", "")).split()
    methods = sorted(words[0].split("|")) if len(words) > 1 else []
    path = _NAME.sub(r"{\1}", words[-1] if words else "")
    headers = table.get("headers")
    wanted = {str(n).lower(): str(v) for n, v in headers.items()} if isinstance(headers, Mapping) else {}
    return tuple(methods), path, str(table.get("host", "")).lower(), tuple(sorted(wanted.items()))


class Routes:
    """The routes that one service declares itself. Declare in one thread."""

    def __init__(self) -> None:
        self._own: list[Mark] = []

    def declare(self, handler: Any, match: str, options: Mapping[str, Any]) -> None:
        """``handler`` serves ``match``; without one it has to be in a table. Raises as ``holdfast.route``."""
        self._own.append(made(handler, match, options) if match else mark_with(handler, match, options))

    def found(self, app: Any) -> list[CodeRoute]:
        """The tables of all routes: those declared here, and those of marked handlers in the tables of ``app``.

        ``BootError`` names each marked handler that no table has, each whose path cannot be said, and two marks on one
        route.
        """
        lines = served(app)
        marks = [mark for mark in self._own if mark.match]
        tables = [(mark, _table(mark, mark.match)) for mark in marks]
        mistakes: list[str] = []
        met = {id(mark) for mark in marks}
        for line in lines:
            for mark, methods in _marks_on(line):
                met.add(id(mark))
                if line.methods and not methods:  # each method of the class has a mark of its own
                    continue
                if mark.match:
                    tables.append((mark, _table(mark, mark.match)))
                elif line.trouble:
                    mistakes.append(f"route on {mark.where}: {line.trouble}; {_EXAMPLE}")
                else:
                    narrowed = Served(line.endpoint, methods, line.path, line.host)
                    tables.append((mark, _table(mark, narrowed.match, line.host)))
        for mark in {id(mark): mark for mark in (*self._own, *_marks_in_modules())}.values():
            if id(mark) in met:
                continue
            if mark.match:
                tables.append((mark, _table(mark, mark.match)))
            else:
                mistakes.append(_nowhere(mark, app, lines))
        kept = _without_doubles(tables, mistakes)
        if mistakes:
            raise BootError("\n".join(dict.fromkeys(mistakes[:MISTAKES_LIMIT])))
        return _with_names(kept)


def _marks_on(line: Served) -> Iterator[tuple[Mark, frozenset[str]]]:
    """The marks on the handler of ``line``, and on the methods of its class; each with the methods that it is for."""
    methods = line.methods
    for view in views_of(line.endpoint):
        for method in HTTP_METHODS:
            found = mark_of(getattr(view, method.lower(), None))
            if found is not None and (not line.methods or method in line.methods or method == "HEAD"):
                methods -= {method}
                yield found, frozenset({method})
    # Without methods it is for those that are named nowhere else: routes that name one go before it.
    for endpoint in (line.endpoint, *views_of(line.endpoint)):
        found = mark_of(endpoint)
        if found is not None:
            yield found, methods
            return


def _table(mark: Mark, match: str, host: str = "") -> CodeRoute:
    table = CodeRoute({"match": match, **mark.options}, mark.where)
    if host:
        table.setdefault("host", host)
    return table


def _without_doubles(tables: Iterable[tuple[Mark, CodeRoute]], mistakes: list[str]) -> list[tuple[Mark, CodeRoute]]:
    """One table for each condition; a mistake for two marks on one."""
    kept: dict[Any, tuple[Mark, CodeRoute]] = {}
    for mark, table in tables:
        other, _ = kept.setdefault(condition(table), (mark, table))
        if other is not mark:
            mistakes.append(f"route on {mark.where}: {other.where} is marked too, and serves {table['match']} as well")
    return list(kept.values())


def _with_names(tables: list[tuple[Mark, CodeRoute]]) -> list[CodeRoute]:
    """Names are told apart where one handler serves several paths: each has its own counters."""
    counts: dict[int, int] = {}
    for mark, _ in tables:
        counts[id(mark)] = counts.get(id(mark), 0) + 1
    for mark, table in tables:
        if counts[id(mark)] > 1 and "name" in table:
            table["name"] = f"{table['name']} {table['match']}"
    return [table for _, table in tables]


def _nowhere(mark: Mark, app: Any, lines: list[Served]) -> str:
    if lines:
        why = f"none of the {len(lines)} routes of the app leads to it; include its router"
    else:
        why = f"{type(app).__name__} shows no routes"
    return f"route on {mark.where}: {why}, or {_EXAMPLE}"


def _marks_in_modules() -> list[Mark]:
    """The marks on the functions and classes of all modules, and on the methods of those classes.

    Python's own list of modules is the only registry; a mark inside of a function is not seen.
    """
    found: dict[int, Mark] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in sys.stdlib_module_names and name != "__main__":
            continue
        if not issubclass(type(module), types.ModuleType):
            continue
        names = object.__getattribute__(module, "__dict__")  # a lazy module would be loaded by vars()
        for value in list(names.values()):
            for mark in _marks_in(value, name):
                found[id(mark)] = mark
    return list(found.values())


def _marks_in(value: Any, module: str) -> Iterator[Mark]:
    # By type(), not by isinstance() or getattr(): objects that stand in for others would begin to work.
    if not issubclass(type(value), type):
        mark = getattr(_function_in(value), MARK, None)
        if isinstance(mark, Mark):
            yield mark
    elif vars(value).get("__module__") == module:
        own = vars(value).get(MARK)
        if isinstance(own, Mark):
            yield own
        for inner in list(vars(value).values()):
            if not issubclass(type(inner), type):
                yield from _marks_in(inner, module)


def _function_in(value: Any) -> types.FunctionType | None:
    kind = type(value)
    if str(kind.__module__).partition(".")[0] == "litestar":
        value = innermost(value)
    return value if type(value) is types.FunctionType else None
