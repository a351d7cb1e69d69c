import pytest

from holdfast.core.call import bare_call
from holdfast.core.errors import ConfigError
from holdfast.server.admission.identity import (
    ADDRESS_LIMIT,
    CHAIN_LIMIT,
    HOPS_LIMIT,
    KEY_BYTES,
    NETWORKS_LIMIT,
    REMEMBERED,
    VALUE_LIMIT,
    Arrival,
    Key,
    Trust,
    client_key,
    hashed,
    parse_address,
    parse_key,
)

PROXIES = ("10.0.0.0/8", "2001:db8:aaaa::/48", "unix")
PROXY = "10.0.0.1"


def forwarded_for(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"x-forwarded-for", line.encode()) for line in lines)]


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"forwarded", line.encode()) for line in lines)]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_an_address_is_read_without_port_brackets_and_zone(text: str, address: str) -> None:
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "192.0.2.1:",
        "192.0.2.1:http",
        "192.0.2.1:123456",
        "192.0.2.256",
        "192.0.2",
        "192.0.2.01",
        "[192.0.2.1",
        "[::1",
        "::1]",
        "[::1]x",
        "localhost",
        "1",
        "192.0.2.1, 192.0.2.2",
        "\u0661\u0669\u0662.0.2.1",
        "0" * ADDRESS_LIMIT + "1.2.3.4",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_an_ipv6_client_is_its_network_of_64_bits() -> None:
    assert client_key(parse_address("2001:db8:1:2:3:4:5:6")) == "2001:db8:1:2::/64"
    assert client_key(parse_address("2001:db8:1:2::")) == client_key(parse_address("2001:db8:1:2:ffff::1"))
    assert client_key(parse_address("2001:db8:1:2::1")) != client_key(parse_address("2001:db8:1:3::1"))
    assert client_key(parse_address("192.0.2.1")) == "192.0.2.1"
    assert client_key(None) == "unix"


def test_a_peer_is_believed_when_its_network_is() -> None:
    trust = Trust(PROXIES)
    assert trust.peer("10.1.2.3") == ("10.1.2.3", True)
    assert trust.peer("::ffff:10.1.2.3") == ("10.1.2.3", True)
    assert trust.peer("2001:db8:aaaa:1::5") == ("2001:db8:aaaa:1::/64", True)
    assert trust.peer("11.1.2.3") == ("11.1.2.3", False)
    assert trust.peer(None) == ("unix", True)
    assert Trust(("10.0.0.1",)).peer("10.0.0.1") == ("10.0.0.1", True)
    assert Trust(("10.0.0.1",)).peer("10.0.0.2") == ("10.0.0.2", False)
    assert Trust().peer(None) == ("unix", False)
    assert Trust().peer("127.0.0.1") == ("127.0.0.1", False)
    assert Trust().peer("a-name" * 50) == ("name:" + ("a-name" * 50)[:ADDRESS_LIMIT], False)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("*", "an address, a network"),
        ("proxy.example.org", "names are not looked up"),
        ("10.0.0.1/8", "has host bits set"),
        ("0.0.0.0/0", "else clients choose who they are"),
        ("::/0", "else clients choose who they are"),
        (7, "an address, a network"),
    ],
)
def test_networks_that_make_no_sense_are_refused(network: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Trust(["10.0.0.1", network])  # type: ignore[list-item]
    assert caught.value.path == "trusted_proxies[1]"


def test_the_number_of_networks_is_bounded() -> None:
    with pytest.raises(ConfigError, match=f"at most {NETWORKS_LIMIT} networks"):
        Trust(["10.0.0.1"] * (NETWORKS_LIMIT + 1))
    Trust(["10.0.0.1"] * NETWORKS_LIMIT)


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ((), PROXY),
        (("192.0.2.1",), "192.0.2.1"),
        (("192.0.2.1, 10.0.0.2",), "192.0.2.1"),
        (("192.0.2.1", "10.0.0.2"), "192.0.2.1"),
        (("6.6.6.6, 192.0.2.1",), "192.0.2.1"),
        (("6.6.6.6", "192.0.2.1, 10.0.0.3"), "192.0.2.1"),
        (("10.0.0.9, 192.0.2.1",), "192.0.2.1"),
        (("10.0.0.9, 10.0.0.8",), "10.0.0.9"),
        (("192.0.2.1:4711, 10.0.0.2:80",), "192.0.2.1"),
        (("[2001:db8::5]:443, [2001:db8:aaaa::1]",), "2001:db8::/64"),
        (("fe80::1%eth0",), "fe80::/64"),
        ((" , 192.0.2.1 , ,",), "192.0.2.1"),
        (("6.6.6.6, unknown",), PROXY),
        (("6.6.6.6, unknown, 10.0.0.7",), "10.0.0.7"),
        (("", "192.0.2.1", ""), "192.0.2.1"),
        (("::ffff:192.0.2.1",), "192.0.2.1"),
        (("::ffff:10.0.0.5",), "10.0.0.5"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(lines: tuple[str, ...], client: str) -> None:
    assert Trust(PROXIES).client(PROXY, forwarded_for(*lines)) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (("for=192.0.2.1",), "192.0.2.1"),
        (("for=192.0.2.1;proto=http;by=203.0.113.43",), "192.0.2.1"),
        (("proto=https; For = 192.0.2.1 ; host=x",), "192.0.2.1"),
        (("for=6.6.6.6, for=192.0.2.1, for=10.0.0.4",), "192.0.2.1"),
        (("for=6.6.6.6", "for=192.0.2.1"), "192.0.2.1"),
        (('for="[2001:db8:cafe::17]:4711"',), "2001:db8:cafe::/64"),
        (('for="192.0.2.1:80"',), "192.0.2.1"),
        (('for="192.0.2\\.1"',), "192.0.2.1"),
        (("for=6.6.6.6, for=unknown",), PROXY),
        (("for=6.6.6.6, for=_hidden, for=10.0.0.4",), "10.0.0.4"),
        (("for=6.6.6.6, proto=http",), PROXY),
        (("for=6.6.6.6;for=7.7.7.7",), PROXY),
        (("for=6.6.6.6 x",), PROXY),
        (('for=6.6.6.6;host="a,b;for=7.7.7.7;c"',), "6.6.6.6"),
        (('host="x;for=6.6.6.6;y";for=192.0.2.1',), "192.0.2.1"),
        (('host="x\\";for=6.6.6.6;y";for=192.0.2.1',), "192.0.2.1"),
        (('for=6.6.6.6;host="a\\", for=7.7.7.7;b";proto=http',), "6.6.6.6"),
        (('for=6.6.6.6;host="a,\\" b"',), "6.6.6.6"),
        (('for="6.6.6.6, for=192.0.2.1',), "192.0.2.1"),
        (('"\\, for=192.0.2.1;host="a,b"',), "192.0.2.1"),
        (("\\, for=192.0.2.1",), "192.0.2.1"),
        ((",,for=192.0.2.1,,",), "192.0.2.1"),
        (("",), PROXY),
    ],
)
def test_forwarded_is_read_from_the_right_too(lines: tuple[str, ...], client: str) -> None:
    assert Trust(PROXIES, "forwarded").client(PROXY, forwarded(*lines)) == client


