import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Verdict, bare_call
from holdfast.core.classify import DEFAULT, MEMBERS_LIMIT, Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.codes import Code
from holdfast.core.errors import CallCancelled, CircuitOpen, DeadlineExceeded
from holdfast.core.failure import ServiceError
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ValueError(), FAILED),
        (OSError(), FAILED),
        (CircuitOpen("inner", "open"), IGNORED),
        (DeadlineExceeded(), FAILED),
        (CallCancelled(), IGNORED),
        (KeyboardInterrupt(), IGNORED),
        (asyncio.CancelledError(), IGNORED),
        (GeneratorExit(), IGNORED),
    ],
)
def test_what_an_exception_says(error: BaseException, verdict: Verdict) -> None:
    assert DEFAULT.of_error(error, bare_call(now=5.0)) is verdict


@pytest.mark.parametrize(("deadline", "verdict"), [(inf, IGNORED), (5.1, IGNORED), (5.0, FAILED), (4.0, FAILED)])
def test_a_cancellation_is_a_failure_only_once_the_deadline_has_passed(deadline: float, verdict: Verdict) -> None:
    assert DEFAULT.of_error(asyncio.CancelledError(), bare_call(now=5.0, deadline=deadline)) is verdict


def test_an_error_that_blames_the_caller_is_an_answer() -> None:
    class Stale(ServiceError): ...

    call = bare_call("x")
    for code, verdict in (
        (Code.NOT_FOUND, OK),
        (Code.ABORTED, OK),
        (Code.UNAVAILABLE, FAILED),
        (Code.INTERNAL, FAILED),
    ):
        assert DEFAULT.of_error(ServiceError(code), call) is verdict
    assert DEFAULT.of_error(ServiceError(Code.NOT_FOUND, status=502), call) is FAILED
    assert DEFAULT.of_error(ExceptionGroup("two", [ServiceError(Code.NOT_FOUND)]), call) is OK
    named = Classifier(record=(Exception, Stale))
    assert named.of_error(Stale(Code.ABORTED), call) is FAILED
    assert named.of_error(ServiceError(Code.ABORTED), call) is OK
    assert Classifier(ignore=(ServiceError,)).of_error(ServiceError(Code.INTERNAL), call) is IGNORED


def test_ignore_comes_before_record_and_what_is_in_neither_is_fine() -> None:
    classifier = Classifier(ignore=(KeyError,), record=(LookupError, OSError))
    verdicts = [classifier.of_error(kind(), bare_call()) for kind in (KeyError, IndexError, OSError, ValueError)]
    assert verdicts == [IGNORED, FAILED, FAILED, OK]


def test_even_a_refusal_can_be_ignored_or_recorded_only_by_its_own_rule() -> None:
    assert Classifier(ignore=(DeadlineExceeded,)).of_error(DeadlineExceeded(), bare_call()) is IGNORED
    assert Classifier(record=(Exception,)).of_error(CircuitOpen("inner", "open"), bare_call()) is IGNORED


class Named(ExceptionGroup[Exception]):
    """A group that somebody may name."""


def grouped(*members: BaseException) -> BaseException:
    return BaseExceptionGroup("several", members)


@pytest.mark.parametrize(
    ("group", "verdict"),
    [
        (grouped(KeyError(), KeyError()), IGNORED),
        (grouped(KeyError(), grouped(KeyError())), IGNORED),
        (grouped(KeyError(), CircuitOpen("inner", "open"), CallCancelled()), IGNORED),
        (grouped(KeyError(), OSError()), FAILED),
        (grouped(OSError(), ValueError(), KeyError()), FAILED),
        (grouped(KeyError(), grouped(ValueError(), grouped(OSError()), ValueError())), FAILED),
        (grouped(KeyError(), DeadlineExceeded()), FAILED),
        (grouped(KeyError(), ValueError()), OK),
        (grouped(ValueError(), KeyError()), OK),
        (grouped(ValueError()), OK),
        (grouped(asyncio.CancelledError(), KeyError()), IGNORED),
        (grouped(KeyboardInterrupt(), OSError()), FAILED),
        (grouped(KeyboardInterrupt(), grouped(ValueError())), OK),
        (Named("several", [KeyError()]), IGNORED),
    ],
    ids=repr,
)
def test_a_group_is_failed_if_any_leaf_is_and_ignored_if_all_are(group: BaseException, verdict: Verdict) -> None:
    classifier = Classifier(ignore=(KeyError,), record=(OSError,))
    assert classifier.of_error(group, bare_call(now=5.0, deadline=6.0)) is verdict


