"""Trees of plain values for property tests, and a slow, obvious model of what merging them means."""

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "c", "timeout", "x.y", "é"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=4)

Leaves = dict[tuple[str, ...], Any]


def leaves_of(table: dict[str, Any], place: tuple[str, ...] = ()) -> Leaves:
    """Everything in ``table`` that is no table, or an empty one, by its place."""
    found: Leaves = {}
    for name, value in table.items():
        if isinstance(value, dict) and value:
            found.update(leaves_of(value, (*place, name)))
        else:
            found[(*place, name)] = value
    return found


def merged_leaves(*tables: dict[str, Any]) -> dict[tuple[str, ...], tuple[int, Any]]:
    """What is left when each of ``tables`` is written over those before, leaf by leaf, with the number of its table."""
    found: dict[tuple[str, ...], tuple[int, Any]] = {}
    for number, table in enumerate(tables):
        for place, value in leaves_of(table).items():
            inside = [other for other in found if len(other) > len(place) and other[: len(place)] == place]
            if value == {} and inside:
                continue
            for other in [*inside, *(place[:length] for length in range(1, len(place)))]:
                found.pop(other, None)
            found[place] = (number, value)
    return found
