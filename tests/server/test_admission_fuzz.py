"""What strangers and proxies may send in the headers that admission reads: any bytes, any number, in any order."""

import logging
import random
import resource
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.context import Criticality
from holdfast.core.errors import Rejected
from holdfast.server.admission.admission import Admission
from holdfast.server.admission.settings import read_admission, read_routes
from server.engineroom import Client, answer, run, serving

NAMES = [
    b"X-Forwarded-For", b"Forwarded", b"X-Forwarded-Proto", b"Grpc-Timeout", b"X-Envoy-Expected-Rq-Timeout-Ms",
    b"Holdfast-Timeout-Ms", b"Holdfast-Criticality", b"Holdfast-Colour", b"Holdfast-Unheard-Of", b"X-Request-Id",
    b"X-Tenant", b"X-Api-Key", b"X-Version",
]  # fmt: skip
WORDS = [
    b"203.0.113.7", b"10.0.0.1", b"::ffff:127.0.0.1", b"[2001:db8::1%eth0]:80", b"for=", b'for="', b"\\", b'"', b",",
    b";",
    b"=", b"unknown", b"_hidden", b"1e400", b"NaN", b"-1", b"0", b"1000000000000", b"99999999H", b"0n", b"\xff", b"\t",
    b"critical_plus", b"proto=https", b"https", b"%0d%0a", b"\xe2\x80\xae",
]  # fmt: skip
ROUTES: list[dict[str, Any]] = [
    {"match": "/keyed", "rate_limit": {"rate": "1000/s", "key": "header:x-api-key"}},
    {"match": "/tenant", "rate_limit": {"rate": "1000/s", "key": "tenant"}, "timeout": "5s"},
    {"match": "/version", "headers": {"x-version": "2"}, "bulkhead": 3, "criticality": "sheddable"},
    {"match": "/hosted", "host": "*.example.org", "breaker": True},
]
PATHS = [
    b"/keyed",
    b"/tenant",
    b"/version",
    b"/hosted",
    b"/%00%ff",
    b"//a//b/",
    b"/..;/x",
    b"*",
    b"http://x/y",
    b"/\xff",
]
ADMISSIONS = [
    {"clients": {"rate": "9999/s"}, "concurrency": True, "forwarded": field, "trusted_proxies": proxies}
    for field in ("x-forwarded-for", "forwarded")
    for proxies in ([], ["127.0.0.1", "10.0.0.0/8"])
]  # fmt: skip
LINE = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join),
    st.binary(max_size=40),
    st.builds(lambda word, times: word * times, st.sampled_from(WORDS), st.integers(1, 1500)),
)
HEADS = st.tuples(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"BREW"]),
    st.sampled_from(PATHS),
    st.one_of(st.just(b"test"), st.sampled_from([b"a.example.org:80", b"[::1]", b"A.EXAMPLE.ORG.", b"a" * 5000]), LINE),
    st.lists(st.tuples(st.sampled_from(NAMES), LINE), max_size=8),
)


def written(head: tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]) -> bytes:
    method, path, host, headers = head
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, b"Content-Length: 0"]
    lines += [b"%b: %b" % header for header in headers]
    return b"\r\n".join([*lines, b"", b""])


class Faults(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


async def here(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, scope["request_id"].encode())


async def ask(client: Client, head: Any) -> int:
    """The status of the answer; 0 for the end of the connection without one."""
    await client.send(written(head))
    try:
        return (await client.response("HEAD" if head[0] == b"HEAD" else "GET")).status
    except (EOFError, ConnectionError):
        return 0


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(heads=st.lists(HEADS, min_size=1, max_size=8))
@pytest.mark.parametrize("number", range(len(ADMISSIONS)))
def test_every_header_is_answered_and_never_with_a_fault_of_the_server(number: int, heads: Any) -> None:
    faults = Faults(logging.ERROR)

    async def main() -> None:
        async with serving(here, admission=read_admission(ADMISSIONS[number]), routes=ROUTES) as room:
            client = await room.connect()
            for head in heads:
                status = await ask(client, head)
                assert status in (200, 400, 431, 503, 504)
                if status in (400, 431):
                    client = await room.connect()

    logging.getLogger("holdfast").addHandler(faults)
    try:
        run(main)
    finally:
        logging.getLogger("holdfast").removeHandler(faults)
    assert not faults.seen


ABSURD = [
    (b"holdfast-timeout-ms", b"0", 0.0), (b"holdfast-timeout-ms", b"-1", 5.0), (b"holdfast-timeout-ms", b"NaN", 5.0),
    (b"holdfast-timeout-ms", b"1000000000000", 5.0), (b"holdfast-timeout-ms", b"999999999999", 5.0),
    (b"grpc-timeout", b"0n", 0.0), (b"grpc-timeout", b"99999999H", 5.0), (b"grpc-timeout", b"1e9S", 5.0),
    (b"grpc-timeout", b"-1S", 5.0), (b"x-envoy-expected-rq-timeout-ms", b"0", 5.0),
    (b"x-envoy-expected-rq-timeout-ms", b"inf", 5.0), (b"x-envoy-expected-rq-timeout-ms", b"250", 0.25),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "seconds"), ABSURD)
