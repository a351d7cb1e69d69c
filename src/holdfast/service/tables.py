"""Which handler serves which path: read from the app's own table of routes.

FastAPI, Starlette, Flask (and Quart), Django and Litestar, also mounted in each other and behind middleware that keeps
its app in an attribute. Nothing is imported: tables are known by their shape, and Django by being there already.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from holdfast.core.errors import BootError
from holdfast.service.marks import layers

ENTRIES_LIMIT: Final = 20_000
"""Routes of one app."""
DEPTH_LIMIT: Final = 32
"""Apps, routers and middleware inside each other."""
INNER: Final = ("app", "application", "asgi_app", "wsgi_app")
"""Where middleware keeps the app behind it."""
HTTP_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_BRACES: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")
_ANGLES: Final = re.compile(r"<(?:([A-Za-z_][A-Za-z0-9_]*)(?:\([^>]*\))?:)?([A-Za-z_][A-Za-z0-9_]*)>")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_SLASHES: Final = re.compile("/{2,}")

_STARLETTE: Final = frozenset({"str", "int", "float", "uuid"})
_FLASK: Final = frozenset({"default", "string", "int", "float", "uuid", "any"})
_DJANGO: Final = frozenset({"str", "int", "slug", "uuid"})
_LITESTAR: Final = frozenset({"str", "int", "float", "uuid", "decimal", "date", "datetime", "time", "timedelta"})


class Served(msgspec.Struct, frozen=True):
    """One line of a table. ``methods`` is empty for all of them.

    ``path`` is as ``[[routes]]`` writes one: ``/orders/{id}``, ``/static/{path...}``. When it cannot be said so,
    ``trouble`` says why. ``host`` is empty for all hosts.
    """

    endpoint: Any
    methods: frozenset[str]
    path: str
    host: str = ""
    trouble: str = ""

    @property
    def match(self) -> str:
        """Methods and path in one text."""
        return f"{'|'.join(sorted(self.methods))} {self.path}" if self.methods else self.path


_Read = Callable[[str], tuple[str, str]]
"""Reads a template: its path as routes write it, and why that cannot be done."""


class _Way(msgspec.Struct, frozen=True):
    """The routers that lead to a table."""

    path: str = ""
    host: str = ""
    trouble: str = ""
    depth: int = 0

    def into(self, path: str = "", host: str = "", trouble: str = "") -> "_Way":
        return _Way(f"{self.path}/{path}", host or self.host, self.trouble or trouble, self.depth + 1)

    def to(self, endpoint: Any, methods: Any, path: str, host: str = "", trouble: str = "") -> Served:
        found = self.into(path, host, trouble)
        path, wrong = _joined(found.path)
        named = frozenset(methods or ())
        # GET brings HEAD along, in frameworks as in routes.
        named = named - {"HEAD"} if "GET" in named else named
        return Served(endpoint, named, path, found.host, found.trouble or wrong)


def served(app: Any) -> list[Served]:
    """Every line of the tables of ``app``; empty when it has none that can be read.

    ``BootError`` when there are more than ``ENTRIES_LIMIT``. What is deeper than ``DEPTH_LIMIT`` is not seen.
    """
    found: list[Served] = []
    for entry in _entries(app, _Way()):
        found.append(entry)
        if len(found) > ENTRIES_LIMIT:
            raise BootError(f"the app has more than {ENTRIES_LIMIT} routes")
    return found


def _entries(app: Any, way: _Way) -> Iterator[Served]:
    if way.depth >= DEPTH_LIMIT:  # an app that holds itself
        return
    base = getattr(sys.modules.get("django.core.handlers.base"), "BaseHandler", None)
    if base is not None and isinstance(app, base):
        yield from _django(sys.modules["django.urls"].get_resolver().url_patterns, way)
    elif hasattr(app, "url_map") and hasattr(app, "view_functions"):
        yield from _flask(app, way)
    elif isinstance(routes := getattr(app, "routes", None), list | tuple):
        yield from _routes(routes, way)
    else:
        mounts = getattr(app, "mounts", None)
        if isinstance(mounts, Mapping):  # werkzeug's dispatcher
            for path, mounted in mounts.items():
                yield from _entries(mounted, way.into(str(path)))
        inner = next((found for name in INNER if (found := getattr(app, name, None)) is not None), None)
        if inner is not None:
            yield from _entries(inner, way.into())


def _routes(routes: Any, way: _Way) -> Iterator[Served]:
    """Of Starlette, FastAPI or Litestar."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if hasattr(route, "route_handlers") or hasattr(route, "route_handler"):
            yield from _litestar(route, way)
        elif callable(contexts):  # a router that FastAPI includes without copying its routes
            found = [getattr(context, "starlette_route", None) or context for context in contexts()]
            yield from _routes(found, way.into())
        elif isinstance(getattr(route, "host", None), str) and hasattr(route, "app"):
            host, trouble = _host(route.host)
            yield from _entries(route.app, way.into(host=host, trouble=trouble))
        elif hasattr(route, "endpoint"):
            methods = getattr(route, "methods", frozenset({"GET"}))  # the handshake of a WebSocket is a GET
            path, trouble = _read_braces(_STARLETTE)(route.path)
            yield way.to(route.endpoint, methods, path, trouble=trouble)
        elif hasattr(route, "app") and hasattr(route, "path"):
            path, trouble = _read_braces(_STARLETTE)(route.path)
            yield from _entries(getattr(route, "_base_app", route.app), way.into(path, trouble=trouble))


