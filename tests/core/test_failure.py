import copy
import json
import math
import pickle
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.codes import Code
from holdfast.core.errors import HoldfastError
from holdfast.core.failure import (
    CHARACTERS_LIMIT,
    DEPTH_LIMIT,
    DETAILS_LIMIT,
    MESSAGE_LIMIT,
    REASON_LIMIT,
    RETRY_AFTER_LIMIT,
    TEXT_LIMIT,
    Failure,
    ServiceError,
    bounded,
)

ERRORS = [code for code in Code if code is not Code.OK]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=80,
)


class Unknown:
    def __repr__(self) -> str:
        return "password=hunter2"


class OrderUnknown(ServiceError):
    def __init__(self, order: int, tenant: str) -> None:
        super().__init__(Code.NOT_FOUND, f"no order {order}", reason="ORDER_UNKNOWN", details={"order": order})
        self.tenant = tenant


@pytest.mark.parametrize("code", ERRORS)
def test_a_failure_that_says_nothing_more_says_what_its_code_does(code: Code) -> None:
    failure = Failure(code)
    assert (failure.reason, failure.message, failure.status) == (code.name, code.sentence, code.http)
    assert (failure.retry_after, failure.details) == (None, {})


def test_what_is_given_is_kept() -> None:
    failure = Failure(Code.ABORTED, "STALE", "It is not what you read.", 1.5, {"version": 3}, 412)
    assert msgspec.structs.astuple(failure) == (
        Code.ABORTED,
        "STALE",
        "It is not what you read.",
        1.5,
        {"version": 3},
        412,
    )
    with pytest.raises(AttributeError):
        failure.status = 409  # type: ignore[misc]


def test_success_is_no_failure() -> None:
    with pytest.raises(ValueError, match=r"Code\.OK is no code of an error"):
        Failure(Code.OK)
    with pytest.raises(ValueError, match="404 is no code of an error"):
        ServiceError(404)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reason", ["no", "out_of_stock", "OUT OF STOCK", "_OUT", "OUT_", "9LIVES", "AB", "ÄRGER", "A\nB"]
)
def test_a_reason_of_another_form_is_refused(reason: str) -> None:
    with pytest.raises(ValueError, match="is no reason"):
        Failure(Code.ABORTED, reason)
    with pytest.raises(ValueError, match="is no reason"):
        ServiceError(Code.ABORTED, reason=reason)


def test_a_reason_has_at_most_63_characters() -> None:
    assert Failure(Code.ABORTED, "A" * REASON_LIMIT).reason == "A" * 63
    with pytest.raises(ValueError, match="is no reason"):
        Failure(Code.ABORTED, "A" * 64)


@pytest.mark.parametrize("status", [200, 304, 399, 600, -1])
def test_a_status_that_is_no_error_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="is not an error status"):
        Failure(Code.ABORTED, status=status)
    with pytest.raises(ValueError, match="is not an error status"):
        ServiceError(Code.ABORTED, status=status)


def test_the_statuses_at_both_ends_are_taken() -> None:
    assert [Failure(Code.ABORTED, status=status).status for status in (400, 599)] == [400, 599]


@pytest.mark.parametrize(
    ("given", "told"),
    [(0, 0.0), (2, 2.0), (0.25, 0.25), (-3.0, 0.0), (math.nan, None), ("5", None)]
    + [(hint, RETRY_AFTER_LIMIT) for hint in (math.inf, 1e300, 10**400, 86401)],
    ids=lambda value: f"{value}"[:10],
)
def test_a_hint_that_makes_no_sense_is_put_right(given: Any, told: float | None) -> None:
    assert Failure(Code.UNAVAILABLE, retry_after=given).retry_after == told


def test_a_failure_may_be_retried_by_its_code_or_when_it_says_when() -> None:
    assert Failure(Code.UNAVAILABLE).retryable
    assert Failure(Code.RESOURCE_EXHAUSTED, retry_after=2.0).retryable
    assert not Failure(Code.RESOURCE_EXHAUSTED).retryable


def test_a_long_message_is_cut_and_a_broken_one_mended() -> None:
    assert Failure(Code.ABORTED, message="x" * MESSAGE_LIMIT).message == "x" * MESSAGE_LIMIT
    assert Failure(Code.ABORTED, message="x" * (MESSAGE_LIMIT + 1)).message == "x" * (MESSAGE_LIMIT - 3) + "..."
    assert Failure(Code.ABORTED, message="no caf\udce9").message == "no caf?"
    assert Failure(Code.ABORTED, message="kein Käse").message == "kein Käse"


def test_details_are_a_copy() -> None:
    inner = [1]
    details = {"seen": inner}
    failure = Failure(Code.ABORTED, details=details)
    inner.append(2)
    details["more"] = []
    assert failure.details == {"seen": [1]}


def test_what_is_no_plain_value_is_told_by_its_class_only() -> None:
    assert bounded({"a": Unknown(), "b": b"secret", "c": {1}, Unknown(): 1, True: 2}) == {
        "a": "<Unknown>",
        "b": "<bytes>",
        "c": "<set>",
        "Unknown": 1,
        "True": 2,
    }
    assert bounded({"a": MappingProxyType({"b": (1, 2)})}) == {"a": {"b": [1, 2]}}


