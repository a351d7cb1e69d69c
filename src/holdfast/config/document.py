"""A tree of plain values that knows where each of them came from.

Values are those of JSON: tables with names, lists, text, numbers, truth values, None. Dates and times of TOML are kept
as text in ISO 8601. Everything is bounded, so that a document can be walked, compared, sent and stored without care.
"""

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from holdfast.config.mistakes import Place, place_text, printable
from holdfast.core.errors import ConfigError

Layer: TypeAlias = Literal["default", "file", "directory", "env", "flag"]

DEPTH_LIMIT: Final = 32
"""Tables and lists inside each other."""
KEYS_LIMIT: Final = 20_000
"""Values of one document, tables and lists included."""
NAME_LIMIT: Final = 200
"""Characters of one name."""
TEXT_LIMIT: Final = 64 * 1024
"""Characters of one text."""
INT_RANGE: Final = range(-(2**63), 2**64)
"""Whole numbers that all codecs carry."""


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from. ``place`` is a file, a variable or an option; ``line`` is 0 when unknown.

    ``text``: it was given as bare text, in a variable for example, so its setting's type decides what it means.
    """

    layer: Layer
    place: str = ""
    line: int = 0
    text: bool = False

    def __str__(self) -> str:
        place = printable(self.place)
        return f"{place}:{self.line}" if self.line else place or self.layer


NOWHERE: Final = Origin("default")


class Mark(msgspec.Struct, frozen=True):
    """The origin of one value, and of those inside that have one of their own."""

    origin: Origin
    inside: Mapping[str | int, "Mark"] = {}

    def of(self, key: str | int) -> "Mark":
        """The mark of what ``key`` names; its parent's when it has none."""
        return self.inside.get(key) or Mark(self.origin)


