"""What every declaration on a service shares: a name, durations, and parameters that name resources."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from holdfast.core.duration import parse_duration
from holdfast.core.errors import BootError, ConfigError

F = TypeVar("F", bound=Callable[..., Any])

ALMOST: Final = 0.6
"""difflib's default: how alike two names must be for one to be offered in place of the other."""
NAMED: Final = 10
"""How many known names an error lists."""


def named(function: Callable[..., Any], name: str | None, kind: str) -> str:
    """The name given, or the function's own. ``ConfigError`` when there is none."""
    found = getattr(function, "__name__", "") if name is None else name
    if not isinstance(found, str) or not found.strip() or found == "<lambda>":
        raise ConfigError("name", found or None, "a name", kind, f"write @service.{kind}(name=...)")
    return found


def seconds(value: str | float, path: str, source: str, *, positive: bool = True) -> float:
    """``value`` as seconds. ``ConfigError`` that names ``source`` and ``path`` when it is no duration."""
    expected = "a duration above zero" if positive else "a duration"
    try:
        result = parse_duration(value)
    except ValueError as exc:
        raise ConfigError(path, value, expected, source, str(exc)) from None
    if positive and result == 0:
        raise ConfigError(path, value, expected, source, "write for example 500ms or 10s")
    return result


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` (a function, a partial, an object with ``__call__``) gives a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is looked at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def asynchronous(function: F, who: str) -> F:
    """``function`` itself. ``ConfigError`` unless it is async: a sync one would block the event loop."""
    if is_async(function):
        return function
    hint = "write async def; run blocking work with asyncio.to_thread inside"
    raise ConfigError("function", None, "an async function", who, hint)


class Needs:
    """Which resources a function wants, read from its parameters. Immutable."""

    __slots__ = ("optional", "required")

    def __init__(self, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
        self.required = required
        self.optional = optional

    def among(self, known: Iterable[str]) -> tuple[str, ...]:
        """The names to inject when ``known`` are there: all required ones, and the optional ones known."""
        available = set(known)
        return self.required + tuple(name for name in self.optional if name in available)

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments taken from ``values``, which must hold every required name."""
        return {name: values[name] for name in self.among(values)}

    def check(self, known: Iterable[str], who: str) -> None:
        """Raise ``BootError`` when a required name is not among ``known``."""
        names = sorted(known)
        for name in self.required:
            if name not in names:
                raise BootError(f"{who} needs the resource {name!r}, which nobody declares{offer(name, names)}")


def needs_of(function: Callable[..., Any], who: str) -> Needs:
    """The parameters of ``function`` as names of resources; those with a default are optional.

    ``ConfigError`` for parameters that no name can be read from: positional-only, ``*args`` and ``**kwargs``.
    """
    required: list[str] = []
    optional: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(str(parameter), None, "a plain parameter named after a resource", who)
        (required if parameter.default is parameter.empty else optional).append(parameter.name)
    return Needs(tuple(required), tuple(optional))


def offer(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or else what there is; goes at the end of an error's sentence."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=ALMOST)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not names:
        return "; there are none"
    more = ", ..." if len(names) > NAMED else ""
    return f"; there are: {', '.join(names[:NAMED])}{more}"
