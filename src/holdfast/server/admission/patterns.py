"""What a route is for: ``POST /orders/{id}``, on which host, with which headers.

What is matched is the path that the app's own router goes by: percent-decoded once, as ASGI's ``path``, so that
``/%6frders`` is ``/orders`` and ``/a%2Fb`` is ``/a/b``. Some routers take ``//orders/`` for ``/orders``, others
answer 404; so empty segments do not count here. A dot segment is a segment like any other, since no router
resolves them. Letters are compared as they are, in the path; the host is compared in lower case, without port or
trailing dot.

The host and the headers are the client's word. Narrow a route by them to treat requests better, not worse.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from holdfast.core.errors import ConfigError

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""

PATTERN_LIMIT: Final = 512
"""Characters of a pattern."""
SEGMENTS_LIMIT: Final = 32
"""Segments of a pattern. A path may have any number."""
NAME_LIMIT: Final = 32
"""Characters of a placeholder's name."""
METHODS_LIMIT: Final = 16
"""Methods that one pattern may list."""
HEADERS_LIMIT: Final = 8
"""Headers that one route may ask for."""
HOST_LIMIT: Final = 253
"""Characters of a host name (RFC 1035). What is longer is no host of any route."""
ANY: Final = "*"
"""Any path, any value of a header."""

_EXAMPLES: Final = 'write for example "POST /orders/{id}", "GET /static/{path...}", "/health" or "*"'
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,23}")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}")


class Pattern(msgspec.Struct, frozen=True):
    """One route's condition, read and checked.

    ``methods`` is empty for all of them. GET brings HEAD along, since frameworks answer both with one handler; a
    route that names HEAD goes before it.
    ``segments`` are texts, and None for a placeholder. With ``rest`` any number of segments may follow, none too.
    ``anywhere`` is ``*``: every path, also one that does not begin with a slash. ``headers`` are pairs of a name
    in lower case and the value that it must have, None for any; the first line of that name counts.
    """

    text: str
    methods: frozenset[str] = frozenset()
    segments: tuple[str | None, ...] = ()
    rest: bool = False
    anywhere: bool = False
    host: str = ""
    headers: tuple[tuple[bytes, bytes | None], ...] = ()

    def __str__(self) -> str:
        more = [f"host {self.host}"] if self.host else []
        more += [
            f"{name.decode()}: {ANY if value is None else value.decode('latin-1')}" for name, value in self.headers
        ]
        return f"{self.text} ({', '.join(more)})" if more else self.text

    @property
    def demand(self) -> tuple[int, int]:
        """How much the headers are asked: how many, and how many of them for one value."""
        return len(self.headers), sum(value is not None for _, value in self.headers)

    def naming(self, method: str) -> int:
        """How well it says ``method``: 3 by its name, 2 as GET for HEAD, 1 as one of all; 0 when it is not for it."""
        if not self.methods:
            return 1
        return 3 if method in self.methods else 2 if method == "HEAD" and "GET" in self.methods else 0

    def has_path(self, path: str) -> bool:
        """Whether ``path`` fits. Slow and plain: the table has a quicker way."""
        if self.anywhere:
            return True
        if not path.startswith("/"):
            return False
        path = path.removesuffix("\n")  # as the table does
        parts = [part for part in path.split("/") if part]
        if len(parts) < len(self.segments) or (len(parts) > len(self.segments) and not self.rest):
            return False
        return all(wanted is None or wanted == part for wanted, part in zip(self.segments, parts, strict=False))

    def has_host(self, host: str) -> bool:
        """Whether ``host``, as ``plain_host`` gives it, fits."""
        return not self.host or host == self.host or (self.host[0] == ANY and host.endswith(self.host[1:]))

    def has_headers(self, headers: Headers) -> bool:
        """Whether all that are asked for are there."""
        return meets(self.headers, headers)


def meets(wanted: Iterable[tuple[bytes, bytes | None]], headers: Headers) -> bool:
    """Whether the first line of each name has the value that is ``wanted``."""
    for name, value in wanted:
        for given, found in headers:
            if given == name:
                if value is not None and found != value:
                    return False
                break
        else:
            return False
    return True


def plain_host(host: str) -> str:
    """``host`` as routes compare it: lower case, no port, no trailing dot. Empty when it is longer than any host."""
    if len(host) > HOST_LIMIT + 7:  # the port, and a dot
        return ""
    host = host.lower()
    if host[:1] == "[":
        return host[: host.find("]") + 1]
    return host.partition(":")[0].removesuffix(".")


