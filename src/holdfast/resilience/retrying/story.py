"""What the error that ends a call tells of the attempts before: a note, and the failure that it does not show."""

from typing import Any, Final

from holdfast.core.errors import DeadlineExceeded, Rejected

FAILURE_LIMIT: Final = 200
"""Characters of an earlier failure that a note tells."""


class Delay(float):
    """Seconds until the next attempt, and ``failure``: why there is one.

    The failure is told in words. The error itself would be kept by the frame that its traceback leads to: a cycle,
    which only the garbage collector frees, with the call's arguments in it.
    """

    __slots__ = ("failure",)

    failure: str

    def __new__(cls, seconds: float, failure: str) -> "Delay":
        self = super().__new__(cls, seconds)
        self.failure = failure
        return self


def is_refusal(outcome: Any) -> bool:
    """Whether a policy did not let the attempt through. Time that ran out is the dependency's failure."""
    return isinstance(outcome, Rejected) and not isinstance(outcome, DeadlineExceeded)


def failure_of(outcome: Any, previous: float | None) -> str:
    """What failed, in words. For a refusal it is what failed before it, if anything has: see ``previous.failure``."""
    if isinstance(previous, Delay) and is_refusal(outcome):
        return previous.failure
    if not isinstance(outcome, Exception):
        return "a result that counts as a failure"
    try:
        text = " ".join(str(outcome).split())[:FAILURE_LIMIT]
    except Exception:  # an odd error: its class has to do
        text = ""
    return f"{type(outcome).__name__}: {text}" if text else type(outcome).__name__


def add_note(error: Exception, name: str, text: str) -> None:
    """Tell the error's story. An error that is raised again and again, by many calls, tells the last one only."""
    told = f"{name}: "
    try:
        notes = [note for note in getattr(error, "__notes__", ()) if not str(note).startswith(told)]
        # Past the error's own __setattr__, which some classes lock.
        object.__setattr__(error, "__notes__", [*notes, told + text])
    except Exception:  # a class that is odd, or has notes of its own kind; the error is worth more than the note
        return
