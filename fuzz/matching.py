"""Patterns of routes and the requests that they are for: read or refused, and matched as the plain rules have it.

A line ``P``, a pattern, its host and its headers, parted by tabs, is a route; a line ``R``, a method, a path, a host
and headers, is a request, in whose path ``\\n`` is a line break. The first routes that go together make the table.
"""

import random
from typing import Final

from fuzz.mutation import ODD, change_bytes, change_lines
from fuzz.target import Target, hold
from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import HOST_LIMIT, Pattern, parse_pattern, plain_host
from holdfast.server.admission.routes import HOSTS_REMEMBERED, RouteTable

LINES: Final = (
    b"P\tGET /orders/{id}\tshop.example\tx-version=2", b"P\t/static/{path...}\t*.example\tx-version=*", b"P\t*",
    b"P\t/", b"P\t/{a}/{b}", b"P\tGET|POST /orders", b"P\tHEAD /orders\t[::1]", b"P\t/orders/7\t\tx-a=1;x-b=2",
    b"P\t/a/{b}/c/{d...}", b"P\t/{rest...}", b"R\tGET\t/orders/7\tshop.example\tx-version=2",
    b"R\tHEAD\t/orders\t[::1]:80", b"R\tGET\t/static//a/\ta.example:8080\tx-version=1", b"R\tOPTIONS\t*",
    b"R\tPOST\t/a/x/c\tA.EXAMPLE.", b"R\tGET\t//a//b//\tb.a.example\tx-a=1;x-b=2", b"R\tGET\t",
    b"R\tGET\t/orders/7\\n",
)  # fmt: skip
WORDS: Final = (
    *ODD, b"/", b"//", b"/{a}", b"{a...}", b"{", b"}", b"{{", b"...", b"*", b"*.", b".", b"..", b"|", b"GET", b"HEAD",
    b"get", b"GET|GET", b"shop.example", b"*.example", b"SHOP.EXAMPLE.:80", b"[::1]", b"[", b"xn--nxasmq6b",
    b"x-version=2", b"x-version=*", b"x-a=1;x-a=2", b";", b"/a" * 40, b"a." * 140, b"%2F", b"\xc3\xa9",
    b"\xf0\x9f\x98\x80", b"\\n", b"\x85", b"\xe2\x80\xa8",
)  # fmt: skip
ROUTES_LIMIT: Final = 12
"""Routes of one table; the rules are compared one by one."""
REQUESTS_LIMIT: Final = 20


def run(data: bytes) -> None:
    """Read all lines, make a table, and ask it."""
    lines = [line.split("\t") for line in data.decode(errors="replace").split("\n")]
    patterns = [pattern for line in lines if line[0] == "P" for pattern in _read(line)][:ROUTES_LIMIT]
    table = _together(patterns)
    for line in [line for line in lines if line[0] == "R"][:REQUESTS_LIMIT]:
        _, method, path, host, headers = (*line, "", "", "", "", "")[:5]
        _ask(table, method, path.replace("\\n", "\n"), host, tuple(_headers(headers).items()))
    hold(len(table._known) <= HOSTS_REMEMBERED, "more hosts are remembered than may be")


def _headers(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    return {name: value for name, _, value in pairs}


def _read(line: list[str]) -> list[Pattern]:
    _, text, host, headers = (*line, "", "", "")[:4]
    try:
        pattern = parse_pattern(text, host, _headers(headers), "routes[0].match")
    except ConfigError as error:
        hold(error.path.startswith("routes[0].") and error.expected, f"a mistake without a place: {error}")
        str(error).encode()
        return []
    again = parse_pattern(pattern.text, pattern.host, _headers(headers))
    hold(again == pattern, f"{pattern} is another one when it is read again")
    str(pattern).encode()
    return [pattern]


def _together(patterns: list[Pattern]) -> RouteTable[Pattern]:
    """The table of those that go together, put in one by one."""
    kept: list[Pattern] = []
    for pattern in patterns:
        try:
            RouteTable([(one, one) for one in (*kept, pattern)])
        except ConfigError as error:
            hold(error.path == f"routes[{len(kept)}].match", f"another route is blamed: {error}")
        else:
            kept.append(pattern)
    backwards = RouteTable([(one, one) for one in reversed(kept)])  # the order says nothing, so this is no mistake
    hold(len(backwards.patterns) == len(kept), "routes are lost")
    return RouteTable([(one, one) for one in kept])


def _ask(table: RouteTable[Pattern], method: str, path: str, host: str, given: tuple[tuple[str, str], ...]) -> None:
    headers = tuple((name.lower().encode(), value.encode()) for name, value in given)
    found = table.match(method, path, host, headers)
    name = plain_host(host)
    hold(len(name) <= HOST_LIMIT + 7, "a host is too long")
    if len(host) <= HOST_LIMIT and not set(host) & {":", "["} and host[-1:] not in ("", ".") and host.isascii():
        hold(plain_host(f"{host.upper()}.:80") == name == host.lower(), f"{host} is compared as {name}")
    fits = [
        one
        for one in table.patterns
        if one.has_path(path) and one.naming(method) and one.has_host(name) and one.has_headers(headers)
    ]
    hold((found is None) == (not fits), f"{method} {path} on {host}: took {found}, {[str(one) for one in fits]} fit")
    hold(found is None or found in fits, f"{method} {path} on {host}: took {found}, which does not fit")
    reasons = table.explain(method, path, host, headers)
    taken = [reason.pattern for reason in reasons if reason.taken]
    hold(taken == ([] if found is None else [found]), f"{method} {path} on {host}: took {found}, explained {taken}")
    hold(len(reasons) == len(table.patterns), "a route is not explained")
    hold(table.match(method, path, host, headers) is found, "the same request takes another route")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Other lines, other fields."""
    if rng.randrange(4) == 0:
        return change_bytes(data, rng, WORDS)
    if rng.randrange(3) == 0:
        rows = data.split(b"\n")
        at = rng.randrange(len(rows))
        fields = rows[at].split(b"\t")
        fields[rng.randrange(len(fields))] = rng.choice(WORDS)
        rows[at] = b"\t".join(fields)
        return b"\n".join(rows)
    return change_lines(data, rng, LINES, WORDS)


SEEDS: Final = (
    b"\n".join(LINES),
    b"\n".join(LINES[:3] + LINES[10:13]),
    b"\n".join(LINES[3:9] + LINES[13:]),
    LINES[0],
    LINES[10],
)
TARGET: Final = Target("matching", "patterns of routes, and the requests that they are for", SEEDS, run, mutate)