def test_the_whole_address_is_there_for_logs_and_the_app() -> None:
    trust = Trust(PROXIES)
    assert trust.address(PROXY, forwarded_for("6.6.6.6, [2001:db8::5]:443, 10.0.0.3")) == "2001:db8::5"
    assert trust.address(PROXY, forwarded_for("10.0.0.3:80")) == "10.0.0.3"
    assert trust.address(PROXY, forwarded_for("6.6.6.6, unknown")) == PROXY
    assert trust.address(PROXY, []) == PROXY


def test_only_the_header_that_is_configured_counts() -> None:
    both = [(b"forwarded", b"for=192.0.2.1"), (b"x-forwarded-for", b"192.0.2.2")]
    assert Trust(PROXIES, "forwarded").client(PROXY, both) == "192.0.2.1"
    assert Trust(PROXIES, "x-forwarded-for").client(PROXY, both) == "192.0.2.2"
    assert Trust(PROXIES, "forwarded").client(PROXY, both[1:]) == PROXY


@pytest.mark.parametrize("field", ["x-forwarded-for", "forwarded"])
def test_hundreds_of_entries_are_looked_at_up_to_a_limit(field: str) -> None:
    trust = Trust(PROXIES, field)  # type: ignore[arg-type]
    word = "for=" if field == "forwarded" else ""

    def client(*entries: str) -> str:
        return trust.client(PROXY, [(field.encode(), ",".join(word + entry for entry in entries).encode())])

    hops = [f"10.0.1.{number}" for number in range(HOPS_LIMIT)]
    assert client("192.0.2.1", *hops[1:]) == "192.0.2.1"
    assert client("192.0.2.1", *hops) == hops[0]
    assert client(*(["6.6.6.6"] * 500), "192.0.2.1") == "192.0.2.1"
    lines = [(field.encode(), f"{word}10.0.1.{number}".encode()) for number in range(HOPS_LIMIT * 3)]
    assert trust.client(PROXY, lines) == f"10.0.1.{HOPS_LIMIT * 2}"


