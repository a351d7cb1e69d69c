"""Whole configuration files: read into a snapshot, or refused, in words that show no secret.

What is read can be shown, stored, sent, compared and served from: admission and its gates are made of it.
"""

import json
import random
from math import inf
from typing import Annotated, Any, Final

import msgspec

from fuzz.mutation import LONGEST, ODD, change_bytes, change_lines
from fuzz.target import Target, hold
from fuzz.trees import change_tree
from holdfast.config.diff import changes
from holdfast.config.document import Document, merged
from holdfast.config.layers import from_environment, toml_in
from holdfast.config.lines import lines_of
from holdfast.config.mistakes import each
from holdfast.config.reading import decoded
from holdfast.config.secret import Secret, SecretText
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import ConfigError, Rejected
from holdfast.server.admission.admission import Admission
from holdfast.supervisor.configuration import make_schema

SECRET: Final = "c0rrect-h0rse-battery"
"""What the variable holds that files refer to: no file has it in it."""
PLAIN: Final = "tr0ub4dor-and-3"
"""A secret that stands in the file itself."""
ENV: Final = {"TOKEN": SECRET, "EMPTY": ""}
VARIABLES: Final[tuple[dict[str, str], ...]] = (
    {},
    {"HOLDFAST__ADMISSION__MAX_WAIT": "20ms", "HOLDFAST__SETTINGS__TOKEN": '{ env = "TOKEN" }'},
    {"HOLDFAST__ROUTES": '[{ match = "/x" }]', "HOLDFAST__SETTINGS__CURRENCY": "SEK"},
    {"HOLDFAST__ADMISSION__CLIENTS__RATE": "5/s", "HOLDFAST__ERRORS": "{}"},
)
HIDDEN: Final = {("settings", "token"), ("settings", "tokens", "[]"), ("settings", "database", "password")}
SOURCE: Final = "holdfast.toml"
KEY: Final = bytes(32)

GOOD: Final = b"""[run]
app = "shop:app"
workers = 2
bind = ["127.0.0.1:0", "unix:/run/app.sock"]
[admission]
trusted_proxies = ["10.0.0.0/8", "unix"]
concurrency = { target = "20ms" }
clients = { rate = "5/s", burst = 4, connections = 3 }
max_wait = "500ms"
fair_by = "header:x-tenant"
[[routes]]
match = "POST /orders/{id}"
name = "orders"
host = "*.example.org"
headers = { "x-version" = "2" }
timeout = "2s"
criticality = "critical_plus"
rate_limit = { rate = "50/s", key = "header:x-tenant" }
[[routes]]
match = "/static/{path...}"
policies = [{ bulkhead = 3 }, "breaker", "concurrency", { timeout = "2s" }]
[[routes]]
match = "*"
throttle = true
bulkhead = 20
must_finish = true
[errors]
"shop:OutOfStock" = { code = "failed_precondition", status = 409 }
"builtins:KeyError" = "not_found"
[pipelines]
ship = [{ timeout = "2s" }, { retry = { attempts = 3 } }, "breaker", { rate_limit = "5/s" }]
read = [{ cache = { ttl = "1s" } }, { hedge = { delay = "10ms" } }, { fallback = { value = 1 } }]
[settings]
currency = "EUR"
token = { env = "TOKEN" }
tokens = [{ env = "TOKEN" }]
database.password = { env = "TOKEN" }
"""
LINES: Final = (
    *GOOD.splitlines(), b'[[routes]]\nmatch = "GET /{a}"', b'host = "shop.example"', b'rate_limit = "1/h"',
    b'breaker = { failures = 3 }', b'bulkhead = { limit = 3, queue = 2 }',
    b'rate_limit = { rate = "5/s", algorithm = "gcra" }', b'concurrency = false', b"queue = false",
    b'token = "tr0ub4dor-and-3"', b'token = { file = "/nowhere" }', b'token = { env = "EMPTY" }',
    b'currency = { env = "TOKEN" }', b'app = { env = "TOKEN" }', b'workers = { env = "TOKEN" }', b"[settings]",
    b"[rotes]", b"x = 1979-05-27T07:32:00Z", b'x = """', b"a.b.c = 1", b"[a.b]", b"[[a]]",
    b'match = { env = "TOKEN" }', b'[pipelines]\nx = [{ retry = { env = "TOKEN" } }]',
    b'"shop:Gone" = { env = "TOKEN" }',
)  # fmt: skip
WORDS: Final = (
    *ODD, b'"5/s"', b'"1e400/s"', b'"-1s"', b'"10ms"', b'"*"', b'"GET /{a}/{a...}"', b'"header:"', b'"client"',
    b'"0.0.0.0/0"', b"true", b"nan", b"inf", b"1e308", b"0x10", b"9223372036854775808", b'{ env = "TOKEN" }',
    b'[{ env = "TOKEN" }]', b'{ file = "x" }', b'"""', b"'''", b"[" * 40, b"{a=" * 40, b'"\\uD800"', b'"\\u0000"',
    b"1979-05-27", b'"critical"', b'"gcra"', b'"unix"', b'"not_found"', b"409", b"[]", b"{}", b'""',
)  # fmt: skip

