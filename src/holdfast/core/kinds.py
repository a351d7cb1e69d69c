"""What one setting may hold: reading it from text or from TOML, and saying what was expected.

A setting's type is taken apart once into plain ``Kind`` values, tried in order, text last of all, since
everything is text. Constraints are enforced here, whether they stand in a ``msgspec.Meta`` or in its ``extra``:
msgspec itself refuses ``Meta(ge=...)`` on durations, sizes and unions as soon as it encodes or decodes them.
"""

import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from holdfast.core.duration import Duration, format_duration, parse_duration
from holdfast.core.size import Size, format_size, parse_size

WORDS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
"""What a truth value may be in text, in any case."""
TEXT_LIMIT: Final = 64 * 1024
"""Characters that one setting may have."""
CLOSE_ENOUGH: Final = 0.5
"""How alike (``difflib.SequenceMatcher.ratio``) a name must be to be suggested."""

NUMBERS: Final = ("ge", "gt", "le", "lt", "multiple_of")
LENGTHS: Final = ("min_length", "max_length")
RULES: Final[dict[str, tuple[str, Callable[[Any, Any], bool]]]] = {
    "ge": ("at least {}", operator.ge),
    "gt": ("more than {}", operator.gt),
    "le": ("at most {}", operator.le),
    "lt": ("less than {}", operator.lt),
    "multiple_of": ("a multiple of {}", lambda value, limit: value % limit == 0),
    "min_length": ("of length {} or more", lambda value, limit: len(value) >= limit),
    "max_length": ("of length {} or less", lambda value, limit: len(value) <= limit),
    "pattern": ("matching {}", lambda value, limit: re.search(limit, value) is not None),
}
"""The constraints of ``msgspec.Meta``: their words in a message, and whether a value meets them."""

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")


class Refused(ValueError):
    """The value does not fit. The text says what was expected."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected, hint)
        self.expected = expected
        self.hint = hint


class Reader(msgspec.Struct, frozen=True):
    """How a setting of a type of its own is read: put it into ``Meta(extra={"reader": ...})``.

    ``read`` turns a plain value into the setting's, leaves a value that is one already as it is, and raises
    ``ValueError`` for anything else, with ``expected`` or words of its own. The type that the annotation
    names is then the type checker's business only. ``show`` makes of such a value, or of a limit, what a message
    shows of it.
    """

    read: Callable[[Any], Any]
    expected: str
    show: Callable[[Any], object] | None = None


class Kind(msgspec.Struct, frozen=True):
    """One alternative of a setting's type: a scalar class, one literal, ``None``, a tuple of scalars, or a reader's.

    ``limits`` are pairs of a name in ``RULES`` and its number or pattern.
    """

    type: Any
    limits: tuple[tuple[str, Any], ...] = ()
    literal: Any = msgspec.UNSET
    items: tuple["Kind", ...] = ()
    reader: Reader | None = None


def kinds_of(annotation: Any, metas: tuple[msgspec.Meta, ...] = ()) -> tuple[Kind, ...]:
    """The alternatives of ``annotation``, pickiest first. ``TypeError`` for a type that settings cannot have."""
    return tuple(sorted(_taken_apart(annotation, metas), key=_pickiness))


def metas_of(annotation: Any) -> tuple[msgspec.Meta, ...]:
    """Every ``msgspec.Meta`` on ``annotation``, the outermost first."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return (*(note for note in notes if isinstance(note, msgspec.Meta)), *metas_of(inner))
    return ()


def from_text(kinds: tuple[Kind, ...], text: str) -> Any:
    """The value that ``text``, from a variable or a flag, means. Raises ``Refused``."""
    if len(text) > TEXT_LIMIT:
        raise Refused(f"at most {TEXT_LIMIT} characters")
    return _first(kinds, text, _text_value, ", separated by commas")


def from_plain(kinds: tuple[Kind, ...], value: object) -> Any:
    """The value that ``value``, from TOML or JSON, means. Raises ``Refused``."""
    return _first(kinds, value, _plain_value, ", as a list")


