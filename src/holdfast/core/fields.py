"""The fields of a settings struct, as the command line and the documentation need them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from holdfast.core.kinds import Kind, expected, from_plain, kinds_of, metas_of

SHOWN_LIMIT: Final = 40
"""Characters of one value that a description shows."""
ITEMS_LIMIT: Final = 4
"""Items of one value that a description shows."""
DEPTH_LIMIT: Final = 2
"""How far a description looks into tables and lists."""
_PLAIN: Final = (bool, int, float, str, tuple, list, dict, type(None))


class Field(msgspec.Struct, frozen=True):
    """One setting.

    ``type`` is the annotation without its ``Annotated`` shell. ``is_flag``: a plain truth value, given on a
    command line without a value. ``is_many``: a tuple, given several times. ``choices``: the texts allowed
    when nothing else is. ``default`` is ``msgspec.UNSET`` when the setting must be given. The value of a
    setting whose ``extra`` holds ``{"secret": True}`` is never shown.
    """

    name: str
    type: Any
    default: Any
    description: str
    extra: Mapping[str, Any]
    is_flag: bool
    is_many: bool
    choices: tuple[str, ...]
    kinds: tuple[Kind, ...]

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is msgspec.UNSET

    @property
    def secret(self) -> bool:
        """Whether its value must never be shown."""
        return bool(self.extra.get("secret", False))

    @property
    def expected(self) -> str:
        """A phrase for what fits."""
        return expected(self.kinds)


def fields_of(schema: type[msgspec.Struct]) -> list[Field]:
    """The settings in ``schema``, in the order of their definition.

    ``TypeError`` for a field of a type that settings cannot have: text, bool, int, float, Duration, Size,
    Literal, None, ``tuple[X, ...]`` of these, and unions of them can be.
    """
    return [_field(info) for info in msgspec.structs.fields(schema)]


def _field(info: msgspec.structs.FieldInfo) -> Field:
    metas = metas_of(info.type)
    try:
        kinds = kinds_of(info.type)
    except TypeError as error:
        raise TypeError(f"{info.name}: {error}") from None
    extra: dict[str, Any] = {}
    for meta in reversed(metas):  # the outermost wins
        extra.update(meta.extra or {})
    wanted = [kind for kind in kinds if kind.type is not type(None)]
    only_texts = all(isinstance(kind.literal, str) for kind in wanted)
    bare = info.type
    while hasattr(bare, "__metadata__"):
        bare = bare.__origin__
    return Field(
        name=info.name,
        type=bare,
        default=_default(info),
        description=next((meta.description for meta in metas if meta.description), ""),
        extra=extra,
        is_flag=all(kind.type is bool and kind.literal is msgspec.UNSET for kind in wanted),
        is_many=any(kind.type is tuple for kind in wanted),
        choices=tuple(kind.literal for kind in wanted) if only_texts else (),
        kinds=kinds,
    )


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return msgspec.UNSET if info.default is msgspec.NODEFAULT else info.default


def described(owner: str, settings: msgspec.Struct, fields: Iterable[Field]) -> str:
    """``owner(...)`` with the settings that are not at their defaults, as they would be written.

    Of a secret and of objects from elsewhere nothing is shown: their own ``repr`` is not asked, and may be anything.
    """
    parts: list[str] = []
    for field in fields:
        value = getattr(settings, field.name)
        if not field.required and _same(value, field):
            continue
        text = "..." if field.secret else _text_of(field, value)
        parts.append(text if field.required and not parts else f"{field.name}={text}")
    return f"{owner}({', '.join(parts)})"


def _same(value: Any, field: Field) -> bool:
    if value is field.default:
        return True
    try:
        default = from_plain(field.kinds, field.default)
    except ValueError:
        default = field.default
    # Things given in code may compare as they like, and one that is equal to all is still no default.
    plain = type(value) in _PLAIN or isinstance(value, msgspec.Struct) or _has_unit(value)
    return bool(plain and type(value) is type(default) and value == default)


def _has_unit(value: Any) -> bool:
    """Whether it is a number that prints as people write it: a duration, a size, a rate."""
    return isinstance(value, float | int) and type(value).__module__.startswith("holdfast.")


def _text_of(field: Field, value: Any) -> str:
    unit = next((kind.reader.show for kind in field.kinds if kind.reader and kind.reader.show), None)
    if unit is not None and type(value) is float:
        value = unit(value)
    return _text(value, DEPTH_LIMIT)


def _text(value: Any, depth: int) -> str:
    if isinstance(value, type):
        return value.__name__
    if value is None or type(value) in (bool, int, float, str):
        return _quoted(value) if type(value) is str else _cut(_digits(value))
    if _has_unit(value):
        return f'"{value}"'
    settings = getattr(value, "settings", value) if type(value).__module__.startswith("holdfast.") else value
    if isinstance(settings, msgspec.Struct) and hasattr(type(settings), "owner"):
        return repr(settings)
    if type(value) in (tuple, list) and depth and len(value) <= ITEMS_LIMIT:
        inner = ", ".join(_text(item, depth - 1) for item in value)
        if len(value) == 1:
            return inner if isinstance(value[0], type) else f"({inner},)"
        return f"({inner})"
    if type(value) is dict and depth and len(value) <= ITEMS_LIMIT:
        # Texts in a table are data, an answer or a token: not for a log.
        items = ((key, "..." if isinstance(item, str) else _text(item, depth - 1)) for key, item in value.items())
        return f"{{{', '.join(f'{_text(key, 0)}: {item}' for key, item in items)}}}"
    name = getattr(value, "__name__", None) if callable(value) else None
    return name if isinstance(name, str) and name.isidentifier() else f"<{type(value).__name__}>"


def _quoted(text: str) -> str:
    return f'"{_cut(text)}"' if text.isprintable() and not set(text) & {'"', "\\"} else _cut(repr(text[:SHOWN_LIMIT]))


def _digits(value: Any) -> str:
    return f"<int of {value.bit_length()} bits>" if type(value) is int and value.bit_length() > 128 else repr(value)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LIMIT else f"{text[: SHOWN_LIMIT - 3]}..."
