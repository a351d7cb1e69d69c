"""What makes two calls the same call, for policies that remember results or share executions."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, TypeAlias

from holdfast.core.call import Call
from holdfast.core.context import current
from holdfast.core.kinds import Reader, Refused
from holdfast.resilience.retrying.backoff import read_function

KeyFunction: TypeAlias = Callable[[Call], Hashable]
"""Makes the key of a call. None means that this call is not to be remembered or shared."""

_COLOURED: Final = object()


def _read_key(value: Any) -> KeyFunction | None:
    if value is None or isinstance(value, type):
        return value
    if not callable(value):
        raise Refused("a function", "it can only be given in code")
    made: KeyFunction = read_function(value)
    return made


KEY: Final = Reader(_read_key, "a function")
"""Reads the setting ``key``: a coroutine function would make another key for each call."""


def key_of(call: Call) -> Hashable:
    """The function, its arguments and, for traffic of an experiment, the colour.

    As in ``functools.lru_cache``, ``f(1)`` and ``f(x=1)`` have different keys, and ``f(1)`` and ``f(1.0)`` the same;
    the order of keyword arguments is all one. ``TypeError`` when an argument is not hashable.
    """
    # Written out: it is made for each call.
    kwargs = call.kwargs
    key = (call.fn, call.args, frozenset(kwargs.items())) if kwargs else (call.fn, call.args)
    colour = call.colour
    if colour is None:
        colour = current().colour
    return (_COLOURED, colour, key) if colour else key


def call_key(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    """The key of a call of ``fn`` in real traffic. ``fn`` is part of it, since one policy may serve many functions."""
    return (fn, args, frozenset(kwargs.items())) if kwargs else (fn, args)


def colour_of(call: Call) -> str:
    """The experiment that ``call`` belongs to; empty for real traffic."""
    colour = call.colour
    return current().colour if colour is None else colour


def in_colour(key: Hashable, colour: str) -> Hashable:
    """``key`` in the traffic of an experiment: what an experiment breaks must not be remembered for real traffic."""
    return (_COLOURED, colour, key) if colour else key


def keyed_by(function: KeyFunction | None) -> KeyFunction:
    """``key_of``, or a function that takes the key from ``function`` and adds the colour."""
    if function is None:
        return key_of

    def key(call: Call) -> Hashable:
        made = function(call)
        return None if made is None else in_colour(made, colour_of(call))

    return key


def keys_of(key: Hashable) -> tuple[Hashable, ...]:
    """What ``key`` stands for here: in real traffic and, inside of an experiment, in the experiment's too."""
    colour = current().colour
    return (key, in_colour(key, colour)) if colour else (key,)


def keys_of_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """As ``keys_of``, for a call of ``fn``, which may be the function as it is decorated or as it was before."""
    inner = getattr(fn, "__wrapped__", fn)
    names = [fn] if inner is fn else [fn, inner]
    return tuple(key for name in names for key in keys_of(call_key(name, args, kwargs)))


def unhashable(policy: str, call: Call, error: TypeError) -> TypeError:
    """What to tell whoever made a call whose key is not hashable."""
    return TypeError(
        f"{policy}: the arguments of {call.operation} cannot be a key ({error}); "
        "give a function that makes one, such as key=lambda call: call.args[0]"
    )
