"""Methods that nobody would write: what is put into a pipeline does what calling them does.

Each is made twice from one text: once with the text where it can be found, once without, so that it is called.
"""

import itertools
import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.gates import Log
from effort import examples
from holdfast.core.call import Call
from holdfast.core.fuse import Around
from holdfast.core.inline import inline
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate
from holdfast.core.settings import GateSettings

NUMBERS = itertools.count()

HEADER = """\
import contextlib
from contextlib import suppress
outside = 3
now = 4
token0 = 5
v0 = 6
max = max

class Methods:
"""
VARIABLES = ("a", "b", "result", "error", "v1", "token1", "größe", "args")
READ = (*VARIABLES, "outside", "now", "token0", "v0", "nowhere", "call.attempt", "self.count", "len(self.log)")


@st.composite
def expressions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(READ))
    return draw(
        st.sampled_from(
            [
                name,
                f"{name} + 1",
                f"max({name}, 2)",
                f"self.note({name})",
                f"f'{{{{{{{name}!r:>3}}}}}}\\n{{{name}=}}'",
                f"[*[{name}], {name}][0]",
                f"({name} if self.count % 2 else {draw(st.integers(0, 3))})",
                "min(1, 2) \\\n + 1",
            ]
        )
    )


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0, loop: bool = False) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        lines += draw(statements(depth, loop))
    return lines


def indented(lines: list[str]) -> list[str]:
    return [f"\t{line}" for line in lines]


@st.composite
def statements(draw: st.DrawFn, depth: int, loop: bool) -> list[str]:
    simple = ["assign", "assign", "change", "delete", "return", "raise", "note", "unpack", "typed", "bare", "assert"]
    simple += ["break", "continue"] if loop else []
    kind = draw(st.sampled_from(simple if depth > 2 else [*simple, *["if", "if", "try", "for", "while", "with"]]))
    name = draw(st.sampled_from(VARIABLES))
    value = draw(expressions())
    inner = blocks(depth + 1, loop)
    match kind:
        case "assign":
            return [f"{name} = {value}"]
        case "change":
            return draw(st.sampled_from([[f"{name} += 1"], ["self.count += 1"], ["self.count += 1; " + f"{name} = 1"]]))
        case "delete":
            return [f"del {name}"]
        case "return":
            return [draw(st.sampled_from([f"return {value}", "return", "return self.note('returned')"]))]
        case "raise":
            return [draw(st.sampled_from(["raise ValueError('raised')", f"raise LookupError({value})", "raise"]))]
        case "unpack":
            return [f"{name}, *self.rest = {value}, 2"]
        case "typed":
            return [f"{name}: not_there = {value}"]
        case "bare":
            return [f"{name}: int"]
        case "assert":
            return [f"assert self.count < 3, {value}"]
        case "break" | "continue":
            return [kind]
        case "if":
            other = draw(st.sampled_from([[], ["else:", *indented(draw(inner))]]))
            return [f"if {value} != {draw(st.integers(0, 7))}:", *indented(draw(inner)), *other]
        case "for":
            return [
                f"for {name} in range(2):",
                *indented(draw(blocks(depth + 1, True))),
                "else:",
                *indented(draw(inner)),
            ]
        case "while":
            body = ["self.count += 1", *draw(blocks(depth + 1, True))]
            return ["while self.count < 4:", *indented(body), "else:", *indented(draw(inner))]
        case "with":
            return [f"with suppress(ValueError), self.around() as {name}:", *indented(draw(inner))]
        case "try":
            named = draw(st.sampled_from(["except ValueError:", f"except (ValueError, NameError) as {name}:"]))
            parts = ["try:", *indented(draw(inner)), named, *indented(draw(inner))]
            if draw(st.booleans()):
                parts += ["else:", *indented(draw(inner))]
            if draw(st.booleans()):
                parts += ["finally:", *indented(draw(inner))]
            return parts
        case _:
            return [value]


