import sys
from math import inf
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codes import Code
from holdfast.core.errorrule import ErrorRule
from holdfast.core.errors import (
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    Draining,
    Overloaded,
    RateLimited,
    Rejected,
)
from holdfast.core.errortable import ErrorTable
from holdfast.core.failure import Failure
from holdfast.resilience.rates.meter import Terms
from holdfast.resilience.rates.token_bucket import TokenBucket, quota
from holdfast.server.admission.answers import NAME_LIMIT, READY_LIMIT, RETRIED, Answers, too_many_connections
from holdfast.service.problem import problem_of

QUOTA = {"limit": 50, "remaining": 0, "reset": 3.2, "period": 1.0}


def taken_apart(answer: tuple[int, bytes]) -> tuple[str, dict[str, str], bytes]:
    head, _, body = answer[1].partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    assert f" {answer[0]} " in status
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return status, headers, body


def test_a_rate_limit_tells_when_to_come_back_and_what_is_left() -> None:
    status, headers, body = taken_apart(Answers().answer(RateLimited("api", "more than 50/s", 0.02, QUOTA)))
    assert status == "HTTP/1.1 429 Too Many Requests"
    assert headers["retry-after"] == "1"
    assert headers["ratelimit-policy"] == '"api";q=50;w=1'
    assert headers["ratelimit"] == '"api";r=0;t=1'
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["content-length"]) == len(body)
    told = msgspec.json.decode(body)
    assert (told["status"], told["reason"], told["retry_after"]) == (429, "RATE_LIMITED", 0.02)


def test_seconds_are_rounded_up() -> None:
    for wait, seconds in ((0.0, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")):
        _, headers, _ = taken_apart(Answers().answer(RateLimited("api", "x", wait, QUOTA)))
        assert headers["retry-after"] == seconds
        assert headers["ratelimit"] == f'"api";r=0;t={seconds}'


def test_a_limit_with_something_left_says_so() -> None:
    facts = {**QUOTA, "remaining": 3, "period": 0.5}
    _, headers, _ = taken_apart(Answers().answer(RateLimited("api", "x", None, facts)))
    assert headers["ratelimit"] == '"api";r=3'
    assert headers["ratelimit-policy"] == '"api";q=50;w=1'
    assert headers["retry-after"] == "1", "what nobody knows is told as soon"


def test_a_cost_that_can_never_be_had_has_no_time() -> None:
    fields = dict(Answers().rate_fields(RateLimited("api", "x", inf, {**QUOTA, "period": 7.2, "limit": inf})))
    assert fields == {b"ratelimit-policy": b'"api";q=999999999999999;w=8', b"ratelimit": b'"api";r=0'}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("x", "y"), "HTTP/1.1 503 Service Unavailable"),
        (BulkheadFull("x", "y", None, {"in_flight": 3, "limit": 3, "queued": 0}), "HTTP/1.1 503 Service Unavailable"),
        (CircuitOpen("x", "y"), "HTTP/1.1 503 Service Unavailable"),
        (Draining(), "HTTP/1.1 503 Service Unavailable"),
        (DeadlineExceeded(), "HTTP/1.1 504 Gateway Timeout"),
        (Rejected("x", "y"), "HTTP/1.1 503 Service Unavailable"),
        (too_many_connections(3), "HTTP/1.1 503 Service Unavailable"),
    ],
)
def test_other_refusals_have_their_status_and_no_rate(error: Rejected, status: str) -> None:
    line, headers, body = taken_apart(Answers().answer(error))
    assert line == status
    assert set(headers) == {"content-type", "content-length"} | ({"retry-after"} if " 503 " in line else set())
    assert int(headers["content-length"]) == len(body)


def test_a_refusal_that_knows_when_says_when() -> None:
    _, headers, _ = taken_apart(Answers().answer(CircuitOpen("x", "y", 4.2)))
    assert headers["retry-after"] == "5"


def test_what_policies_are_called_is_not_in_the_body() -> None:
    answer = Answers().answer(Overloaded("secret-upstream", "the limit of calls", None, None, "GET /internal"))
    assert b"secret-upstream" not in answer
    assert b"internal" not in answer


