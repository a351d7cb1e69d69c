"""All that is wrong with a configuration, as far as it can be known without starting anything."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from holdfast.config.document import Document, Mark
from holdfast.config.mistakes import ConfigErrors, Place, all_of, place_text
from holdfast.config.schema import Schema
from holdfast.config.secret import is_reference
from holdfast.config.snapshot import Snapshot
from holdfast.core.classname import import_class
from holdfast.core.errorrule import read_rules
from holdfast.core.errors import ConfigError

STAND_IN: Final = "1"
"""What takes the place of a secret that is not looked up: text, and a number, a duration and a truth value as text."""


def check_all(schema: Schema, document: Document, app: Any = None, *, secrets: bool = True) -> None:
    """Raises ``ConfigErrors`` with all mistakes in ``document``.

    With ``app`` the exceptions of ``[errors]`` are imported too. Without ``secrets`` none of them is looked up.
    """
    errors: list[ConfigError] = []
    try:
        if secrets:
            schema.read(document)
        else:
            read_unresolved(schema, document)
    except ConfigErrors as error:
        if error.total > len(error.errors):
            raise  # there are too many to tell anyway
        errors.append(error)
    if app is not None:
        errors += _absent(document)
    if errors:
        raise all_of(errors)


def read_unresolved(schema: Schema, document: Document) -> Snapshot | None:
    """The snapshot of ``document``, in which secrets that are elsewhere need not be there.

    None when it cannot be read without them. Raises ``ConfigErrors`` for all other mistakes, but for rules between
    several settings of which such a secret is one.
    """
    try:
        return schema.read(document)
    except ConfigErrors as error:
        places = {place_text(place): place for place in _references(document.values, ())}
        missing = [places[one.path] for one in error.errors if one.path in places]
        if not missing:
            raise
    values, mark = document.values, document.mark
    for place in missing:
        values, mark = _put(values, place, STAND_IN), _as_text(mark, place)
    try:
        return schema.read(Document(values, mark))
    except ConfigErrors as error:
        touched = {place_text(place[:length]) for place in missing for length in range(len(place) + 1)}
        others = [one for one in error.errors if one.path not in touched]
        if others:
            raise all_of(others) from None
        return None


def _absent(document: Document) -> Iterator[ConfigError]:
    """The exceptions of ``[errors]`` that are not there. Imports their modules."""
    for name in read_rules(document.values.get("errors", {}), "")[0]:
        try:
            import_class(name, str(document.origin(("errors", name))))
        except ConfigError as error:
            yield ConfigError(place_text(("errors", name)), None, error.expected, error.source, error.hint)


def _references(value: Any, place: Place) -> Iterator[Place]:
    if is_reference(value):
        yield place
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _references(item, (*place, key))


def _as_text(mark: Mark, place: Place) -> Mark:
    """``mark``, where the value at ``place`` is bare text, as a secret is that was looked up."""
    if not place:
        return Mark(msgspec.structs.replace(mark.origin, text=True))
    return Mark(mark.origin, {**mark.inside, place[0]: _as_text(mark.of(place[0]), place[1:])})


def _put(value: Any, place: Place, new: Any) -> Any:
    """``value`` with ``new`` at ``place``, where something is."""
    if not place:
        return new
    key, rest = place[0], place[1:]
    if isinstance(value, list):
        return [_put(item, rest, new) if number == key else item for number, item in enumerate(value)]
    return {**value, key: _put(value[key], rest, new)}
