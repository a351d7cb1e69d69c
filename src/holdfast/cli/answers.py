"""Questions and orders to a running supervisor, and their answers as they are read and printed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from holdfast.cli.client import Conversation, Refused
from holdfast.cli.exitcode import FAILED, TIMEOUT, CommandError

T = TypeVar("T")

STATUS_LIMIT: Final = 5.0
"""Seconds for the answer to a question that takes no work."""

as_json: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the answer as one line of JSON."
)


def ask(path: Path, timeout: float, kind: type[T], op: str, **parameters: Any) -> T:
    """One question to the supervisor, and its answer as a ``kind``. Raises CommandError."""
    with Conversation(path, timeout) as conversation:
        return read(path, conversation.ask(op, **parameters), kind)


def read(path: Path, answer: msgspec.Raw, kind: type[T]) -> T:
    """The answer of the supervisor at ``path`` as a ``kind``. Raises CommandError when it has another form: this
    program has been replaced since the supervisor began, or it is that of another environment."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as exc:
        reason = f"the supervisor at {path} runs another version of Holdfast, whose answer cannot be read: {exc}"
        raise CommandError(FAILED, f"{reason}; holdfast upgrade puts this one in its place") from exc


def order(
    path: Path, timeout: float, as_json: bool, op: str, *, verb: str = "", see: str = "status", **parameters: Any
) -> msgspec.Raw:
    """One order, and its answer. Raises CommandError, in whose words ``op`` is called ``verb``, and goes on after a
    TIMEOUT: ``see`` is the command that tells what becomes of it. With ``as_json`` a refusal is printed as JSON too,
    besides the line for people."""
    verb = verb or op
    try:
        with Conversation(path, timeout) as conversation:
            return conversation.ask(op, **parameters)
    except CommandError as exc:
        if as_json:
            print_json({"ok": False, "reason": exc.reason, "detail": exc.detail})
        if exc.status == TIMEOUT:
            raise CommandError(TIMEOUT, f"{exc.reason}; the {verb} goes on, see holdfast {see}") from exc
        if isinstance(exc, Refused):
            raise CommandError(FAILED, f"{verb} refused: {exc.reason}", exc.detail) from exc
        raise


def print_json(value: object) -> None:
    """One line on standard output."""
    click.echo(msgspec.json.encode(value).decode())
