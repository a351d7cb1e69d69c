import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Verdict, bare_call
from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CallCancelled, CircuitOpen, DeadlineExceeded
from holdfast.core.pipeline import Pipeline


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


def test_ignore_comes_before_record_and_what_is_in_neither_is_fine() -> None:
    classifier = Classifier(ignore=(KeyError,), record=(LookupError, OSError))
    verdicts = [classifier.of_error(kind(), bare_call()) for kind in (KeyError, IndexError, OSError, ValueError)]
    assert verdicts == [IGNORED, FAILED, FAILED, OK]


def test_even_a_refusal_can_be_ignored_or_recorded_only_by_its_own_rule() -> None:
    assert Classifier(ignore=(DeadlineExceeded,)).of_error(DeadlineExceeded(), bare_call()) is IGNORED
    assert Classifier(record=(Exception,)).of_error(CircuitOpen("inner", "open"), bare_call()) is IGNORED


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