REFERENCE: Final = {"env": "TOKEN"}
VALUES: Final[tuple[Any, ...]] = (
    REFERENCE, [REFERENCE], PLAIN, [PLAIN], {"file": "/nowhere"}, True, False, 0, 1, -1, 2**63 - 1, 2**64, 1e308,
    float("nan"), float("inf"), 0.5, "", "x", "5/s", "1/h", "1e400/s", "0/s", "10ms", "-1s", "1000000h", "*",
    "GET /{a}", "GET /{a}/{a...}", "header:x-a", "header:", "client", "tenant", "route", "gcra", "sliding_log",
    "warm_up", "leaky_bucket", "unix", "0.0.0.0/0", "::/0", "10.0.0.1/8", "critical", "critical_plus", "forwarded",
    "not_found", "unknown", "shop:Gone", "a" * 300, "\x1b[31m", "\u202e", "\u00e9", [], {}, [1, 2], ["breaker"],
    [{"bulkhead": 1}], {"a": {"b": 1}}, {"rate": "5/s", "burst": 4},
    {"rate": "5/s", "key": "header:x-a", "max_keys": 3}, {"limit": 3, "queue": 2, "max_wait": "1s"},
    {"target": "20ms"}, {"failures": 0.5, "window": "10s"}, {"attempts": 3}, {"ttl": "1s"},
    {"code": "not_found", "status": 404}, {"rate": "5/s", "tiers": {"gold": "9/s"}, "tier": "key"}, {"x-a": "1"},
    {"x-a": "*", "X-A": "2"}, 200, 404, 499, 999,
)  # fmt: skip
NAMES: Final = (
    "run", "admission", "routes", "errors", "pipelines", "settings", "rotes", "app", "workers", "bind",
    "trusted_proxies", "forwarded", "tenant", "concurrency", "queue", "max_wait", "fair_by", "clients", "rate",
    "burst", "connections", "match", "host", "headers", "name", "timeout", "criticality", "must_finish", "rate_limit",
    "throttle", "breaker", "bulkhead", "policies", "retry", "cache", "hedge", "fallback", "fault", "budget",
    "adaptive_limit", "singleflight", "key", "max_keys", "algorithm", "tiers", "tier", "limit", "target", "attempts",
    "code", "status", "reason", "currency", "token", "tokens", "database", "password", "size", "shop:Gone",
    "builtins:KeyError", "ship", "", "a.b", "x" * 210, "\x7f",
)  # fmt: skip
TREES: Final = 0.6
"""The share of changes that leave a file TOML."""


class Database(msgspec.Struct, frozen=True):
    """Where the data are."""

    password: SecretText = Secret("")
    size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class Own(msgspec.Struct, frozen=True):
    """The app's own settings, as its author writes them."""

    currency: Annotated[str, msgspec.Meta(min_length=1)] = "EUR"
    token: SecretText = Secret("")
    tokens: list[SecretText] = []
    database: Database = Database()


SCHEMA: Final = make_schema(Own)


def document_of(data: bytes) -> Document:
    """The document in a file of these bytes, with the layer of variables that the first one chooses."""
    variables = VARIABLES[data[0] % len(VARIABLES)] if data else {}
    text = decoded(data[1:], SOURCE)
    file = Document.of(toml_in(text, SOURCE), "file", SOURCE, lines_of(text))
    return merged(file, from_environment(variables))


BASE: Final = SCHEMA.read(document_of(b"\0" + GOOD), env=ENV, key=KEY)


def run(data: bytes) -> None:
    """Read a file, and do with it what the supervisor and the workers do."""
    try:
        document = document_of(data)
    except ConfigError as error:
        _look_at_refusal(error)
        return
    sent = Document.restored(msgspec.msgpack.decode(msgspec.msgpack.encode(document.plain())))
    hold(sent == document, "a document is another one after it was sent")
    secrets = (SECRET, PLAIN) if _only_where_secrets_are(document.values, ()) else (SECRET,)
    try:
        snapshot = SCHEMA.read(document, env=ENV, key=KEY)
    except ConfigError as error:
        _look_at_refusal(error, secrets)
        return
    _look_at(sent, snapshot, secrets)
    _serve(snapshot)


