import msgspec
import pytest

from holdfast.service.problem import new_request_id, problem


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


def test_what_is_not_given_is_left_out() -> None:
    _, headers, body = problem(599, type="https://example.org/odd")
    assert msgspec.json.decode(body) == {"type": "https://example.org/odd", "title": "Error", "status": 599}
    assert len(headers) == 2


def test_a_status_that_is_no_error_is_refused() -> None:
    with pytest.raises(ValueError, match="200 is not an error status"):
        problem(200)


def test_a_header_cannot_be_smuggled_in_through_the_request_id() -> None:
    _, headers, _ = problem(500, request_id="a\r\nset-cookie: x")
    assert all(b"\r" not in value and b"\n" not in value for _, value in headers)


def test_request_ids_are_unique() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 32 for one in ids)
