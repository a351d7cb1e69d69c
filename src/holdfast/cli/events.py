"""``holdfast events``: what happened, and what happens."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from holdfast.cli.client import Conversation
from holdfast.cli.exitcode import ABSENT, TIMEOUT, CommandError
from holdfast.cli.target import find, target_options
from holdfast.supervisor.status import AnyEvent, describe

GAP: Final = 3.0
"""Seconds in which a supervisor that replaces itself is back."""
POLL: Final = 0.1


@click.command()
@target_options(None)
@click.option("--json", "as_json", is_flag=True, help="Print each as one line of JSON.")
def events(name: str | None, control: Path | None, timeout: float | None, as_json: bool) -> None:
    """Show the last events and then each as it happens, until interrupted, --timeout, or the end of the supervisor."""
    path = find(name, control)
    last = None if timeout is None else time.monotonic() + timeout
    try:
        _follow(path, last, as_json)
    except KeyboardInterrupt:
        return
    except CommandError as exc:
        if exc.status != TIMEOUT:
            raise


def _follow(path: Path, last: float | None, as_json: bool) -> None:
    seen = float("-inf")
    with Conversation(path, _left(last)) as conversation:
        pid = _pid(path)
        seen = _print_all(conversation, seen, as_json)
    while _comes_back(path, pid):
        with Conversation(path, _left(last)) as conversation:
            seen = _print_all(conversation, seen, as_json)


def _print_all(conversation: Conversation, seen: float, as_json: bool) -> float:
    """Print what is later than ``seen`` until the connection ends; returns when the last one was."""
    conversation.say("events")
    for answer in conversation.answers():
        raw: dict[str, Any] = msgspec.json.decode(answer.event)
        at = float(raw["at"])
        if answer.past and at <= seen:
            continue
        seen = max(seen, at)
        click.echo(bytes(answer.event).decode() if as_json else line(raw))
    return seen


def _comes_back(path: Path, pid: int) -> bool:
    """Whether the same process answers again: it has replaced its program. Otherwise this is the end."""
    until = time.monotonic() + GAP
    while time.monotonic() < until:
        try:
            return _pid(path) == pid
        except CommandError as exc:
            if exc.status == ABSENT:
                return False
        time.sleep(POLL)
    return False


def _pid(path: Path) -> int:
    with Conversation(path, GAP) as conversation:
        answer: dict[str, Any] = msgspec.json.decode(conversation.ask("status"))
    return int(answer["pid"])


def _left(last: float | None) -> float | None:
    return None if last is None else max(0.001, last - time.monotonic())


def line(raw: dict[str, Any]) -> str:
    """One event for people. An event that this version does not know is shown as it is."""
    when = datetime.fromtimestamp(raw["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    try:
        event: AnyEvent = msgspec.convert(raw, type=AnyEvent)
    except msgspec.ValidationError:
        facts = " ".join(f"{name}={value}" for name, value in raw.items() if name not in ("at", "type"))
        return f"{when}  {raw.get('type', 'event')} {facts}"
    return f"{when}  {describe(event)[1]}".replace("\n", "\n    ")
