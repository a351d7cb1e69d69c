"""Types that are not Holdfast's own: msgspec reads most of them, pydantic its models. Their errors become places.

pydantic is never imported here: whoever gives one of its classes has done that.
"""

import enum
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from holdfast.config.mistakes import Place
from holdfast.core.kinds import Kind, expected, nearest

COMPLAINTS_LIMIT: Final = 100
"""Mistakes that are taken over from one value."""
SECRETS_DEPTH: Final = 8
"""How far inside of models secrets are looked for."""

_AT: Final = re.compile(r"\s*- at `(?:key in )?\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


class Complaint(msgspec.Struct, frozen=True):
    """A mistake inside of one value. ``names``: it is a name that is none of these. ``value``: None when not shown."""

    place: Place
    expected: str
    value: Any = None
    hint: str = ""
    names: tuple[str, ...] | None = None


def read_foreign(kind: Any, value: Any) -> tuple[Any, list[Complaint]]:
    """What msgspec makes of ``value``; it tells one mistake at a time."""
    try:
        return msgspec.convert(value, type=kind, strict=True, dec_hook=_hook), []
    except msgspec.ValidationError as error:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return None, [_no_member(kind, value)]
        text = str(error)
        at = _AT.search(text)
        words = " ".join(_AT.sub("", text).split())
        return None, [_complaint(words, _steps(at.group(1)) if at else (), value)]
    except Exception as error:  # a __post_init__ or a hook of the user's may raise anything
        return None, [Complaint((), f"values that fit: {type(error).__name__}: {' '.join(str(error).split())}")]


def read_model(kind: Any, value: Any) -> tuple[Any, list[Complaint]]:
    """What pydantic makes of ``value``. Names that the model does not have are mistakes unless it allows extra ones."""
    complaints = list(_unknown(kind, value, ()))
    try:
        result = kind.__pydantic_validator__.validate_python(value)
    except Exception as error:  # pydantic's own error is a ValueError; a validator of the user's may raise anything
        if not hasattr(error, "errors") or not type(error).__module__.startswith("pydantic"):
            words = " ".join(str(error).split())
            return None, [*complaints, Complaint((), f"values that fit: {type(error).__name__}: {words}")]
        found = error.errors(include_url=False, include_context=False, include_input=False)
        known = {complaint.place for complaint in complaints}
        for one in found[:COMPLAINTS_LIMIT]:
            place = _place(one["loc"], value)
            if not (one["type"] == "extra_forbidden" and place in known):
                complaints.append(_told(one, place))
        return None, complaints
    return (None if complaints else result), complaints


def schema_of_path(kind: type) -> dict[str, Any]:
    """msgspec's hook for the JSON Schema of what it does not know itself: paths, and nothing else."""
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return {"type": "string"}
    raise NotImplementedError(kind)


def secret_names(kind: Any) -> frozenset[str]:
    """What the fields of a model, and of models inside, are called that are secret by pydantic's types."""
    return frozenset(_secret_in(kind, "", SECRETS_DEPTH))


def _complaint(words: str, place: Place, value: Any) -> Complaint:
    if words.startswith("Expected "):
        wanted, _, got = words.removeprefix("Expected ").partition(", got ")
        return Complaint(place, wanted.replace("`", ""), hint=f"it is {got.replace('`', '')}" if got else "")
    if words.startswith("Object missing required field"):
        name = words.partition("`")[2].partition("`")[0]
        return Complaint((*place, name), "a value", hint="it must be given")
    if words.startswith("Object contains unknown field"):
        name = words.partition("`")[2].partition("`")[0]
        return Complaint((*place, name), "the name of a setting", names=())
    if words.startswith("Invalid "):
        return Complaint(place, f"a valid {words.removeprefix('Invalid ').replace('`', '')}")
    return Complaint(place, words[:1].lower() + words[1:].replace("`", ""))


def _no_member(kind: type[enum.Enum], value: Any) -> Complaint:
    members = [member.value for member in kind]
    near = nearest(value, [m for m in members if isinstance(m, str)]) if isinstance(value, str) else ""
    wanted = expected(tuple(Kind(type(member), (), member) for member in members))
    return Complaint((), wanted, value, hint=f"did you mean {near}?" if near else "")


def _steps(path: str) -> Place:
    return tuple(int(number) if number else name for name, number in _STEP.findall(path) if name or number)


def _hook(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        if isinstance(value, str):
            return kind(value)
        raise ValueError("Expected a path")
    raise NotImplementedError(f"a value for {kind!r} can only be given in code")


def _told(one: Mapping[str, Any], place: Place) -> Complaint:
    if one["type"] == "missing":
        return Complaint(place, "a value", hint="it must be given")
    if one["type"] == "extra_forbidden":
        return Complaint(place, "the name of a setting", names=())
    words = " ".join(str(one["msg"]).split()).removeprefix("Input should be ").removeprefix("Value error, ")
    return Complaint(place, words[:1].lower() + words[1:])


def _place(loc: Any, value: Any) -> Place:
    """Of pydantic's location, what is in ``value``: it also names the members of unions and the validators."""
    place: list[str | int] = []
    for number, step in enumerate(loc):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            if number < len(loc) - 1 or not isinstance(value, Mapping):
                continue
        place.append(step)
    return tuple(place)


def _unknown(kind: Any, value: Any, place: Place) -> Iterator[Complaint]:
    for inner, item, where in _models(kind, value, place):
        if not isinstance(item, Mapping) or _config(inner).get("extra") == "allow":
            continue
        fields = inner.__pydantic_fields__
        names: dict[str, Any] = {}
        for name, field in fields.items():
            alias = field.validation_alias if field.validation_alias is not None else field.alias
            if alias is not None and not isinstance(alias, str):
                return  # a path or a choice of names: only pydantic itself knows what they take
            names[alias or name] = field
            if alias and (_config(inner).get("populate_by_name") or _config(inner).get("validate_by_name")):
                names[name] = field
        for key, inside in item.items():
            if key not in names:
                yield Complaint((*where, key), "the name of a setting", names=tuple(names))
            else:
                yield from _unknown(names[key].annotation, inside, (*where, key))


def _models(kind: Any, value: Any, place: Place) -> Iterator[tuple[Any, Any, Place]]:
    """The models that ``kind`` holds, with the parts of ``value`` that are for them."""
    origin = get_origin(kind)
    if origin is None:
        if hasattr(kind, "__pydantic_fields__"):
            yield kind, value, place
        return
    arguments = get_args(kind)
    if origin is typing.Annotated:
        yield from _models(arguments[0], value, place)
    elif origin in (list, tuple, set, frozenset) and isinstance(value, list) and arguments:
        for number, item in enumerate(value):
            yield from _models(arguments[0], item, (*place, number))
    elif origin is dict and isinstance(value, Mapping):
        for name, item in value.items():
            yield from _models(arguments[1], item, (*place, name))
    elif origin is not Literal:
        found = [found for member in arguments for found in _models(member, value, place)]
        if len(found) == 1:  # of several models pydantic chooses one, and only it knows which
            yield from found


def _config(kind: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return found


def _secret_in(kind: Any, name: str, depth: int) -> Iterator[str]:
    if isinstance(kind, type) and hasattr(kind, "get_secret_value"):
        yield name
    for inner, field in getattr(kind, "__pydantic_fields__", {}).items() if depth else ():
        yield from _secret_in(field.annotation, inner, depth - 1)
        if isinstance(field.alias, str):
            yield from _secret_in(field.annotation, field.alias, depth - 1)
    if get_origin(kind) is not Literal and depth:
        for argument in get_args(kind):
            yield from _secret_in(argument, name, depth - 1)