class Base:
    count = 0

    def __init__(self, log: Log) -> None:
        self.log = log
        self.rest: list[Any] = []

    def note(self, value: Any) -> Any:
        self.log.append(repr(value))
        return value

    @contextmanager
    def around(self) -> Iterator[int]:
        self.log.append("in")
        yield self.count
        self.log.append("out")


def methods(text: str, *, known: bool) -> type[Any]:
    """The class in ``text``, with Base below it."""
    filename = f"<methods {next(NUMBERS)}>"
    if known:
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": "methods"}
    exec(compile(text, filename, "exec", dont_inherit=True), namespace)
    return type("Made", (namespace["Methods"], Base), {"module": namespace})


class Filling(Gate[GateSettings]):
    """Leaves values in the variables that texts share."""

    def __init__(self) -> None:
        super().__init__(GateSettings(name="filling"))

    def enter(self, call: Call) -> str:
        a = b = c = d = e = f = g = h = "of another"
        return a or b or c or d or e or f or g or h

    def exit(self, call: Call, token: Any) -> None:
        pass


class Given(Gate[GateSettings]):
    """Is what it is given."""

    def __init__(self, made: Any) -> None:
        self.made = made
        super().__init__(GateSettings(name="given"))

    def enter(self, call: Call) -> None:
        raise NotImplementedError

    def fragment(self, asynchronous: bool) -> Around:
        return Around(self.made.enter, self.made.exit)


def story(made: Any) -> list[Any]:
    """What there is to see of three calls, the globals changed and then deleted between them."""
    decorated = Pipeline("x", Filling(), Given(made), Filling())(lambda: made.note("called"))
    for change in (lambda: None, lambda: made.module.update(outside=9, now=8, len=min), lambda: clear(made.module)):
        change()
        try:
            made.log.append(decorated())
        except Exception as error:
            made.log.append((type(error), str(error).replace("v1", "a")))
        made.log += [made.count, made.rest]
    found: list[Any] = made.log
    return found


def clear(module: dict[str, Any]) -> None:
    for name in ("outside", "now", "v0", "max"):
        del module[name]


@settings(max_examples=examples(150), deadline=None)
@given(blocks(), blocks())
def test_what_is_put_in_does_what_the_call_does(enter: list[str], leave: list[str]) -> None:
    first = [HEADER, "\tdef enter(self, call):", *indented(indented(enter))]
    text = "\n".join([*first, "\tdef exit(self, call, token):", *indented(indented(leave)), ""])
    known, unknown = (methods(text, known=known) for known in (True, False))
    assert story(known([])) == story(unknown([]))


def test_the_texts_are_found_and_put_in() -> None:
    text = (
        HEADER
        + "\tdef enter(self, call):\n\t\ta = outside\n\t\tif a == 3:\n\t\t\treturn 5\n\t\treturn max(a, len('a'))\n"
    )
    for known in (True, False):
        made = methods(text, known=known)([])
        assert (inline(made.enter, ("owner", "call"), "answer", "0") is not None) is known


@pytest.mark.parametrize("name", ["outside", "now", "max", "len"])
def test_a_global_that_is_replaced_or_deleted_is_so_for_the_text_too(name: str) -> None:
    text = HEADER + f"\tdef enter(self, call):\n\t\treturn self.note({name})\n\tdef exit(self, call, token): pass\n"
    made = methods(text, known=True)([])
    decorated = Pipeline("x", Given(made))(lambda: None)
    decorated()
    made.module[name] = "replaced"
    decorated()
    del made.module[name]
    if name in ("max", "len"):
        decorated()
        assert made.log[1:] == ["'replaced'", made.log[2]]
        assert "built-in" in made.log[2]
    else:
        with pytest.raises(NameError, match=f"name '{name}' is not defined"):
            decorated()
        assert made.log[1:] == ["'replaced'"]