def test_a_head_has_no_body_and_a_connection_that_ends_says_so() -> None:
    answers = Answers()
    _, whole = answers.answer(Overloaded("x", "y"))
    _, head = answers.answer(Overloaded("x", "y"), head=True)
    assert head == whole[: whole.index(b"\r\n\r\n") + 4]
    _, headers, body = taken_apart(answers.answer(Overloaded("x", "y"), close=True, lines=b"date: now\r\n"))
    assert headers["connection"] == "close"
    assert headers["date"] == "now"
    assert body


def test_names_cannot_break_out_of_their_field() -> None:
    name = 'a"b\\c\r\nd%s é' + "x" * 100
    fields = dict(Answers().rate_fields(RateLimited(name, "x", 1.0, QUOTA)))
    assert fields[b"ratelimit"] == b'"a_b_c__d_s _' + b"x" * (NAME_LIMIT - 12) + b'";r=0;t=1'
    _, headers, _ = taken_apart(Answers().answer(RateLimited(name, "x", 1.0, QUOTA)))
    assert "d" not in headers


def test_the_apps_own_rules_hold_for_refusals() -> None:
    answers = Answers(ErrorTable({Overloaded: {"code": "resource_exhausted", "message": "Come later."}}))
    status, _, body = taken_apart(answers.answer(Overloaded("x", "y")))
    assert status == "HTTP/1.1 429 Too Many Requests"
    assert msgspec.json.decode(body)["detail"] == "Come later."


TERMS = Terms(TokenBucket, 1 / 60, 1.0, 60.0, text="1 in 60 s")
RULES: tuple[dict[Any, Any], ...] = (
    {},
    {RateLimited: ErrorRule(Code.UNAVAILABLE, message="Zu viel, \u00fc", status=529)},
    {RateLimited: ErrorRule(Code.RESOURCE_EXHAUSTED, tell=True)},
    {RateLimited: lambda error: "aborted" if error.retry_after > 5 else None},
    {Rejected: "internal"},
)


