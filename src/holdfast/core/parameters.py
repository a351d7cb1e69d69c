"""The parameters of a constructor that takes settings: their signature, and what is wrong with those given.

A mistake in the shape of a call (a name that is none, one too many, one too few) is a ``TypeError``, as everywhere in
Python; a value that does not fit is a ``ConfigError``, and comes from the settings themselves.
"""

import functools
import inspect
import operator
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.fields import Field
from holdfast.core.settings import Settings, settings_of, unknown
from holdfast.core.size import Size

T = TypeVar("T", bound=Settings)


def made(owner: str, schema: type[T], args: tuple[Any, ...], given: Mapping[str, Any]) -> T:
    """The settings of ``owner``. ``TypeError`` for parameters that it does not have, or lacks."""
    values = _named(owner, schema, args, given)
    missing = [repr(field.name) for field in settings_of(schema) if field.required and field.name not in values]
    if missing:
        number = f"{len(missing)} required argument{'s' if len(missing) > 1 else ''}"
        raise TypeError(f"{owner}() missing {number}: {' and '.join(missing)}")
    try:
        return schema(**values)
    except ConfigError as error:
        if len(args) == 1 and not given and inspect.isroutine(args[0]):
            name = getattr(args[0], "__qualname__", "function")
            hint = f"; {error.hint}" if error.hint else ""
            raise TypeError(
                f"{owner} was given {name} as a setting; to decorate it write @{owner}(...){hint}"
            ) from None
        raise


def changed(owner: str, settings: T, args: tuple[Any, ...], changes: Mapping[str, Any]) -> T:
    """``settings`` with ``changes``. ``TypeError`` as ``made``."""
    return msgspec.structs.replace(settings, **_named(f"{owner}.update", type(settings), args, changes, owner))


def signature(schema: type[Settings]) -> inspect.Signature:
    """What a constructor shows that takes the settings in ``schema``: a default is as people write it."""
    first = schema.positional()
    found = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if field.name == first else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.required else _written(field.default),
            annotation=_accepted(field.type),
        )
        for field in settings_of(schema)
    ]
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature([itself, *found], return_annotation=None)


def documentation(schema: type[Settings]) -> str:
    """A line for each setting in ``schema``, for ``help()``."""
    return "\n".join(f"{field.name}: {_sentence(field)}" for field in settings_of(schema))


def _named(
    owner: str, schema: type[Settings], args: tuple[Any, ...], given: Mapping[str, Any], whose: str = ""
) -> dict[str, Any]:
    fields = {field.name: field for field in settings_of(schema)}
    first = schema.positional()
    if len(args) > 1:
        # In Python's words, with the word that is missing there: how to put it right.
        most = "1 positional argument" if fields[first].required else "from 0 to 1 positional arguments"
        raise TypeError(f"{owner}() takes {most} but {len(args)} were given; name all but the first")
    if args and first in given:
        raise TypeError(f"{owner}() got multiple values for argument {first!r}")
    for name in given:
        if name not in fields:
            raise TypeError(f"{whose or owner} has no setting {name}; {unknown(name, fields)}")
    return {first: args[0], **given} if args else dict(given)


def _accepted(annotation: Any) -> Any:
    """The type that a caller may give: without what is written beside it, a duration as text too."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if annotation is Duration:
        return float | str
    if annotation is Size:
        return int | str
    if get_origin(annotation) in (Union, types.UnionType):
        return functools.reduce(operator.or_, (_accepted(part) for part in get_args(annotation)))
    return annotation


def _written(default: Any) -> Any:
    return str(default) if isinstance(default, Duration | Size) else default


def _sentence(field: Field) -> str:
    return " ".join(
        part for part in (field.description, f"Must be {field.expected}." if field.expected else "") if part
    )