def parse_pattern(
    text: object, host: str = "", headers: Mapping[str, str] | None = None, where: str = "match"
) -> Pattern:
    """The pattern that ``text`` is, such as ``GET|HEAD /static/{path...}``.

    ``host`` is a name, or ``*.example.org`` for all names below it. ``headers`` are names and values; the value
    ``*`` asks for the name only. Raises ``ConfigError``, whose path begins with ``where``.
    """
    if not isinstance(text, str):
        raise ConfigError(where, text, "a pattern", hint=_EXAMPLES)
    if len(text) > PATTERN_LIMIT:
        raise ConfigError(where, len(text), f"at most {PATTERN_LIMIT} characters")
    words = text.split()
    if len(words) not in (1, 2):
        raise ConfigError(where, text, "a method and a path, or a path", hint=_EXAMPLES)
    methods = _read_methods(words[0], text, where) if len(words) == 2 else frozenset()
    path = words[-1]
    segments, rest = ((), False) if path == ANY else _read_path(path, text, where)
    place = where.removesuffix("match")
    return Pattern(
        " ".join(words),
        methods,
        segments,
        rest,
        path == ANY,
        _read_host(host, f"{place}host"),
        _read_headers(headers or {}, f"{place}headers"),
    )


def _read_methods(word: str, text: str, where: str) -> frozenset[str]:
    names = word.split("|")
    for name in names:
        if not _METHOD.fullmatch(name):
            hint = f"write {name.upper()}" if _METHOD.fullmatch(name.upper()) else "several are written GET|POST"
            raise ConfigError(where, text, "methods in capitals", hint=hint)
    if len(names) > METHODS_LIMIT:
        raise ConfigError(where, text, f"at most {METHODS_LIMIT} methods")
    if len(set(names)) < len(names):
        raise ConfigError(where, text, "each method once")
    return frozenset(names)


def _read_path(path: str, text: str, where: str) -> tuple[tuple[str | None, ...], bool]:
    if not path.startswith("/"):
        raise ConfigError(where, text, "a path that begins with /", hint=_EXAMPLES)
    if "?" in path or "#" in path:
        raise ConfigError(where, text, "a path without ? and #", hint="queries are not looked at")
    if _ESCAPE.search(path):
        raise ConfigError(where, text, "a decoded path", hint="write the character in place of its %-form")
    if path == "/":
        return (), False
    if path.endswith("/"):
        bare = path.rstrip("/")
        hint = f"{bare or '/'} fits with and without a slash at its end, {bare}/{{path...}} all that is below it too"
        raise ConfigError(where, text, "no slash at the end", hint=hint)
    parts = path[1:].split("/")
    if len(parts) > SEGMENTS_LIMIT:
        raise ConfigError(where, text, f"at most {SEGMENTS_LIMIT} segments")
    names: set[str] = set()
    segments: list[str | None] = []
    for number, part in enumerate(parts, 1):
        if not part:
            raise ConfigError(where, text, "one slash between segments")
        if "{" not in part and "}" not in part:
            segments.append(part)
            continue
        found = _PLACEHOLDER.fullmatch(part)
        if found is None:
            hint = f"{part} is neither text nor {{name}} nor {{name...}}"
            raise ConfigError(where, text, "placeholders that are whole segments", hint=hint)
        name, rest = found.groups()
        if len(name) > NAME_LIMIT:
            raise ConfigError(where, text, f"names of at most {NAME_LIMIT} characters")
        if name in names:
            raise ConfigError(where, text, "names that differ", hint=f"{name} is there twice")
        if rest:
            if number < len(parts):
                raise ConfigError(where, text, f"nothing behind {part}", hint="it takes all that follows")
            return tuple(segments), True
        names.add(name)
        segments.append(None)
    return tuple(segments), False


def _read_host(host: object, where: str) -> str:
    if not isinstance(host, str):
        raise ConfigError(where, host, "the name of a host")
    name = host.lower().removesuffix(".")
    if name and (not _HOST.fullmatch(name) or len(name) > HOST_LIMIT):
        hint = "without a port, with * for whole labels at the beginning only"
        raise ConfigError(where, host, "a name such as shop.example.org or *.example.org", hint=hint)
    return name


def _read_headers(headers: object, where: str) -> tuple[tuple[bytes, bytes | None], ...]:
    if not isinstance(headers, Mapping):
        raise ConfigError(where, headers, 'a table such as { "x-version" = "2" }')
    if len(headers) > HEADERS_LIMIT:
        raise ConfigError(where, len(headers), f"at most {HEADERS_LIMIT} headers")
    read: dict[bytes, bytes | None] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name.lower()):
            raise ConfigError(where, name, "the name of a header")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise ConfigError(f"{where}.{name}", value, "the value that it has, or * for any", hint="a text in ASCII")
        key = name.lower().encode()
        if key in read:
            raise ConfigError(f"{where}.{name}", value, "each header once")
        read[key] = None if value == ANY else value.encode()
    return tuple(sorted(read.items(), key=lambda item: item[0]))
