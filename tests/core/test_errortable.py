import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import errors
from holdfast.core.codes import Code
from holdfast.core.errorrule import ErrorRule
from holdfast.core.errors import (
    BulkheadFull,
    CallCancelled,
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    Draining,
    FaultInjected,
    HoldfastError,
    Overloaded,
    RateLimited,
    Rejected,
)
from holdfast.core.errortable import CACHE_LIMIT, DEFAULTS, MEMBERS_LIMIT, WORST, ErrorTable
from holdfast.core.failure import Failure, ServiceError

SECRET = "postgres://shop:hunter2@db/orders"
INTERNAL = Failure(Code.INTERNAL)


class OutOfStock(Exception):
    pass


class AllSold(OutOfStock):
    pass


class MyRefusal(Rejected):
    pass


class Blocked(ServiceError):
    pass


class MyGroup(ExceptionGroup[Exception]):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


def told(error: BaseException, rules: Any = None) -> Failure:
    return ErrorTable(rules).failure_of(error)


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (Rejected("limit", "full"), Code.UNAVAILABLE, 503, "REJECTED"),
        (Draining(), Code.UNAVAILABLE, 503, "DRAINING"),
        (DeadlineExceeded(), Code.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
        (CircuitOpen("breaker", "open"), Code.UNAVAILABLE, 503, "CIRCUIT_OPEN"),
        (RateLimited("limit", "fast"), Code.RESOURCE_EXHAUSTED, 429, "RATE_LIMITED"),
        (BulkheadFull("bulkhead", "full"), Code.UNAVAILABLE, 503, "BULKHEAD_FULL"),
        (Overloaded("adaptive", "full"), Code.UNAVAILABLE, 503, "OVERLOADED"),
        (MyRefusal("mine", "no"), Code.UNAVAILABLE, 503, "REJECTED"),
        (CallCancelled("gone"), Code.CANCELLED, 499, "CANCELLED"),
        (FaultInjected("fault"), Code.INTERNAL, 500, "FAULT_INJECTED"),
        (ConfigError("a", 1, "b"), Code.INTERNAL, 500, "INTERNAL"),
        (errors.BootError("no"), Code.UNAVAILABLE, 503, "UNAVAILABLE"),
        (HoldfastError(), Code.INTERNAL, 500, "INTERNAL"),
        (TimeoutError(), Code.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
        (asyncio.CancelledError(), Code.CANCELLED, 499, "CANCELLED"),
        (ServiceError(Code.NOT_FOUND), Code.NOT_FOUND, 404, "NOT_FOUND"),
        # None of these is the client's doing.
        (PermissionError(13, "denied", "/etc/shadow"), Code.INTERNAL, 500, "INTERNAL"),
        (FileNotFoundError(), Code.INTERNAL, 500, "INTERNAL"),
        (NotImplementedError(), Code.INTERNAL, 500, "INTERNAL"),
        (ConnectionResetError(), Code.INTERNAL, 500, "INTERNAL"),
        (KeyError("id"), Code.INTERNAL, 500, "INTERNAL"),
        (ValueError(), Code.INTERNAL, 500, "INTERNAL"),
        (KeyboardInterrupt(), Code.INTERNAL, 500, "INTERNAL"),
    ],
)
def test_what_holds_without_any_rule(error: BaseException, code: Code, status: int, reason: str) -> None:
    failure = told(error)
    assert (failure.code, failure.status, failure.reason) == (code, status, reason)
    assert failure.details == {}


def test_each_error_of_holdfast_has_a_rule_of_its_own() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HoldfastError)}
    assert len(kinds) == 12
    assert kinds <= set(DEFAULTS)


@pytest.mark.parametrize("kind", [kind for kind in DEFAULTS if issubclass(kind, Rejected)])
def test_a_refusal_tells_when_to_come_back_and_not_who_refused(kind: type[Rejected]) -> None:
    failure = told(kind("payments-db", SECRET, 1.5, {"limit": 3}, "charge"))
    assert failure.retry_after == 1.5
    assert failure.details == {}
    assert not {"payments-db", SECRET, "charge"} & {word.strip(":;") for word in failure.message.split()}


@pytest.mark.parametrize(
    "error", [Exception(SECRET), OutOfStock(SECRET), TimeoutError(SECRET), HoldfastError(SECRET), BaseException(SECRET)]
)
def test_the_text_of_an_exception_is_not_told(error: BaseException) -> None:
    assert SECRET not in repr(told(error))
    assert SECRET not in repr(told(error, {OutOfStock: "aborted", Exception: 500, TimeoutError: {"code": "internal"}}))


