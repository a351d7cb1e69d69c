"""Types taken apart once: what a value at each place of a document may be.

Structs, dataclasses, lists, tables and what settings can be (``core.kinds``) are read by Holdfast itself, so that
durations, messages and defaults are the same everywhere. Any other type is left to msgspec, a model to pydantic.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

import msgspec

from holdfast.config.secret import EXPECTED, Secret, named_secret
from holdfast.core.fields import fields_of
from holdfast.core.kinds import LENGTHS, Kind, expected, kinds_of, metas_of
from holdfast.core.settings import Settings, read_table

_MANY: Final[dict[Any, Callable[[list[Any]], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Sequence: tuple,
}
_TABLES: Final = (dict, Mapping)


class Leaf(msgspec.Struct, frozen=True):
    """One of ``kinds``. ``inner``: when a table is given, the settings that the kinds' reader makes of it.

    ``describe`` makes the JSON Schema of what the reader takes, given the ``Emitter`` that writes the whole.
    """

    kinds: tuple[Kind, ...]
    inner: "Table | None" = None
    describe: Callable[[Any], Mapping[str, Any]] | None = None


class Items(msgspec.Struct, frozen=True):
    """A list. ``limits`` are pairs of ``min_length`` or ``max_length`` and a number.

    ``rule`` raises ``ConfigError`` for items that do not go together. ``advice`` says of names that an item cannot have
    what to write in their place.
    """

    item: "Node"
    make: Callable[[list[Any]], Any]
    limits: tuple[tuple[str, int], ...] = ()
    rule: Callable[[Any], object] | None = None
    advice: Mapping[str, str] = {}


class Mapped(msgspec.Struct, frozen=True):
    """A table with any names."""

    value: "Node"


class Entry(msgspec.Struct, frozen=True):
    """One name of a table. ``default`` is ``msgspec.UNSET`` when it must be given."""

    key: str
    name: str
    node: "Node"
    default: Any
    description: str
    extra: Mapping[str, Any]

    @property
    def secret(self) -> bool:
        """Whether its value is never shown."""
        return bool(self.extra.get("secret")) or isinstance(self.node, Hidden)

    @property
    def live(self) -> bool:
        """Whether a change of it takes hold in workers that are running."""
        return bool(self.extra.get("live", True))


class Table:
    """A struct or a dataclass. Its ``entries`` are filled in later, since it may hold itself."""

    __slots__ = ("entries", "type")

    def __init__(self, kind: type) -> None:
        self.type = kind
        self.entries: dict[str, Entry] = {}


class Either(msgspec.Struct, frozen=True):
    """One of several that are told apart by their form: a table, a list, something else."""

    options: tuple["Node", ...]


class Hidden(msgspec.Struct, frozen=True):
    """A secret: text or where it is found. Without ``inner`` it becomes a ``Secret``, else what ``inner`` reads."""

    inner: "Node | None" = None


class Foreign(msgspec.Struct, frozen=True):
    """A type that msgspec reads."""

    type: Any


class Model(msgspec.Struct, frozen=True):
    """A class of pydantic's."""

    type: Any


Node: TypeAlias = Leaf | Items | Mapped | Table | Either | Hidden | Foreign | Model


class Nodes:
    """Makes nodes of annotations, each class once."""

    def __init__(self) -> None:
        self._tables: dict[type, Table] = {}

    def of(self, annotation: Any, metas: tuple[msgspec.Meta, ...] = ()) -> Node:
        """The node of ``annotation``. ``TypeError`` for a type that no configuration can give."""
        own = metas_of(annotation)
        bare = _bare(annotation)
        if bare is Secret:
            return Hidden()
        node = self._shown(bare, (*metas, *own))
        return Hidden(node) if extra_of(own).get("secret") else node

    def _shown(self, bare: Any, metas: tuple[msgspec.Meta, ...]) -> Node:
        extra = extra_of(metas)
        reader = extra.get("reader")
        if reader is not None:
            return Leaf(kinds_of(bare, metas), self._inner(reader, bare), extra.get("describe"))
        origin = get_origin(bare)
        arguments = get_args(bare)
        if origin in (Union, types.UnionType):
            return self._either(arguments, metas)
        if origin in _MANY and (origin is not tuple or (len(arguments) == 2 and arguments[1] is ...)):
            limits, advice = _lengths(metas), extra.get("advice", {})
            return Items(self.of(arguments[0]), _MANY[origin], limits, extra.get("rule"), advice)
        if origin in _TABLES and arguments[0] is str:
            return Foreign(dict) if arguments[1] is Any else Mapped(self.of(arguments[1]))
        if isinstance(bare, type) and origin is None:
            if hasattr(bare, "__pydantic_validator__"):
                return Model(bare)
            if _is_table(bare):
                return self._table(bare)
        try:
            return Leaf(kinds_of(bare, metas))
        except TypeError:
            return _foreign(bare if bare not in _TABLES else dict)

    def _either(self, members: tuple[Any, ...], metas: tuple[msgspec.Meta, ...]) -> Node:
        plain = []
        others = []
        for member in members:
            node = self.of(member, metas)
            if isinstance(node, Leaf) and node.inner is None:
                plain.append(member)
            else:
                others.append(node)
        options = (*others, *([Leaf(kinds_of(Union[tuple(plain)], metas))] if plain else ()))  # noqa: UP007
        forms = [form_of(node) for node in options]
        if len(set(forms)) < len(forms):
            return _foreign(Union[members])  # noqa: UP007  # two tables, say: msgspec tells them apart by their tags
        return options[0] if len(options) == 1 else Either(options)

    def _inner(self, reader: Any, bare: Any) -> Table | None:
        """The settings that a reader reads out of a table, as far as that can be seen."""
        read = reader.read
        if isinstance(read, functools.partial) and read.func is read_table:
            return self._table(read.args[0])
        members = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)
        found = [member for member in map(_bare, members) if isinstance(member, type) and issubclass(member, Settings)]
        return self._table(found[0]) if len(found) == 1 else None

    def _table(self, kind: type) -> Table:
        if kind not in self._tables:
            table = self._tables[kind] = Table(kind)
            for entry in self._entries(kind):
                table.entries[entry.key] = entry
        return self._tables[kind]

    def _entries(self, kind: type) -> typing.Iterator[Entry]:
        if issubclass(kind, Settings):
            fields_of(kind)  # says, by its TypeError, what such a class cannot hold
        for key, name, annotation, default in _fields(kind):
            metas = metas_of(annotation)
            description = next((meta.description for meta in metas if meta.description), "")
            try:
                node = self.of(annotation)
            except TypeError as error:
                raise TypeError(f"{kind.__name__}.{name}: {error}") from None
            extra = extra_of(metas)
            if named_secret(name) and isinstance(node, Leaf) and _may_be_text(node):
                node = Hidden(node)
            yield Entry(key, name, node, default, description, extra)


