"""Settings of a route that stand on its handler: ``@holdfast.route(timeout="2s", rate_limit="50/s")``.

A mark is an attribute of the function. Where its handler is served is found out later, from the app's own table.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack

import msgspec

from holdfast.config.document import checked
from holdfast.core.context import Criticality
from holdfast.core.errors import ConfigError
from holdfast.core.settings import placed, read_seconds, unknown

F = TypeVar("F")

MARK: Final = "__holdfast_route__"
"""The attribute of a handler that holds its mark. ``functools.wraps`` takes it along to a wrapper."""
WRAPPERS_LIMIT: Final = 64
"""Decorators around one handler that are seen through."""
GATES: Final = ("rate_limit", "throttle", "breaker", "bulkhead")
CONCURRENCY: Final = "concurrency"

Given = Mapping[str, Any] | str | float | bool


class RouteOptions(TypedDict, total=False):
    """The settings of ``[[routes]]`` but for ``match``, as the settings file takes them."""

    host: str
    headers: Mapping[str, str]
    name: str
    timeout: str | float
    criticality: Literal["sheddable", "sheddable_plus", "critical", "critical_plus"]
    concurrency: bool
    must_finish: bool
    rate_limit: Given
    throttle: Given
    breaker: Given
    bulkhead: Given
    policies: Sequence[Any]


class Mark(msgspec.Struct, frozen=True, eq=False):
    """What was said on a handler: ``where`` it is (``shop.orders:create``), and ``match`` when it was given."""

    where: str
    match: str
    options: dict[str, Any]


def route(match: str = "", **options: Unpack[RouteOptions]) -> Callable[[F], F]:
    """Declare settings of the route that the decorated handler serves: those of ``[[routes]]``, in the same words.

    The handler is handed back as it is. Its method and path are taken from the table of the app (FastAPI, Starlette,
    Flask, Django, Litestar) when the service starts; with several paths each becomes a route. ``match`` says them where
    no table does. Above or below the framework's own decorator, on a function, a class of views or one of its methods.
    ``ConfigError`` for a setting that is wrong, ``TypeError`` for one that there is not.
    """
    if not isinstance(match, str):
        raise TypeError("write @route(...) with settings in parentheses, such as @route(timeout='2s')")

    def declare(handler: F) -> F:
        mark_with(handler, match, options)
        return handler

    return declare


def mark_with(handler: Any, match: str, options: Mapping[str, Any]) -> Mark:
    """Put a mark on ``handler``. Raises as ``route``."""
    inner = _markable(handler)
    mark = made(inner, match, options)
    before = vars(inner).get(MARK) if isinstance(inner, type) else mark_of(inner)  # a class may change what it inherits
    if before is not None:
        raise ConfigError("route", None, "one @route on a handler", _source(mark.where), "put the settings into one")
    setattr(inner, MARK, mark)
    return mark


def made(handler: Any, match: str, options: Mapping[str, Any]) -> Mark:
    """The mark for ``handler``, checked as far as it can be without the server. Raises as ``route``."""
    inner = innermost(handler)
    where = f"{getattr(inner, '__module__', '?')}:{getattr(inner, '__qualname__', repr(inner))}"
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        hint = 'write for example timeout="2s" or rate_limit="50/s"'
        raise ConfigError("route", None, "at least one setting", _source(where), hint)
    _check(given, _source(where))
    return Mark(where, match, checked(given, _source(where)))


def mark_of(endpoint: Any) -> Mark | None:
    """The mark on ``endpoint`` or, behind its decorators, on what it was made of."""
    for handler in layers(endpoint):
        found = getattr(handler, MARK, None)
        if isinstance(found, Mark):
            return found
    return None


def layers(endpoint: Any) -> list[Any]:
    """``endpoint`` and what stands behind it: wrapped functions, partials, bound methods, handler objects."""
    found = [endpoint]
    while len(found) < WRAPPERS_LIMIT:
        last = found[-1]
        inner = getattr(last, "__wrapped__", None)
        if inner is None and isinstance(last, functools.partial):
            inner = last.func
        if inner is None and isinstance(last, types.MethodType):
            inner = last.__func__
        if inner is None and not isinstance(last, type | types.FunctionType):
            inner = getattr(last, "fn", None)  # a handler of Litestar's
        if not callable(inner):
            break
        found.append(inner)
    return found


def innermost(endpoint: Any) -> Any:
    """The function that was written."""
    return layers(endpoint)[-1]


def _markable(handler: Any) -> Any:
    """What the mark is put on: frameworks copy their own objects, but not functions and classes."""
    for layer in layers(handler):
        if isinstance(layer, type | types.FunctionType):
            return layer
    raise TypeError(f"@route stands on a handler, and {handler!r} is no function and no class")


def _source(where: str) -> str:
    return f"route on {where}"


def _check(options: Mapping[str, Any], source: str) -> None:
    known = RouteOptions.__annotations__
    for name in options:
        if name not in known:
            hint = "put it around a call that the handler makes, with service.pipeline(...)"
            words = hint if name in _around_a_call() else unknown(name, known)
            raise TypeError(f"{source}: a route has no setting {name}; {words}")
    try:
        for name in (*GATES, "policies"):
            if name in options:
                _check_policies(name, options[name])
    except ConfigError as error:
        raise ConfigError(error.path, error.value, error.expected, source, error.hint) from None
    _check_plain(options, source)


def _check_plain(options: Mapping[str, Any], source: str) -> None:
    if "timeout" in options:
        try:
            within = read_seconds(options["timeout"], "timeout")
        except ConfigError as error:
            raise ConfigError("timeout", error.value, error.expected, source, error.hint) from None
        if not within > 0:
            raise ConfigError("timeout", options["timeout"], "a duration, more than 0s", source)
    levels = [level.name.lower() for level in Criticality]
    if options.get("criticality", levels[0]) not in levels:
        raise ConfigError("criticality", options["criticality"], " or ".join(levels), source)
    for name, kind, expected in (
        (CONCURRENCY, bool, "true or false"),
        ("must_finish", bool, "true or false"),
        ("name", str, "text"),
        ("host", str, "the name of a host"),
        ("headers", Mapping, 'a table such as {"x-version": "2"}'),
    ):
        if name in options and not isinstance(options[name], kind):
            raise ConfigError(name, options[name], expected, source)


def _check_policies(name: str, value: Any) -> None:
    """Read what is in the catalog of policies; the server, which knows what a route may have, reads it again."""
    from holdfast.resilience.catalog import read

    if name != "policies":
        try:
            read([{name: _without_key(name, value)}], where="")
        except ConfigError as error:
            path = error.path.removeprefix(f"[0].{name}").removeprefix(".")
            raise placed(ConfigError(path, error.value, error.expected, hint=error.hint), name) from None
        return
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(name, value, "a list of policies")
    policies: list[Any] = []
    for item in value:
        if item == CONCURRENCY or (isinstance(item, Mapping) and set(item) == {CONCURRENCY}):
            policies.append({"bulkhead": {"name": f"{CONCURRENCY} {len(policies)}"}})  # it is no policy of the catalog
        elif isinstance(item, Mapping) and len(item) == 1:
            policies.append({kind: _without_key(kind, inner) for kind, inner in item.items()})
        else:
            policies.append(item)
    read(policies, where=name)


def _without_key(kind: Any, value: Any) -> Any:
    """In a route clients are told apart by a text, which the server reads."""
    if kind == "rate_limit" and isinstance(value, Mapping):
        return {name: inner for name, inner in value.items() if name != "key" or not isinstance(inner, str)}
    return value


def _around_a_call() -> frozenset[str]:
    from holdfast.resilience.catalog import CATALOG

    return frozenset(CATALOG.kinds) - set(GATES) - {"timeout"}
