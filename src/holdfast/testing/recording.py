"""What became of the calls that went through a pipeline: "this call was retried twice"."""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

import msgspec

from holdfast.core.call import Call, Verdict
from holdfast.core.errors import Rejected
from holdfast.core.fuse import Around, Fragment
from holdfast.testing.stage import Extra, Place, Target, added, pipeline_under

RECORDS_LIMIT: Final = 100_000
"""Calls that one recording holds; more are an error of the test."""


class Attempt(msgspec.Struct):
    """One time that the function itself was called. Times are seconds of the pipeline's clock."""

    began: float
    ended: float = 0.0
    verdict: Verdict = Verdict.IGNORED
    error: BaseException | None = None


class CallRecord(msgspec.Struct):
    """One call. Either ``error`` is set, or ``result`` is what the caller got. ``attempts`` may be none at all."""

    operation: str
    began: float
    ended: float = 0.0
    attempts: list[Attempt] = []
    result: Any = None
    error: BaseException | None = None

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return max(0, len(self.attempts) - 1)

    @property
    def refused_by(self) -> str:
        """The name of the policy that refused the call; empty when none did."""
        return self.error.policy if isinstance(self.error, Rejected) else ""

    @property
    def waits(self) -> list[float]:
        """Seconds from the end of each attempt to the beginning of the next."""
        return [later.began - earlier.ended for earlier, later in zip(self.attempts, self.attempts[1:], strict=False)]


_records: ContextVar[Mapping[int, CallRecord]] = ContextVar("holdfast_records", default=MappingProxyType({}))
"""By the recording's identity: the call that is under way here. Attempts that run as tasks inherit it."""


class Recording:
    """The calls of a block, in the order in which they began. Safe to read at any time."""

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []

    @property
    def last(self) -> CallRecord:
        """The call that began last. ``LookupError`` when there was none."""
        if not self.calls:
            raise LookupError("no call went through the pipeline")
        return self.calls[-1]

    @property
    def attempts(self) -> int:
        """Attempts of all calls."""
        return sum(len(call.attempts) for call in self.calls)

    @property
    def refusals(self) -> list[CallRecord]:
        """Calls that a policy refused."""
        return [call for call in self.calls if call.refused_by]


@contextmanager
def recorded(target: Target) -> Iterator[Recording]:
    """Record the calls through ``target`` (a pipeline, or a function decorated with one) that begin in the block.

    ::

        with recorded(fetch) as calls:
            await fetch("book")
        assert calls.last.retries == 2

    A ``guard()`` block is a call with one attempt and no result.
    """
    recording = Recording()
    with added(pipeline_under(target), _Outside(recording), _Inside(recording)):
        yield recording


class _Probe(Extra):
    """Runs ``enter`` before and ``end`` after what is inside, whatever happens there."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        super().__init__()

    @abstractmethod
    def end(self, call: Call, token: Any, result: Any, error: BaseException | None) -> None:
        """What is inside has ended."""

    def exit(self, call: Call, token: Any) -> None:
        # Only a block's: calls pass through the fragment. A hook that calls __exit__ by hand tells the verdict only.
        self.end(call, token, None, sys.exception())

    def fragment(self, asynchronous: bool) -> Fragment:
        def returned(call: Call, token: Any) -> None:
            # A gate is not told the result, and only a gate may stand around a block: the generated function that
            # calls this has it in a local variable of that name.
            self.end(call, token, sys._getframe(1).f_locals["result"], None)

        def raised(call: Call, token: Any, error: BaseException) -> None:
            self.end(call, token, None, error)

        return Around(self.enter, returned, raised)


class _Outside(_Probe):
    kind = "recording"
    place = Place.OUTSIDE

    def enter(self, call: Call) -> Any:
        if len(self.recording.calls) >= RECORDS_LIMIT:
            raise RuntimeError(f"more than {RECORDS_LIMIT} calls in one recording; record a smaller part of the test")
        record = CallRecord(call.operation, call.clock.now())
        self.recording.calls.append(record)
        return record, _records.set({**_records.get(), id(self.recording): record})

    def end(self, call: Call, token: Any, result: Any, error: BaseException | None) -> None:
        record, before = token
        record.ended, record.result, record.error = call.clock.now(), result, error
        with suppress(ValueError):  # a coroutine that nobody awaits any more is closed from outside its task
            _records.reset(before)


class _Inside(_Probe):
    kind = "attempts"
    place = Place.ATTEMPT

    def enter(self, call: Call) -> Attempt:
        attempt = Attempt(call.clock.now())
        record = _records.get().get(id(self.recording))
        if record is not None:  # else the call began before the recording
            record.attempts.append(attempt)
        return attempt

    def end(self, call: Call, token: Attempt, result: Any, error: BaseException | None) -> None:
        token.ended, token.verdict, token.error = call.clock.now(), call.verdict, error
