"""Command-line options made from the fields of a settings struct: nothing is written down twice."""

from collections.abc import Callable
from typing import Any

import click
import msgspec
from click.shell_completion import CompletionItem

from holdfast.core.duration import Duration
from holdfast.core.fields import Field, fields_of
from holdfast.core.size import Size


class SettingType(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Takes the text as it is: the settings' own reading judges it, with one message for all layers."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.name = _metavar(field)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self.name in ("FILE", "DIRECTORY"):
            return [CompletionItem(incomplete, type="file" if self.name == "FILE" else "dir")]
        return [CompletionItem(text) for text in _literals(self.field) if text.startswith(incomplete)]


def options_of(
    schema: type[msgspec.Struct], *, argument: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds one option for each field of ``schema``; the field ``argument`` becomes positional.

    The command gets every field by its name; what was not given is None, or an empty tuple when repeatable.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields_of(schema)):  # a decorator puts its option in front
            if field.name == argument:
                function = click.argument(
                    field.name, required=False, default=None, metavar=f"[{argument.upper()}]", type=str
                )(function)
            else:
                function = _option(field)(function)
        return function

    return decorate


def _option(field: Field) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + field.name.replace("_", "-")
    text = f"{field.description}{_default(field)}"
    if field.is_flag:
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=text)
    return click.option(
        flag,
        field.name,
        default=() if field.is_many else None,
        multiple=field.is_many,
        type=SettingType(field),
        metavar=_metavar(field),
        help=text,
    )


def _default(field: Field) -> str:
    if field.required or field.default in ("", (), None):
        return ""
    if field.is_flag:
        return f"  [{'on' if field.default else 'off'}]"
    values = field.default if field.is_many else (field.default,)
    return f"  [{', '.join(str(value) for value in values)}]"


def _literals(field: Field) -> list[str]:
    return [kind.literal for kind in field.kinds if isinstance(kind.literal, str)]


def _metavar(field: Field) -> str:
    if given := field.extra.get("metavar"):
        return str(given)
    nouns = {Duration: "DURATION", Size: "SIZE", int: "N", float: "X", str: "TEXT", tuple: "TEXT"}
    plain = [nouns.get(kind.type, "VALUE") for kind in field.kinds if kind.literal is msgspec.UNSET]
    return "|".join(dict.fromkeys([*plain, *_literals(field)]))
