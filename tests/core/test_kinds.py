from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from holdfast.core.duration import Duration, format_duration
from holdfast.core.kinds import TEXT_LIMIT, Refused, expected, from_plain, from_text, kinds_of
from holdfast.core.size import Size, format_size

Workers = int | Literal["auto"]


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "", ""),
        (str, " kept ", " kept "),
        (bool, "Yes", True),
        (bool, "off", False),
        (int, " -5 ", -5),
        (float, "1.5", 1.5),
        (Duration, "1m30s", Duration(90)),
        (Size, "64KiB", Size(65536)),
        (Workers, "auto", "auto"),
        (Workers, "4", 4),
        (str | int, "4", 4),
        (str | int, "four", "four"),
        (Optional[str], "", None),  # noqa: UP045 - the old spelling is read too
        (int | None, "3", 3),
        (tuple[str, ...], "a, b,c,", ("a", "b", "c")),
        (tuple[str, ...], "", ()),
        (tuple[int, ...], "1,2", (1, 2)),
        (tuple[str, ...] | Literal["all"], "all", "all"),
        (Literal[1, 2], "2", 2),
        (Annotated[int | Literal["auto"], Meta(ge=1)], "1", 1),
    ],
)
def test_text_is_read_by_the_type(annotation: Any, text: str, value: object) -> None:
    found = from_text(kinds_of(annotation), text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value", "found"),
    [
        (str, "a", "a"),
        (bool, True, True),
        (int, 5, 5),
        (float, 5, 5.0),
        (Duration, "2h", Duration(7200)),
        (Duration, 3, Duration(3)),
        (Size, 10, Size(10)),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[Duration, ...], ["1s", 2], (Duration(1), Duration(2))),
        (Workers, "auto", "auto"),
        (int | None, None, None),
    ],
)
def test_plain_values_are_read_by_the_type(annotation: Any, value: object, found: object) -> None:
    read = from_plain(kinds_of(annotation), value)
    assert read == found
    assert type(read) is type(found)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, 5),
        (bool, 1),
        (bool, "true"),
        (int, True),
        (int, 5.0),
        (int, "5"),
        (float, True),
        (float, float("nan")),
        (float, 10**400),
        (Duration, True),
        (Size, 1.5),
        (Workers, "four"),
        (Literal[1], True),
        (tuple[str, ...], "a"),
        (tuple[str, ...], ["a", 5]),
        (str, ["a"]),
        (int, {"a": 1}),
        (int, None),
    ],
)
def test_plain_values_of_another_type_are_refused(annotation: Any, value: object) -> None:
    with pytest.raises(Refused):
        from_plain(kinds_of(annotation), value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "maybe"),
        (bool, ""),
        (int, "four"),
        (int, "1_000"),
        (int, "9" * 30),
        (float, "nan"),
        (float, "inf"),
        (Duration, "soon"),
        (Size, "-1"),
        (Workers, "Auto"),
        (Literal["text", "json"], "xml"),
        (tuple[int, ...], "1,x"),
        (str, "x" * (TEXT_LIMIT + 1)),
    ],
)
def test_text_that_does_not_fit_is_refused(annotation: Any, text: str) -> None:
    with pytest.raises(Refused):
        from_text(kinds_of(annotation), text)


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"),
    [
        (Annotated[int, Meta(ge=1)], 1, 0, "a whole number, at least 1"),
        (Annotated[int, Meta(gt=1)], 2, 1, "a whole number, more than 1"),
        (Annotated[float, Meta(le=1)], 1, 1.1, "a number, at most 1"),
        (Annotated[float, Meta(lt=1)], 0.9, 1, "a number, less than 1"),
        (Annotated[int, Meta(multiple_of=4)], 8, 6, "a whole number, a multiple of 4"),
        (
            Annotated[Duration, Meta(ge=0.1, le=90)],
            "90s",
            "91s",
            "a duration such as 500ms or 1m30s, at least 100ms, at most 1m30s",
        ),
        (Annotated[Duration, Meta(gt=0)], "1us", 0, "a duration such as 500ms or 1m30s, more than 0s"),
        (Annotated[Duration, Meta(extra={"ge": 5})], 5, 4, "a duration such as 500ms or 1m30s, at least 5s"),
        (Annotated[Size, Meta(ge=1024)], "1KiB", 1023, "a size such as 64KiB or 1MB, at least 1KiB"),
        (Annotated[str, Meta(min_length=1)], "a", "", "text, of length 1 or more"),
        (Annotated[str, Meta(pattern="^[a-z]+$")], "abc", "ABC", "text, matching ^[a-z]+$"),
        (Annotated[tuple[str, ...], Meta(max_length=1)], ["a"], ["a", "b"], "text, as a list, of length 1 or less"),
        (Annotated[int | Literal["auto"], Meta(ge=1)], "auto", 0, '"auto" or a whole number, at least 1'),
        (Annotated[int, Meta(ge=1)] | None, 1, 0, "a whole number, at least 1"),
    ],
)
def test_constraints_hold_for_every_type_and_are_named(annotation: Any, good: object, bad: object, words: str) -> None:
    kinds = kinds_of(annotation)
    from_plain(kinds, good)
    with pytest.raises(Refused) as refused:
        from_plain(kinds, bad)
    assert refused.value.expected == words


def test_a_misspelled_choice_gets_the_nearest_one() -> None:
    with pytest.raises(Refused) as refused:
        from_text(kinds_of(Literal["text", "json"]), "jsno")
    assert refused.value.hint == "did you mean json?"
    assert refused.value.expected == '"text" or "json"'


@pytest.mark.parametrize("annotation", [dict, list[str], bytes, tuple[int, str], object])
def test_a_type_that_settings_cannot_have_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match="a setting cannot be"):
        kinds_of(annotation)


ANNOTATIONS = [str, bool, int, float, Duration, Size, Workers, tuple[Duration, ...], int | None, tuple[str, ...] | None]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(ANNOTATIONS), st.text())
def test_any_text_fits_or_is_refused(annotation: Any, text: str) -> None:
    kinds = kinds_of(annotation)
    try:
        value = from_text(kinds, text)
    except Refused as refused:
        words = refused.expected
    else:
        words = expected(kinds)
        assert from_plain(kinds, value) == value
    assert words


@given(st.sampled_from(ANNOTATIONS), ANYTHING)
def test_any_plain_value_fits_or_is_refused(annotation: Any, value: object) -> None:
    kinds = kinds_of(annotation)
    try:
        found = from_plain(kinds, value)
    except Refused as refused:
        words = refused.expected
    else:
        words = expected(kinds)
        assert from_plain(kinds, found) == found
    assert words


@given(st.integers(0, 2**62), st.floats(0, 1e8))
def test_what_is_printed_is_read_back(size: int, seconds: float) -> None:
    assert from_text(kinds_of(Size), format_size(size)) == size
    assert from_text(kinds_of(Duration), format_duration(seconds)) == seconds
