"""What an attempt's exception or result says about the dependency: ok, failed, or nothing.

The order is that of resilience4j: ignore, then record, else success.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from holdfast.core.call import FAILED, IGNORED, OK, Call, Verdict
from holdfast.core.errors import CallCancelled, DeadlineExceeded, HoldfastError, Rejected
from holdfast.core.failure import ServiceError

MEMBERS_LIMIT: Final = 1000
"""Members of an exception group, groups in it included, that are looked at."""

_REFUSALS: Final = (Rejected, CallCancelled)
# Looked for together, so that an ordinary exception pays for two classes only.
_UNCOMMON: Final = (HoldfastError, BaseExceptionGroup)


class Classifier(msgspec.Struct, frozen=True):
    """Judges each attempt once, for every policy of its pipeline. Immutable, safe to share.

    ``ignore``: exceptions that say nothing about the dependency. ``record``: those that are its failure; any
    other ``Exception`` means that it works and did not like the question. ``failed`` is asked about results:
    true means failure (``lambda response: response.status >= 500``). A ``failed`` that raises is a failure of
    the attempt, with its own exception.

    A ``ServiceError`` that blames the caller (a status below 500) is an answer, unless ``record`` names its class.

    Not up to the caller: a refusal by a policy further in is ignored, a ``DeadlineExceeded`` from there is a
    failure. A cancellation (or any other exception that is no ``Exception``) is ignored, unless the call's
    deadline had passed: then the dependency was too slow.

    An exception group is judged by what is in it: failed if any leaf is, ignored if all are. One that ``ignore`` or
    ``record`` names by a class of groups is judged by that.
    """

    ignore: tuple[type[BaseException], ...] = ()
    record: tuple[type[BaseException], ...] = (Exception,)
    failed: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("ignore", self.ignore), ("record", self.record)):
            if not isinstance(kinds, tuple) or not all(isinstance(kind, type) for kind in kinds):
                raise TypeError(
                    f"Classifier {name} is {kinds!r}; give a tuple of exception classes, such as (OSError,)"
                )
        if self.failed is not None and not callable(self.failed):
            raise TypeError(f"Classifier failed is {self.failed!r}; give a function of the result")

    def of_error(self, error: BaseException, call: Call) -> Verdict:
        """The verdict on an attempt that raised ``error``; ``call.now`` is when it did."""
        if isinstance(error, self.ignore):
            return IGNORED
        if isinstance(error, Exception):
            if isinstance(error, _UNCOMMON):
                if isinstance(error, _REFUSALS):
                    return FAILED if isinstance(error, DeadlineExceeded) else IGNORED
                if isinstance(error, BaseExceptionGroup):
                    return self._of_group(error, call)
                if isinstance(error, ServiceError) and error.failure.status < 500:
                    named = tuple(kind for kind in self.record if issubclass(kind, ServiceError))
                    return FAILED if isinstance(error, named) else OK
            return FAILED if isinstance(error, self.record) else OK
        if isinstance(error, BaseExceptionGroup):
            return self._of_group(error, call)
        return FAILED if call.now >= call.deadline else IGNORED

    def of_result(self, result: object) -> Verdict:
        """The verdict on an attempt that returned ``result``."""
        return FAILED if self.failed is not None and self.failed(result) else OK

    def of_block(self, failed: bool) -> Verdict:
        """The verdict on a block that ended without an exception."""
        return FAILED if failed else OK

    def _of_group(self, group: BaseExceptionGroup[BaseException], call: Call) -> Verdict:
        named = tuple(kind for kind in self.record if issubclass(kind, BaseExceptionGroup))
        verdict = IGNORED
        waiting: list[BaseException] = [group]
        for _ in range(MEMBERS_LIMIT + 1):
            if not waiting:
                return verdict
            error = waiting.pop()
            if isinstance(error, BaseExceptionGroup) and not isinstance(error, self.ignore):
                if isinstance(error, named):
                    return FAILED
                waiting += error.exceptions
                continue
            found = self.of_error(error, call)
            if found is FAILED:
                return FAILED
            if found is OK:
                verdict = OK
        return FAILED  # more than is looked at: better one failure too many


DEFAULT: Final = Classifier()
"""Every ``Exception`` is a failure, every result is fine."""
