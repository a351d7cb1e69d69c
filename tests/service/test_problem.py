from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.codes import Code
from holdfast.core.failure import CHARACTERS_LIMIT, DETAILS_LIMIT, MESSAGE_LIMIT, Failure
from holdfast.service.problem import INSTANCE_LIMIT, REQUEST_ID_LIMIT, new_request_id, problem, problem_of

ERRORS = [code for code in Code if code is not Code.OK]
BODY_LIMIT = 6 * (MESSAGE_LIMIT + CHARACTERS_LIMIT + REQUEST_ID_LIMIT + INSTANCE_LIMIT) + 100 * DETAILS_LIMIT
"""Bytes of the largest body: a character takes at most six of them in JSON, and each detail some for itself."""


def test_a_failure_is_told_in_full() -> None:
    failure = Failure(Code.RESOURCE_EXHAUSTED, "QUOTA_USED", "No more today.", 1.25, {"limit": 3, "of": ["a", None]})
    status, headers, body = problem_of(failure, request_id="abc", instance="/orders/7")
    assert status == 429
    assert msgspec.json.decode(body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "No more today.",
        "code": "resource_exhausted",
        "reason": "QUOTA_USED",
        "retry_after": 1.25,
        "details": {"limit": 3, "of": ["a", None]},
        "request_id": "abc",
        "instance": "/orders/7",
    }
    assert sorted(headers) == [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/problem+json"),
        (b"retry-after", b"2"),
        (b"x-request-id", b"abc"),
    ]


def test_what_a_failure_does_not_have_is_left_out() -> None:
    status, headers, body = problem_of(Failure(Code.UNAUTHENTICATED))
    assert (status, len(headers)) == (401, 2)
    assert msgspec.json.decode(body) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": Code.UNAUTHENTICATED.sentence,
        "code": "unauthenticated",
        "reason": "UNAUTHENTICATED",
    }


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (0.0, b"1"),
        (0.01, b"1"),
        (1.0, b"1"),
        (1.001, b"2"),
        (1.9, b"2"),
        (0.1 + 0.2 + 1.7, b"2"),
        (1.23456, b"2"),
        (59.2, b"60"),
        (1e9, b"86400"),
    ],
)
def test_the_time_to_come_back_is_whole_seconds_rounded_up(seconds: float, header: bytes) -> None:
    _, headers, body = problem_of(Failure(Code.UNAVAILABLE, retry_after=seconds))
    assert dict(headers)[b"retry-after"] == header
    told = msgspec.json.decode(body)["retry_after"]
    wanted = min(seconds, 86400.0)
    assert wanted - 1e-6 <= told <= max(wanted * 1.01, wanted + 0.001)  # three digits, and nobody comes early
    assert len(f"{told:g}".replace(".", "").strip("0")) <= 3


def test_a_status_of_its_own_has_its_own_title() -> None:
    status, _, body = problem_of(Failure(Code.ABORTED, status=412))
    assert (status, msgspec.json.decode(body)["title"]) == (412, "Precondition Failed")
    assert msgspec.json.decode(problem_of(Failure(Code.CANCELLED))[2])["title"] == "Client Closed Request"
    assert msgspec.json.decode(problem_of(Failure(Code.ABORTED, status=599))[2])["title"] == "Error"


def test_an_instance_that_is_too_long_is_left_out_and_a_request_id_cut() -> None:
    fits = "/" * INSTANCE_LIMIT
    _, headers, body = problem_of(Failure(Code.ABORTED), request_id="a" * 5000, instance=fits + "/")
    assert "instance" not in msgspec.json.decode(body)
    told = msgspec.json.decode(body)["request_id"]
    assert told == "a" * (REQUEST_ID_LIMIT - 3) + "..."
    assert dict(headers)[b"x-request-id"] == told.encode()
    assert msgspec.json.decode(problem_of(Failure(Code.ABORTED), instance=fits)[2])["instance"] == fits


def test_a_path_that_is_no_valid_text_can_be_told() -> None:
    _, _, body = problem_of(Failure(Code.ABORTED), request_id="\udce9", instance="/caf\udce9")
    assert msgspec.json.decode(body)["instance"] == "/caf?"


@settings(max_examples=examples(150))
@given(
    code=st.sampled_from(ERRORS),
    message=st.text() | st.text(min_size=MESSAGE_LIMIT),
    retry_after=st.none() | st.floats(),
    details=st.dictionaries(st.text(), st.text() | st.lists(st.floats() | st.integers())),
    request_id=st.none() | st.text(),
    instance=st.none() | st.text(),
    status=st.just(0) | st.integers(400, 599),
)
def test_any_failure_can_be_told_and_read_back(
    code: Code,
    message: str,
    retry_after: float | None,
    details: dict[str, Any],
    request_id: str | None,
    instance: str | None,
    status: int,
) -> None:
    failure = Failure(code, "SOME_REASON", message, retry_after, details, status)
    sent, headers, body = problem_of(failure, request_id=request_id, instance=instance)
    assert len(body) <= BODY_LIMIT
    read = msgspec.json.decode(body)
    read_back = Failure(
        Code(read["code"]),
        read["reason"],
        read["detail"],
        read.get("retry_after"),
        read.get("details", {}),
        read["status"],
    )
    told, meant = read_back.retry_after, failure.retry_after
    assert read_back == msgspec.structs.replace(failure, retry_after=told)
    assert (told is None) is (meant is None)
    if told is not None and meant is not None:  # never early; late by a hundredth at most, or by a millisecond
        assert meant - 1e-6 <= told <= max(meant * 1.01, meant + 0.001) + 1e-6
    assert sent == failure.status == read["status"]
    for name, value in headers:
        assert all(0x20 < byte < 0x7F for byte in name + value), (name, value)
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert (b"retry-after" in dict(headers)) == (failure.retry_after is not None)


def test_a_problem_is_json_with_the_members_of_the_rfc() -> None:
    status, headers, body = problem(503, detail="Come back.", request_id="abc", retry_in=2, instance="/orders/1")
    assert status == 503
    assert msgspec.json.decode(body) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Come back.",
        "request_id": "abc",
        "retry_in": 2,
        "instance": "/orders/1",
    }
    assert headers == [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", b"abc"),
    ]


def test_a_title_of_ones_own_is_told() -> None:
    assert msgspec.json.decode(problem(500, "Broken")[2])["title"] == "Broken"


def test_what_is_not_given_is_left_out() -> None:
    _, headers, body = problem(599, type="https://example.org/odd")
    assert msgspec.json.decode(body) == {"type": "https://example.org/odd", "title": "Error", "status": 599}
    assert len(headers) == 2


def test_a_status_that_is_no_error_is_refused() -> None:
    assert [problem(status)[0] for status in (400, 599)] == [400, 599]
    for status in (200, 399, 600):
        with pytest.raises(ValueError, match=f"{status} is not an error status"):
            problem(status)


@pytest.mark.parametrize("character", ["\r", "\n", "\0", " ", "\x7f", "é", "\x80"])
def test_a_header_cannot_be_smuggled_in_through_the_request_id(character: str) -> None:
    unsafe = f"a{character}set-cookie:x"
    for _, headers, _ in (problem(500, request_id=unsafe), problem_of(Failure(Code.INTERNAL), request_id=unsafe)):
        assert dict(headers)[b"x-request-id"] == b"a?set-cookie:x"


def test_request_ids_are_unique() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 32 for one in ids)
