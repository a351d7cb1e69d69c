"""One exception for several callers.

A raised exception is changed by whoever it meets: each frame adds to its traceback, each ``except`` may set its
context or add a note. So callers that share a failure get an object each.
"""

import copy
from types import TracebackType


def twin(error: BaseException, traceback: TracebackType | None = None) -> BaseException | None:
    """A copy of ``error`` that begins with ``traceback`` and has the same cause, context and notes.

    None when it cannot be copied faithfully: its class has a constructor that takes other arguments than it keeps.
    """
    try:
        made = copy.copy(error)
    except Exception:  # a constructor of the user's; there is then no twin
        return None
    if type(made) is not type(error) or made is error or not _alike(made.args, error.args):
        return None
    made.__cause__ = error.__cause__
    made.__context__ = error.__context__
    made.__suppress_context__ = error.__suppress_context__
    notes = getattr(error, "__notes__", None)
    if notes is not None:
        made.__notes__ = list(notes)
    return made.with_traceback(traceback)


def _alike(made: tuple[object, ...], kept: tuple[object, ...]) -> bool:
    # By identity: a copy has the very same arguments, and comparing them could do anything.
    return len(made) == len(kept) and all(one is other for one, other in zip(made, kept, strict=True))
