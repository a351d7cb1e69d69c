"""The fields of a settings struct, as the command line and the documentation need them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.core.kinds import Kind, expected, kinds_of, metas_of


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