def expected(kinds: tuple[Kind, ...], list_form: str = "") -> str:
    """A phrase for what fits, such as ``"auto" or a whole number, at least 1``."""
    phrases = [_phrase(kind, list_form) for kind in kinds if kind.type is not type(None)]
    return " or ".join(phrases)


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """The one of ``names`` that is most like ``name``, or empty when none is."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=CLOSE_ENOUGH)), "")


def _pickiness(kind: Kind) -> int:
    if kind.literal is not msgspec.UNSET or kind.type is type(None):
        return 0
    return {tuple: 2, str: 3}.get(kind.type, 1)


def _taken_apart(annotation: Any, metas: tuple[msgspec.Meta, ...]) -> typing.Iterator[Kind]:
    metas = (*metas, *metas_of(annotation))
    reader = next((meta.extra["reader"] for meta in metas if meta.extra and "reader" in meta.extra), None)
    if reader is not None:
        yield Kind(Reader, _limits(metas, (*NUMBERS, *LENGTHS)), reader=reader)
        return
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in (Union, types.UnionType):
        for member in arguments:
            yield from _taken_apart(member, metas)
    elif origin is Literal:
        for literal in arguments:
            yield Kind(type(literal), (), literal)
    elif origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        yield Kind(tuple, _limits(metas, LENGTHS), items=kinds_of(arguments[0]))
    elif annotation in (None, type(None)):
        yield Kind(type(None))
    elif annotation in (str, bool, int, float, Duration, Size):
        applicable = {str: (*LENGTHS, "pattern"), bool: ()}.get(annotation, NUMBERS)
        yield Kind(annotation, _limits(metas, applicable))
    else:
        raise TypeError(f"a setting cannot be of type {annotation!r}")


def _limits(metas: tuple[msgspec.Meta, ...], rules: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """The limits that ``metas`` set themselves or, where msgspec would not have them, in their ``extra``."""
    found: list[tuple[str, Any]] = []
    for meta in metas:
        for rule in rules:
            limit = getattr(meta, rule)
            limit = (meta.extra or {}).get(rule) if limit is None else limit
            if limit is not None:
                found.append((rule, limit))
    return tuple(found)


def _first(kinds: tuple[Kind, ...], value: Any, convert: Callable[[Kind, Any], Any], list_form: str) -> Any:
    for kind in kinds:
        try:
            result = convert(kind, value)
        except Refused:
            raise  # a reader's own words say more than a list of what fits
        except (ValueError, OverflowError):
            continue  # the next alternative may fit; when none does, all of them are named below
        if _within(kind, result):
            return result
    hint = ""
    if isinstance(value, str):
        near = nearest(value, [kind.literal for kind in kinds if isinstance(kind.literal, str)])
        hint = f"did you mean {near}?" if near else ""
    raise Refused(expected(kinds, list_form), hint)


def _text_value(kind: Kind, text: str) -> Any:
    if kind.literal is not msgspec.UNSET:
        plain = Kind(kind.type)
        return _same(kind, text if kind.type is str else _text_value(plain, text))
    bare = text.strip()
    if kind.reader is not None:
        return kind.reader.read(bare)
    if kind.type is str:
        return text
    if kind.type is tuple:
        return tuple(from_text(kind.items, part.strip()) for part in text.split(",") if part.strip())
    if kind.type is type(None):
        return _demand(not bare, None)
    if kind.type is bool:
        return WORDS[_demand(bare.lower() in WORDS, bare.lower())]
    if kind.type is int:
        return int(_demand(_WHOLE.fullmatch(bare) is not None, bare))
    return _plain_value(kind, float(bare) if kind.type is float else bare)


def _plain_value(kind: Kind, value: Any) -> Any:
    if kind.literal is not msgspec.UNSET:
        return _same(kind, value)
    if kind.reader is not None:
        return kind.reader.read(value)
    if kind.type is tuple:
        _demand(isinstance(value, list | tuple), value)
        return tuple(from_plain(kind.items, item) for item in value)
    if kind.type is Duration:
        return Duration(parse_duration(value))
    if kind.type is Size:
        return Size(parse_size(value))
    if kind.type is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_demand(number and math.isfinite(value), value))
    # Exactly the type: True is no whole number, and 1 is no truth value.
    return _demand(type(value) is kind.type, value)


def _same(kind: Kind, value: Any) -> Any:
    return _demand(type(value) is kind.type and value == kind.literal, value)


def _demand(holds: bool, value: Any) -> Any:
    if not holds:
        raise ValueError
    return value


def _within(kind: Kind, value: Any) -> bool:
    return all(RULES[rule][1](value, limit) for rule, limit in kind.limits)


def _phrase(kind: Kind, list_form: str) -> str:
    if kind.literal is not msgspec.UNSET:
        return f'"{kind.literal}"' if isinstance(kind.literal, str) else str(kind.literal)
    if kind.reader is not None:
        limits = ((rule, limit if kind.reader.show is None else kind.reader.show(limit)) for rule, limit in kind.limits)
        return ", ".join([kind.reader.expected, *(RULES[rule][0].format(repr(limit)) for rule, limit in limits)])
    nouns = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        Duration: "a duration such as 500ms or 1m30s",
        Size: "a size such as 64KiB or 1MB",
    }
    noun = f"{expected(kind.items)}{list_form}" if kind.type is tuple else nouns[kind.type]
    shown: Callable[[Any], str] = {Duration: format_duration, Size: format_size}.get(kind.type, str)
    return ", ".join([noun, *(RULES[rule][0].format(shown(limit)) for rule, limit in kind.limits)])
