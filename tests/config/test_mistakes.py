"""Where a mistake is: paths that settings and readers give, taken apart."""

import pytest

from holdfast.config.mistakes import Place, place_text, steps_in


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("", ()),
        ("open", ("open",)),
        ("Breaker open", ("open",)),
        ("ship[1].retry.limit", ("ship", 1, "retry", "limit")),
        ("[3].bulkhead", (3, "bulkhead")),
        ('"shop.errors:OutOfStock".tell', ("shop.errors:OutOfStock", "tell")),
        ('"a b"[0]', ("a b", 0)),
        ("no path at all", ("path at all",)),
        ('"never ends', ('"never ends',)),
    ],
)
def test_a_path_is_taken_apart_without_its_owners_name(path: str, place: Place) -> None:
    assert steps_in(path) == place


def test_what_place_text_writes_is_read_again() -> None:
    place = ("routes", 2, "a.b", 'q"uote', "é", 10, "x_y-z")
    assert steps_in(place_text(place)) == place
