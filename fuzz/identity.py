"""The headers that say who a client is, how long it waits and what it matters, read by themselves.

A line is one header. What a client sends cannot change what a proxy has added, nobody gets more time or weight than
the route has, and no table of keys grows past its bound, which is why ``DOOR`` lives through all inputs.
"""

import itertools
import random
from math import inf
from typing import Any, Final

from fuzz.heads import FIELDS, WORDS
from fuzz.mutation import change_bytes, change_lines
from fuzz.target import Target, hold
from holdfast.core.context import Criticality
from holdfast.core.errors import Rejected
from holdfast.server.admission.admission import Admission
from holdfast.server.admission.deadlines import COLOUR_LIMIT, Hearing, clamp
from holdfast.server.admission.identity import (
    ADDRESS_LIMIT,
    KEY_BYTES,
    REMEMBERED,
    Trust,
    client_key,
    hashed,
    parse_address,
)
from holdfast.server.admission.patterns import Headers
from holdfast.server.admission.routes import HOSTS_REMEMBERED
from holdfast.server.admission.settings import read_admission, read_routes
from holdfast.telemetry.requestid import ID_LIMIT, taken_over

PROXIES: Final = ("10.0.0.0/8", "2001:db8:ffff::/48", "unix")
PLAIN: Final = Trust(PROXIES)
STANDARD: Final = Trust(PROXIES, "forwarded")
CLIENT: Final = "203.0.113.9"
"""Whom a proxy has written down last."""
SECONDS: Final = 5.0
"""What the route allows."""
MAX_KEYS: Final = 16
"""Keys of each rate limit of ``DOOR``."""
STEP: Final = 10.0
"""Seconds between two inputs: nobody's rate is used up."""

DOOR: Final = Admission(
    read_admission({"trusted_proxies": list(PROXIES), "clients": {"connections": 3}}),
    read_routes(
        [
            {
                "match": "/",
                "host": host,
                "timeout": "5s",
                "criticality": "sheddable_plus",
                "rate_limit": {"rate": "9/s", "burst": 40, "key": key, "max_keys": MAX_KEYS},
            }
            for key, host in (("client", ""), ("tenant", "t.example"), ("header:x-api-key", "*.k.example"))
        ]
    ),
)
"""Remembers what it has seen, as a service does."""
TIMES: Final = itertools.count(1000.0, STEP)
"""Of the inputs. The answers do not depend on which one it is, only what is remembered does."""
HOSTS: Final = ("", "t.example", "a.k.example", "T.EXAMPLE.:80")


def run(data: bytes) -> None:
    """Read the headers in all the ways in which they are read."""
    headers = tuple(_header(line) for line in data.split(b"\r\n") if line)
    for trust, name in ((PLAIN, b"x-forwarded-for"), (STANDARD, b"forwarded")):
        _look_at_client(trust, name, headers)
    _look_at_words(headers)
    for _, value in headers:
        _look_at_value(value)
    now = next(TIMES)
    for host in (*HOSTS, *(value.decode("latin-1") for name, value in headers if name == b"host")):
        _enter(host, headers, now)
    _look_at_tables()


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip(b" \t")


def _look_at_client(trust: Trust, name: bytes, headers: Headers) -> None:
    key, address = trust.client("10.0.0.1", headers), trust.address("10.0.0.1", headers)
    hold(key == client_key(parse_address(address)), f"the client is {key}, its address {address}")
    hold(trust.scheme(headers) in (None, "http", "https"), "a scheme that there is not")
    added = CLIENT.encode() if name == b"x-forwarded-for" else b"for=" + CLIENT.encode()
    own = [value for given, value in headers if given == name]
    line = (*headers, (name, added))
    hold(trust.client("10.0.0.1", line) == CLIENT, "a header of the client hides what the proxy has added")
    for value in own:
        joined = trust.client("10.0.0.1", ((name, value + b", " + added),))
        hold(joined == CLIENT, f"what the client has sent hides what the proxy has added to it: {value!r}")


def _look_at_words(headers: Headers) -> None:
    hearing = Hearing()
    told = hearing.listen(headers)
    hold(hearing.junk <= len(headers), "more junk than headers")
    if told is None:
        return
    back = Hearing().listen(headers[::-1])
    hold(back is not None and (back.seconds, back.criticality) == (told.seconds, told.criticality), "the order counts")
    hold(told.seconds >= 0, f"{told.seconds} seconds are left")
    hold(
        told.colour is None or (0 < len(told.colour) <= COLOUR_LIMIT and told.colour.isascii()), "a colour of any form"
    )
    for configured in (None, *Criticality):
        got = clamp(told.criticality, configured)
        hold(isinstance(got, Criticality) and (configured is None or got <= configured), f"{got} of {configured}")


def _look_at_value(value: bytes) -> None:
    text = value.decode("latin-1")
    address = parse_address(text)
    if address is not None:
        hold(len(text.strip()) <= ADDRESS_LIMIT, "an address that is too long")
        hold(parse_address(str(address)) == address, f"{text!r} is {address}, and that is another one")
        hold(PLAIN.peer(text)[0] == client_key(address), "a peer has another key than its address")
    hold(len(PLAIN.peer(text)[0]) <= ADDRESS_LIMIT + len("name:"), "a key of any length")
    known = taken_over(value)
    hold(known is None or (len(known) <= ID_LIMIT and known.isprintable() and '"' not in known), f"the id {known!r}")
    key = hashed(b"x", ((b"x", value),))
    hold(key is None if not value else key is not None and len(key) == KEY_BYTES, "a key of another size")


def _enter(host: str, headers: Headers, now: float) -> None:
    for address in ("10.0.0.1", "192.0.2.7"):
        peer = DOOR.connect(address)
        try:
            ticket = DOOR.enter("GET", "/", host, headers, peer, now)
        except Rejected as error:
            str(error)
        else:
            hold(ticket.deadline == inf or now <= ticket.deadline <= now + SECONDS, f"a deadline of {ticket.deadline}")
            if ticket.route != "others":
                hold(ticket.context.criticality <= Criticality.SHEDDABLE_PLUS, "more weight than the route has")
            if not peer.trusted:
                hold(ticket.client == address, f"a stranger is {ticket.client}")
                hold(ticket.context.colour in ("", None), "a stranger has a colour")
            ticket.exit(now=now)
        DOOR.disconnect(peer)


def _look_at_tables() -> None:
    hold(not len(DOOR.connections), "connections are counted that have ended")
    hold(len(DOOR.table._known) <= HOSTS_REMEMBERED, "hosts are remembered without end")
    gates: dict[str, dict[str, Any]] = DOOR.snapshot()["gates"]
    for name, gate in ((name, gate) for route in gates.values() for name, gate in route.items()):
        hold(gate.get("keys", 0) <= MAX_KEYS, f"{name} has {gate.get('keys')} keys")
    for trust in (PLAIN, STANDARD):
        hold(trust._read.cache_info().currsize <= REMEMBERED, "addresses are remembered without end")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Other headers, other values; now and then a key that nobody has had."""
    match rng.randrange(8):
        case 0:
            return change_bytes(data, rng, WORDS)
        case 1:
            fresh = b"%d" % rng.getrandbits(40)
            line = rng.choice((b"X-Api-Key: %b", b"X-Tenant: %b", b"Host: h%b.example", b"X-Forwarded-For: 2001:%b::"))
            return data + b"\r\n" + line % (fresh[:4] if line.endswith(b"::") else fresh)
        case _:
            return change_lines(data, rng, FIELDS, WORDS, b"\r\n")


SEEDS: Final = (
    b"\r\n".join(FIELDS[:18]),
    *FIELDS[:18],
    b'Forwarded: for="\\"10.0.0.1, for=10.0.0.2',
    b"Host: t.example",
)
TARGET: Final = Target("identity", "the headers of clients, proxies and deadlines, by themselves", SEEDS, run, mutate)