def _litestar(route: Any, way: _Way) -> Iterator[Served]:
    handlers = getattr(route, "route_handlers", None) or [route.route_handler]
    for handler in handlers:
        path, trouble = _read_braces(_LITESTAR)(route.path)
        if getattr(handler, "is_mount", False):
            path = f"{path}/{{path...}}"
        websocket = getattr(route, "scope_type", "") == "websocket"
        methods = {"GET"} if websocket else getattr(handler, "http_methods", ())
        yield way.to(handler, map(str, methods), path, trouble=trouble)


def _flask(app: Any, way: _Way) -> Iterator[Served]:
    read = _read_angles(_FLASK)
    for rule in app.url_map.iter_rules():
        endpoint = app.view_functions.get(rule.endpoint)
        if endpoint is None or rule.build_only:
            continue
        methods = set(rule.methods or ({"GET"} if getattr(rule, "websocket", False) else ()))
        if getattr(rule, "provide_automatic_options", False):
            methods.discard("OPTIONS")
        path, trouble = read(rule.rule)
        host, wrong = _host(rule.host or "")
        if rule.subdomain:
            wrong = f"it is on the subdomain {rule.subdomain}"
        yield way.to(endpoint, methods, path, host, trouble or wrong)


def _django(patterns: Any, way: _Way) -> Iterator[Served]:
    read = _read_angles(_DJANGO)
    for item in patterns:
        template = getattr(item.pattern, "_route", None)
        if isinstance(template, str):
            path, trouble = read(template)
        else:
            path, trouble = "", f"{str(item.pattern)!r} is no path() with converters"
        if hasattr(item, "url_patterns"):
            yield from _django(item.url_patterns, way.into(path, trouble=trouble))
        else:
            yield way.to(item.callback, (), path, trouble=trouble)


def _read_braces(converters: frozenset[str]) -> _Read:
    return lambda template: _read(template, _BRACES, converters, lambda found: (found[1], found[2] or "str"))


def _read_angles(converters: frozenset[str]) -> _Read:
    first = "default" if "default" in converters else "str"
    return lambda template: _read(template, _ANGLES, converters, lambda found: (found[2], found[1] or first))


def _read(
    template: str,
    pattern: re.Pattern[str],
    converters: frozenset[str],
    parts: Callable[[re.Match[str]], tuple[str, str]],
) -> tuple[str, str]:
    trouble = ""

    def replace(found: re.Match[str]) -> str:
        nonlocal trouble
        name, converter = parts(found)
        if converter == "path":
            return f"{{{name}...}}"
        if converter not in converters:
            trouble = f"nobody knows what {found[0]} takes"
        return f"{{{name}}}"

    return pattern.sub(replace, template), trouble


def _joined(path: str) -> tuple[str, str]:
    """``path`` with one slash between segments and none at its end, and why it is no pattern of a route."""
    path = _SLASHES.sub("/", f"/{path}").rstrip("/") or "/"
    segments = path[1:].split("/") if path != "/" else []
    names: set[str] = set()
    for number, segment in enumerate(segments):
        if not ("{" in segment or "}" in segment or "<" in segment):
            continue
        found = _PLACEHOLDER.fullmatch(segment)
        if found is None:
            return path, f"in {path} a placeholder is not a whole segment"
        name, rest = found.groups()
        if rest and number < len(segments) - 1:
            return path, f"in {path} something follows {segment}"
        if name in names:  # a mount and what it holds may use one name twice; only the place of it counts
            segments[number] = f"{{{name}_{number}{rest or ''}}}"
        names.add(name)
    return "/" + "/".join(segments), ""


def _host(host: str) -> tuple[str, str]:
    """A host as routes write it: placeholders only as the first labels."""
    plain = host.partition(":")[0] if "{" not in host and "<" not in host else host
    generic = re.sub(r"^(?:\{[A-Za-z_][A-Za-z0-9_]*\}|<[A-Za-z_][A-Za-z0-9_]*>)(?=\.)", "*", plain)
    trouble = f"the host {host} has placeholders" if re.search(r"[{}<>]", generic) else ""
    return ("" if trouble else generic), trouble


def views_of(endpoint: Any) -> list[type]:
    """The classes of views behind ``endpoint``: of Starlette's endpoints, Flask's and Django's views."""
    found = (layer if isinstance(layer, type) else getattr(layer, "view_class", None) for layer in layers(endpoint))
    return [view for view in found if isinstance(view, type)]
