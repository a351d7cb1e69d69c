import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.duration import Duration, format_duration, parse_duration, rounded


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("2h", 7200.0),
        ("1m30s", 90.0),
        ("1m 30s", 90.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("1d", 86400.0),
        ("35ms", 0.035),
        ("0", 0.0),
        ("30", 30.0),
        (" 30s ", 30.0),
        ("1e3", 1000.0),
        (5, 5.0),
        (0.25, 0.25),
        (-0.0, 0.0),
    ],
)
def test_a_duration_is_read_exactly(text: str | int | float, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert str(parse_duration(text)) == str(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-1s",
        "- 1s",
        "nan",
        "inf",
        "1e999",
        "1e999s",
        "1e9999999s",
        "5M",
        "3 fortnights",
        "s",
        "1s x",
        "\u0661s",
        "1_0s",
        "9" * 100,
        -1,
        -0.1,
        float("nan"),
        float("inf"),
        10**400,
        True,
        None,
        [],
        b"1s",
    ],
)
def test_what_is_no_duration_is_refused_with_the_value_and_examples(value: object) -> None:
    with pytest.raises(ValueError, match=r"not a duration: .*write for example 500ms") as caught:
        parse_duration(value)  # type: ignore[arg-type]
    shown = repr(value)
    assert shown in str(caught.value) or len(shown) > 64


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.5, "500ms"),
        (90.0, "1m30s"),
        (7200.0, "2h"),
        (1.5, "1.5s"),
        (0.00025, "250us"),
        (60.25, "1m0.25s"),
        (90000.0, "1d1h"),
    ],
)
def test_a_duration_is_written_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert str(Duration(seconds)) == text


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
@example(1e9)
@example(999999999.9999999)
@example(0.1 + 0.2)
def test_what_is_written_is_read_back_exactly(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(max_size=80))
def test_any_text_is_a_duration_or_refused_in_one_way(text: str) -> None:
    message = ""
    try:
        assert 0 <= parse_duration(text) < float("inf")
    except ValueError as error:
        message = str(error)
    assert not message or "not a duration" in message


def test_a_negative_duration_is_not_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_duration(-1.0)


def test_the_settings_type_is_a_float() -> None:
    assert Duration(1.5) == 1.5
    assert Duration(1.5) + 1 == 2.5
    assert [repr(Duration(seconds)) for seconds in (0, 0.05, 1.5, 60, 86400, 1e12)] == [
        *("0s", "50ms", "1.5s", "60s", "86400s", "1000000000000.0s"),
    ]


@pytest.mark.parametrize(
    ("seconds", "figure"),
    [
        (0, "0"),
        (2.19e-05, "0.0000219"),
        (4.99957, "5"),
        (9.996, "10"),
        (0.2134, "0.213"),
        (1.5, "1.5"),
        (240.0, "240"),
        (1234.56, "1235"),
        (604800, "604800"),
        (1e-12, "0"),
        (-2.5, "-2.5"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_a_rounded_figure_has_three_digits_and_no_exponent(seconds: float, figure: str) -> None:
    assert rounded(seconds) == figure


@given(st.floats(1e-8, 1e14))
def test_a_rounded_figure_is_right_to_half_a_percent(seconds: float) -> None:
    assert float(rounded(seconds)) == pytest.approx(seconds, rel=0.005)
    assert "e" not in rounded(seconds)
