import copy
import math
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.kinds import Kind, Refused, from_plain, from_text
from holdfast.core.rate import RATE, Rate, format_rate, parse_rate


@pytest.mark.parametrize(
    ("value", "count", "period"),
    [
        ("100/s", 100.0, 1.0),
        ("5/m", 5.0, 60.0),
        ("1000/h", 1000.0, 3600.0),
        ("1/10s", 1.0, 10.0),
        ("2/d", 2.0, 86400.0),
        ("3/500ms", 3.0, 0.5),
        ("1/1m30s", 1.0, 90.0),
        ("0.5/s", 0.5, 1.0),
        (" 5 / m ", 5.0, 60.0),
        ("5/minute", 5.0, 60.0),
        ("1/day", 1.0, 86400.0),
        ("1e3/s", 1000.0, 1.0),
        ("7", 7.0, 1.0),
        (7, 7.0, 1.0),
        (0.25, 0.25, 1.0),
    ],
)
def test_a_rate_is_read_as_it_is_written(value: object, count: float, period: float) -> None:
    rate = parse_rate(value)
    assert (rate.count, rate.period) == (count, period)
    assert float(rate) == count / period


@pytest.mark.parametrize(
    "value",
    [
        *("", "/", "/s", "5/", "5/x", "5/s/s", "five/s", "-5/s", "0/s", "0", "5/0s", "5/M", "1e999/s", "nan/s", "inf"),
        *("1_0/s", "\u0665/s", "5 per s", "9" * 100 + "/s", "5/1e-300s" + "0" * 60, "1e300/1e-300s", "1e-300/1e300s"),
        *(0, -1, math.nan, math.inf, True, None, [], 10**400),
    ],
)
def test_what_is_no_rate_is_refused_with_examples(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not a rate: .+; write for example 100/s, 5/m, 1000/h, 1/10s"):
        parse_rate(value)


def test_a_number_too_long_to_print_is_refused_too() -> None:
    with pytest.raises(ValueError, match=r"a huge number is not a rate: it is out of range"):
        parse_rate(10**5000)


@pytest.mark.parametrize("text", ["100/s", "5/m", "1000/h", "1/10s", "2/d", "3/500ms", "1/1m30s", "0.5/s", "1e+22/s"])
def test_a_rate_prints_as_people_write_it(text: str) -> None:
    assert str(parse_rate(text)) == text


@given(st.floats(1e-6, 1e12), st.floats(1e-6, 1e9))
@example(60.0, 60.0)
@example(1.0, 1e-10)
def test_what_is_printed_is_read_back_exactly(count: float, period: float) -> None:
    rate = Rate(count, period)
    again = parse_rate(format_rate(rate))
    assert (again.count, again.period, float(again)) == (rate.count, rate.period, float(rate))


def test_a_rate_is_a_float_that_knows_how_it_was_written() -> None:
    a_minute, a_second = Rate(60, 60), Rate(1)
    assert a_minute == 1.0 == a_second
    assert a_minute + 1 == 2.0
    assert a_minute != a_second
    assert a_minute == parse_rate("60/m")
    assert (a_minute != parse_rate("60/m")) is False
    assert hash(a_minute) == hash(a_second) == hash(1.0)
    assert parse_rate(a_minute) is a_minute
    assert eval(repr(a_minute)) == a_minute


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy, lambda rate: pickle.loads(pickle.dumps(rate))])
def test_a_copy_is_the_same_rate(made: object) -> None:
    assert callable(made)
    again = made(Rate(60, 60))
    assert type(again) is Rate
    assert (again, again.count, again.period) == (Rate(60, 60), 60.0, 60.0)


def test_a_setting_can_be_a_rate() -> None:
    kinds = (Kind(object, reader=RATE),)
    assert from_plain(kinds, "5/m") == from_text(kinds, " 5/m ") == Rate(5, 60)
    with pytest.raises(Refused, match=r"a rate such as 100/s, 5/m or 1/10s"):
        from_plain(kinds, "often")