def test_plain_values_stay_what_they_are() -> None:
    details = {"none": None, "true": True, "false": False, "whole": -7, "real": 0.25, "text": "Käse", "list": [1, [2]]}
    assert repr(bounded(details)) == repr(details)


def test_numbers_that_json_or_its_readers_do_not_know_are_told_as_text() -> None:
    assert bounded({"a": (1 << 128) - 1, "b": 1 << 128}) == {"a": str((1 << 128) - 1), "b": "<int of 129 bits>"}
    assert bounded({"a": math.nan, "b": -math.inf, "c": 2**53 - 1, "d": 2**53, "e": -(2**64), "f": 1 << 20_000}) == {
        "a": "nan",
        "b": "-inf",
        "c": 2**53 - 1,
        "d": "9007199254740992",
        "e": "-18446744073709551616",
        "f": "<int of 20001 bits>",
    }
    assert bounded({1 << 20_000: 1, 7: 2}) == {"<int of 20001 bits>": 1, "7": 2}


def test_details_are_cut_in_number_depth_and_length() -> None:
    wide = bounded({str(number): number for number in range(1000)})
    assert len(wide) == DETAILS_LIMIT + 1
    assert wide.popitem() == ("...", "...")
    assert bounded({"a": list(range(1000))})["a"][-2:] == [DETAILS_LIMIT - 2, "..."]

    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"a": deep}
    found: Any = bounded(deep)
    for _ in range(DEPTH_LIMIT):
        found = found["a"]
    assert found == "..."
    lists: list[Any] = []
    for _ in range(2000):
        lists = [lists]
    assert bounded({"a": lists}) == {"a": [[["..."]]]}

    assert bounded({"a": "x" * 2000}) == {"a": "x" * (TEXT_LIMIT - 3) + "..."}
    many = bounded({str(number): "x" * TEXT_LIMIT for number in range(20)})
    assert CHARACTERS_LIMIT <= sum(len(key) + len(value) for key, value in many.items()) < CHARACTERS_LIMIT + 100


def test_a_detail_that_holds_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    assert len(json.dumps(bounded(loop))) < 100


@settings(max_examples=examples(60))
@given(details=st.dictionaries(st.text(), plain))
def test_whatever_details_hold_can_be_written_and_is_small(details: Mapping[str, Any]) -> None:
    copied = bounded(details)
    written = msgspec.json.encode(copied)
    assert len(written) <= 6 * (CHARACTERS_LIMIT + 1000) + 100 * DETAILS_LIMIT
    assert msgspec.json.decode(written) == copied
    assert bounded(copied) == copied or "..." in written.decode()


def test_a_service_error_tells_what_the_app_says() -> None:
    error = ServiceError(
        Code.NOT_FOUND, "no such order", reason="ORDER_UNKNOWN", details={"order": 7}, retry_after=2, status=410
    )
    assert isinstance(error, HoldfastError)
    assert str(error) == "no such order"
    assert error.failure == Failure(Code.NOT_FOUND, "ORDER_UNKNOWN", "no such order", 2.0, {"order": 7}, 410)


def test_a_service_error_needs_a_code_only() -> None:
    assert ServiceError(Code.ABORTED).failure == Failure(Code.ABORTED)
    caught: Any = LookupError("gone")
    assert ServiceError(Code.ABORTED, caught).failure.message == "gone"


def test_the_repr_of_a_service_error_is_what_made_it() -> None:
    assert repr(ServiceError(Code.ABORTED)) == "ServiceError(Code.ABORTED, '')"
    error = ServiceError(Code.ABORTED, "a", reason="STALE", details={"b": 1}, retry_after=0, status=412)
    assert repr(error) == (
        "ServiceError(Code.ABORTED, 'a', reason='STALE', details={'b': 1}, retry_after=0, status=412)"
    )
    made = eval(repr(error), {"ServiceError": ServiceError, "Code": Code})
    assert made.failure == error.failure
    assert repr(OrderUnknown(7, "acme")).startswith("OrderUnknown(Code.NOT_FOUND, 'no order 7'")


@given(
    code=st.sampled_from(ERRORS),
    message=st.text(),
    details=st.none() | st.dictionaries(st.text(), st.integers()),
    retry_after=st.none() | st.floats(allow_nan=False),
)
def test_a_service_error_survives_pickling(
    code: Code, message: str, details: dict[str, Any] | None, retry_after: float | None
) -> None:
    error = ServiceError(code, message, reason="SOME", details=details, retry_after=retry_after)
    for restored in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(restored) is ServiceError
        assert (restored.args, vars(restored)) == (error.args, vars(error))
        assert restored.failure == error.failure


def test_a_subclass_with_a_constructor_of_its_own_survives_pickling() -> None:
    error = OrderUnknown(7, "acme")
    error.add_note("seen by the gateway")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is OrderUnknown
    assert (restored.failure, restored.tenant) == (error.failure, "acme")
    assert restored.__notes__ == ["seen by the gateway"]
