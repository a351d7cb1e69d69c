"""Where items come from: any iterable, sync or async, read and closed by one task."""

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from typing import TypeAlias, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

Source: TypeAlias = AsyncIterable[T] | Iterable[T]


def require_source(source: object) -> None:
    """``TypeError`` unless ``source`` can be iterated over."""
    if not isinstance(source, AsyncIterable | Iterable):
        raise TypeError(f"a source is an iterable or an async iterable, not {type(source).__name__}")


def require_function(fn: object) -> None:
    """``TypeError`` unless ``fn`` can be called."""
    if not callable(fn):
        raise TypeError(f"{fn!r} cannot be called; give a coroutine function of one item")


def asked(fn: Callable[[T], Awaitable[R]], item: T) -> Awaitable[R]:
    """What ``fn`` gives for ``item``. ``TypeError`` when that cannot be awaited."""
    work: object = fn(item)
    if not inspect.isawaitable(work):
        name = getattr(fn, "__qualname__", repr(fn))
        raise TypeError(f"{name} returned nothing to await; give an async def, such as one around asyncio.to_thread")
    return cast("Awaitable[R]", work)


def require_at_least(least: int, **bounds: int) -> None:
    """``TypeError`` and ``ValueError`` unless each bound is a whole number, ``least`` or more."""
    for name, value in bounds.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; give a whole number")
        if value < least:
            raise ValueError(f"{name} is {value}; give {least} or more")


def require_seconds(**durations: float) -> None:
    """``ValueError`` unless each is 0 or more seconds."""
    for name, value in durations.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value!r}; give 0 or more seconds")


async def feed(source: Source[T], put: Callable[[T], bool], room: Callable[[], Awaitable[None]]) -> None:
    """Hand each item to ``put``, and await ``room()`` whenever that says that it is full.

    The next item is asked for only then. Whatever ends the reading, the source is closed: an async iterator that
    has ``aclose``, and a generator. One task reads and closes, since a generator may hold a time limit or a task
    group open, and these belong to the task that entered them (PEP 789).
    """
    if isinstance(source, AsyncIterable):
        iterator = aiter(source)
        try:
            async for item in iterator:
                if put(item):
                    await room()
        finally:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()
    else:
        items = iter(source)
        try:
            for item in items:
                if put(item):
                    await room()
        finally:
            # Files and cursors have their own ``with``; only a generator is never anybody else's.
            if isinstance(items, Generator):
                items.close()