def test_the_text_of_an_exception_is_told_when_its_rule_says_so() -> None:
    rules = {OutOfStock: {"code": "failed_precondition", "tell": True, "message": "Sold out."}}
    assert told(OutOfStock("no teapots"), rules).message == "no teapots"
    assert told(OutOfStock(), rules).message == "Sold out."
    del rules[OutOfStock]["message"]
    assert told(OutOfStock(), rules).message == Code.FAILED_PRECONDITION.sentence


def test_a_rule_may_bring_a_text_of_its_own() -> None:
    assert told(OutOfStock(SECRET), {OutOfStock: {"status": 409, "message": "Sold out."}}) == Failure(
        Code.ABORTED, "OUT_OF_STOCK", "Sold out.", status=409
    )


def test_the_rule_of_the_nearest_class_counts() -> None:
    rules = {Exception: "unknown", OutOfStock: "aborted", LookupError: "not_found"}
    assert told(AllSold(), rules).code is Code.ABORTED
    assert told(KeyError(), rules).code is Code.NOT_FOUND
    assert told(ValueError(), rules).code is Code.UNKNOWN
    assert told(KeyboardInterrupt(), rules).code is Code.INTERNAL
    assert told(AllSold(), rules | {AllSold: "out_of_range"}).code is Code.OUT_OF_RANGE
    # A refusal at the deadline is a TimeoutError too, and nearer to its own class.
    assert told(DeadlineExceeded(), {TimeoutError: "unavailable"}).code is Code.DEADLINE_EXCEEDED


def test_the_reason_is_that_of_the_class_with_the_rule() -> None:
    assert told(AllSold(), {OutOfStock: "aborted"}).reason == "OUT_OF_STOCK"


def test_a_rule_of_the_app_replaces_the_default() -> None:
    rules = {RateLimited: ErrorRule(Code.UNAVAILABLE, reason="SLOW_DOWN"), asyncio.CancelledError: 503}
    assert told(RateLimited("limit", "fast", 2.0), rules) == Failure(Code.UNAVAILABLE, "SLOW_DOWN", retry_after=2.0)
    assert told(asyncio.CancelledError(), rules).status == 503


def test_a_service_error_is_told_as_the_app_says() -> None:
    error = Blocked(Code.PERMISSION_DENIED, "no", reason="BLOCKED", details={"until": 5}, retry_after=3)
    assert told(error) == error.failure
    # A rule changes how it is sent, not what the app wrote for its client.
    assert told(error, {Blocked: {"code": "aborted", "status": 418, "reason": "OTHER"}}) == Failure(
        Code.ABORTED, "BLOCKED", "no", 3.0, {"until": 5}, 418
    )
    assert told(Blocked(Code.INTERNAL), {Blocked: {"code": "aborted", "message": "Wait."}}) == Failure(
        Code.ABORTED, "BLOCKED", "Wait."
    )


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Failure(Code.ABORTED, "STALE", details={"a": 1}), Failure(Code.ABORTED, "STALE", details={"a": 1})),
        ("aborted", Failure(Code.ABORTED)),
        (Code.ABORTED, Failure(Code.ABORTED)),
        (422, Failure(Code.INVALID_ARGUMENT, status=422)),
        ({"code": "aborted", "tell": True}, Failure(Code.ABORTED, message="sold")),
        (ErrorRule(Code.ABORTED, message="Gone."), Failure(Code.ABORTED, message="Gone.")),
        (None, Failure(Code.DATA_LOSS)),
    ],
)
def test_a_function_answers_for_its_class_or_leaves_it_to_the_next(answer: Any, failure: Failure) -> None:
    seen = []

    def judge(error: OutOfStock) -> Any:
        seen.append(error)
        return answer

    error = AllSold("sold")
    assert told(error, {OutOfStock: judge, Exception: ErrorRule(Code.DATA_LOSS)}) == failure
    assert seen == [error]


def test_a_function_that_leaves_it_to_nobody_means_internal() -> None:
    assert told(OutOfStock(), {OutOfStock: lambda error: None}) == INTERNAL


def fail(error: BaseException) -> str:
    raise RuntimeError("the rule is broken")


