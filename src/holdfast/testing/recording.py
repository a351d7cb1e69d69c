"""What became of the calls that went through a pipeline: "this call was retried twice"."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

import msgspec

from holdfast.core.call import AsyncHandler, Call, Handler, Verdict
from holdfast.core.errors import Rejected
from holdfast.core.pipeline import Pipeline, pipeline_of
from holdfast.core.policy import Policy
from holdfast.core.settings import PolicySettings

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
def recorded(target: "Pipeline | Callable[..., Any]") -> Iterator[Recording]:
    """Record the calls through ``target`` (a pipeline, or a function decorated with one) that begin in the block.

    ::

        with recorded(fetch) as calls:
            await fetch("book")
        assert calls.last.retries == 2
    """
    pipeline = target if isinstance(target, Pipeline) else pipeline_of(target)
    recording = Recording()
    outside, inside = _Outside(recording), _Inside(recording)
    pipeline.replace(outside, *pipeline.policies, inside)
    try:
        yield recording
    finally:
        pipeline.replace(*(policy for policy in pipeline.policies if policy not in (outside, inside)))


class _Probe(Policy[PolicySettings]):
    """Runs ``begin`` before and ``end`` after what is inside, whatever happens there."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        super().__init__(PolicySettings(name=self.kind))

    def begin(self, call: Call) -> Any:
        raise NotImplementedError

    def end(self, call: Call, record: Any, result: Any, error: BaseException | None) -> None:
        raise NotImplementedError

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            record = self.begin(call)
            try:
                result = inner(call)
            except BaseException as error:
                self.end(call, record, None, error)
                raise
            self.end(call, record, result, None)
            return result

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            record = self.begin(call)
            try:
                result = await inner(call)
            except BaseException as error:
                self.end(call, record, None, error)
                raise
            self.end(call, record, result, None)
            return result

        return run


class _Outside(_Probe):
    kind = "recording"

    def begin(self, call: Call) -> Any:
        if len(self.recording.calls) >= RECORDS_LIMIT:
            raise RuntimeError(f"more than {RECORDS_LIMIT} calls in one recording; record a smaller part of the test")
        record = CallRecord(call.operation, call.clock.now())
        self.recording.calls.append(record)
        return record, _records.set({**_records.get(), id(self.recording): record})

    def end(self, call: Call, begun: Any, result: Any, error: BaseException | None) -> None:
        record, token = begun
        _records.reset(token)
        record.ended, record.result, record.error = call.clock.now(), result, error


class _Inside(_Probe):
    kind = "attempts"

    def begin(self, call: Call) -> Attempt:
        attempt = Attempt(call.clock.now())
        record = _records.get().get(id(self.recording))
        if record is not None:  # else the call began before the recording
            record.attempts.append(attempt)
        return attempt

    def end(self, call: Call, record: Attempt, result: Any, error: BaseException | None) -> None:
        record.ended, record.verdict, record.error = call.clock.now(), call.verdict, error
