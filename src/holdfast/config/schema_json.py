"""A JSON Schema (draft 2020-12) of a configuration, for editors: what may be written where, and what it means.

It accepts every document that Holdfast does. It cannot know the rules between several settings, so it accepts more.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from holdfast.config.nodes import (
    Either,
    Entry,
    Foreign,
    Hidden,
    Items,
    Leaf,
    Mapped,
    Model,
    Node,
    Nodes,
    Table,
    is_text,
)
from holdfast.config.typed import schema_of_path
from holdfast.core.duration import UNITS as DURATION_UNITS
from holdfast.core.duration import Duration
from holdfast.core.kinds import Kind, Reader
from holdfast.core.rate import RATE
from holdfast.core.settings import ERRORS, FUNCTION, SECONDS, Settings
from holdfast.core.size import Size

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_NUMBER: Final = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
_SCALED: Final = rf"{_NUMBER}([eE][+-]?[0-9]+)?"
_UNIT: Final = f"({'|'.join(DURATION_UNITS)})"
DURATION_PATTERN: Final = rf"^\s*({_SCALED}|({_SCALED}\s*{_UNIT}\s*)+)\s*$"
SIZE_PATTERN: Final = rf"^\s*{_NUMBER}\s*[bBkKmMgGtTiI]*\s*$"
RATE_PATTERN: Final = rf"^\s*{_SCALED}\s*(/\s*[0-9a-zA-Z.µ\s+-]+)?\s*$"

_LIMITS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}
_LENGTHS: Final = {"min_length": "minLength", "max_length": "maxLength"}
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_DEFAULT_DEPTH: Final = 4
"""How far inside a default is shown."""


class Emitter:
    """Writes nodes as JSON Schema. One object for one schema: it collects the definitions."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._defs: dict[str, Any] = {}
        self._nodes = Nodes()

    def document(self, sections: Mapping[str, Node]) -> dict[str, Any]:
        """The schema of a document with ``sections``."""
        properties = {name: self._node(node) for name, node in sections.items()}
        needed = [
            name
            for name, node in sections.items()
            if isinstance(node, Table) and any(entry.default is msgspec.UNSET for entry in node.entries.values())
        ]
        schema: dict[str, Any] = {
            "$schema": DIALECT,
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }
        if needed:
            schema["required"] = needed
        if self._defs:
            schema["$defs"] = self._defs
        return schema

    def _node(self, node: Node) -> Any:
        match node:
            case Leaf():
                return self._leaf(node)
            case Items():
                limits = {f"{rule[:3]}Items": limit for rule, limit in node.limits}
                array = {"type": "array", "items": self._node(node.item), **limits}
                return _any_of([array, _ONE_TEXT]) if is_text(node.item) else array
            case Mapped():
                return {"type": "object", "additionalProperties": self._node(node.value)}
            case Table():
                return self._table(node)
            case Either():
                return _any_of([self._node(option) for option in node.options])
            case Hidden():
                inner = {"type": "string"} if node.inner is None else self._node(node.inner)
                # With an inner type that reads text, a variable's text may be anything.
                return _any_of([inner, _REFERENCE])
            case Foreign():
                return self._foreign(node.type)
            case Model():
                return self._model(node.type)

    def define(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A reference to ``schema``, which is written once under ``name``."""
        if self._defs.setdefault(name, dict(schema)) != schema:
            raise ValueError(f"{name} is defined as something else")
        return {"$ref": f"#/$defs/{name}"}

    def settings(self, kind: type[Settings]) -> dict[str, Any]:
        """A reference to the table of these settings."""
        return self._table(self._table_of(kind))

    def setting(self, kind: type[Settings], name: str) -> Any:
        """What one of them may be; None when it can only be given in code."""
        entry = self._table_of(kind).entries[name]
        return None if _only_in_code(entry.node) else self._entry(entry)

    def _table_of(self, kind: type[Settings]) -> Table:
        table = self._nodes.of(kind)
        assert isinstance(table, Table)  # settings are
        return table

    def _leaf(self, node: Leaf) -> Any:
        if node.describe is not None:
            return dict(node.describe(self))
        options = [self._kind(kind) for kind in node.kinds if kind.literal is msgspec.UNSET]
        literals = [kind.literal for kind in node.kinds if kind.literal is not msgspec.UNSET]
        if literals:
            options.append({"enum": literals} if len(literals) > 1 else {"const": literals[0]})
        if node.inner is not None and node.kinds[0].reader is not None:
            expected = node.kinds[0].reader.expected
            # What else the reader takes only it knows: anything that is no table.
            options = [self._table(node.inner), {"not": {"type": "object"}, "description": expected}]
        return _any_of(options)

    def _kind(self, kind: Kind) -> dict[str, Any]:
        limits = {_LIMITS[rule]: float(limit) for rule, limit in kind.limits if rule in _LIMITS}
        if kind.type is Reader:
            return _reader(kind.reader, limits)
        if kind.type is Duration:
            return _text_or("number", DURATION_PATTERN, {"minimum": 0, **limits})
        if kind.type is Size:
            return _text_or("integer", SIZE_PATTERN, {"minimum": 0, **limits})
        if kind.type is tuple:
            items = _any_of([self._kind(item) for item in kind.items])
            sizes = {f"{rule[:3]}Items": limit for rule, limit in kind.limits}
            return {"type": "array", "items": items, **sizes}
        schema: dict[str, Any] = {"type": _TYPES[kind.type]}
        for rule, limit in kind.limits:
            if rule in _LIMITS:
                schema[_LIMITS[rule]] = limit
            elif rule in _LENGTHS:
                schema[_LENGTHS[rule]] = limit
            elif rule == "pattern":
                schema["pattern"] = limit
        return schema

    def _table(self, table: Table) -> dict[str, Any]:
        if table.type not in self._names:
            name = self._named(table.type.__name__)
            self._names[table.type] = name
            self._defs[name] = {}
            self._defs[name] = self._object(table)
        return {"$ref": f"#/$defs/{self._names[table.type]}"}

    def _object(self, table: Table) -> dict[str, Any]:
        # A setting that can only be given in code has no place in a file.
        entries = [entry for entry in table.entries.values() if not _only_in_code(entry.node)]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {entry.key: self._entry(entry) for entry in entries},
            "additionalProperties": False,
        }
        needed = [entry.key for entry in entries if entry.default is msgspec.UNSET]
        if needed:
            schema["required"] = needed
        doc = (table.type.__doc__ or "").strip().split("\n\n")[0]
        if doc and not doc.startswith(f"{table.type.__name__}("):  # which dataclasses write themselves
            schema["description"] = " ".join(doc.split())
        return schema

    def _entry(self, entry: Entry) -> Any:
        schema = self._node(entry.node)
        notes: dict[str, Any] = {}
        if entry.description:
            notes["description"] = entry.description
        if entry.secret:
            notes["writeOnly"] = True
        elif entry.default is not msgspec.UNSET:
            default = _written(entry.default, _DEFAULT_DEPTH)
            if default is not msgspec.UNSET:
                notes["default"] = default
        return {**schema, **notes} if isinstance(schema, dict) else schema

    def _foreign(self, kind: Any) -> Any:
        if kind is dict:
            return {"type": "object"}
        return self._taken(
            *msgspec.json.schema_components([kind], schema_hook=schema_of_path, ref_template="#/$defs/{name}"), kind
        )

    def _taken(self, schemas: Any, components: Mapping[str, Any], kind: Any) -> Any:
        names = {}
        for name in components:
            if (kind, name) not in self._names:
                self._names[(kind, name)] = self._named(name)
            names[f"#/$defs/{name}"] = f"#/$defs/{self._names[(kind, name)]}"
        for name, schema in components.items():
            self._defs[self._names[(kind, name)]] = _renamed(schema, names)
        return _renamed(schemas[0], names)

    def _model(self, kind: Any) -> Any:
        pydantic = sys.modules["pydantic"]  # whoever made the class has imported it
        schema = pydantic.TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        return self._taken([schema], schema.pop("$defs", {}), kind)

    def _named(self, name: str) -> str:
        number = 1
        taken = name
        while taken in self._defs or taken in self._names.values():
            number += 1
            taken = f"{name}{number}"
        return taken


_REFERENCE: Final = {
    "type": "object",
    "properties": {"file": {"type": "string"}, "env": {"type": "string"}},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}


_ONE_TEXT: Final = {"type": "string", "pattern": r"^[^,]*[^,\s][^,]*$"}
"""What may stand in place of a list with one text."""


def _reader(reader: Reader | None, limits: dict[str, Any]) -> dict[str, Any]:
    if reader is SECONDS:
        return _text_or("number", DURATION_PATTERN, {"minimum": 0, **limits})
    if reader is RATE:
        return _text_or("number", RATE_PATTERN, {"exclusiveMinimum": 0})
    if reader is ERRORS:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {"description": reader.expected} if reader is not None else {}


def _text_or(kind: str, pattern: str, limits: dict[str, Any]) -> dict[str, Any]:
    if "exclusiveMinimum" in limits:
        limits = {name: limit for name, limit in limits.items() if name != "minimum"}
    return {"anyOf": [{"type": "string", "pattern": pattern}, {"type": kind, **limits}]}


def _only_in_code(node: Node) -> bool:
    # By what it expects: a policy may have a reader of its own that looks closer at the function.
    readers = [kind.reader for kind in node.kinds] if isinstance(node, Leaf) else [None]
    return all(reader is not None and reader.expected == FUNCTION.expected for reader in readers)


def _any_of(options: list[Any]) -> Any:
    flat: list[Any] = []
    for option in options:
        inner = option["anyOf"] if isinstance(option, dict) and set(option) == {"anyOf"} else [option]
        flat += [one for one in inner if one not in flat]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _written(value: Any, depth: int) -> Any:
    """A default as it would be written in a file; UNSET for what cannot be."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Duration | Size) or type(value).__module__ == "holdfast.core.rate":
        return str(value)
    if isinstance(value, int | float):
        return value
    if depth and isinstance(value, list | tuple | set | frozenset):
        found = [_written(item, depth - 1) for item in value]
        return msgspec.UNSET if msgspec.UNSET in found else found
    if depth and isinstance(value, Mapping):
        table = {str(name): _written(item, depth - 1) for name, item in value.items()}
        return msgspec.UNSET if msgspec.UNSET in table.values() else table
    if depth and isinstance(value, Settings) and not value.__struct_fields__:
        return {}
    return msgspec.UNSET


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    if isinstance(schema, dict):
        return {
            key: names.get(value, value) if key == "$ref" and isinstance(value, str) else _renamed(value, names)
            for key, value in schema.items()
        }
    return [_renamed(item, names) for item in schema] if isinstance(schema, list) else schema
