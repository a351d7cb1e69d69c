"""Who the client is, behind proxies that are believed, and the keys that rate limits know it by.

A header says what its sender likes. So ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239) counts only when the peer is
a trusted proxy, and is read from the right: each trusted proxy has written down its own peer there, and the first
address that is none of a trusted proxy is the client; what is further left was sent by the client itself. Where
an entry is no address, the one who wrote it is the client as far as anybody knows.
"""

import functools
import ipaddress
import re
import secrets
import socket
from collections.abc import Hashable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

import msgspec

from holdfast.core.call import Call
from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import Headers

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Field: TypeAlias = Literal["x-forwarded-for", "forwarded"]
Source: TypeAlias = Literal["client", "header", "tenant", "route"]

HOPS_LIMIT: Final = 32
"""Entries that are looked at, from the right. No chain of proxies is as long."""
CHAIN_LIMIT: Final = 4096
"""Bytes of these headers that are looked at, from the right."""
ADDRESS_LIMIT: Final = 64
"""Characters of one address with its port, zone and brackets."""
NETWORKS_LIMIT: Final = 256
"""Networks of trusted proxies."""
VALUE_LIMIT: Final = 1024
"""Bytes of a header's value that a key is made of."""
KEY_BYTES: Final = 16
"""Of a hash. Two values that share one are not found in the time that there is."""
REMEMBERED: Final = 4096
"""Addresses that are kept as they were read, for one network list."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that say whose it is: one line of one customer gets no less (RFC 6177)."""
UNIX: Final = "unix"
"""A peer on a Unix socket, in the list of trusted proxies and as a client."""

_SECRET: Final = secrets.token_bytes(16)
_WITH_PORT: Final = re.compile(r"([0-9.]+)(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]+)(?:%[^\]\s]{1,32})?\](?::[0-9]{1,5})?")
_PAIR: Final = re.compile(r'\s*([A-Za-z]{1,32})\s*=\s*("(?:[^"\\]|\\.)*"|[^";\s]+)\s*(?:;|$)')
_PROTO: Final = re.compile(rb"(?:^|;)\s*proto\s*=\s*\"?([a-z]+)")
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}
_ESCAPED: Final = re.compile(r"\\(.)")


def parse_address(text: str) -> Address | None:
    """The IP address that ``text`` is: with or without a port, brackets and a zone, which are left away.

    An IPv4 address in IPv6's clothes (``::ffff:192.0.2.1``) is the IPv4 address. None for anything else.
    """
    text = text.strip()
    if len(text) > ADDRESS_LIMIT or not text.isascii():
        return None
    found = _WITH_PORT.fullmatch(text)
    bare = (found[1] or found[2]) if found else text.partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def client_key(address: Address | None) -> str:
    """What a client is counted by: its IPv4 address, its IPv6 network of 64 bits, or ``unix``."""
    if address is None:
        return UNIX
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    network = address.packed[: IPV6_PREFIX // 8].ljust(16, b"\0")
    return f"{socket.inet_ntop(socket.AF_INET6, network)}/{IPV6_PREFIX}"  # as ipaddress writes it, but faster


class Trust:
    """The proxies that are believed, and which header they write. Immutable; safe from any thread."""

    def __init__(
        self, networks: Iterable[str] = (), field: Field = "x-forwarded-for", where: str = "trusted_proxies"
    ) -> None:
        """``networks`` are addresses, networks such as ``10.0.0.0/8``, or ``unix``. ``ConfigError`` for others.

        A network of all addresses is refused: then the client is whoever the client says.
        """
        listed = tuple(networks)
        if len(listed) > NETWORKS_LIMIT:
            raise ConfigError(where, len(listed), f"at most {NETWORKS_LIMIT} networks")
        self.field: Field = field
        self._name = field.encode()
        self._plain = field == "x-forwarded-for"
        self._unix = UNIX in listed
        self._masks: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for number, text in enumerate(listed):
            if text != UNIX:
                network = _read_network(text, f"{where}[{number}]")
                self._masks[network.version].append((int(network.netmask), int(network.network_address)))
        self._read = functools.lru_cache(REMEMBERED)(self._read_once)

    def peer(self, host: str | None) -> tuple[str, bool]:
        """The key of the peer at the other end of a connection, and whether it is believed. None: a Unix socket."""
        if host is None or not host:
            return UNIX, self._unix
        address = parse_address(host)
        if address is None:  # a name, from a server that gives names
            return f"name:{host[:ADDRESS_LIMIT]}", False
        return client_key(address), self._has(address)

    def client(self, peer: str, headers: Headers) -> str:
        """The key of the client whose request a trusted ``peer`` (its key) has passed on."""
        found = self._find(headers)
        return peer if found is None else found[0]

    def address(self, peer: str, headers: Headers) -> str:
        """Likewise its whole IP address, for logs and the app; ``peer`` is that of the trusted peer."""
        found = self._find(headers)
        return peer if found is None else found[2]

    def scheme(self, headers: Headers) -> str | None:
        """``http`` or ``https``, as the last trusted proxy says that the client came; None when it says nothing.

        By ``X-Forwarded-Proto``, or ``proto=`` of ``Forwarded``.
        """
        wanted = b"x-forwarded-proto" if self._plain else b"forwarded"
        for name, value in reversed(headers):
            if name == wanted:
                last = value[-CHAIN_LIMIT:].rpartition(b",")[2].strip().lower()
                if not self._plain:
                    found = _PROTO.search(last)
                    last = found[1] if found else b""
                return _SCHEMES.get(last)
        return None

    def _find(self, headers: Headers) -> tuple[str, bool, str] | None:
        """Key, trust and address of the last one, from the right, of whom a trusted proxy has told."""
        wanted = self._name
        lines = [value for name, value in headers if name == wanted]
        if len(lines) == 1 and self._plain and len(lines[0]) <= ADDRESS_LIMIT and b"," not in lines[0]:
            return self._read(lines[0].decode("latin-1").strip())  # one proxy, as most have: the same in less time
        last = None
        for entry in self._chain(lines):
            # What is too long is not remembered either.
            found = self._read(entry) if len(entry) <= ADDRESS_LIMIT else None
            if found is None:
                break
            last = found
            if not found[1]:
                break
        return last

    def _has(self, address: Address) -> bool:
        number = int(address)
        return any(number & mask == network for mask, network in self._masks[address.version])

    def _read_once(self, entry: str) -> tuple[str, bool, str] | None:
        address = parse_address(entry)
        return None if address is None else (client_key(address), self._has(address), str(address))

    def _chain(self, lines: list[bytes]) -> Iterator[str]:
        """The entries of all lines of the header, the last one first."""
        left, hops = CHAIN_LIMIT, HOPS_LIMIT
        for value in reversed(lines[-HOPS_LIMIT:]):
            cut = len(value) > left
            text = (value[-left:] if cut else value).decode("latin-1")
            left -= len(text)
            elements = _entries(text) if self._plain else _elements(text)
            for element, first in elements:
                if hops == 0 or (first and cut):  # half an entry is none
                    return
                hops -= 1
                yield element if self._plain else _node(element)
            if left <= 0:
                return


def _read_network(text: object, where: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if not isinstance(text, str):
            raise ValueError
        network = ipaddress.ip_network(text)
    except ValueError as error:
        hint = str(error) if "host bits" in str(error) else "names are not looked up"
        raise ConfigError(where, text, 'an address, a network such as 10.0.0.0/8, or "unix"', hint=hint) from None
    if network.prefixlen == 0:
        raise ConfigError(where, text, "the networks of the proxies", hint="else clients choose who they are")
    return network


def _entries(text: str) -> Iterator[tuple[str, bool]]:
    """What stands between commas, the last one first, and whether nothing is left of it."""
    end = len(text)
    while end >= 0:
        comma = text.rfind(",", 0, end)
        entry = text[comma + 1 : end].strip()
        if entry:
            yield entry, comma < 0
        end = comma if comma >= 0 else -1


def _elements(text: str) -> Iterator[tuple[str, bool]]:
    """As ``_entries``, with commas in quotes taken for what they are.

    It is read from the right, like all of it: a quote that a client leaves open at the left must not swallow what a
    proxy has added.
    """
    end = at = len(text)
    quoted = False
    comma = text.rfind(",")
    quote = text.rfind('"')
    while True:
        if comma >= at:
            comma = text.rfind(",", 0, at)
        if quote >= at:
            quote = text.rfind('"', 0, at)
        if quote > comma:
            at = quote
            while quoted and at > 0 and text[at - 1] == "\\":
                at -= 1
            if (quote - at) % 2 == 0:
                quoted = not quoted
        elif comma >= 0:
            at = comma
            if not quoted:
                element = text[comma + 1 : end].strip()
                if element:
                    yield element, False
                end = comma
        else:
            element = text[:end].strip()
            if element:
                yield element, True
            return


def _node(element: str) -> str:
    """What ``for=`` says in an element of ``Forwarded``; empty when that is nothing, or the element is none."""
    node = ""
    at = 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            if node:
                return ""
            node = pair[2]
        at = pair.end()
    return _ESCAPED.sub(r"\1", node[1:-1]) if node[:1] == '"' else node


class Arrival(msgspec.Struct):
    """What of a request the keys of rate limits are made of: the only argument of its ``Call``."""

    client: str
    trusted: bool
    headers: Headers
    tenant: bytes


class Key(msgspec.Struct, frozen=True):
    """What a rate limit counts by, as ``RateLimit(key=...)`` takes it: a function of the call.

    ``client``: its address. ``header``: a hash of the value of ``name``, which the client chooses: only as good as
    what checks it. ``tenant``: likewise, of the header that trusted proxies write. Who has no such header is
    counted by its address, so that leaving it away gains nothing. ``route``: one for all.
    """

    source: Source
    name: str = ""

    def __call__(self, call: Call) -> Hashable:
        source = self.source
        if source == "route":
            return call.operation
        arrival: Arrival = call.args[0]
        if source == "header":
            return hashed(self.name.encode(), arrival.headers) or arrival.client
        if source == "tenant" and arrival.trusted:
            return hashed(arrival.tenant, arrival.headers) or arrival.client
        return arrival.client

    def __str__(self) -> str:
        return f"header:{self.name}" if self.source == "header" else self.source


def parse_key(text: Any) -> Key:
    """``client``, ``tenant``, ``route``, or ``header:x-api-key``. ``ValueError`` for anything else."""
    if text in ("client", "tenant", "route"):
        return Key(text)
    if isinstance(text, str) and re.fullmatch(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text):
        return Key("header", text.removeprefix("header:").lower())
    raise ValueError(text)


def hashed(name: bytes, headers: Headers) -> bytes | None:
    """A hash of the first value of ``name``; None when there is none. Nobody can tell the value from it.

    A value of many kilobytes makes no larger key, and no longer work.
    """
    for given, value in headers:
        if given == name and value:
            return blake2b(value[:VALUE_LIMIT], digest_size=KEY_BYTES, key=_SECRET).digest()
    return None