@pytest.mark.parametrize("field", ["x-forwarded-for", "forwarded"])
def test_an_entry_that_is_cut_off_is_none(field: str) -> None:
    trust = Trust(PROXIES, field)  # type: ignore[arg-type]
    word = "for=" if field == "forwarded" else ""
    # What is left within the limit begins in the middle of 66.6.6.6, and would be another address.
    entry = f"{word}10.0.0.9;x={'y' * 4000}," if field == "forwarded" else f"10.0.0.9{' ' * 4000},"
    tail = f"{entry}{' ' * (CHAIN_LIMIT - len(entry) - len(word) - 7)}"
    line = f"{word}66.6.6.6,{tail}" if field == "forwarded" else f"66.6.6.6,{tail}"
    assert len(line) > CHAIN_LIMIT
    assert trust.client(PROXY, [(field.encode(), line.encode())]) == "10.0.0.9"
    before = f"{word}6.6.6.6, {word}7.7.7.7".encode()
    assert trust.client(PROXY, [(field.encode(), before), (field.encode(), b" " * CHAIN_LIMIT)]) == PROXY


def test_what_lies_beyond_the_limit_is_not_looked_at() -> None:
    far = b"6.6.6.6, 192.0.2.77, 10.0.0.9" + b" " * (CHAIN_LIMIT - 12)
    assert Trust(PROXIES).client(PROXY, [(b"x-forwarded-for", far)]) == "10.0.0.9"


def test_what_is_remembered_of_entries_is_bounded() -> None:
    trust = Trust(PROXIES)
    assert trust.client(PROXY, forwarded_for("x" * (ADDRESS_LIMIT + 1))) == PROXY
    assert trust._read.cache_info().currsize == 0
    for number in range(REMEMBERED + 50):
        trust.client(PROXY, forwarded_for(f"192.{number >> 8}.{number & 255}.1"))
    assert trust._read.cache_info().currsize == REMEMBERED


def test_bytes_of_any_kind_are_no_address() -> None:
    assert Trust(PROXIES).client(PROXY, [(b"x-forwarded-for", bytes(range(128, 256)))]) == PROXY


def test_a_header_key_is_a_hash_that_does_not_show_the_value() -> None:
    headers = [(b"x-api-key", b"secret"), (b"x-api-key", b"other")]
    key = hashed(b"x-api-key", headers)
    assert key is not None
    assert len(key) == KEY_BYTES
    assert b"secret" not in key
    assert key == hashed(b"x-api-key", headers[:1])
    assert key != hashed(b"x-api-key", headers[1:])
    assert hashed(b"x-api-key", []) is None
    assert hashed(b"x-api-key", [(b"x-api-key", b"")]) is None
    assert len(hashed(b"x", [(b"x", b"a" * 10_000_000)]) or b"") == KEY_BYTES
    assert hashed(b"x", [(b"x", b"a" * VALUE_LIMIT + b"b")]) == hashed(b"x", [(b"x", b"a" * VALUE_LIMIT)])
    assert hashed(b"x", [(b"x", b"a" * (VALUE_LIMIT - 1) + b"b")]) != hashed(b"x", [(b"x", b"a" * VALUE_LIMIT)])


def test_keys_are_written_as_people_write_them() -> None:
    assert parse_key("client") == Key("client")
    assert parse_key("tenant") == Key("tenant")
    assert parse_key("route") == Key("route")
    assert parse_key("header:X-API-Key") == Key("header", "x-api-key")
    assert str(parse_key("header:X-API-Key")) == "header:x-api-key"
    assert str(parse_key("client")) == "client"
    for wrong in ("", "header:", "header:a b", "Client", "cookie:x", 3, None, "header:" + "a" * 65):
        with pytest.raises(ValueError):  # noqa: PT011 - its reader says what is expected
            parse_key(wrong)


def test_a_key_is_made_of_the_call() -> None:
    headers = [(b"x-api-key", b"k"), (b"x-tenant", b"t")]

    def key(text: str, trusted: bool, headers: list[tuple[bytes, bytes]] = headers) -> object:
        call = bare_call("GET /a", now=0.0)
        call.args = (Arrival("192.0.2.1", trusted, headers, b"x-tenant"),)
        return parse_key(text)(call)

    assert key("client", False) == "192.0.2.1"
    assert key("route", False) == "GET /a"
    assert key("header:x-api-key", False) == hashed(b"x-api-key", headers)
    assert key("header:x-api-key", False, []) == "192.0.2.1"
    assert key("tenant", True) == hashed(b"x-tenant", headers)
    assert key("tenant", True, []) == "192.0.2.1"
    assert key("tenant", False) == "192.0.2.1"
