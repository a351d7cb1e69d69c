"""Nobody but a trusted proxy says who a client is."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.server.admission.identity import CHAIN_LIMIT, HOPS_LIMIT, Field, Trust

PROXIES = ("10.0.0.0/8", "2001:db8:aaaa::/48")
TRUST: dict[Field, Trust] = {"x-forwarded-for": Trust(PROXIES), "forwarded": Trust(PROXIES, "forwarded")}

addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number))),
)
strangers = addresses.filter(lambda text: not Trust(PROXIES).peer(text)[1])
proxies = st.integers(0, 2**24 - 1).map(lambda number: str(ipaddress.IPv4Address((10 << 24) + number)))
junk = st.one_of(
    st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=60),
    st.text(alphabet=' ,;="\\[]:._for019a', max_size=60),
    st.lists(st.one_of(addresses, proxies), max_size=60).map(", ".join),
    st.lists(st.one_of(addresses, proxies), max_size=60).map(lambda found: ", ".join(f"for={a}" for a in found)),
    st.just('for="'),
    st.just('for=10.0.0.1;host="'),
    st.just("\\"),
)
fields: st.SearchStrategy[Field] = st.sampled_from(("x-forwarded-for", "forwarded"))


def element(field: Field, address: str) -> str:
    if field == "x-forwarded-for":
        return address
    return f'for="[{address}]"' if ":" in address else f"for={address}"


def passed_on(field: Field, claimed: list[str], hops: list[str], one_line: bool) -> list[tuple[bytes, bytes]]:
    """What reaches the server when proxies have added ``hops`` to what a client has sent."""
    added = [element(field, hop) for hop in hops]
    if one_line:
        joined = ", ".join([*claimed, *added])
        return [(field.encode(), joined.encode("latin-1", "replace"))]
    return [(field.encode(), line.encode("latin-1", "replace")) for line in (*claimed, *added)]


@settings(max_examples=examples(300), deadline=None)
@given(fields, strangers, st.lists(junk, max_size=4), st.lists(proxies, max_size=4), st.booleans())
def test_whatever_a_client_sends_it_is_who_the_proxy_has_seen(
    field: Field, client: str, claimed: list[str], hops: list[str], one_line: bool
) -> None:
    trust = TRUST[field]
    headers = passed_on(field, claimed, [client, *hops], one_line)
    assert trust.client("10.9.9.9", headers) == trust.peer(client)[0]


@settings(max_examples=examples(200), deadline=None)
@given(fields, st.lists(junk, max_size=400), proxies)
def test_what_makes_no_sense_leads_to_a_key_of_bounded_size(field: Field, claimed: list[str], peer: str) -> None:
    headers = [(field.encode(), line.encode("latin-1", "replace")) for line in claimed]
    key = TRUST[field].client(peer, headers)
    assert 0 < len(key) <= 64


@settings(max_examples=examples(200), deadline=None)
@given(fields, st.lists(st.one_of(proxies, strangers), max_size=HOPS_LIMIT), proxies)
def test_it_finds_what_a_plain_reading_finds(field: Field, chain: list[str], peer: str) -> None:
    trust = TRUST[field]
    headers = passed_on(field, [], chain, True) if chain else []
    if headers and len(headers[0][1]) > CHAIN_LIMIT:
        return
    wanted = trust.peer(peer)[0]
    for address in reversed(chain):
        wanted, believed = trust.peer(address)
        if not believed:
            break
    assert trust.client(peer, headers) == wanted
