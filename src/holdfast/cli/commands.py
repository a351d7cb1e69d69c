"""Commands for a running supervisor: reload, upgrade, drain, scale, stop."""

import contextlib
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from holdfast.cli.answers import STATUS_LIMIT, as_json, ask, order, print_json, read
from holdfast.cli.client import Conversation, Refused
from holdfast.cli.exitcode import FAILED, TIMEOUT, CommandError
from holdfast.cli.progress import waiting
from holdfast.cli.target import find, target_options
from holdfast.supervisor.status import Outcome, Status

POLL: Final = 0.02


@click.command()
@target_options("10m")
@as_json
def reload(name: str | None, control: Path | None, timeout: float, as_json: bool) -> None:
    """Replace the workers by new ones that run the code and the settings of now.

    Returns when the new generation serves. When it does not come up the old one serves on; the exit status is then 1,
    and the failing app's own error is printed.
    """
    path = find(name, control)
    with waiting("booting the new generation"):
        outcome = _outcome(path, timeout, as_json, "reload")
    _tell_outcome(path, outcome, as_json)


@click.command()
@target_options("10m")
@click.option("--no-reload", is_flag=True, help="Leave the workers as they are.")
@as_json
def upgrade(name: str | None, control: Path | None, timeout: float, no_reload: bool, as_json: bool) -> None:
    """Replace the supervisor's own code and interpreter, in the same process, then reload the workers.

    The new code is tried out first: when it cannot take over, nothing changes and the exit status is 1. Sockets and
    workers stay; no request notices.
    """
    path = find(name, control)
    with waiting("trying the new code out"):
        outcome = _outcome(path, timeout, as_json, "upgrade", reload=not no_reload)
    _tell_outcome(path, outcome, as_json, upgraded=True)


@click.command()
@target_options("10s")
@click.option("--off", is_flag=True, help="Come back.")
@as_json
def drain(name: str | None, control: Path | None, timeout: float, off: bool, as_json: bool) -> None:
    """Leave the balancer: readiness fails, clients are told to connect elsewhere, and every request is answered."""
    status = _status_after(find(name, control), timeout, as_json, "drain", on=not off)
    told = "takes new connections" if off else "answers on, and sends its clients elsewhere"
    if status.state not in ("serving", "draining"):
        raise CommandError(FAILED, f"{status.name} is {status.state}; there is nothing to drain")
    _print_status(status, f"{status.name} {told}", as_json)


@click.command()
@target_options("10m")
@click.argument("count", type=click.IntRange(min=1), metavar="N")
@as_json
def scale(name: str | None, control: Path | None, timeout: float, count: int, as_json: bool) -> None:
    """Have N workers. New ones are ready when it returns; those that go finish what they have."""
    path = find(name, control)
    with waiting(f"scaling to {count}"):
        status = _status_after(path, timeout, as_json, "scale", count=count)
    _print_status(status, f"{status.name} has {_workers(status.wanted)}", as_json)


@click.command()
@target_options("5m")
@click.option("--now", is_flag=True, help="Kill the workers: requests in flight are lost.")
@as_json
def stop(name: str | None, control: Path | None, timeout: float, now: bool, as_json: bool) -> None:
    """Finish what is in flight and end. Returns when the supervisor's process is gone."""
    path = find(name, control)
    began = time.monotonic()
    # This connection stays open as long as the supervisor lives.
    with waiting("waiting for requests in flight"), Conversation(path, timeout) as life:
        life.say("events")
        status = ask(path, timeout, Status, "status")
        process = _process(status.pid)
        try:
            with Conversation(path, timeout) as conversation, contextlib.suppress(_Ended):
                _ask_to_stop(conversation, "kill" if now else "stop")
            for _ in life.answers():
                pass
            _await_end(process, timeout - (time.monotonic() - began))
        except CommandError as exc:
            if exc.status == TIMEOUT:
                raise CommandError(
                    TIMEOUT, f"{status.name} (process {status.pid}) is still stopping after {timeout:g} s"
                ) from exc
            raise
        finally:
            if process is not None:
                os.close(process)
    seconds = time.monotonic() - began
    if as_json:
        print_json({"name": status.name, "pid": status.pid, "stopped": True, "seconds": round(seconds, 3)})
    else:
        click.echo(f"{status.name} (process {status.pid}) has ended after {seconds:.1f} s")


class _Ended(Exception):
    """The supervisor was gone before it could answer."""


def _ask_to_stop(conversation: Conversation, op: str) -> None:
    conversation.say(op)
    for answer in conversation.answers():
        if answer.error is not None:
            raise Refused(answer.error)
        return
    raise _Ended


def _process(pid: int) -> int | None:
    """A descriptor that tells when the process ends, where the system has such a thing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it lives in another container, or is gone already
            return os.pidfd_open(pid)
    return None


def _await_end(process: int | None, within: float) -> None:
    """The connection ends a moment before the process does."""
    if process is not None:
        poller = select.poll()
        poller.register(process, select.POLLIN)
        if not poller.poll(max(0.0, within) * 1000):
            raise CommandError(TIMEOUT, "the process has not ended")


def _outcome(path: Path, timeout: float, as_json: bool, op: str, **parameters: Any) -> Outcome | None:
    """What came of a reload or an upgrade; None of an upgrade without a reload."""
    answer = order(path, timeout, as_json, op, **parameters)
    return read(path, answer, Outcome) if parameters.get("reload", True) else None


def _status_after(path: Path, timeout: float, as_json: bool, op: str, **parameters: Any) -> Status:
    return read(path, order(path, timeout, as_json, op, **parameters), Status)


def _tell_outcome(path: Path, outcome: Outcome | None, as_json: bool, *, upgraded: bool = False) -> None:
    try:
        status = ask(path, STATUS_LIMIT, Status, "status")
    except CommandError as exc:
        raise CommandError(exc.status, f"it is done, but then: {exc.reason}") from exc
    if as_json:
        told = {"ok": True, "generation": status.generation, "workers": status.wanted, "version": status.version}
        print_json({**told, "seconds": round(outcome.seconds, 3) if outcome is not None else 0.0})
        return
    parts = [f"{status.name} runs Holdfast {status.version} on Python {status.python}"] if upgraded else []
    if outcome is not None:
        parts.append(f"generation {outcome.generation} serves: {_workers(status.wanted)}, {outcome.seconds:.1f} s")
    click.echo("; ".join(parts))


def _print_status(status: Status, line: str, as_json: bool) -> None:
    if as_json:
        print_json(status)
    else:
        click.echo(line)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
