"""Addresses to listen on, as people write them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.errors import ConfigError
from holdfast.supervisor.address import Address, parse_bind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Address("tcp", "127.0.0.1", 8000)),
        ("0.0.0.0:80", Address("tcp", "0.0.0.0", 80)),
        ("8000", Address("tcp", "127.0.0.1", 8000)),
        ("0", Address("tcp", "127.0.0.1", 0)),
        ("Orders.Internal:65535", Address("tcp", "orders.internal", 65535)),
        ("[::1]:8000", Address("tcp", "::1", 8000)),
        ("[0:0:0:0:0:0:0:1]:8000", Address("tcp", "::1", 8000)),
        ("[::]:8000", Address("tcp", "::", 8000)),
        ("[fe80::1%eth0]:80", Address("tcp", "fe80::1%eth0", 80)),
        ("unix:/run/orders.sock", Address("unix", path="/run/orders.sock")),
        ("unix:relative.sock", Address("unix", path="relative.sock")),
        ("fd:3", Address("fd", fd=3)),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, expected: Address) -> None:
    assert parse_bind(text) == expected
    assert parse_bind(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "add a port: 127.0.0.1:8000"),
        (":8000", "write 127.0.0.1:8000, or 0.0.0.0:8000 for every network"),
        ("*:8000", "write 0.0.0.0:8000 for every network"),
        ("127.0.0.1", "add a port: 127.0.0.1:8000"),
        ("127.0.0.1:", "a port from 0 to 65535"),
        ("127.0.0.1:65536", "a port from 0 to 65535"),
        ("127.0.0.1:+80", "a port from 0 to 65535"),
        ("127.0.0.1:8_0", "a port from 0 to 65535"),
        ("127.0.0.1:٨٠", "a port from 0 to 65535"),
        ("70000", "a port from 0 to 65535"),
        ("10.1:80", "an IPv4 address of four numbers"),
        ("256.0.0.1:80", "an IPv4 address of four numbers"),
        ("::1:8000", "put the IPv6 address in brackets: [::1]:8000"),
        ("[::1]", "brackets"),
        ("[nonsense]:80", "an IPv6 address between the brackets"),
        ("a b:80", "a host name"),
        ("a..b:80", "a host name"),
        ("http://127.0.0.1:80", "leave the scheme away"),
        ("/run/x.sock", "write unix:/run/x.sock"),
        ("unix:", "the path of a unix socket"),
        ("unix:/run/", "the path of a unix socket"),
        ("unix:@name", "an abstract socket has no permissions"),
        ("unix:/" + "x" * 103, "at most 103 bytes"),
        ("fd:", "write fd:3"),
        ("fd:-1", "write fd:3"),
        ("fd:stdin", "write fd:3"),
    ],
)
def test_a_wrong_address_is_refused_with_what_to_do(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bind(text, "--bind", "holdfast.toml")
    assert part in str(caught.value)
    assert str(caught.value).startswith("holdfast.toml --bind: got ")


@given(st.text() | st.from_regex(r"\A(unix:|fd:|\[)?[a-z0-9.:/%@\]\[*_-]{0,40}\Z"))
@example("unix:/a\nb")
def test_any_text_is_refused_or_has_a_round_trip(text: str) -> None:
    try:
        address = parse_bind(text)
    except ConfigError:
        return
    assert parse_bind(str(address)) == address
