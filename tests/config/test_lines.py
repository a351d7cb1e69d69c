import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.config.lines import lines_of

TEXT = '''# a comment
first = 1
[table]   # [not.a.table]
"quoted.name" = """
[nor.this]
x = 3
"""  # "
many = [ 1, # ]
 2, ]
tail = """a"""""
[[routes]]
match = "POST"
inline = {rate = "1/s"}
[routes.inner]
z = 1
[[routes]]
match = 'G = #'
n.m . "o" = 5
last = 2000-01-01'''


def test_each_name_has_the_line_that_it_stands_in() -> None:
    assert lines_of(TEXT) == {
        ("first",): 2,
        ("table",): 3,
        ("table", "quoted.name"): 4,
        ("table", "many"): 8,
        ("table", "tail"): 10,
        ("routes",): 11,
        ("routes", 0): 11,
        ("routes", 0, "match"): 12,
        ("routes", 0, "inline"): 13,
        ("routes", 0, "inner"): 14,
        ("routes", 0, "inner", "z"): 15,
        ("routes", 1): 16,
        ("routes", 1, "match"): 17,
        ("routes", 1, "n"): 18,
        ("routes", 1, "n", "m"): 18,
        ("routes", 1, "n", "m", "o"): 18,
        ("routes", 1, "last"): 19,
    }


def test_windows_newlines_count_once() -> None:
    assert lines_of("a = 1\r\n\r\nb = 2\r\n") == {("a",): 1, ("b",): 3}


def test_a_name_with_escapes_is_the_one_that_is_meant() -> None:
    assert lines_of('"a\\"b\\u0041" = 1\n') == {('a"bA',): 1}


VALUE = st.sampled_from(["1", '"x # ["', "'''\n[x]\n'''", "[1,\n 2 # ]\n]", "{a = 1}", '"""\ny = 1\n"""', "[[1], []]"])
NAME = st.sampled_from(["a", "b", '"c.d"', "'e'"])


@given(st.lists(st.tuples(st.sampled_from(["[", "[[", "="]), NAME, NAME, VALUE), max_size=8))
def test_every_line_found_is_one_of_a_value_that_is_there(statements: list[tuple[str, str, str, str]]) -> None:
    lines: list[str] = []
    for kind, name, inner, value in statements:
        close = {"[": "]", "[[": "]]"}.get(kind)
        addition = f"{kind}{name}{close}" if close else f"{name}.{inner} = {value}"
        try:
            tomllib.loads("\n".join([*lines, addition]))
        except tomllib.TOMLDecodeError:
            continue
        lines += [addition, "# between"]
    text = "\n".join(lines)
    values: Any = tomllib.loads(text)
    found = lines_of(text)
    for place, line in found.items():
        inside = values
        for key in place:
            inside = inside[key]
        name = next(key for key in reversed(place) if isinstance(key, str))
        assert name in text.splitlines()[line - 1]
    assert set(values) == {place[0] for place in found if len(place) == 1}


@given(st.text(st.sampled_from("[]{}=\"'#.\n a\\"), max_size=40))
def test_what_is_no_toml_does_no_harm(text: str) -> None:
    assert all(line >= 1 for line in lines_of(text).values())
