import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.size import SIZE_LIMIT, Size, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16KiB", 16384),
        ("16kib", 16384),
        ("1MB", 1_000_000),
        ("1 MB", 1_000_000),
        ("1.5GiB", 3 * 2**29),
        ("512", 512),
        ("512B", 512),
        ("512M", 512 * 2**20),
        (".5KiB", 512),
        ("0", 0),
        (65536, 65536),
        (SIZE_LIMIT, SIZE_LIMIT),
    ],
)
def test_a_size_is_read_exactly(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "1.5",
        "0.1KiB",
        "1XB",
        "KiB",
        "1 2",
        "1e3",
        "inf",
        "9" * 50,
        "9000000TiB",
        "\u0661",
        -1,
        2**63,
        1.5,
        True,
        None,
    ],
)
def test_what_is_no_size_is_refused_with_examples(value: object) -> None:
    with pytest.raises(ValueError, match=r"not a size: .*write for example 65536, 64KiB"):
        parse_size(value)  # type: ignore[arg-type]


@given(st.integers(min_value=0, max_value=SIZE_LIMIT))
@example(0)
@example(2**60)
@example(10**18)
def test_what_is_written_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=50))
def test_any_text_is_a_size_or_refused_in_one_way(text: str) -> None:
    message = ""
    try:
        assert 0 <= parse_size(text) <= SIZE_LIMIT
    except ValueError as error:
        message = str(error)
    assert not message or "not a size" in message


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    written = [format_size(size) for size in (0, 1000, 1024, 1536, 65536, 10**6, 2**30)]
    assert written == ["0B", "1kB", "1KiB", "1536B", "64KiB", "1MB", "1GiB"]
    assert str(Size(65536)) == "64KiB"
    assert Size(5) + 1 == 6
