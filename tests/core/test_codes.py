import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codes import Code

CANONICAL = {
    "OK": (0, 200),
    "CANCELLED": (1, 499),
    "UNKNOWN": (2, 500),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "OUT_OF_RANGE": (11, 400),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "DATA_LOSS": (15, 500),
    "UNAUTHENTICATED": (16, 401),
}
"""Numbers and HTTP statuses as google/rpc/code.proto has them."""


def test_the_codes_are_those_of_google_rpc() -> None:
    assert {code.name: (code.grpc, code.http) for code in Code} == CANONICAL


def test_only_an_unavailable_service_may_be_asked_again_by_the_code_alone() -> None:
    assert [code for code in Code if code.retryable] == [Code.UNAVAILABLE]


def test_a_code_is_written_by_its_name_in_small_letters() -> None:
    assert all(code.value == code.name.lower() and Code(code.value) is code for code in Code)
    assert msgspec.json.encode(Code.NOT_FOUND) == b'"not_found"'
    assert repr(Code.NOT_FOUND) == "Code.NOT_FOUND"
    assert pickle.loads(pickle.dumps(Code.NOT_FOUND)) is Code.NOT_FOUND


def test_each_code_has_a_sentence_of_its_own_for_people() -> None:
    assert len({code.sentence for code in Code}) == len(Code)
    assert all(code.sentence.endswith(".") for code in Code)


@pytest.mark.parametrize("code", Code)
def test_a_grpc_number_leads_back_to_its_code(code: Code) -> None:
    assert Code.of_grpc(code.grpc) is code


@pytest.mark.parametrize("code", Code)
def test_a_status_leads_back_to_a_code_that_has_it(code: Code) -> None:
    assert Code.of_http(code.http).http == code.http


def test_codes_that_share_a_status_give_the_most_general_one() -> None:
    assert [Code.of_http(status) for status in (400, 409, 500)] == [Code.INVALID_ARGUMENT, Code.ABORTED, Code.INTERNAL]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, Code.OK),
        (204, Code.OK),
        (402, Code.FAILED_PRECONDITION),
        (405, Code.UNIMPLEMENTED),
        (407, Code.UNAUTHENTICATED),
        (408, Code.UNAVAILABLE),
        (410, Code.NOT_FOUND),
        (412, Code.FAILED_PRECONDITION),
        (416, Code.OUT_OF_RANGE),
        (422, Code.INVALID_ARGUMENT),
        (423, Code.FAILED_PRECONDITION),
        (424, Code.FAILED_PRECONDITION),
        (425, Code.UNAVAILABLE),
        (428, Code.FAILED_PRECONDITION),
        (451, Code.PERMISSION_DENIED),
        (499, Code.CANCELLED),
        (502, Code.UNAVAILABLE),
        (504, Code.DEADLINE_EXCEEDED),
        (505, Code.UNIMPLEMENTED),
        (507, Code.RESOURCE_EXHAUSTED),
        (511, Code.UNAUTHENTICATED),
        (529, Code.UNAVAILABLE),
        (418, Code.INVALID_ARGUMENT),
        (599, Code.INTERNAL),
        (304, Code.UNKNOWN),
        (100, Code.UNKNOWN),
        (0, Code.UNKNOWN),
        (999, Code.UNKNOWN),
        (-404, Code.UNKNOWN),
    ],
)
def test_whatever_status_a_peer_sends_means_something(status: int, code: Code) -> None:
    assert Code.of_http(status) is code


@given(number=st.integers())
def test_a_number_that_is_none_is_unknown(number: int) -> None:
    code = Code.of_grpc(number)
    assert code.grpc == number if 0 <= number <= 16 else code is Code.UNKNOWN


@given(status=st.integers(min_value=400, max_value=599))
def test_an_error_of_a_peer_is_an_error_of_the_same_side(status: int) -> None:
    # 5xx stays 5xx, so that nobody is blamed for what a peer got wrong; of 4xx only three say "not now, ask again", or
    # "not here", which are a server's words too.
    code = Code.of_http(status)
    assert code is not Code.OK
    odd = {405, 408, 425, 507, 511}
    assert (code.http >= 500) == (status >= 500) or status in odd