class Document:
    """One configuration, or one layer of it. Never changed: ``values`` is for reading only. Safe to share."""

    __slots__ = ("_texts", "mark", "values")

    def __init__(self, values: Mapping[str, Any] | None = None, mark: Mark | None = None) -> None:
        """For values that are ``checked``; ``Document.of`` checks them."""
        self.values: Mapping[str, Any] = values if values is not None else {}
        self.mark = mark or Mark(NOWHERE)
        self._texts: frozenset[Place] | None = None

    @classmethod
    def of(
        cls, values: Any, layer: Layer = "default", place: str = "", lines: Mapping[Place, int] | None = None
    ) -> "Document":
        """A document of one layer. ``ConfigError`` for values that no document can have, or too many."""
        return cls(checked(values, place), _marked(values, Origin(layer, place), lines or {}, ()))

    def origin(self, place: Place) -> Origin:
        """Where the value at ``place`` came from; of one that is absent, where what it is missing in came from."""
        mark = self.mark
        for key in place:
            mark = mark.of(key)
        return mark.origin

    def get(self, place: Place, default: Any = None) -> Any:
        """The value at ``place``."""
        found: Any = self.values
        for key in place:
            if not isinstance(found, Mapping) and not (isinstance(found, list) and isinstance(key, int)):
                return default
            try:
                found = found[key]  # type: ignore[index]  # a position where it is a list
            except (KeyError, IndexError):
                return default
        return found

    @property
    def texts(self) -> frozenset[Place]:
        """The places of the values that were given as bare text."""
        if self._texts is None:
            self._texts = frozenset(_texts(self.mark, ()))
        return self._texts

    def over(self, lower: "Document") -> "Document":
        """``lower`` with this one on top: tables merge, everything else replaces what is below."""
        values, mark = _over(lower.values, lower.mark, self.values, self.mark)
        return Document(values, mark)

    def plain(self) -> dict[str, Any]:
        """Values and origins for any codec, secrets included: for another process, not for people."""
        marks = _marks(self.mark, (), NOWHERE)
        return {"values": self.values, "origins": [[list(place), *_flat(origin)] for place, origin in marks]}

    @classmethod
    def restored(cls, plain: Any) -> "Document":
        """The document that ``plain`` took apart. ``ConfigError`` for anything else."""
        try:
            values = checked(plain["values"])
            origins = {
                tuple(place): msgspec.convert({"layer": layer, "place": name, "line": line, "text": text}, Origin)
                for place, layer, name, line, text in plain["origins"][: KEYS_LIMIT + 1]
            }
        except (TypeError, KeyError, ValueError, AttributeError):  # msgspec's errors are ValueErrors
            raise ConfigError("", None, "a document as it was written", hint="it is damaged") from None
        return cls(values, _replaced(values, origins, (), NOWHERE))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        return self.texts == other.texts and same(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # tables have none

    def __repr__(self) -> str:
        # Not the values: some are secret, and a document does not know which.
        return f"<Document of {', '.join(self.values) or 'nothing'}>"


def merged(*documents: Document) -> Document:
    """All ``documents`` as one; later ones win. Folded from the first to the last, which is the order that counts."""
    result = Document()
    for document in documents:
        result = document.over(result)
    return result


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are the same: unlike ``==``, 1 is neither 1.0 nor true."""
    if one is other:
        return True
    if type(one) is not type(other) or one != other:
        return False
    # They are equal, which is found fast, but for kinds of numbers inside.
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return True


def checked(values: Any, source: str = "") -> dict[str, Any]:
    """A copy of ``values`` in plain types. ``ConfigError`` when they are none, not a table, or past a bound."""
    if not isinstance(values, Mapping):
        raise ConfigError("", None, "a table", source=source)
    return _Check(source).value(values, ())  # type: ignore[no-any-return]


class _Check:
    def __init__(self, source: str) -> None:
        self._source = printable(source)
        self._count = 0

    def value(self, value: Any, place: Place) -> Any:
        self._count += 1
        if self._count > KEYS_LIMIT:
            raise self._wrong((), f"at most {KEYS_LIMIT} values")
        if isinstance(value, Mapping | list | tuple):
            if len(place) >= DEPTH_LIMIT:
                raise self._wrong(place[:3], f"at most {DEPTH_LIMIT} tables and lists inside each other")
            if isinstance(value, Mapping):
                return {self._name(name, place): self.value(item, (*place, name)) for name, item in value.items()}
            return [self.value(item, (*place, number)) for number, item in enumerate(value)]
        if isinstance(value, str):
            return self._text(value, place)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            if value not in INT_RANGE:
                raise self._wrong(place, "a whole number of at most 64 bits")
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self._wrong(place, "a finite number")
            return float(value)
        if isinstance(value, dt.datetime | dt.date | dt.time):
            return value.isoformat()
        raise self._wrong(place, "text, a number, true or false, a list or a table")

    def _name(self, name: Any, place: Place) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
            raise self._wrong(place, f"names of 1 to {NAME_LIMIT} characters")
        return self._text(name, place)

    def _text(self, text: str, place: Place) -> str:
        if len(text) > TEXT_LIMIT:
            raise self._wrong(place, f"text of at most {TEXT_LIMIT} characters")
        if "\0" in text:
            raise self._wrong(place, "text without NUL")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._wrong(place, "text in UTF-8") from None
        return str(text)

    def _wrong(self, place: Place, expected: str) -> ConfigError:
        return ConfigError(place_text(place), None, expected, source=self._source)


def _marked(value: Any, origin: Origin, lines: Mapping[Place, int], place: Place) -> Mark:
    line = lines.get(place, 0)
    if line and line != origin.line:
        origin = Origin(origin.layer, origin.place, line)
    if not lines:
        return Mark(origin)
    children: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        children = iter(value.items())
    elif isinstance(value, list):
        children = iter(enumerate(value))
    inside = {key: _marked(item, origin, lines, (*place, key)) for key, item in children}
    return Mark(origin, {key: mark for key, mark in inside.items() if mark.inside or mark.origin != origin})


def _over(lower: Any, under: Mark, upper: Any, over: Mark) -> tuple[Any, Mark]:
    if not (isinstance(lower, Mapping) and isinstance(upper, Mapping)):
        return upper, over
    values = dict(lower)
    # A table is looked for where it was first written: in the file, not in the variable that changed one name of it.
    place = over.origin if under.origin.layer == "default" and upper else under.origin
    marks = {key: under.of(key) for key in lower}
    for key, value in upper.items():
        if key in values:
            values[key], marks[key] = _over(values[key], marks[key], value, over.of(key))
        else:
            values[key], marks[key] = value, over.of(key)
    return values, Mark(place, marks)


def _texts(mark: Mark, place: Place) -> Iterator[Place]:
    if mark.origin.text:
        yield place
    for key, inner in mark.inside.items():
        yield from _texts(inner, (*place, key))


def _flat(origin: Origin) -> list[Any]:
    return [origin.layer, origin.place, origin.line, origin.text]


def _marks(mark: Mark, place: Place, parent: Origin) -> Iterator[tuple[Place, Origin]]:
    if mark.origin != parent:
        yield place, mark.origin
    for key, inner in mark.inside.items():
        yield from _marks(inner, (*place, key), mark.origin)


def _replaced(value: Any, origins: Mapping[Place, Origin], place: Place, parent: Origin) -> Mark:
    origin = origins.get(place, parent)
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    inside = {key: _replaced(value[key], origins, (*place, key), origin) for key in keys}
    return Mark(origin, {key: mark for key, mark in inside.items() if mark.inside or mark.origin != origin})
