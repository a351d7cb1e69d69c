"""Who waits for whom: so that executions that ask for each other do not wait for ever.

Two shared executions that each ask for what the other one makes would wait until their deadlines, or for good.
Nobody can see that from inside; here it is seen from above. Whoever is about to wait says so first and looks then, so
of two who do it at the same moment at least one sees the other. The code that runs inside of an execution knows it
by its context, which tasks and ``asyncio.to_thread`` copy: circles may go through tasks, threads and policies.
"""

from contextvars import ContextVar
from typing import Final

import msgspec


class Running(msgspec.Struct, eq=False):
    """A shared execution while it runs. ``awaits``: those that its work waits for at the moment.

    Contexts may keep it for long after its end, so it holds nothing else.
    """

    ended: bool = False
    awaits: "list[Running]" = []


INSIDE: Final[ContextVar[Running | None]] = ContextVar("holdfast_shared_execution", default=None)
"""The innermost shared execution that the code at hand is part of."""


def begin_wait(running: Running) -> bool:
    """The code at hand is about to wait for ``running``. False when that would be for ever: then it must not.

    After True, ``end_wait`` follows. Safe from any thread.
    """
    own = INSIDE.get()
    if own is None:
        return True
    own.awaits.append(running)
    if not _leads_to(running, own):
        return True
    own.awaits.remove(running)
    return False


def end_wait(running: Running) -> None:
    """The code at hand does not wait for ``running`` any more."""
    own = INSIDE.get()
    if own is not None:
        own.awaits.remove(running)


def _leads_to(first: Running, own: Running) -> bool:
    """Whether ``first`` is ``own``, or waits for it through others."""
    ahead, seen = [first], {first}
    while ahead:  # ends: nothing is looked at twice
        at = ahead.pop()
        if at is own:
            return True
        if not at.ended:
            new = [other for other in tuple(at.awaits) if other not in seen]
            seen.update(new)
            ahead += new
    return False