@pytest.mark.parametrize("rules", RULES)
@given(
    waits=st.lists(st.sampled_from([0.001, 0.0011, 1.0, 1.001, 7.0, 59.96, 59.98]) | st.floats(), max_size=9),
    left=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_refusals_of_a_rate_limit_are_told_as_any_other_problem(
    rules: dict[Any, Any], waits: list[float], left: float
) -> None:
    table = ErrorTable(rules)
    answers = Answers(table)
    for wait in waits:  # some of them are kept ready by then
        error = RateLimited("clients", "1 in 60 s", wait, (quota, TERMS, left))
        status, wanted, body = problem_of(table.failure_of(error))
        told, headers, same = taken_apart(answers.answer(error, lines=b"date: now\r\n"))
        assert (f"HTTP/1.1 {status} " in told, same) == (True, body)
        fields = {name.decode(): value.decode() for name, value in (*wanted, *answers.rate_fields(error))}
        hint = {"retry-after": "1"} if status in RETRIED else {}
        assert headers == {**hint, **fields, "date": "now"}


def test_what_is_kept_ready_is_bounded() -> None:
    def rule(error: BaseException) -> dict[str, str]:
        return {"code": "unavailable", "message": str(error)}

    answers = Answers(ErrorTable({Overloaded: rule}))
    for number in range(READY_LIMIT * 2 + 5):
        answers.answer(Overloaded("x", f"reason {number}"))
        answers.answer(RateLimited(f"limit{number}", "x", 1.0, QUOTA))
    assert len(answers._ready) <= READY_LIMIT
    assert len(answers._rates) <= READY_LIMIT


def test_answers_without_a_hint_are_made_once() -> None:
    answers = Answers()
    first = answers._head_and_body(Overloaded("x", "y"))
    assert answers._head_and_body(Overloaded("x", "z")) is first
    answers._head_and_body(CircuitOpen("x", "y", 3.0))
    assert len(answers._ready) == 1
    answers._head_and_body(BulkheadFull("x", "y"))
    assert answers._head_and_body(Overloaded("x", "y")) is first
    policy = answers.rate_fields(RateLimited("api", "x", 1.0, QUOTA))[0][1]
    answers.rate_fields(RateLimited("another", "x", 1.0, QUOTA))
    assert answers.rate_fields(RateLimited("api", "x", 2.0, QUOTA))[0][1] is policy


def test_the_same_refusal_twice_is_the_same_answer() -> None:
    answers = Answers()
    assert answers.answer(Overloaded("x", "y")) == answers.answer(Overloaded("x", "z"))
    assert answers.answer(Overloaded("x", "y")) != answers.answer(BulkheadFull("x", "y"))


def test_a_refusal_that_is_given_often_is_made_once_and_is_the_same() -> None:
    class Table(ErrorTable):
        asked = 0

        def failure_of(self, error: BaseException) -> Failure:
            self.asked += 1
            return super().failure_of(error)

    table = Table()
    shed = Overloaded("queue", "too much to do", 2.0)
    answers = Answers(table, (shed,))
    date = b"date: now\r\n"
    found = {answers.answer(shed, lines=date) for _ in range(5)}
    assert found == {Answers().answer(Overloaded("queue", "too much to do", 2.0), lines=date)}
    assert table.asked == 1
    answers.answer(Overloaded("queue", "too much to do", 2.0))
    assert table.asked == 2


def made_of(*parts: Any) -> dict[str, Any]:
    """What a policy of the user's tells of itself."""
    limit, remaining = parts
    return {"limit": len(limit), "remaining": remaining, "period": 1.0}


@pytest.mark.parametrize("kind", [Overloaded, RateLimited])
@pytest.mark.parametrize("facts", [("a", 2), (["a"], 0), (["a"], 0.5), ("aa", 0.25), ("aa", 0.0)])
def test_a_policy_of_the_users_may_tell_whatever_it_likes(kind: type[Rejected], facts: tuple[Any, ...]) -> None:
    answers = Answers()
    for _ in range(2):
        wanted = dict(answers.rate_fields(kind("mine", "no more", 2.0, (made_of, *facts))))
        _, headers, _ = taken_apart(answers.answer(kind("mine", "no more", 2.0, (made_of, *facts))))
        assert headers["ratelimit"] == wanted[b"ratelimit"].decode()


def test_what_a_policy_tells_in_three_parts_need_not_be_numbers() -> None:
    def words(one: str, two: str) -> dict[str, Any]:
        return {one: two}

    status, headers, _ = taken_apart(Answers().answer(Overloaded("mine", "no more", 2.0, (words, "a", "b"))))
    assert (status, headers["retry-after"]) == ("HTTP/1.1 503 Service Unavailable", "2")


def test_another_policys_own_words_are_not_taken_for_those_that_are_ready() -> None:
    answers = Answers()
    for remaining, told in ((0.25, "1"), (0, "0"), (0.5, "1")):
        error = RateLimited("mine", "no more", 2.0, (made_of, "aa", remaining))
        _, headers, _ = taken_apart(answers.answer(error))
        assert headers["ratelimit"] == f'"mine";r={told};t=2'


def test_refusals_of_rates_that_are_ready_are_bounded_and_go_by_their_policy_and_class() -> None:
    class Own(RateLimited):
        pass

    answers = Answers(ErrorTable({Own: ErrorRule(Code.UNAVAILABLE, status=529)}))
    error = RateLimited("api", "1 in 60 s", 2.0, (quota, TERMS, 0.0))
    assert answers._known(error) is answers._known(error)
    for other in (RateLimited("other", "x", 2.0, error.args[3]), Own("api", "x", 2.0, error.args[3])):
        assert answers._known(other) == answers._made(other) != answers._made(error)
    for number in range(READY_LIMIT * 2 + 5):
        answers.answer(RateLimited(f"limit{number}", "x", 1.0, (quota, TERMS, 0.0)))
    assert 0 < len(answers._alike) <= READY_LIMIT


def test_a_rule_for_a_class_that_is_imported_later_holds_for_what_is_ready() -> None:
    answers = Answers(ErrorTable({"late_rates:Late": ErrorRule(Code.UNAVAILABLE, status=529)}))
    module: Any = ModuleType("late_rates")
    module.Late = type("Late", (RateLimited,), {"__module__": "late_rates"})
    error = module.Late("api", "1 in 60 s", 2.0, (quota, TERMS, 0.0))
    assert answers.answer(error)[0] == 429
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "late_rates", module)
        assert answers.answer(error)[0] == 529