def form_of(node: Node) -> str:
    """What a value for ``node`` looks like: a table, a list, a secret, something else."""
    match node:
        case Items():
            return "list"
        case Mapped() | Table() | Model():
            return "table"
        case Hidden():
            return "secret"
        case _:
            return "value"


def phrase_of(node: Node) -> str:
    """A phrase for what fits."""
    match node:
        case Leaf():
            return expected(node.kinds)
        case Items():
            return f"a list, each {phrase_of(node.item)}" if isinstance(node.item, Leaf) else "a list of tables"
        case Either():
            return " or ".join(part for option in node.options if (part := phrase_of(option)))
        case Hidden():
            return EXPECTED if node.inner is None else phrase_of(node.inner)
        case Foreign():
            return f"a value for {getattr(node.type, '__name__', node.type)}"
        case _:
            return "a table"


def is_text(node: Node) -> bool:
    """Whether it takes text alone: then a list of it may be given as one text."""
    return isinstance(node, Leaf) and all(kind.type is str and kind.literal is msgspec.UNSET for kind in node.kinds)


def listed(text: str) -> tuple[Any, str]:
    """The list of one that ``text`` stands for. With a comma it may be several, as in a variable, or one: then it is
    left as it is, and the second part says how to write them."""
    parts = [part for part in map(str.strip, text.split(",")) if part]
    if parts and "," not in text:
        return [text], ""
    return text, f"write a list: {json.dumps(parts, ensure_ascii=False)}"


def holds_secret(node: Node | None, depth: int = 8) -> bool:
    """Whether a value for ``node`` may hold a secret, so that nothing of it may be shown."""
    if not depth:
        return True
    match node:
        case Hidden() | Model():
            return True
        case Leaf():
            return holds_secret(node.inner, depth - 1)
        case Items():
            return holds_secret(node.item, depth - 1)
        case Mapped():
            return holds_secret(node.value, depth - 1)
        case Either():
            return any(holds_secret(option, depth - 1) for option in node.options)
        case Table():
            return any(entry.secret or holds_secret(entry.node, depth - 1) for entry in node.entries.values())
        case _:
            return False


def extra_of(metas: tuple[msgspec.Meta, ...]) -> dict[str, Any]:
    """What the metas say beyond msgspec's own; the outermost wins."""
    extra: dict[str, Any] = {}
    for meta in reversed(metas):
        extra.update(meta.extra or {})
    return extra


def _fields(kind: type) -> typing.Iterator[tuple[str, str, Any, Any]]:
    if issubclass(kind, msgspec.Struct):
        for info in msgspec.structs.fields(kind):
            default = info.default
            if info.default_factory is not msgspec.NODEFAULT:
                default = info.default_factory()
            yield info.encode_name, info.name, info.type, msgspec.UNSET if default is msgspec.NODEFAULT else default
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # it is one, or it would not have come here
        if field.init:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            missing = default is dataclasses.MISSING
            yield field.name, field.name, hints[field.name], msgspec.UNSET if missing else default


def _is_table(kind: type) -> bool:
    if issubclass(kind, msgspec.Struct):
        # One with a tag, or written as a list, has rules of its own that msgspec knows.
        return kind.__struct_config__.tag is None and not kind.__struct_config__.array_like
    return dataclasses.is_dataclass(kind)


def _foreign(annotation: Any) -> Foreign:
    if annotation is dict:  # any table, as it is
        return Foreign(dict)
    from holdfast.config.typed import schema_of_path  # most services have no types of their own

    try:
        msgspec.json.schema(annotation, schema_hook=schema_of_path)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise TypeError(f"a setting cannot be of type {annotation!r}") from error
    return Foreign(annotation)


def _may_be_text(node: Leaf) -> bool:
    return any(kind.type is str and kind.literal is msgspec.UNSET for kind in node.kinds)


def _lengths(metas: tuple[msgspec.Meta, ...]) -> tuple[tuple[str, int], ...]:
    found = []
    for rule in LENGTHS:
        limits = [
            limit
            for meta in metas
            for limit in (getattr(meta, rule), (meta.extra or {}).get(rule))
            if limit is not None
        ]
        found += [(rule, limit) for limit in limits]
    return tuple(found)


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation
