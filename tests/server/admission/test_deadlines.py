from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.context import Criticality
from holdfast.server.admission.deadlines import COLOUR_LIMIT, Hearing, Told, clamp


def heard(*headers: tuple[bytes, bytes]) -> tuple[Told | None, int]:
    hearing = Hearing()
    return hearing.listen(headers), hearing.junk


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (b"grpc-timeout", b"1H", 3600.0),
        (b"grpc-timeout", b"2M", 120.0),
        (b"grpc-timeout", b"3S", 3.0),
        (b"grpc-timeout", b"250m", 0.25),
        (b"grpc-timeout", b"1000u", 0.001),
        (b"grpc-timeout", b"99999999n", 0.099999999),
        (b"grpc-timeout", b"0S", 0.0),
        (b"x-envoy-expected-rq-timeout-ms", b"1500", 1.5),
        (b"x-envoy-expected-rq-timeout-ms", b"0", inf),
        (b"holdfast-timeout-ms", b"20", 0.02),
        (b"holdfast-timeout-ms", b"0", 0.0),
        (b"holdfast-timeout-ms", b"999999999999", 999999999.999),
    ],
)
def test_the_time_that_is_left_is_read(name: bytes, value: bytes, seconds: float) -> None:
    told, junk = heard((b"host", b"x"), (name, value))
    assert told is not None
    assert told.seconds == pytest.approx(seconds)
    assert junk == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"grpc-timeout", b""),
        (b"grpc-timeout", b"S"),
        (b"grpc-timeout", b"123456789S"),
        (b"grpc-timeout", b"1s"),
        (b"grpc-timeout", b"-1S"),
        (b"grpc-timeout", b"1.5S"),
        (b"grpc-timeout", b"1S "),
        (b"grpc-timeout", b"1S\n"),
        (b"x-envoy-expected-rq-timeout-ms", b"1e3"),
        (b"x-envoy-expected-rq-timeout-ms", b"\xd9\xa1"),
        (b"holdfast-timeout-ms", b"+1"),
        (b"holdfast-timeout-ms", b"-1"),
        (b"holdfast-timeout-ms", b"1000000000000"),
        (b"holdfast-timeout-ms", b"nan"),
        (b"holdfast-criticality", b"urgent"),
        (b"holdfast-criticality", b""),
        (b"holdfast-criticality", b"critical" * 1000),
        (b"holdfast-colour", b""),
        (b"holdfast-colour", b"a b"),
        (b"holdfast-colour", b"-a"),
        (b"holdfast-colour", b"\xc3\xa9"),
        (b"holdfast-colour", b"a" * (COLOUR_LIMIT + 1)),
    ],
)
def test_junk_is_left_out_of_account_and_counted(name: bytes, value: bytes) -> None:
    told, junk = heard((name, value))
    assert told == Told()
    assert junk == 1


def test_the_shortest_time_counts() -> None:
    told, _ = heard(
        (b"holdfast-timeout-ms", b"900"),
        (b"grpc-timeout", b"1S"),
        (b"holdfast-timeout-ms", b"300"),
        (b"x-envoy-expected-rq-timeout-ms", b"800"),
        (b"x-envoy-expected-rq-timeout-ms", b"0"),
        (b"holdfast-timeout-ms", b"400"),
        (b"grpc-timeout", b"2S"),
        (b"x-envoy-expected-rq-timeout-ms", b"900"),
    )
    assert told is not None
    assert told.seconds == pytest.approx(0.3)


def test_criticality_and_colour_are_read() -> None:
    told, junk = heard((b"holdfast-criticality", b"Sheddable_Plus"), (b"holdfast-colour", b"load-test.1"))
    assert told == Told(inf, Criticality.SHEDDABLE_PLUS, "load-test.1")
    assert junk == 0
    told, _ = heard((b"holdfast-colour", b"a" * COLOUR_LIMIT), (b"holdfast-colour", b"b"))
    assert told is not None
    assert told.colour == "a" * COLOUR_LIMIT


def test_of_several_criticalities_the_lowest_counts() -> None:
    levels = [b"critical", b"sheddable", b"critical_plus"]
    told, _ = heard(*((b"holdfast-criticality", level) for level in levels))
    assert told is not None
    assert told.criticality is Criticality.SHEDDABLE


def test_other_headers_say_nothing() -> None:
    assert heard((b"host", b"x"), (b"timeout", b"1")) == (None, 0)


def test_nobody_gets_more_than_the_route_has() -> None:
    low, high = Criticality.SHEDDABLE, Criticality.CRITICAL_PLUS
    assert clamp(None, None) is Criticality.CRITICAL
    assert clamp(None, low) is low
    assert clamp(high, None) is high
    assert clamp(high, low) is low
    assert clamp(low, high) is low


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms", b"holdfast-timeout-ms"]),
    st.one_of(st.binary(max_size=30), st.from_regex(rb"[0-9]{1,14}[HMSmun]?", fullmatch=True)),
)
def test_no_value_gives_a_time_that_is_none(name: bytes, value: bytes) -> None:
    told, junk = heard((name, value))
    assert told is not None
    assert told.seconds >= 0
    assert junk in (0, 1)
    if junk:
        assert told.seconds == inf
