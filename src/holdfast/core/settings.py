"""What the settings of all policies have in common: how they are read, checked, and replaced."""

import functools
import importlib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from holdfast.core.duration import Duration, parse_duration
from holdfast.core.errors import ConfigError
from holdfast.core.fields import Field, described, fields_of
from holdfast.core.kinds import Reader, Refused, from_plain, nearest

T = TypeVar("T", bound="Settings")

ERRORS_LIMIT: Final = 64
"""Exception classes that one setting may list."""


def about(text: str, **extra: object) -> Meta:
    """What a setting is, in a sentence, and its limits: ``ge``, ``gt``, ``le``, ``lt``."""
    return Meta(description=text, extra=dict(extra))


def _seen(field: Field, value: Any) -> Any:
    """``value`` of ``field`` as a message shows it: with its unit, and a secret not at all."""
    if field.secret:
        return None
    show = next((kind.reader.show for kind in field.kinds if kind.reader and kind.reader.show), None)
    return show(value) if show is not None and type(value) is float else value


def _read_function(value: Any) -> Any:
    if value is None or callable(value):
        return value
    raise Refused("a function", "it can only be given in code")


def _read_errors(value: Any) -> tuple[type[BaseException], ...]:
    listed = value if isinstance(value, tuple | list) else (value,)
    if len(listed) > ERRORS_LIMIT:
        raise Refused(f"at most {ERRORS_LIMIT} exceptions")
    return tuple(_error_class(item) for item in listed)


def _error_class(item: Any) -> type[BaseException]:
    if isinstance(item, str):
        module, _, name = item.rpartition(".")
        try:
            item = getattr(importlib.import_module(module or "builtins"), name)
        except Exception:  # importing runs the module's own code, which may raise anything
            raise Refused("the name of an exception, such as OSError or package.module.Error", "") from None
    if isinstance(item, type) and issubclass(item, BaseException):
        return item
    raise ValueError


SECONDS: Final = Reader(parse_duration, "a duration such as 500ms or 1m30s", show=Duration)
Seconds: TypeAlias = Annotated[Duration, Meta(extra={"reader": SECONDS})]
"""The type of a setting that is a duration: given as seconds or as text such as ``500ms``, read as a float.

Type checkers know both. A default is written ``Duration(0.5)``, or with a type of its own they would refuse it.
"""
SecondsText: TypeAlias = Annotated[float | str, Meta(extra={"reader": SECONDS})]
"""``Seconds`` for unions and tuples, where type checkers know only what may be given: read it with ``float()``."""
ERRORS: Final = Reader(_read_errors, "exceptions, or their names such as OSError")
FUNCTION: Final = Reader(_read_function, "a function")
Errors: TypeAlias = Annotated[type[BaseException] | tuple[type[BaseException], ...], Meta(extra={"reader": ERRORS})]
"""The type of a setting that lists exceptions; always a tuple once it is read."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one thing. Immutable, validated when they are made, whoever makes them.

    Derive with ``frozen=True``; the first field of the class is the one that may be given by position. Raises
    ``ConfigError``, which names the setting, the value and what was expected.
    """

    def __post_init__(self) -> None:
        owner = self.owner()
        for field in settings_of(type(self)):
            value = getattr(self, field.name)
            try:
                read = from_plain(field.kinds, value)
            except Refused as refused:
                shown = None if field.secret else value
                # A message shows no value for None, which is what a forgotten one is as a rule.
                hint = refused.hint or ("it is None" if value is None else "")
                raise ConfigError(f"{owner} {field.name}", shown, refused.expected, hint=hint) from None
            except ConfigError as error:
                raise placed(error, f"{owner} {field.name}") from None
            if read is not value:
                msgspec.structs.force_setattr(self, field.name, read)
        self.check()

    @classmethod
    def owner(cls) -> str:
        """The name of what these settings are for."""
        return cls.__name__.removesuffix("Settings")

    @classmethod
    def positional(cls) -> str:
        """The setting that may be given by position: the first of its own."""
        return cls.__struct_fields__[0]

    def check(self) -> None:
        """Rules between several settings: raise with ``self.wrong(...)``."""

    def wrong(self, name: str, expected: str, hint: str = "") -> ConfigError:
        """The error for a setting that does not go with the others."""
        return ConfigError(f"{self.owner()} {name}", self.shown(name), expected, hint=hint)

    def shown(self, name: str) -> Any:
        """The value of a setting for a message: its ``repr`` has a duration with its unit. None for a secret."""
        field = next(field for field in settings_of(type(self)) if field.name == name)
        return _seen(field, getattr(self, name))

    def __repr__(self) -> str:
        return described(self.owner(), self, settings_of(type(self)))


class PolicySettings(Settings, frozen=True, kw_only=True):
    """The settings of one policy."""

    name: Annotated[str, about("What logs, metrics and refusals call it; by default its kind.")] = ""


class GateSettings(PolicySettings, frozen=True, kw_only=True):
    """The settings that every gate has."""

    observe: Annotated[bool, about("Refuse nothing; count what would have been refused.")] = False


SYNONYMS: Final[Mapping[str, str]] = {
    "retries": "attempts",
    "tries": "attempts",
    "max_attempts": "attempts",
    "max_tries": "attempts",
    "max_retries": "attempts",
    "reset_timeout": "open",
    "recovery_timeout": "open",
    "break_duration": "open",
    "fail_max": "consecutive",
    "failure_threshold": "consecutive",
    "maxsize": "entries",
    "max_size": "entries",
    "default": "value",
    "stale_while_revalidate": "stale",
    "max_concurrent": "limit",
}
"""What other libraries call a setting (tenacity, backoff, pybreaker, circuitbreaker, cachetools, ...)."""


def unknown(name: str, names: Collection[str]) -> str:
    """What to tell whoever gave a setting ``name``, which is none of ``names``."""
    near = SYNONYMS.get(name, "")
    near = near if near in names else nearest(name, names)
    return f"did you mean {near}?" if near else f"there are {', '.join(names)}"


@functools.cache
def settings_of(schema: type[Settings]) -> list[Field]:
    """The settings in ``schema``, its own first."""
    return fields_of(schema)


def read_table(schema: type[T], value: object) -> T:
    """The settings that ``value`` is or, as a table of plain values, describes: for readers of settings in settings.

    ``ValueError`` when it is neither; ``ConfigError`` for what is wrong inside.
    """
    if isinstance(value, schema):
        return value
    if not isinstance(value, Mapping):
        raise ValueError
    fields = {field.name: field for field in settings_of(schema)}
    for name in value:
        if name not in fields:
            raise ConfigError(
                f"{schema.owner()} {name}", None, "the name of a setting", hint=unknown(str(name), fields)
            )
    for name, field in fields.items():
        if field.required and name not in value:
            raise ConfigError(f"{schema.owner()} {name}", None, field.expected, hint="it must be given")
    return schema(**value)


def read_seconds(value: object, where: str, hint: str = "") -> float:
    """The seconds that ``value`` means, a number or text, for what is no setting. Raises ``ConfigError``."""
    try:
        return parse_duration(value)  # type: ignore[arg-type]  # it refuses all other types itself
    except ValueError:
        raise ConfigError(where, value, SECONDS.expected, hint=hint) from None


def placed(error: ConfigError, where: str) -> ConfigError:
    """``error``, of settings inside of others, with ``where`` they are in place of the name of their owner."""
    inside = error.path.rpartition(" ")[2]
    dot = "" if inside.startswith("[") or not where else "."
    return ConfigError(f"{where}{dot}{inside}", error.value, error.expected, hint=error.hint)