@pytest.mark.parametrize(
    ("error", "rules"),
    [
        (OutOfStock(), {OutOfStock: fail}),
        (OutOfStock(), {OutOfStock: lambda error: "no code"}),
        (OutOfStock(), {OutOfStock: lambda error: Code.OK}),
        (Unspeakable(), {Unspeakable: {"code": "aborted", "tell": True}}),
        (ServiceError.__new__(ServiceError), {}),
    ],
)
def test_a_rule_that_fails_is_logged_and_means_internal(
    error: Exception, rules: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert told(error, rules) == INTERNAL
    [record] = caplog.records
    assert record.getMessage() == f"the rule for a {type(error).__name__} failed"
    assert record.exc_info is not None


def test_a_cancellation_in_a_rule_gets_out() -> None:
    def cancel(error: BaseException) -> str:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        told(OutOfStock(), {OutOfStock: cancel})


def test_the_order_of_the_worst_has_each_code_of_an_error_once() -> None:
    assert sorted(code.name for code in WORST) == sorted(code.name for code in Code if code is not Code.OK)
    statuses = [code.http >= 500 for code in WORST]
    assert statuses == sorted(statuses, reverse=True)


@given(members=st.lists(st.sampled_from(WORST), min_size=1, max_size=6), depth=st.integers(0, 3))
def test_a_group_is_what_its_worst_member_is(members: list[Code], depth: int) -> None:
    group: ExceptionGroup[Exception] = ExceptionGroup("several", [ServiceError(code) for code in members])
    for _ in range(depth):
        group = ExceptionGroup("outer", [group, ServiceError(members[0])])
    worst = min(members, key=WORST.index)
    assert told(group).code is worst


def test_of_members_that_are_alike_the_longest_wait_is_told() -> None:
    waits = [1.0, None, 3.0, 2.0]
    group = ExceptionGroup("several", [RateLimited("limit", "fast", wait) for wait in waits])
    assert told(group).retry_after == 3.0


def test_of_members_that_weigh_the_same_the_first_speaks() -> None:
    first, second, third = (ServiceError(Code.ABORTED, reason=reason) for reason in ("FIRST", "SECOND", "THIRD"))
    assert told(ExceptionGroup("several", [first, second])).reason == "FIRST"
    inner = ExceptionGroup("inner", [second, third])
    assert told(ExceptionGroup("outer", [first, inner])).reason == "FIRST"
    assert told(ExceptionGroup("outer", [inner, first])).reason == "SECOND"


def test_groups_in_groups_need_no_recursion_and_count_as_members() -> None:
    deep: Exception = ServiceError(Code.NOT_FOUND)
    for _ in range(MEMBERS_LIMIT - 1):
        deep = ExceptionGroup("deep", [deep])
    assert told(deep).code is Code.NOT_FOUND
    inner = ExceptionGroup("inner", [ServiceError(Code.NOT_FOUND)] * 40)
    assert told(ExceptionGroup("outer", [inner] * 24)).code is Code.NOT_FOUND
    assert told(ExceptionGroup("outer", [inner] * 25)) == INTERNAL


def test_a_group_with_a_cancellation_is_what_failed() -> None:
    group = BaseExceptionGroup("several", [asyncio.CancelledError(), ServiceError(Code.NOT_FOUND)])
    assert told(group).code is Code.NOT_FOUND
    assert told(BaseExceptionGroup("several", [asyncio.CancelledError()])).code is Code.CANCELLED


def test_a_rule_for_a_group_comes_before_its_members() -> None:
    inner = MyGroup("inner", [ValueError()])
    assert told(inner).code is Code.INTERNAL
    assert told(inner, {MyGroup: "aborted"}).code is Code.ABORTED
    outer = ExceptionGroup("outer", [inner])
    assert told(outer, {MyGroup: "aborted"}).code is Code.ABORTED
    assert told(outer, {MyGroup: lambda error: None, ValueError: "not_found"}).code is Code.NOT_FOUND


def test_a_group_too_large_to_look_at_is_internal() -> None:
    fits = ExceptionGroup("many", [ServiceError(Code.ABORTED)] * MEMBERS_LIMIT)
    assert told(fits).code is Code.ABORTED
    assert told(ExceptionGroup("many", [ServiceError(Code.ABORTED)] * (MEMBERS_LIMIT + 1))) == INTERNAL


def test_a_mistake_in_the_rules_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^\[errors\] OutOfStock: got 'abort', expected the code .* mean aborted\?$"):
        ErrorTable({OutOfStock: "abort"})
    with pytest.raises(ConfigError, match=r"^shop\.toml \[errors\] \"OutOfStock\": expected the name"):
        ErrorTable({"OutOfStock": "aborted"}, source="shop.toml [errors]")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a module that is not loaded yet."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


def test_a_class_by_name_is_found_as_soon_as_its_module_is_there(write: Callable[[str, str], None]) -> None:
    write("shop_one", "class OutOfStock(Exception): pass\nclass AllSold(OutOfStock): pass\n")
    table = ErrorTable({"shop_one:OutOfStock": "aborted", "shop_never:Other": "not_found"})
    assert table.failure_of(ValueError()) == INTERNAL
    assert "shop_one" not in sys.modules
    import shop_one  # type: ignore[import-not-found]

    assert table.failure_of(shop_one.AllSold()) == Failure(Code.ABORTED, "OUT_OF_STOCK")
    assert table.failure_of(ValueError()) == INTERNAL
    assert "shop_never" not in sys.modules


def test_a_class_that_is_known_already_gets_the_rule_that_is_found_later(write: Callable[[str, str], None]) -> None:
    table = ErrorTable({f"{__name__}:AllSold": "aborted", "KeyError": "not_found"})
    assert table.failure_of(AllSold()).code is Code.ABORTED
    assert table.failure_of(KeyError()).code is Code.NOT_FOUND
    write("shop_two", "from builtins import IndexError as Late\n")
    table = ErrorTable({"shop_two:Late": "aborted"})
    assert table.failure_of(IndexError()) == INTERNAL
    table.resolve()
    assert table.failure_of(IndexError()).code is Code.ABORTED


def test_resolving_imports_what_is_named_and_refuses_what_there_is_not(write: Callable[[str, str], None]) -> None:
    write("shop_three", "class OutOfStock(Exception): pass\n")
    names = ("shop_three:OutOfStock", "shop_three:OutOfStok", "shop_four:Any")
    table = ErrorTable(dict.fromkeys(names, "aborted"), source="shop.toml [errors]")
    mistakes = table.mistakes()
    assert [mistake.path for mistake in mistakes] == ['"shop_three:OutOfStok"', '"shop_four:Any"']
    with pytest.raises(ConfigError, match="shop_three has no OutOfStok; did you mean OutOfStock"):
        table.resolve()
    assert table.failure_of(sys.modules["shop_three"].OutOfStock()).code is Code.ABORTED
    ErrorTable({names[0]: "aborted"}).resolve()


def test_a_rule_for_a_name_that_was_missing_holds_once_it_is_there(write: Callable[[str, str], None]) -> None:
    write("shop_five", "")
    table = ErrorTable({"shop_five:OutOfStock": "aborted"})
    assert len(table.mistakes()) == 1
    sys.modules["shop_five"].OutOfStock = OutOfStock  # type: ignore[attr-defined]
    assert table.mistakes() == []
    assert table.failure_of(OutOfStock()).code is Code.ABORTED


def test_a_class_is_looked_for_once() -> None:
    table = ErrorTable({f"{__name__}:OutOfStock": "aborted"})
    table.failure_of(AllSold())
    assert not table._waiting
    assert AllSold in table._cache


def test_classes_made_on_the_way_do_not_fill_the_memory() -> None:
    table = ErrorTable({OutOfStock: "aborted"})
    for number in range(CACHE_LIMIT * 2 + 1):
        kind = type(f"Made{number}", (OutOfStock,), {})
        assert table.failure_of(kind()).code is Code.ABORTED
        assert len(table._cache) <= CACHE_LIMIT


def test_threads_that_meet_a_class_at_the_same_time_all_get_its_rule(write: Callable[[str, str], None]) -> None:
    names = [f"Error{number}" for number in range(50)]
    write("shop_six", "\n".join(f"class {name}(Exception): pass" for name in names))
    table = ErrorTable({f"shop_six:{name}": "aborted" for name in names})
    import shop_six  # type: ignore[import-not-found]

    start = threading.Barrier(4, timeout=30)
    seen: list[Code] = []

    def meet(order: list[str]) -> None:
        start.wait()
        seen.extend([table.failure_of(getattr(shop_six, name)()).code for name in order])

    threads = [threading.Thread(target=meet, args=(names[::step],)) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [Code.ABORTED] * 200
    assert all(table.failure_of(getattr(shop_six, name)()).code is Code.ABORTED for name in names)
