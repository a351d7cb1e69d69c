"""Finding the application: importing ``module:attribute``, and telling ASGI from WSGI."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, get_args

from holdfast.core.errors import BootError
from holdfast.service.declaration import offer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
WSGIApp = Callable[..., Any]

Interface = Literal["asgi3", "wsgi"]
Choice = Literal["auto", "asgi3", "wsgi"]

LINE_LENGTH: Final = 200
"""Characters of a cause that go into one line."""
PLACES: Final = 3
"""Directories of sys.path that an error names."""
ASGI3_ARGUMENTS: Final = 3
"""scope, receive, send"""
WSGI_ARGUMENTS: Final = 2
"""environ, start_response"""
SHAPE: Final = "write module:attribute, for example shop.main:app"


def load(target: str, *, app_dir: str | os.PathLike[str] | None = None, factory: bool = False) -> Any:
    """Import ``module:attr.path`` and return the object; with ``factory`` call it first, without arguments.

    ``app_dir`` is put at the front of ``sys.path`` when given. Raises ``BootError``: its ``reason`` tells a
    module that is missing from one that failed, and its ``detail`` is the application's own traceback.
    """
    module_name, _, path = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise BootError(f"{target!r} names a file; name the module: {dotted}:{path or 'app'}")
    if not module_name or not path or ":" in path:
        raise BootError(f"{target!r} does not name an application; {SHAPE}")
    if app_dir is not None:
        directory = str(Path(app_dir).resolve())
        if directory not in sys.path:
            sys.path.insert(0, directory)
    found: Any = _module(module_name, target)
    walked = module_name
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            kind = "module" if isinstance(found, ModuleType) else "object"
            public = [known for known in dir(found) if not known.startswith("_")]
            raise BootError(f"{target!r}: {kind} {walked!r} has no {name!r}{offer(name, public)}") from None
        walked = f"{walked}.{name}"
    return _made(found, target) if factory else found


def detect(app: Any, interface: Choice = "auto") -> Interface:
    """Whether ``app`` is called as ASGI 3 or as WSGI; ``interface`` other than ``auto`` decides by itself.

    It looks at how the application is called: coroutine functions and three arguments are ASGI, two are WSGI.
    Raises ``BootError`` for ASGI 2 (one argument), for what cannot be called, and where nothing tells.
    """
    if interface not in get_args(Choice):
        raise BootError(f"interface {interface!r} is not known; write one of {', '.join(get_args(Choice))}")
    what = f"the application ({_shown(app)})"
    if not callable(app):
        raise BootError(f"{what} cannot be called; name an ASGI or WSGI application")
    if interface != "auto":
        return interface
    count = _arguments(app)
    asynchronous = not inspect.isclass(app) and any(map(inspect.iscoroutinefunction, _callables(app)))
    if asynchronous and count in (None, ASGI3_ARGUMENTS):
        return "asgi3"
    if asynchronous:
        raise BootError(f"{what} is async but takes {count} arguments; ASGI 3 is app(scope, receive, send)")
    if count == ASGI3_ARGUMENTS:
        return "asgi3"
    if count == WSGI_ARGUMENTS:
        return "wsgi"
    if count == 1:
        raise BootError(f"{what} takes one argument, as ASGI 2 did; wrap it with asgiref's guarantee_single_callable")
    if count == 0:
        raise BootError(f"{what} takes no arguments; if it makes the application, say --factory")
    raise BootError(f"{what} does not show whether it is ASGI or WSGI; say --interface asgi or wsgi")


def _module(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise BootError(f"{target!r}: {name} needs a module that is not here: {exc}", _text(exc)) from exc
        where = f"looked in {os.fspath(Path.cwd())} and sys.path" if "" in sys.path else f"looked in {_places()}"
        raise BootError(f"{target!r}: there is no module {missing!r}; {where}") from exc
    except (Exception, SystemExit) as exc:  # whatever the application's module does while it is imported
        raise BootError(f"{target!r}: importing {name} failed: {_line(exc)}", _text(exc)) from exc


def _made(factory: Any, target: str) -> Any:
    if not callable(factory):
        raise BootError(f"{target!r} is no factory: {_shown(factory)} cannot be called; leave out --factory")
    if inspect.iscoroutinefunction(factory):
        raise BootError(f"{target!r} is an async function; a factory is a plain one that returns the application")
    try:
        return factory()
    except (Exception, SystemExit) as exc:  # whatever the application's factory does
        raise BootError(f"{target!r}: the factory failed: {_line(exc)}", _text(exc)) from exc


def _callables(app: Any) -> Iterator[Any]:
    """``app`` and what stands behind it: partials, decorators, the method that an instance is called by."""
    yield app
    inner = app
    while hasattr(inner, "func") and callable(inner.func):  # functools.partial
        inner = inner.func
        yield inner
    yield inspect.unwrap(inner)
    yield getattr(inner, "__call__", None)  # noqa: B004 - the bound method itself is looked at


def _arguments(app: Any) -> int | None:
    """How many arguments ``app`` needs, None when ``*args`` or a missing signature leaves it open."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(1 for one in parameters if one.kind in positional and one.default is one.empty)


def _shown(app: Any) -> str:
    kind = type(app)
    named = app if hasattr(app, "__qualname__") else kind
    return f"{named.__module__}.{named.__qualname__}"


def _line(exc: BaseException) -> str:
    text = traceback.format_exception_only(exc)[-1].strip()
    return text if len(text) <= LINE_LENGTH else f"{text[: LINE_LENGTH - 3]}..."


def _text(exc: BaseException) -> str:
    """The application's own traceback: without our frames, and without those of the import machinery."""
    shown = traceback.TracebackException.from_exception(exc)
    frames = [
        frame
        for frame in shown.stack
        if frame.filename != __file__
        and not frame.filename.startswith("<frozen importlib")
        and not frame.filename.endswith("importlib/__init__.py")
    ]
    shown.stack = traceback.StackSummary.from_list(frames)
    return "".join(shown.format())


def _places() -> str:
    shown = ", ".join(place or str(Path.cwd()) for place in sys.path[:PLACES])
    return f"{shown}, ..." if len(sys.path) > PLACES else shown