def test_absurd_times_never_lengthen_the_route_s(name: bytes, value: bytes, seconds: float) -> None:
    admission = Admission(
        read_admission({"trusted_proxies": ["10.0.0.1"]}), read_routes([{"match": "*", "timeout": "5s"}])
    )
    peer = admission.connect("10.0.0.1")
    if seconds == 0.0:
        with pytest.raises(Rejected):
            admission.enter("GET", "/", "", [(name, value)], peer, 100.0)
    else:
        assert admission.enter("GET", "/", "", [(name, value)], peer, 100.0).deadline == 100.0 + seconds


def test_a_criticality_that_there_is_not_is_none() -> None:
    admission = Admission(read_admission({"trusted_proxies": ["10.0.0.1"]}))
    peer = admission.connect("10.0.0.1")
    for junk in (b"", b"4", b"critical_plus ", b"CRITICAL-PLUS", b"\xff" * 70, b"sheddable,critical_plus"):
        ticket = admission.enter("GET", "/", "", [(b"holdfast-criticality", junk)], peer, 0.0)
        assert ticket.context.criticality is Criticality.CRITICAL
    assert admission.hearing.junk == 6


def test_a_chain_of_a_thousand_trusted_proxies_is_not_followed() -> None:
    admission = Admission(read_admission({"trusted_proxies": ["10.0.0.0/8"]}))
    peer = admission.connect("10.0.0.1")
    chain = b", ".join([b"203.0.113.7", *(b"10.1.%d.%d" % divmod(number, 250) for number in range(1000))])
    client = admission.enter("GET", "/", "", [(b"x-forwarded-for", chain)], peer, 0.0).client
    assert client == "10.1.3.218", "the 32nd from the right: what is further left is not looked at"


def test_a_hundred_thousand_strangers_leave_little_behind() -> None:
    """Each with an address, host, key, tenant, path and request id of its own, through one proxy."""
    routes = [
        {"match": "/a/{id}", "rate_limit": {"rate": "100/s", "key": "header:x-api-key"}, "name": "keyed"},
        {"match": "/b/{id}", "rate_limit": {"rate": "100/s", "key": "tenant"}, "name": "tenants"},
        {"match": "/c", "host": "shop.example.org"},
    ]
    admission = Admission(
        read_admission({"trusted_proxies": ["10.0.0.1"], "clients": {"rate": "10/s", "connections": 10}}),
        read_routes(routes),
    )
    peer = admission.connect("10.0.0.1")
    rng = random.Random(20261124)

    def come(times: int) -> None:
        for moment in range(times):
            number, now = rng.getrandbits(60), moment / 10_000
            headers = [
                (b"x-forwarded-for", b"2001:db8:%x:%x::1" % (number & 0xFFFF, number >> 16 & 0xFFFF)),
                (b"x-api-key", b"%x" % number * 20),
                (b"x-tenant", b"%x" % number * 20),
                (b"x-request-id", b"%x" % number),
            ]
            path = f"/{rng.choice('ab')}/{number}"
            admission.enter("GET", path, f"h{number}.example.org", headers, peer, now).exit(now=now)

    come(60_000)  # until all tables are as full as they get
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    come(40_000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 16 * 1024 * 1024
    assert len(admission.connections) == 0
