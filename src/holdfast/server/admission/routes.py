"""Which route a request belongs to: the most specific one that fits it.

Of all the routes that fit, the first difference decides, in this order:

1. the host: a name before ``*.example.org``, the longer one first, before no host at all;
2. the path, segment by segment from the left: text before ``{name}`` before ``{name...}``; ``*`` is last;
3. the method: routes that name it, before GET for a HEAD, before those for all methods;
4. the headers: more of them before fewer, and of as many, more with one value before fewer.

The order in which they are written says nothing. Two routes that could fit the same request and are alike in all
four are refused when the table is made. A table is a trie of segments for each host; a match looks at each of its
nodes once at most, and at each character of the path, so no path takes long.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import ANY, HOST_LIMIT, Headers, Pattern, meets, plain_host

T = TypeVar("T")

ROUTES_LIMIT: Final = 1000
"""Routes of one table."""
HOSTS_REMEMBERED: Final = 256
"""Hosts, as requests have written them, whose routes are kept at hand."""

_SLASHES: Final = re.compile("//+")

Wanted: TypeAlias = tuple[tuple[bytes, bytes | None], ...]


class Reason(NamedTuple):
    """Whether one route fits a request, and why not, or why it is not the one that is taken."""

    pattern: Pattern
    fits: bool
    taken: bool
    why: str


class _Leaf(Generic[T]):
    """The routes of one host and path."""

    __slots__ = ("_patterns", "by_method", "others")

    def __init__(self) -> None:
        self._patterns: list[tuple[Pattern, T]] = []
        self.by_method: dict[str, tuple[tuple[Wanted, T], ...]] = {}
        self.others: tuple[tuple[Wanted, T], ...] = ()

    def add(self, pattern: Pattern, target: T) -> None:
        self._patterns.append((pattern, target))
        self._patterns.sort(key=lambda pair: pair[0].demand, reverse=True)  # stable; what is alike cannot both fit
        self.others = self._choices("")
        methods = {method for other, _ in self._patterns for method in other.methods}
        self.by_method = {method: self._choices(method) for method in methods | {"HEAD"}}

    def rivals(self, pattern: Pattern) -> Iterator[Pattern]:
        """Those that could fit the same request as ``pattern`` and are no less specific, and no more."""
        for other, _ in self._patterns:
            meet = bool(other.methods & pattern.methods) or not (other.methods or pattern.methods)
            if meet and other.demand == pattern.demand and not _exclude(other, pattern):
                yield other

    def _choices(self, method: str) -> tuple[tuple[Wanted, T], ...]:
        """Those for ``method``, the best first."""
        fitting = [(pattern, target) for pattern, target in self._patterns if pattern.naming(method)]
        fitting.sort(key=lambda pair: pair[0].naming(method), reverse=True)
        return tuple((pattern.headers, target) for pattern, target in fitting)


class _Node(Generic[T]):
    """Paths that begin alike."""

    __slots__ = ("here", "named", "rest", "texts")

    def __init__(self) -> None:
        self.texts: dict[str, _Node[T]] = {}
        self.named: _Node[T] | None = None
        self.here: _Leaf[T] | None = None
        self.rest: _Leaf[T] | None = None


class _Trie(Generic[T]):
    """The paths of one host."""

    __slots__ = ("anywhere", "root")

    def __init__(self) -> None:
        self.root: _Node[T] = _Node()
        self.anywhere: _Leaf[T] | None = None

    def leaf(self, pattern: Pattern) -> _Leaf[T]:
        """The place of ``pattern``, made if it is not there."""
        if pattern.anywhere:
            self.anywhere = self.anywhere or _Leaf()
            return self.anywhere
        node = self.root
        for segment in pattern.segments:
            if segment is not None:
                node = node.texts.setdefault(segment, _Node())
            else:
                node.named = node.named or _Node()
                node = node.named
        if pattern.rest:
            node.rest = node.rest or _Leaf()
            return node.rest
        node.here = node.here or _Leaf()
        return node.here

    def find(self, parts: list[str] | None, method: str, headers: Headers) -> T | None:
        if parts is not None:
            # One path through the trie, and the places where another one may be tried: those further down first.
            node = self.root
            depth, length = 0, len(parts)
            untried: list[tuple[_Node[T] | _Leaf[T], int]] = []
            while True:
                if node.rest is not None:
                    untried.append((node.rest, length))
                if depth == length:
                    found = None if node.here is None else _choose(node.here, method, headers)
                    if found is not None:
                        return found
                else:
                    named = node.named
                    following = node.texts.get(parts[depth])
                    depth += 1
                    if following is not None:
                        if named is not None:
                            untried.append((named, depth))
                        node = following
                        continue
                    if named is not None:
                        node = named
                        continue
                while untried:
                    place, depth = untried.pop()
                    if isinstance(place, _Node):
                        node = place
                        break
                    found = _choose(place, method, headers)
                    if found is not None:
                        return found
                else:
                    break
        return None if self.anywhere is None else _choose(self.anywhere, method, headers)


class RouteTable(Generic[T]):
    """Routes and what each of them stands for. Immutable; safe from any thread."""

    def __init__(self, routes: Iterable[tuple[Pattern, T]] = (), where: str = "routes") -> None:
        """Raises ``ConfigError``, whose path is ``where`` and a number, for two routes that cannot be told apart."""
        listed = list(routes)
        if len(listed) > ROUTES_LIMIT:
            raise ConfigError(where, len(listed), f"at most {ROUTES_LIMIT} routes")
        self._patterns: Sequence[Pattern] = [pattern for pattern, _ in listed]
        self._depth = max((len(pattern.segments) for pattern, _ in listed), default=0)
        self._any: _Trie[T] = _Trie()
        self._hosts: dict[str, _Trie[T]] = {}
        self._known: dict[str, tuple[_Trie[T], ...]] = {}
        for number, (pattern, target) in enumerate(listed):
            trie = self._hosts.setdefault(pattern.host, _Trie()) if pattern.host else self._any
            leaf = trie.leaf(pattern)
            for other in leaf.rivals(pattern):
                raise _alike(pattern, other, f"{where}[{number}].match")
            leaf.add(pattern, target)

    @property
    def patterns(self) -> Sequence[Pattern]:
        """All of them, as they were given."""
        return tuple(self._patterns)

    def match(self, method: str, path: str, host: str = "", headers: Headers = ()) -> T | None:
        """What the most specific route that fits stands for; None when none fits.

        ``path`` is decoded, as the app gets it (without the root path); ``host`` is what the request says.
        """
        parts: list[str] | None = None
        if path[-1:] == "\n":  # the end of a regular expression fits before it, and so do the routes of Starlette
            path = path[:-1]
        if path[:1] == "/":
            if "//" in path:
                path = _SLASHES.sub("/", path)
            # What is deeper than all routes need not be taken apart.
            parts = path[1:].removesuffix("/").split("/", self._depth) if len(path) > 1 else []
        if self._hosts:
            tries = self._known.get(host)
            if tries is None:
                tries = self._remember(host)
            for trie in tries:
                found = trie.find(parts, method, headers)
                if found is not None:
                    return found
        return self._any.find(parts, method, headers)

    def explain(self, method: str, path: str, host: str = "", headers: Headers = ()) -> list[Reason]:
        """What each route says to such a request, in the order in which they are asked."""
        name = plain_host(host)
        fitting: list[Pattern] = []
        refusals: dict[int, str] = {}
        for number, pattern in enumerate(self._patterns):
            why = _misfit(pattern, method, path, name, headers)
            if why:
                refusals[number] = why
            else:
                fitting.append(pattern)
        taken = max(fitting, key=lambda pattern: rank(pattern, method), default=None)
        reasons = []
        order = sorted(enumerate(self._patterns), key=lambda item: rank(item[1], method), reverse=True)
        for number, pattern in order:
            first = pattern is taken
            why = refusals.get(number) or (
                "the most specific that fits" if first else _difference(taken, pattern, method)
            )
            reasons.append(Reason(pattern, number not in refusals, first, why))
        return reasons

    def _remember(self, host: str) -> tuple[_Trie[T], ...]:
        name = plain_host(host)
        found = tuple(self._of_host(name))
        if name:  # else it may be of any length
            if len(self._known) >= HOSTS_REMEMBERED:
                self._known.clear()
            self._known[host] = found
        return found

    def _of_host(self, host: str) -> Iterator[_Trie[T]]:
        """The tries of the names that fit ``host``, the most specific first."""
        found = self._hosts.get(host)
        if found is not None:
            yield found
        if len(host) <= HOST_LIMIT:
            dot = host.find(".")
            while dot >= 0:
                found = self._hosts.get(f"*{host[dot:]}")
                if found is not None:
                    yield found
                dot = host.find(".", dot + 1)


def rank(pattern: Pattern, method: str) -> tuple[tuple[int, int], tuple[int, ...], int, tuple[int, int]]:
    """What patterns that fit the same request are compared by: the greatest is the most specific.

    It says nothing about two that fit no request together.
    """
    host = (0 if not pattern.host else 1 if pattern.host[0] == ANY else 2, len(pattern.host))
    path = [3 if segment is not None else 2 for segment in pattern.segments]
    path.append(0 if pattern.anywhere else 1 if pattern.rest else 4)
    return host, tuple(path), pattern.naming(method), pattern.demand


def _choose(leaf: _Leaf[T], method: str, headers: Headers) -> T | None:
    for wanted, target in leaf.by_method.get(method, leaf.others):
        if not wanted or meets(wanted, headers):
            return target
    return None


def _exclude(one: Pattern, other: Pattern) -> bool:
    """Whether no request has the headers that both ask for: the same name with two values."""
    values = dict(one.headers)
    return any(
        value is not None and values.get(name) is not None and values[name] != value for name, value in other.headers
    )


def _alike(pattern: Pattern, other: Pattern, where: str) -> ConfigError:
    if str(pattern) == str(other):
        return ConfigError(where, str(pattern), "each route once")
    hint = f"{pattern} and {other} are equally specific and may fit the same request"
    return ConfigError(where, str(pattern), f"a route that is told apart from {other}", hint=hint)


def _misfit(pattern: Pattern, method: str, path: str, host: str, headers: Headers) -> str:
    """Why ``pattern`` does not fit; empty when it does."""
    if not pattern.has_host(host):
        return f"the host is not {pattern.host}"
    if not pattern.has_path(path):
        return "the path is another one"
    if not pattern.naming(method):
        return f"the method is not {' or '.join(sorted(pattern.methods))}"
    if not pattern.has_headers(headers):
        missing = next(pair for pair in pattern.headers if not meets((pair,), headers))
        return f"the header {missing[0].decode()} is not {ANY if missing[1] is None else missing[1].decode()}"
    return ""


def _difference(taken: Pattern | None, pattern: Pattern, method: str) -> str:
    """By what ``taken`` goes before ``pattern``; both fit."""
    assert taken is not None  # something fits, so something is taken
    names = ("host", "path", "method", "headers")
    parts = zip(names, rank(taken, method), rank(pattern, method), strict=True)
    return f"{taken} has the more specific {next(name for name, one, other in parts if one != other)}"