def test_by_default_a_group_of_failures_is_one_and_one_of_refusals_is_none() -> None:
    assert DEFAULT.of_error(grouped(CallCancelled(), ValueError()), bare_call()) is FAILED
    assert DEFAULT.of_error(grouped(CallCancelled(), CircuitOpen("inner", "open")), bare_call()) is IGNORED


def test_a_cancellation_in_a_group_is_a_failure_once_the_deadline_has_passed() -> None:
    group = grouped(KeyError(), asyncio.CancelledError())
    assert Classifier(ignore=(KeyError,)).of_error(group, bare_call(now=5.0, deadline=5.0)) is FAILED


def test_a_class_of_groups_that_is_named_counts_whatever_is_in_it() -> None:
    inner = Named("several", [OSError()])
    ignoring = Classifier(ignore=(Named,))
    assert [ignoring.of_error(error, bare_call()) for error in (inner, grouped(inner))] == [IGNORED, IGNORED]
    recording = Classifier(ignore=(OSError,), record=(Named,))
    assert [recording.of_error(error, bare_call()) for error in (inner, grouped(inner))] == [FAILED, FAILED]


def test_a_group_with_more_members_than_are_looked_at_is_a_failure() -> None:
    classifier = Classifier(ignore=(KeyError,))
    verdicts = [
        classifier.of_error(grouped(*[KeyError()] * size), bare_call()) for size in (MEMBERS_LIMIT - 1, MEMBERS_LIMIT)
    ]
    assert verdicts == [IGNORED, FAILED]
    deep: BaseException = KeyError()
    for _ in range(MEMBERS_LIMIT + 100):
        deep = grouped(deep)
    assert classifier.of_error(deep, bare_call()) is FAILED


def test_a_breaker_does_not_count_a_group_of_ignored_errors() -> None:
    breaker = Breaker(consecutive=1)
    pipeline = Pipeline("x", breaker, classify=Classifier(ignore=(KeyError,)))

    def fail(*members: Exception) -> None:
        raise ExceptionGroup("several", members)

    with pytest.raises(ExceptionGroup):
        pipeline.call(fail, KeyError(), KeyError())
    assert breaker.state == "closed"
    with pytest.raises(ExceptionGroup):
        pipeline.call(fail, KeyError(), OSError())
    assert breaker.state == "open"


def test_results_are_judged_when_there_is_a_judge() -> None:
    classifier = Classifier(failed=lambda status: status >= 500)
    assert [classifier.of_result(status) for status in (200, 503)] == [OK, FAILED]
    assert DEFAULT.of_result(503) is OK


def _verdict_of(fn: Callable[[], object], classifier: Classifier) -> Verdict:
    seen: list[Verdict] = []
    pipeline = Pipeline("x", classify=classifier, clock=VirtualClock())
    call = bare_call()
    call.fn = fn
    try:
        pipeline.run(call)
    except ZeroDivisionError:
        seen.append(call.verdict)
    return call.verdict


def test_a_judge_that_raises_is_a_failure_of_the_attempt() -> None:
    assert _verdict_of(lambda: 0, Classifier(failed=lambda result: 1 // result > 0)) is FAILED


@pytest.mark.parametrize(
    "wrong", [{"ignore": "KeyError"}, {"record": KeyError}, {"ignore": ("KeyError",)}, {"failed": 3}]
)
def test_what_cannot_judge_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"Classifier {min(wrong)} is"):
        Classifier(**wrong)
