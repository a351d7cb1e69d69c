"""Settings in layers: the struct's defaults, then a TOML file, then the environment, then flags.

A settings struct is flat and frozen; it is written down once, and everything else (the file's keys, the
names of variables, the command line's options, the messages) comes from it. Every mistake is a
``ConfigError`` whose text is one line: the place, the value, what is expected, the nearest name that exists.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from holdfast.config.layers import VARIABLES, toml_in
from holdfast.config.reading import read_text
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.fields import Field, fields_of
from holdfast.core.kinds import Refused, from_plain, from_text, nearest
from holdfast.core.size import Size

S = TypeVar("S", bound=msgspec.Struct)

Origin = Literal["default", "file", "env", "flag"]

NAMES_SHOWN: Final = 12
"""How many valid names a message lists when none is near."""


def load(
    schema: type[S],
    *,
    table: str,
    file: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    prefix: str = "HOLDFAST_",
    ignore_env: Collection[str] = (),
    other_tables: Collection[str] = (),
) -> S:
    """One validated ``schema`` out of all layers; later layers win. Raises ``ConfigError``.

    ``file`` must exist when given; only its ``[table]`` is read, and a top-level name that is neither that
    nor in ``other_tables`` is an error. Of ``env`` only names with ``prefix`` count, and each must be a setting
    or be in ``ignore_env``. A flag that is None is absent, and so is an empty tuple, which click hands over for
    an option that may be repeated and was not given. Text in ``env`` and ``flags`` is read by the field's type:
    lists are separated by commas, empty text is None where the type allows None.
    """
    return load_with_origins(
        schema,
        table=table,
        file=file,
        env=env,
        flags=flags,
        prefix=prefix,
        ignore_env=ignore_env,
        other_tables=other_tables,
    )[0]


def load_with_origins(
    schema: type[S],
    *,
    table: str,
    file: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    prefix: str = "HOLDFAST_",
    ignore_env: Collection[str] = (),
    other_tables: Collection[str] = (),
) -> tuple[S, dict[str, Origin]]:
    """As ``load``, and for each setting the layer that it came from."""
    fields = {field.name: field for field in fields_of(schema)}
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(fields, "default")
    layers: tuple[tuple[Origin, Iterator[tuple[str, Any]]], ...] = (
        ("file", _from_file(fields, table, file, other_tables)),
        ("env", _from_env(fields, env, prefix, ignore_env, f"{VARIABLES}{table.upper()}__")),
        ("flag", _from_flags(fields, flags)),
    )
    for origin, layer in layers:
        for name, value in layer:
            values[name] = value
            origins[name] = origin
    return _built(schema, fields, values, f"[{table}]"), origins


def dump(settings: msgspec.Struct) -> dict[str, Any]:
    """``settings`` as plain values for any codec, secrets included: for another process, not for people."""
    return {name: _plain(value) for name, value in msgspec.structs.asdict(settings).items()}


def restore(schema: type[S], values: Mapping[str, Any]) -> S:
    """The settings that ``dump`` took apart. Raises ``ConfigError``."""
    fields = {field.name: field for field in fields_of(schema)}
    known = {
        name: _read(_known(fields, name, schema.__name__, str), value, name, schema.__name__)
        for name, value in values.items()
    }
    return _built(schema, fields, known, schema.__name__)


def _from_file(
    fields: dict[str, Field], table: str, file: Path | None, other_tables: Collection[str]
) -> Iterator[tuple[str, Any]]:
    if file is None:
        return
    document = toml_in(read_text(file), str(file))
    for name in document:
        if name != table and name not in other_tables:
            places = [table, *other_tables]
            hint = f"move it below [{table}]" if name in fields else _hint(name, places)
            raise ConfigError(name, None, "a table of settings that exists", source=str(file), hint=hint)
    source = f"{file} [{table}]"
    entries = document.get(table, {})
    if not isinstance(entries, dict):
        raise ConfigError(table, None, "a table", source=str(file), hint=f"write [{table}] on its own line")
    for name, value in entries.items():
        field = _known(fields, name, source, str)
        yield name, _read(field, value, name, source)


def _from_env(
    fields: dict[str, Field], env: Mapping[str, str], prefix: str, ignore_env: Collection[str], long: str
) -> Iterator[tuple[str, Any]]:
    """``long`` is what variables of this table begin with that name it; those of other tables are not looked at."""
    for start in (long, prefix):
        names = {start + name.upper(): name for name in fields}
        for variable, text in env.items():
            other = start == prefix and variable.startswith(VARIABLES)
            if variable.startswith(start) and not other and variable not in ignore_env:
                if variable not in names:
                    bare = variable.removeprefix(start)
                    raise _unknown(fields, bare, "", lambda name, start=start: start + name.upper(), variable)  # type: ignore[misc]
                yield names[variable], _read_text(fields[names[variable]], text, variable)


def _from_flags(fields: dict[str, Field], flags: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    for name, value in flags.items():
        if value is None or value == ():
            continue
        field = _known(fields, name, "", _flag)
        if isinstance(value, str):
            yield name, _read_text(field, value, _flag(name))
        else:
            yield name, _read(field, value, _flag(name), "")


def _known(fields: dict[str, Field], name: str, source: str, form: Callable[[str], str]) -> Field:
    if name not in fields:
        raise _unknown(fields, name, source, form, form(name))
    return fields[name]


def _unknown(fields: dict[str, Field], name: str, source: str, form: Callable[[str], str], shown: str) -> ConfigError:
    """No such setting. The value is not shown: it may be a secret under a wrong name.

    ``form`` writes a name as this layer does; names are compared bare, since a common prefix makes all alike.
    """
    bare = name.lower().replace("-", "_")
    return ConfigError(shown, None, "the name of a setting", source=source, hint=_hint(bare, fields, form))


def _hint(name: str, names: Collection[str], form: Callable[[str], str] = str) -> str:
    near = nearest(name, names)
    if near:
        return f"did you mean {form(near)}?"
    shown = ", ".join(form(known) for known in sorted(names)[:NAMES_SHOWN])
    return f"there are {shown}{', ...' if len(names) > NAMES_SHOWN else ''}"


def _read(field: Field, value: object, shown: str, source: str) -> Any:
    try:
        return from_plain(field.kinds, value)
    except Refused as refused:
        raise _wrong(field, value, refused, shown, source) from None


def _read_text(field: Field, text: str, shown: str) -> Any:
    try:
        return from_text(field.kinds, text)
    except Refused as refused:
        raise _wrong(field, text, refused, shown, "") from None


def _wrong(field: Field, value: object, refused: Refused, shown: str, source: str) -> ConfigError:
    if field.secret:
        return ConfigError(shown, None, refused.expected, source=source, hint="the value is secret")
    return ConfigError(shown, value, refused.expected, source=source, hint=refused.hint)


def _built(schema: type[S], fields: dict[str, Field], values: Mapping[str, Any], place: str) -> S:
    for field in fields.values():
        if field.required and field.name not in values:
            raise ConfigError(field.name, None, field.expected, source=place, hint="it must be given")
    try:
        return schema(**values)
    except ValueError as error:  # a rule between several settings, checked by the struct's __post_init__
        raise ConfigError(place, None, str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Duration):
        return float(value)
    if isinstance(value, Size):
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