def _only_where_secrets_are(value: Any, place: tuple[Any, ...]) -> bool:
    """Whether ``PLAIN`` is nowhere but in settings that are secret."""
    if isinstance(value, dict):
        return not any(PLAIN in name for name in value) and all(
            _only_where_secrets_are(item, (*place, name)) for name, item in value.items()
        )
    if isinstance(value, list):
        return all(_only_where_secrets_are(item, (*place, "[]")) for item in value)
    return not isinstance(value, str) or PLAIN not in value or place in HIDDEN


def _look_at_refusal(error: ConfigError, secrets: tuple[str, ...] = (SECRET, PLAIN)) -> None:
    """What is no TOML is refused without any of its words, for a part of it may be half of a secret."""
    shown = [str(error), repr(error), *(str(one) for one in each(error)), *(repr(one.value) for one in each(error))]
    _without(secrets, *shown)
    hold(all(len(one.expected) for one in each(error)), "a mistake that does not say what was expected")
    json.dumps(str(error)).encode()


def _look_at(document: Document, snapshot: Snapshot, secrets: tuple[str, ...]) -> None:
    again = SCHEMA.read(document, env=ENV, key=KEY)
    hold(again.digest == snapshot.digest, "a document that was sent has another digest")
    behind = SCHEMA.read(document, env=ENV, key=KEY, previous=BASE)
    hold(behind.digest == snapshot.digest, "what is read depends on what was there before")
    for name in snapshot:
        hold(behind[name] == snapshot[name], f"{name} is another one when read after another configuration")
    hold(not changes(snapshot, again, SCHEMA), "a configuration differs from itself")
    stored, _ = snapshot.for_disk(plain=False)
    _without(
        secrets,
        repr(snapshot),
        repr(document),
        json.dumps(snapshot.redacted()),
        str(changes(BASE, snapshot, SCHEMA)),
        str(changes(snapshot, BASE, SCHEMA)),
        json.dumps(stored.plain()),
        repr(snapshot["settings"]),
    )


def _serve(snapshot: Snapshot) -> None:
    admission = Admission(BASE["admission"], BASE["routes"])
    try:
        admission.update(snapshot["admission"], snapshot["routes"])
    except ConfigError as error:
        str(error)
        return
    peer = admission.connect("192.0.2.7")
    for method, path in (("POST", "/orders/7"), ("GET", "/static/a/b"), ("BREW", "*")):
        try:
            ticket = admission.enter(method, path, "shop.example.org", [(b"x-version", b"2")], peer, 1000.0)
        except Rejected as error:
            str(error)
        else:
            hold(
                ticket.deadline > 0 and (ticket.deadline == inf or ticket.deadline >= 1000.0), "a deadline in the past"
            )
            ticket.exit(now=1000.5)
    admission.disconnect(peer)
    hold(not len(admission.connections), "a connection is counted that has ended")
    for gates in admission.snapshot()["gates"].values():
        for name, gate in gates.items():
            hold(not gate.get("in_flight", 0), f"{name} holds {gate}")


def _without(secrets: tuple[str, ...], *texts: str) -> None:
    for text in texts:
        hold(not any(secret in text for secret in secrets), f"a secret is shown: {text[:300]}")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Another file: other lines, other values, other bytes."""
    first, text = data[:1] or b"\0", data[1:]
    if rng.random() < TREES:
        changed = change_tree(text, rng, NAMES, VALUES)
        if changed is not None:
            return (first + changed)[:LONGEST]
    match rng.randrange(8):
        case 0:
            first = rng.randbytes(1)
        case 1:
            text = change_bytes(text, rng, WORDS)
        case _:
            text = change_lines(text, rng, LINES, WORDS)
    return first + text


def _seeds() -> tuple[bytes, ...]:
    parts = GOOD.split(b"\n[")
    sections = [parts[0], *(b"[" + part for part in parts[1:])]
    plain = GOOD.replace(b'{ env = "TOKEN" }', b'"tr0ub4dor-and-3"')
    return (
        b"\0" + plain,
        *(b"%c" % number + GOOD for number in range(len(VARIABLES))),
        *(b"\0" + part + b"\n" for part in sections),
    )


TARGET: Final = Target("documents", "configuration files, through all that is done with one", _seeds(), run, mutate)
