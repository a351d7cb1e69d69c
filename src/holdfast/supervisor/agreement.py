"""How all workers come to have the same configuration: first all are asked, then all are told.

A worker that is gone has no vote, nor has one that hangs or drains: others take their places. One that serves and does
not answer within ``ANSWER_LIMIT`` says no: its event loop is blocked, and what it would do with a change nobody knows.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from holdfast.config.mistakes import Place, Shown, all_of
from holdfast.core.errors import ConfigError
from holdfast.supervisor.channel import (
    Agreed,
    Answer,
    Apply,
    Configure,
    Configured,
    Count,
    Disagreed,
    Forget,
    Mistake,
)
from holdfast.supervisor.parcel import Parcel
from holdfast.supervisor.process import Worker

logger = logging.getLogger("holdfast.supervisor")

ANSWER_LIMIT: Final = 15.0
"""Seconds that a worker has to read a configuration and to ask the app's checks, which have 10 by default."""
KEEP_UP_LIMIT: Final = 10
"""Changes that a worker may have to follow between its boot and its slot."""
APPLY_LIMIT: Final = 15.0
"""Seconds that a worker has to tell the app's hooks."""

tickets: Final = itertools.count(time.monotonic_ns())
"""What answers are known by. Across a re-exec, too, none is given twice."""


async def ask(workers: Sequence[Worker], parcel: Parcel) -> tuple[int, frozenset[Place]]:
    """Ask all ``workers`` whether they could have ``parcel``. Nothing changes.

    Returns the ticket for ``tell``, and the places of secrets that only the app knows of. Raises ``ConfigErrors`` with
    what they do not agree to, each mistake once; those that agreed have been told to forget it, and on a cancellation.
    """
    ticket = next(tickets)
    try:
        told = await answers(workers, ticket, Configure(ticket, parcel), ANSWER_LIMIT)
        mistakes: dict[str, ConfigError] = {}
        secrets: set[Place] = set()
        for worker, answer in zip(workers, told, strict=True):
            match answer:
                case Agreed():
                    secrets.update(answer.secrets)
                case Disagreed():
                    mistakes.update({str(error): error for error in map(_error, answer.mistakes)})
                case TimeoutError() if not worker.hung and worker.state == "ready":
                    wanted = f"an answer of every worker within {ANSWER_LIMIT:g} s"
                    hint = f"the event loop of worker {worker.slot} (process {worker.pid}) is blocked"
                    mistakes[str(worker.pid)] = ConfigError("", None, wanted, hint=hint)
                case _:
                    pass
        if mistakes:
            raise all_of(mistakes.values())
    except BaseException:
        for worker in workers:
            worker.send(Forget(ticket))
        raise
    return ticket, frozenset(secrets)


async def tell(workers: Sequence[Worker], ticket: int) -> None:
    """Tell all ``workers``, which have agreed, that it holds. Returns when they have it, or their time is over.

    The messages are sent before the first wait.
    """
    for worker, answer in zip(workers, await answers(workers, ticket, Apply(ticket), APPLY_LIMIT), strict=True):
        _note(worker, answer)


async def catch_up(workers: Sequence[Worker], parcel: Parcel) -> None:
    """Have ``workers`` take ``parcel``, each by itself. ``refusal`` of a worker says why it could not."""
    ticket = next(tickets)
    order = Configure(ticket, parcel, hold=False)
    for worker in workers:
        worker.refusal = ""
    for worker, answer in zip(workers, await answers(workers, ticket, order, ANSWER_LIMIT), strict=True):
        _note(worker, answer)


async def keep_up(worker: Worker, current: Callable[[], Parcel | None]) -> str:
    """Have a worker that has just booted follow what changed meanwhile. Why it cannot; empty when it is up to date,
    and then nothing can have changed again before the caller goes on."""
    for _ in range(KEEP_UP_LIMIT):
        parcel = current()
        if parcel is None or worker.version == parcel.version:
            return ""
        await catch_up([worker], parcel)
        if worker.refusal:
            return worker.refusal
        if worker.state != "ready":
            return f"it {worker.ending}"
    return "it changes too fast"


def _note(worker: Worker, answer: Answer | TimeoutError | None) -> None:
    match answer:
        case Configured(_, version, _, deaf):
            if deaf:
                who = ", ".join(deaf)
                logger.error("worker %d was told of configuration %d; these failed: %s", worker.slot, version, who)
        case Disagreed(_, mistakes):
            worker.refusal = "; ".join(str(_error(mistake)) for mistake in mistakes)
        case TimeoutError():
            worker.refusal = "it does not answer"
        case _:
            return
    if worker.refusal:
        logger.error("worker %d (process %d) cannot follow: %s", worker.slot, worker.pid, worker.refusal)


async def answers(
    workers: Sequence[Worker], ticket: int, message: Configure | Apply | Count, within: float
) -> list[Answer | TimeoutError | None]:
    """What each of ``workers`` answers within so many seconds; None for one that is gone."""

    async def answer(worker: Worker) -> Answer | TimeoutError | None:
        try:
            return await worker.answer(ticket, message, within)
        except TimeoutError as error:
            return error

    tasks = [asyncio.create_task(answer(worker)) for worker in workers]
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]


def _error(mistake: Mistake) -> ConfigError:
    value = None if mistake.value is None else Shown(mistake.value)
    return ConfigError(mistake.path, value, mistake.expected, mistake.source, mistake.hint)


def voters(workers: Iterable[Worker | None]) -> list[Worker]:
    """Those of ``workers`` that are asked."""
    return [worker for worker in workers if worker is not None and worker.state == "ready" and not worker.hung]
